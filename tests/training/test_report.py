"""metrics.jsonl through crashes and damage: whole lines stay, the others are kept beside it and told."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from alexnet_jax.errors import AlexNetError
from alexnet_jax.training.report import DAMAGED, METRICS, Report

_TRAINED = '{"step": 1, "loss": 2.0}'
_EVALUATION = {
    "step": 2, "eval_top1": 50.0, "eval_top5": 100.0, "eval_loss": 1.0, "eval_images": 4, "eval_split": "digits test",
    "eval_classes": {"k\u00e4fer": 50.0},
}  # fmt: skip
_EVALUATED = json.dumps(_EVALUATION, ensure_ascii=False)
_NEW = {
    "step": 3,
    "loss": 1.0,
    "epoch": 1.0,
    "top1": 0.0,
    "images_per_second": 1.0,
    "seconds_per_step": 1.0,
    "teraflops_per_second": 1.0,
    "share_of_peak": 0.5,
    "device_memory_gb": 1.0,
    "data_wait": 0.0,
}


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text.splitlines()


@pytest.mark.parametrize(
    ("there", "kept", "damaged"),
    [
        (None, [], {}),
        ("", [], {}),
        (f"{_TRAINED}\n{_EVALUATED}\n", [1, 2], {}),
        (f"{_TRAINED}\n{_EVALUATED}", [1, 2], {}),  # edited by hand
        (f"{_TRAINED}\n\n{_EVALUATED}\n", [1, 2], {}),  # an empty line holds nothing
        (f'{_TRAINED}\n{_EVALUATED}\n{{"step": 3, "lo', [1, 2], {3: '{"step": 3, "lo'}),  # killed
        (f"{_TRAINED}\nhello\n{_EVALUATED}\n[1]\n", [1, 2], {2: "hello", 4: "[1]"}),
        (f"{_TRAINED}\n{_EVALUATED[:40]}\n{_TRAINED}\n", [1, 1], {2: _EVALUATED[:40]}),
        (_EVALUATED.replace("eval_loss", "eval_lost") + "\n", [], {1: _EVALUATED.replace("eval_loss", "eval_lost")}),
        ('{"step": "1"}\n{"step": true}\nnull', [], {1: '{"step": "1"}', 2: '{"step": true}', 3: "null"}),
        (b"\0\0\0\n" + _TRAINED.encode() + b"\ncaf\xe9\n", [1], {1: "\0\0\0", 3: "caf\udce9"}),
        (_TRAINED.replace("loss", "lo\udcffss") + "\n", [], {1: _TRAINED.replace("loss", "lo\udcffss")}),
        ("[" * 100_000, [], {1: "[" * 100_000}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_lines_that_are_whole_stay_to_the_byte_and_the_others_are_kept_beside_them(
    there: str | bytes | None, kept: list[int], damaged: dict[int, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / METRICS
    data = there.encode("utf-8", "surrogateescape") if isinstance(there, str) else there
    if data is not None:
        path.write_bytes(data)
    with Report(tmp_path, main=True, first_step=2) as report:
        assert (report.evaluated == {2: _EVALUATION}) == (2 in kept)
        report.step(dict(_NEW), steps=3)
    lines = _lines(path)
    assert [json.loads(line)["step"] for line in lines] == [*kept, 3]
    assert set(lines[:-1]) <= set((data or b"").decode(errors="replace").split("\n"))
    if not damaged:
        assert not (tmp_path / DAMAGED).exists()
        return
    aside = [json.loads(line) for line in _lines(tmp_path / DAMAGED)]
    assert {entry["line"]: entry["text"] for entry in aside} == damaged
    some = f"line {next(iter(damaged))} of" if len(damaged) == 1 else f"lines {', '.join(map(str, damaged))} of"
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith(f"{some} {path} ")
    assert said.endswith(f"kept in {DAMAGED}, and left out of the history")
    assert said in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("there", [f"{_TRAINED}\n", _TRAINED, f"{_TRAINED}\nhello", '{"step": 1, "lo'])
def test_an_evaluation_only_adds_its_line_and_changes_no_other(there: str, tmp_path: Path) -> None:
    """Training may be writing to the file at that moment."""
    path = tmp_path / METRICS
    path.write_text(there)
    inode = path.stat().st_ino
    with Report(tmp_path, main=True) as report:
        report.evaluation(_EVALUATION | {"mode": "eval"})
    assert path.stat().st_ino == inode
    assert _lines(path)[:-1] == there.splitlines()
    assert json.loads(_lines(path)[-1])["mode"] == "eval"


def test_a_run_that_is_resumed_earlier_has_one_history(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(f"{_TRAINED}\n{_EVALUATED}\n", encoding="utf-8")
    with Report(tmp_path, main=True, first_step=1) as report:
        assert not report.evaluated
    assert (tmp_path / METRICS).read_text() == _TRAINED + "\n"
    assert not (tmp_path / DAMAGED).exists()


@pytest.mark.parametrize("name", [METRICS, "train.log", "tensorboard"])
def test_where_something_else_lies_the_error_names_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("") if name == "tensorboard" else (tmp_path / name).mkdir()
    with (
        pytest.raises(AlexNetError, match=rf"{name} cannot be (read|written): (Is|Not) a directory"),
        Report(tmp_path, main=True, first_step=0) as report,
    ):
        report.say("hello")


def test_a_full_disk_is_told_with_the_name_of_the_log(tmp_path: Path) -> None:
    with Report(tmp_path, main=True, first_step=0) as report:
        (tmp_path / METRICS).unlink()
        (tmp_path / METRICS).symlink_to("/dev/full")
        with pytest.raises(AlexNetError, match=rf"{METRICS} cannot be written: No space left on device: make room\."):
            report.step(dict(_NEW), steps=3)


def test_what_an_evaluation_cannot_write_is_told_once_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (METRICS, "train.log"):
        (tmp_path / name).symlink_to("/dev/full")
    with Report(tmp_path, main=True) as report:
        report.evaluation(_EVALUATION)
        report.say("hello")
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("step 2  top-1 50.00 %")
    assert out.splitlines()[1] == "hello"
    assert err.splitlines() == [
        f"not written: {name}: {tmp_path / name} cannot be written: No space left on device: make room."
        for name in (METRICS, "train.log")
    ]
    assert os.listdir(tmp_path / "tensorboard")  # which could be written


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_workdir_that_one_may_only_read_is_evaluated_and_not_trained_in(tmp_path: Path) -> None:
    """As somebody else, since root may write anywhere."""
    (tmp_path / METRICS).write_text(_TRAINED + "\n")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    code = f"""
        import json, os
        from pathlib import Path
        from alexnet_jax.errors import AlexNetError
        from alexnet_jax.training.report import Report
        os.setuid(65534)
        workdir = Path({str(tmp_path)!r})
        with Report(workdir, main=True) as report:
            report.evaluation(json.loads({json.dumps(json.dumps(_EVALUATION))}))
        try:
            Report(workdir, main=True, first_step=1)
        except AlexNetError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("step 2  top-1 50.00 %")
    why = "cannot be written: Permission denied: make it yours, or name another place."
    assert done.stdout.splitlines()[1] == f"{tmp_path / METRICS} {why}"
    said = f"not written: {METRICS}, train.log, tensorboard: {tmp_path / METRICS} {why}"
    assert done.stderr.splitlines() == [said]
    assert os.listdir(tmp_path) == [METRICS]


@pytest.mark.parametrize("gone", ["a closed pipe", "no stream at all"])
def test_a_terminal_that_is_gone_is_told_once_in_the_log(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream if gone == "a closed pipe" else None)
        with Report(tmp_path, main=True) as report:
            for text in ("one", "two", "three"):
                report.say(text)
    lines = [line.split(maxsplit=2)[2] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert [line for line in lines if line in ("one", "two", "three")] == ["one", "two", "three"]
    assert sum("is gone" in line for line in lines) == (gone == "a closed pipe")
