"""alexnet ensemble: several checkpoints as one network, their probabilities averaged as in the paper's tables."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.cli import app, devices
from alexnet_jax.data import feed
from alexnet_jax.ensembles import Array, Member, errors, member, mixed, tuned


def report(members: Sequence[Member], labels_N: Array, *, tune: bool) -> str:
    """The table: each member, their average, and with `tune` one whose weights come from every second image.

    With `tune` all rows are of the other images, so that no weight has seen what it is judged by.
    """
    held_out = np.arange(len(labels_N)) % 2 == 0 if tune else np.zeros(len(labels_N), bool)
    shown = ~held_out
    kinds = ([m.center for m in members], [m.views for m in members])

    def row(name: str, weights: Sequence[Sequence[float]]) -> tuple[str, float, float, float, float]:
        center, views = (
            errors(mixed([p[shown] for p in kind], by), labels_N[shown])
            for kind, by in zip(kinds, weights, strict=True)
        )
        return name, *center, *views

    alone = np.eye(len(members)).tolist()
    rows = [row(m.name, [one, one]) for m, one in zip(members, alone, strict=True)]
    rows.append(row(f"{len(members)} averaged", [[1.0] * len(members)] * 2))
    notes = []
    if tune:
        found = [tuned([p[held_out] for p in kind], labels_N[held_out]) for kind in kinds]
        rows.append(row(f"{len(members)} weighted", found))
        center, views = (", ".join(f"{weight:.2f}" for weight in weights) for weights in found)
        notes = [f"weights tuned on {int(held_out.sum()):,} other images by top-5: center {center}; all views {views}"]
    width = max(len(row[0]) for row in rows)
    head = f"{'error, %':{width}}{'center top-1':>14}{'top-5':>8}{'views top-1':>14}{'top-5':>8}"
    lines = [f"{row[0]:{width}}{row[1]:14.2f}{row[2]:8.2f}{row[3]:14.2f}{row[4]:8.2f}" for row in rows]
    return "\n".join([head, "-" * len(head), *lines, f"on {int(shown.sum()):,} images", *notes])


def main(argv: list[str]) -> None:
    """Evaluates the checkpoints and prints the table. Raises AlexNetError."""
    parser = app.parser_of(__doc__)
    parser.add_argument("--workdirs", type=Path, nargs="+", required=True, help="the runs that are averaged")
    parser.add_argument("--checkpoint", default="latest", help="of each: latest, best or a step (%(default)s)")
    parser.add_argument("--tune", action="store_true", help="also weights, tuned on every second image")
    parser.add_argument("--data_dir", help="where the data lie, if not where they were in training")
    options = parser.parse_args(argv)
    devices.settle()
    overrides = [f"data.data_dir={options.data_dir}"] if options.data_dir else []
    members: list[Member] = []
    labels: Array = np.zeros(0, np.int32)
    split: feed.Split | None = None
    for workdir in options.workdirs:
        print(f"{workdir} ...", flush=True)
        found, labels, split = member(workdir, options.checkpoint, split, overrides)
        members.append(found)
    print(report(members, labels, tune=options.tune))
