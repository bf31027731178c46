"""runs.csv: one row for each run of the ledger, and what a row is made from."""

import csv
import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import builder, config as configs, files, summary
from alexnet_jax.classifier import load_run
from alexnet_jax.ensembles import Array, Member, errors, mixed, tuned
from alexnet_jax.errors import AlexNetError
from alexnet_jax.figures import kernels
from alexnet_jax.train import metrics, provenance
from experiments.ledger.claims import Variant
from experiments.ledger.plans import Planned, is_of

FILE = "runs.csv"
COLUMNS = (
    "proxy", "what", "digest", "seed", "commit", "date", "device", "jax", "parameters", "steps", "seconds", "top1",
    "top5", "loss", "views_top1", "views_top5", "probe", "color_0", "color_1", "color_chance",
    "curve", "train_curve", "note",
)  # fmt: skip

Row = dict[str, str]


def read(root: Path) -> list[Row]:
    """The rows of a folder of experiments; none where no run has ended yet. Raises AlexNetError."""
    path = root / FILE
    if not path.exists():
        return []
    rows = list(csv.DictReader(io.StringIO(files.read_text(path))))
    for number, row in enumerate(rows, 2):
        if set(row) != set(COLUMNS) or None in row.values():
            raise AlexNetError(f"{path} has another number of columns in line {number}: restore it from git.")
    return rows


def add(root: Path, row: Row) -> None:
    """Appends a row. Raises AlexNetError."""
    path = root / FILE
    if not path.exists():
        files.append_line(path, ",".join(COLUMNS))
    out = io.StringIO()
    csv.DictWriter(out, COLUMNS, lineterminator="").writerow(row)
    files.append_line(path, out.getvalue())


def row_of(run: Planned, workdir: Path, *, commit: str) -> Row:
    """The row of a run that has ended in `workdir`. Raises AlexNetError where it is not the run that was planned."""
    config = configs.load(workdir)
    if not is_of(config, run):
        raise AlexNetError(f"{workdir} holds another run than {run.what} with seed {run.seed}: remove it.")
    entries = _entries(workdir)
    last = [entry for entry in entries if "eval_top1" in entry][-1]
    model = builder.model(config, len(configs.load_classes(workdir)))
    row = _common(run, workdir, commit) | _curves(entries)
    row |= {name: _rounded(last.get(f"eval_{name}")) for name in ("top1", "top5", "loss", "views_top1", "views_top5")}
    row |= {
        "parameters": str(sum(layer.parameters for layer in summary.layer_rows(model, config.data.crop_pixels))),
        "steps": str(last["step"]),
        "seconds": f"{_seconds(entries):.0f}",
        "probe": _probe_percent(workdir),
    }
    if config.model.towers == 2:
        colors = kernels.specialization(load_run(workdir))
        row |= {f"color_{tower}": f"{mean:.4f}" for tower, mean in enumerate(colors["color"])}
        row["color_chance"] = f"{colors['chance']:.4f}"
    return row


def diverged_row(run: Planned, workdir: Path, why: str, *, commit: str) -> Row:
    """The row of a run whose loss was not finite: a result, too."""
    return _common(run, workdir, commit) | _curves(_entries(workdir)) | {"note": why}


def ensemble_row(
    member: Planned, key: str, seed: int, variant: Variant, members: list[Member], labels: Array, workdir: Path,
    *, commit: str,
) -> Row:  # fmt: skip
    """The row of an ensemble, from its members' probabilities; `workdir` is the first member's."""
    row = _common(member, workdir, commit)
    how = "weights tuned on the other half of the images" if variant.tune else "averaged"
    row |= {"what": f"{variant.members} x {member.what}, {how}", "digest": key, "seed": str(seed)}
    for prefix, parts in (("", [m.center for m in members]), ("views_", [m.views for m in members])):
        together = cross_tuned(parts, labels) if variant.tune else mixed(parts, [1.0] * len(parts))
        top1, top5 = errors(together, labels)
        row |= {f"{prefix}top1": _rounded(100.0 - top1), f"{prefix}top5": _rounded(100.0 - top5)}
    return row


