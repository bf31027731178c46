"""The metrics writer: metrics.jsonl through crashes and damage, a terminal that goes away, trackers, bars."""

import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from alexnet_jax import progress
from alexnet_jax.cli import trackers
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train.metrics import DAMAGED, METRICS, MetricsWriter, Tracker

_TRAINED = '{"step": 1, "loss": 2.0}'
_EVALUATION = {
    "step": 2, "eval_top1": 50.0, "eval_top5": 100.0, "eval_loss": 1.0, "eval_images": 4, "eval_split": "digits test",
    "eval_classes": {"k\u00e4fer": 50.0},
}  # fmt: skip
_EVALUATED = json.dumps(_EVALUATION, ensure_ascii=False)
_NEW = {
    "step": 3, "loss": 1.0, "epoch": 1.0, "top1": 0.0, "images_per_second": 1.0, "seconds_per_step": 1.0,
    "teraflops_per_second": 1.0, "share_of_peak": 0.5, "device_memory_gb": 1.0, "data_wait": 0.0,
}  # fmt: skip


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text.splitlines()


@pytest.mark.parametrize(
    ("there", "kept", "damaged"),
    [
        (None, [], {}),
        (f"{_TRAINED}\n{_EVALUATED}\n", [1, 2], {}),
        (f"{_TRAINED}\n{_EVALUATED}", [1, 2], {}),  # edited by hand
        (f"{_TRAINED}\n{_EVALUATED.replace('2', '3', 1)}\n", [1], {}),  # what a killed run had after step 2
        (f"{_TRAINED}\n\n{_EVALUATED}\n", [1, 2], {}),  # an empty line holds nothing
        (f'{_TRAINED}\n{_EVALUATED}\n{{"step": 3, "lo', [1, 2], {3: '{"step": 3, "lo'}),  # killed
        (f"{_TRAINED}\nhello\n{_EVALUATED}\n[1]\n", [1, 2], {2: "hello", 4: "[1]"}),
        (_EVALUATED.replace("eval_loss", "eval_lost") + "\n", [], {1: _EVALUATED.replace("eval_loss", "eval_lost")}),
        ('{"step": "1"}\n{"step": true}\nnull', [], {1: '{"step": "1"}', 2: '{"step": true}', 3: "null"}),
        (b"\0\0\0\n" + _TRAINED.encode() + b"\ncaf\xe9\n", [1], {1: "\0\0\0", 3: "caf\udce9"}),
        (_TRAINED.replace("loss", "lo\udcffss") + "\n", [], {1: _TRAINED.replace("loss", "lo\udcffss")}),
        ("[" * 100_000, [], {1: "[" * 100_000}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_whole_lines_stay_and_damaged_lines_are_moved(
    there: str | bytes | None, kept: list[int], damaged: dict[int, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / METRICS
    data = there.encode("utf-8", "surrogateescape") if isinstance(there, str) else there
    if data is not None:
        path.write_bytes(data)
    with MetricsWriter(tmp_path, main=True, first_step=2) as writer:
        assert writer.evaluated == ({2: _EVALUATION} if 2 in kept else {})
        writer.step(dict(_NEW), steps=3)
    lines = _lines(path)
    assert [json.loads(line)["step"] for line in lines] == [*kept, 3]
    assert set(lines[:-1]) <= set((data or b"").decode(errors="replace").split("\n"))
    if not damaged:
        assert not (tmp_path / DAMAGED).exists()
        return
    aside = [json.loads(line) for line in _lines(tmp_path / DAMAGED)]
    assert {entry["line"]: entry["text"] for entry in aside} == damaged
    warning = capsys.readouterr().out.splitlines()[0]
    assert re.search(rf"{METRICS}.* {', '.join(map(str, damaged))} .*{DAMAGED}", warning)
    assert warning in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("there", [f"{_TRAINED}\n", f"{_TRAINED}\nhello"])
def test_evaluation_only_appends_its_line(there: str, tmp_path: Path) -> None:
    """Training may be writing to the file at that moment."""
    path = tmp_path / METRICS
    path.write_text(there)
    inode = path.stat().st_ino
    with MetricsWriter(tmp_path, main=True) as writer:
        writer.evaluation(_EVALUATION | {"mode": "eval"})
    assert path.stat().st_ino == inode
    assert _lines(path)[:-1] == there.splitlines()
    assert json.loads(_lines(path)[-1])["mode"] == "eval"


@pytest.mark.parametrize("name", [METRICS, "train.log", "tensorboard"])
def test_error_names_what_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("") if name == "tensorboard" else (tmp_path / name).mkdir()
    with (
        pytest.raises(AlexNetError, match=rf"{name} cannot be (read|written): (Is|Not) a directory"),
        MetricsWriter(tmp_path, main=True, first_step=0) as writer,
    ):
        writer.say("hello")


def test_full_disk_ends_training_with_the_name_of_the_file(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, main=True, first_step=0) as writer:
        (tmp_path / METRICS).unlink()
        (tmp_path / METRICS).symlink_to("/dev/full")
        with pytest.raises(AlexNetError, match=rf"{METRICS} cannot be written: No space left on device"):
            writer.step(dict(_NEW), steps=3)


def test_evaluation_goes_on_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / METRICS).symlink_to("/dev/full")
    with MetricsWriter(tmp_path, main=True) as writer:
        writer.evaluation(_EVALUATION)
        writer.say("hello")
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith("step 2  top-1 50.00 %")
    assert second == "hello"
    [warning] = err.splitlines()
    assert f"{tmp_path / METRICS} cannot be written: No space left on device" in warning


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_read_only_workdir_evaluates_and_does_not_train(tmp_path: Path) -> None:
    """As somebody else, since root may write anywhere."""
    (tmp_path / METRICS).write_text(_TRAINED + "\n")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    code = f"""
        import json, os, tensorboardX, tqdm  # as this one may not read where the packages are
        from pathlib import Path
        from alexnet_jax.errors import AlexNetError
        from alexnet_jax.train.metrics import MetricsWriter
        os.setuid(65534)
        workdir = Path({str(tmp_path)!r})
        with MetricsWriter(workdir, main=True) as writer:
            writer.evaluation(json.loads({json.dumps(json.dumps(_EVALUATION))}))
        try:
            MetricsWriter(workdir, main=True, first_step=1)
        except AlexNetError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("step 2  top-1 50.00 %")
    why = f"{tmp_path / METRICS} cannot be written: Permission denied"
    assert why in done.stdout.splitlines()[1]
    [warning] = done.stderr.splitlines()
    assert why in warning
    assert os.listdir(tmp_path) == [METRICS]


@pytest.mark.parametrize("gone", ["a closed pipe", "no stream at all"])
def test_lost_terminal_does_not_end_a_run(gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream if gone == "a closed pipe" else None)
        with MetricsWriter(tmp_path, main=True) as writer:
            for text in ("one", "two", "three"):
                writer.say(text)
    lines = [line.split(maxsplit=2)[2] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert [line for line in lines if line in ("one", "two", "three")] == ["one", "two", "three"]
    assert sum("is gone" in line for line in lines) == (gone == "a closed pipe")


class _Tracked:
    """A stand-in for wandb or trackio that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def init(self, **given: Any) -> "_Tracked":
        self.told.append(("init", given.get("id") or given.get("name"), given["resume"]))
        return self

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if metrics.get("train/loss") == 13.0:
            raise OSError("no network")
        self.told.append(metrics if step is None else metrics | {"step": step})

    def finish(self) -> None:
        self.told.append("finished")

    def __getattr__(self, name: str) -> Any:
        if name == "Settings":
            return dict
        raise AttributeError(name)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_resumed_run_continues_in_the_same_tracker_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_config: ConfigDict
) -> None:
    module = _Tracked()
    monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    monkeypatch.delenv("WANDB_MODE", raising=False)
    small_config.log.track, workdir = name, tmp_path / "run"
    workdir.mkdir()
    (workdir / METRICS).write_text("")
    for step in (1, 2):
        with MetricsWriter(
            workdir, main=True, first_step=step - 1, trackers=trackers.opened(small_config, workdir)
        ) as writer:
            writer.step(_NEW | {"step": step}, steps=2)
            writer.evaluation(_EVALUATION | {"step": step})
    begun = [told for told in module.told if isinstance(told, tuple)]
    assert len(begun) == 2
    assert begun[0] == begun[1]
    assert begun[0][1] == (workdir / "tracked_as.txt").read_text().strip()
    assert begun[0][1].startswith("run-")
    assert begun[0][2] == "allow"
    assert module.told.count("finished") == 2
    logged = [json.loads(line) for line in _lines(workdir / METRICS)]
    told = [told for told in module.told if isinstance(told, dict)]
    assert [entry["step"] for entry in told] == [entry["step"] for entry in logged] == [1, 1, 2, 2]
    assert [entry["train/loss"] for entry in told[::2]] == [entry["loss"] for entry in logged[::2]]
    assert [entry["eval/top1"] for entry in told[1::2]] == [entry["eval_top1"] for entry in logged[1::2]]


def test_failing_tracker_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = _Tracked()
    tracker = Tracker("wandb", module.log, module.finish, "here")
    with MetricsWriter(tmp_path, main=True, first_step=0, trackers=[tracker]) as writer:
        for step, loss in ((1, 1.0), (2, 13.0), (3, 1.0)):
            writer.step(_NEW | {"step": step, "loss": loss}, steps=9)
    assert [told["step"] for told in module.told] == [1]
    assert capsys.readouterr().err.count("wandb gets nothing more of this run: no network") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_tracker_that_is_not_installed_is_named(tmp_path: Path, small_config: ConfigDict) -> None:
    small_config.log.track = "trackio"
    with pytest.raises(AlexNetError, match=r"log\.track=trackio .*alexnet_jax\[trackio\]"):
        trackers.opened(small_config, tmp_path)


class _Screen(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: is_terminal  # type: ignore[method-assign]


def test_progress_bar_shows_on_terminals_and_in_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 80 columns it is one line with the time left; in a notebook too; not in a file."""

    def shown(*, is_terminal: bool) -> str:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "stderr", screen := _Screen(is_terminal=is_terminal))
        with progress.bar(total=100, what="evaluating 10 views", unit="batch", delay=0.0) as bar:
            bar.update(50)
            bar.refresh()
        return screen.getvalue()

    assert shown(is_terminal=False) == ""
    lines = re.split(r"[\r\n]", shown(is_terminal=True))
    assert any(re.search(r"50%.*evaluating 10 views, batch 50/100, \S+ left", line) for line in lines)
    assert max(map(len, lines)) <= 80
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    assert "50%" in shown(is_terminal=False)
