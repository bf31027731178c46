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


def _metrics(workdir: Path, small_flags: list[str], *place: str) -> list[dict[str, Any]]:
    """What a run of 30 steps and its evaluation wrote, without times."""
    fields = [
        "--config.train.learning_rate=0.0003",
        "--config.train.steps=30",
        "--config.log.every_steps=1",
        "--config.eval.batch_size=32",
    ]
    command = [sys.executable, "main.py", f"--workdir={workdir}", *small_flags, *fields, *place]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr.strip(), ended.stderr
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [without_speed(line) for line in lines]


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
    """The losses of 30 steps, and the evaluation of 299 images, which are not divisible by what the processes share.

    To the bit with two processes of a tower each, on two cores or more. Other sums are made in another order, by one
    rounding at first. The rate is low, so that no pooling window decides otherwise for that (docs/determinism.md).
    """
    one = _metrics(tmp_path / "one", small_flags, f"--cpu_devices={processes}", *mesh)
    several = _metrics(tmp_path / "several", small_flags, f"--processes={processes}", *mesh)
    assert len(several) == 31
    assert several[-1]["eval_images"] == 299
    if (processes, mesh) == (2, []) and CORES > 1:
        assert several == one
    losses, others = ([line["loss"] for line in lines[:-1]] for lines in (one, several))
    np.testing.assert_allclose(others[0], losses[0], rtol=3e-7)
    np.testing.assert_allclose(others, losses, rtol=1e-5)


def test_an_evaluation_by_two_processes_counts_what_one_counts(small_flags: list[str], tmp_path: Path) -> None:
    _metrics(tmp_path, small_flags, "--cpu_devices=1")
    evaluations = []
    for place in ("--cpu_devices=1", "--processes=2"):
        command = [sys.executable, "main.py", "--mode=eval", f"--workdir={tmp_path}", place]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        evaluations.append(json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1]))
    losses = [entry.pop("eval_loss") for entry in evaluations]
    assert evaluations[0] == evaluations[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
