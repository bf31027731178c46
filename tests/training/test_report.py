"""metrics.jsonl through crashes: a line that is cut off is mended, the log of something else is left alone."""

import errno
import io
import json
import os
from pathlib import Path

import pytest

from alexnet_jax.errors import AlexNetError
from alexnet_jax.training.report import METRICS, Report

_TRAINED = '{"step": 1, "loss": 2.0}'
_EVALUATED = '{"step": 2, "eval_top1": 50.0, "eval_classes": {"a": 50.0}}'
_NEW = {
    "step": 3,
    "loss": 1.0,
    "epoch": 1.0,
    "top1": 0.0,
    "images_per_second": 1.0,
    "seconds_per_step": 1.0,
    "data_wait": 0.0,
}


@pytest.mark.parametrize("first_step", [2, None], ids=["resumed", "evaluated"])
@pytest.mark.parametrize(
    ("there", "kept"),
    [
        (None, []),
        ("", []),
        (f"{_TRAINED}\n{_EVALUATED}\n", [1, 2]),
        (f"{_TRAINED}\n{_EVALUATED}", [1, 2]),  # edited by hand
        (f'{_TRAINED}\n{_EVALUATED}\n{{"step": 3, "lo', [1, 2]),  # killed
        (f"{_TRAINED}\n{_EVALUATED}\n{{", [1, 2]),
        ('{"step"', []),
    ],
)
def test_the_lines_that_are_whole_stay_and_the_next_has_a_line_of_its_own(
    there: str | None, kept: list[int], first_step: int | None, tmp_path: Path
) -> None:
    path = tmp_path / METRICS
    if there is not None:
        path.write_text(there)
    with Report(tmp_path, main=True, first_step=first_step) as report:
        assert (2 in report.evaluated) == (2 in kept and first_step is not None)
        report.step(dict(_NEW), steps=3)
    text = path.read_text()
    assert text.endswith("\n")
    assert [json.loads(line)["step"] for line in text.splitlines()] == [*kept, 3]


@pytest.mark.parametrize("first_step", [2, None], ids=["resumed", "evaluated"])
@pytest.mark.parametrize(
    ("there", "line"), [("hello", 1), ("[1]\n", 1), (f"{_TRAINED}\n\n{_EVALUATED}\n", 2), (f"{_TRAINED}\nhello", 2)]
)
def test_the_log_of_something_else_is_left_alone(there: str, line: int, first_step: int | None, tmp_path: Path) -> None:
    path = tmp_path / METRICS
    path.write_text(there)
    with pytest.raises(AlexNetError, match=rf"{METRICS} is not the log of a run: line {line} "):
        Report(tmp_path, main=True, first_step=first_step)
    assert path.read_text() == there


def test_a_run_that_is_resumed_earlier_has_one_history(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(f"{_TRAINED}\n{_EVALUATED}\n")
    with Report(tmp_path, main=True, first_step=1) as report:
        assert not report.evaluated
    assert (tmp_path / METRICS).read_text() == _TRAINED + "\n"


@pytest.mark.parametrize("name", [METRICS, "train.log"])
def test_where_a_folder_lies_instead_of_a_log_the_error_names_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(AlexNetError, match=rf"{name} cannot be (read|written): Is a directory"):
        Report(tmp_path, main=True, first_step=None)


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_with_the_name_of_the_log(tmp_path: Path) -> None:
    with Report(tmp_path, main=True, first_step=0) as report:
        report._metrics.close()
        report._metrics = _Full()
        with pytest.raises(AlexNetError, match=rf"{METRICS} cannot be written: No space left on device"):
            report.step(dict(_NEW), steps=3)
