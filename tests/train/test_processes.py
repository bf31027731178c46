"""Two and four processes on one machine, towers in different ones: the run of one process with as many devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import without_speed

ROOT = Path(__file__).resolve().parent.parent.parent
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(workdir: Path, *arguments: str) -> list[dict[str, Any]]:
    """What metrics.jsonl holds after a command, without times."""
    command = [sys.executable, "main.py", f"--workdir={workdir}", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr.strip(), ended.stderr
    return [without_speed(json.loads(line)) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("processes", "mesh"),
    [
        (2, []),
        pytest.param(4, [], marks=pytest.mark.slow),
        pytest.param(2, ["--config.mesh.tower=1", "--config.mesh.hybrid=True"], marks=pytest.mark.slow),
    ],
    ids=["1 x 2", "2 x 2", "2 x 1, hybrid"],
)
def test_several_processes_are_one(processes: int, mesh: list[str], small_flags: list[str], tmp_path: Path) -> None:
    """The losses of 10 steps, and two evaluations of 299 images, which are not divisible by what the processes share.

    To the bit with two processes of a tower each, on two cores or more. Other sums are made in another order, by one
    rounding at first. The rate is low, so that no pooling window decides otherwise for that (docs/determinism.md).
    """
    values = {"train.learning_rate": 0.0003, "train.steps": 10, "log.every_steps": 1, "eval.batch_size": 32}
    fields = [*small_flags, *(f"--config.{name}={value}" for name, value in values.items()), *mesh]
    one = _run(tmp_path / "one", *fields, f"--cpu_devices={processes}")
    several = _run(tmp_path / "several", *fields, f"--processes={processes}")
    assert len(several) == 11
    assert several[-1]["eval_images"] == 299
    if (processes, mesh) == (2, []) and CORES > 1:
        assert several == one
    losses, others = ([line["loss"] for line in lines[:-1]] for lines in (one, several))
    np.testing.assert_allclose(others[0], losses[0], rtol=3e-7)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    again = _run(tmp_path / "one", "--mode=eval", f"--processes={processes}")[-1]
    assert again.pop("mode") == "eval"
    assert again.pop("eval_loss") == pytest.approx(one[-1].pop("eval_loss"), rel=1e-6)
    assert again == one[-1]
