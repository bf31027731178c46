"""Batches that a run leaves out: those after which its loss was not finite (config.train.rollbacks)."""

import dataclasses
import json
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError

SAVED_AS = "left_out.json"


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """After step `after_step` the next `batches` of the data are not used."""

    after_step: int
    batches: int

    def __str__(self) -> str:
        return f"left out {self.batches} batches after step {self.after_step:,}, where the loss was not finite"


def read(workdir: Path, first_step: int) -> tuple[LeftOut, ...]:
    """What a run that resumes at `first_step` leaves out: what comes after it is met again. Raises AlexNetError."""
    path = workdir / SAVED_AS
    if not path.exists():
        return ()
    try:
        rows = [LeftOut(int(row["after_step"]), int(row["batches"])) for row in files.read_json(path)]
    except (TypeError, KeyError, ValueError):
        raise AlexNetError(
            f"{path} does not list batches that are left out: restore it from a copy, or remove it and start a new run."
        ) from None
    return tuple(row for row in rows if row.after_step <= first_step)


def add(workdir: Path, *, after_step: int, batches: int) -> None:
    """Leaves out so many batches more after a step. Raises AlexNetError."""
    rows = [*read(workdir, after_step), LeftOut(after_step, batches)]
    files.write_text(workdir / SAVED_AS, json.dumps([dataclasses.asdict(row) for row in rows]) + "\n")