def cross_tuned(members: Sequence[Array], labels_N: Array) -> Array:
    """[N, K]: each half of the images (every second) averaged with the weights that were tuned on the other half."""
    out = np.empty_like(members[0])
    for half in (np.arange(len(labels_N)) % 2 == 0, np.arange(len(labels_N)) % 2 == 1):
        weights = tuned([p[~half] for p in members], labels_N[~half])
        out[half] = mixed([p[half] for p in members], weights)
    return out


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")


def _entries(workdir: Path) -> list[dict[str, Any]]:
    """The lines of the run's metrics.jsonl that training wrote."""
    return [entry for entry in metrics.entries(workdir) if "mode" not in entry]


def _curves(entries: list[dict[str, Any]]) -> Row:
    evaluations = [entry for entry in entries if "eval_top1" in entry]
    return {
        "curve": " ".join(f"{entry['step']}:{entry['eval_top1']:.2f}" for entry in evaluations),
        "train_curve": " ".join(f"{step}:{error:.2f}" for step, error in train_curve(entries)),
    }


def _probe_percent(workdir: Path) -> str:
    """What the probe measured before the first step: how many percent of the signal differ between images."""
    path = workdir / metrics.LOG
    line = re.search(r"^\S+ \S+ probe +([0-9.]+) %", files.read_text(path), re.MULTILINE) if path.exists() else None
    return line[1] if line else ""


def _common(run: Planned, workdir: Path, commit: str) -> Row:
    start = provenance.starts(workdir)[-1]
    return dict.fromkeys(COLUMNS, "") | {
        "proxy": run.proxy.name, "what": run.what, "digest": run.digest, "seed": str(run.seed), "commit": commit,
        "date": start["time"][:10], "device": _device(start["devices"]), "jax": start["packages"]["jax"],
    }  # fmt: skip


def _device(devices: list[str]) -> str:
    """2 x KIND; of a CPU its model name."""
    kinds = {name.partition(" ")[2] for name in devices}
    cpu = Path("/proc/cpuinfo")
    if kinds == {"cpu"} and cpu.exists():
        models = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if "model name" in line]
        kinds = {models[0]} if models else kinds
    return f"{len(devices)} x {', '.join(sorted(kinds))}"


def train_curve(entries: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """[(step, training error in percent)], the mean over the logged batches of each stretch between evaluations.

    A stretch stands at its middle.
    """
    curve, errors, begin = list[tuple[int, float]](), list[float](), 0
    for entry in entries:
        if "eval_top1" not in entry:
            errors.append(100.0 - entry["top1"])
        elif errors:
            curve.append(((begin + entry["step"]) // 2, sum(errors) / len(errors)))
            errors, begin = [], entry["step"]
    return curve


def _seconds(entries: list[dict[str, Any]]) -> float:
    """The time of all steps of all starts of the run, without compilation and evaluation."""
    logged = [entry for entry in entries if "seconds_per_step" in entry]
    first = [entry["step"] for entry in logged[:1]]
    lengths = [*first, *(b["step"] - a["step"] for a, b in itertools.pairwise(logged))]
    return sum(max(0, n) * entry["seconds_per_step"] for n, entry in zip(lengths, logged, strict=True))


# ---------------------------------------------------------------- the measures of a row


def measure(row: Row, name: str) -> float | None:
    """A measure of a run, None where it has none: one that diverged, or that never came to 25 % training error."""
    if name == "first_top1":
        return curve(row["curve"])[0][1] if row["curve"] and not row["note"] else None
    if name == "train_error":
        return curve(row["train_curve"])[-1][1] if row["train_curve"] and not row["note"] else None
    if name == "steps_to_25":
        return steps_to(curve(row["train_curve"]), 25.0)
    return float(row[name]) if row[name] else None


def curve(text: str) -> list[tuple[int, float]]:
    """[(step, value)] of a column that holds a curve."""
    pairs = [part.split(":") for part in text.split()]
    return [(int(step), float(value)) for step, value in pairs]


def steps_to(errors: list[tuple[int, float]], target: float) -> float | None:
    """The step at which a curve first comes down to `target`, between the points on its two sides. None: never."""
    for (a, high), (b, low) in itertools.pairwise([(0, math.inf), *errors]):
        if low <= target:
            return float(b) if math.isinf(high) else a + (b - a) * (high - target) / (high - low)
    return None
