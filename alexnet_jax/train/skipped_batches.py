"""Batches that a run skips: those after which its loss was not finite (config.train.rollbacks)."""

import dataclasses
import json
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError

SAVED_AS = "left_out.json"


@dataclasses.dataclass(frozen=True)
class Skip:
    """The next `batches` of the data after step `after_step` are not used."""

    after_step: int
    batches: int

    def __str__(self) -> str:
        return f"skips    {self.batches} batches after step {self.after_step:,}, where the loss was not finite"


def read(workdir: Path, first_step: int) -> tuple[Skip, ...]:
    """The skips of a run that resumes at `first_step`, without those after it. Raises AlexNetError."""
    path = workdir / SAVED_AS
    if not path.exists():
        return ()
    try:
        rows = [Skip(int(row["after_step"]), int(row["batches"])) for row in files.read_json(path)]
    except (TypeError, KeyError, ValueError):
        raise AlexNetError(
            f"{path} does not list skipped batches: restore it from a copy, or remove it and start a new run."
        ) from None
    return tuple(row for row in rows if row.after_step <= first_step)


def add(workdir: Path, *, after_step: int, batches: int) -> None:
    """Skips so many more batches after a step. Raises AlexNetError."""
    rows = [*read(workdir, after_step), Skip(after_step, batches)]
    files.write_text(workdir / SAVED_AS, json.dumps([dataclasses.asdict(row) for row in rows]) + "\n")
