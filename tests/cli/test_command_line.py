"""A wrong command line ends in one sentence, and nothing is written; a bug shows its traceback."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from command_lines import CHANGED, DAMAGED, EVAL, RECIPES, TRAIN, WRONG
from ml_collections import ConfigDict
from PIL import Image

from alexnet_jax import __main__ as program, builder, config as configs
from alexnet_jax.cli import prepare
from alexnet_jax.train import checksums, loop
from alexnet_jax.train.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parent.parent.parent

OTHERS = (TRAIN, "ensemble", "weights export")
CASES = [case for cases in WRONG.values() for case in cases]


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the command lines gets as far as a step."""
    monkeypatch.setattr("tensorboardX.SummaryWriter", _NoBoard)
    monkeypatch.setattr(loop.Run, "loop", lambda *_: pytest.fail("it trains"))


class _NoBoard:
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def close(self) -> None: ...

    def add_scalar(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder W of the command lines above."""
    w = tmp_path_factory.mktemp("w")
    for name, text in RECIPES.items():
        (w / f"{name}.py").write_text(text)
    for name, line in CHANGED.items():
        (w / f"{name}.py").write_text(
            "from alexnet_jax.configs import alexnet\n"
            f"def get_config(data_name='digits'):\n    c = alexnet.get_config(data_name)\n"
            f"    with c.ignore_type():\n        {line}\n    return c\n"
        )
    (w / "empty.json").touch()
    (w / "hidden").mkdir()
    (w / "hidden" / ".cat.png").touch()
    (w / "tars").mkdir()
    (w / "tars" / "ILSVRC2012_img_train.tar").write_bytes(b"404 Not Found")
    for folder, odd in (("pictures", None), ("not_utf8_pictures", "\udcff.png"), ("line_break", "a\nb.png")):
        for class_name in ("cat", "dog"):
            (w / folder / class_name).mkdir(parents=True)
            for i in range(20):
                Image.new("RGB", (8, 8), (i, i, i)).save(w / folder / class_name / f"{i}.png")
        if odd:
            (w / folder / "cat" / "7.png").rename(w / folder / "cat" / odd)
    for name in ("pets", "no_shard", "cut_shard", "cut_statistics"):
        prepare.main(["folder", f"--from={w / 'pictures'}", f"--name={name}", f"--data_dir={w / 'data'}"])
    there = w / "data"
    next((there / "no_shard" / "1.0.0").glob("*train*")).unlink()
    shard = next((there / "cut_shard" / "1.0.0").glob("*train*"))
    shard.write_bytes(shard.read_bytes()[:1000])
    (there / "cut_statistics" / "1.0.0" / "statistics.json").write_bytes(b'{"mean": [1.0,')
    np.savez(w / "nan.npz", conv1_w=np.full((2, 3, 3, 3), np.nan, np.float32))
    (w / "weights.npz").write_bytes(_weights())
    _make_run(w / "run")
    return w


def _weights() -> bytes:
    out = io.BytesIO()
    np.savez(out, conv1_w=np.zeros((2, 3, 3, 3), np.float32), conv1_b=np.zeros(2, np.float32))
    return out.getvalue()


def _make_run(workdir: Path) -> None:
    """A run of a small network that is at step 0."""
    from conftest import SMALL

    from alexnet_jax.configs.alexnet import get_config

    config = get_config()
    config.update_from_flattened_dict(SMALL)
    config.train.steps = 1
    workdir.mkdir()
    config = ConfigDict(config.to_dict()).lock()
    opened = builder.train_setup(config, workdir)
    configs.save(opened.config, opened.split.class_names, workdir)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, jax.jit(opened.new_state)())
    checkpoints.close()


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    found = [*folder.rglob("*")]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns * path.is_file()) for path in found}


def _sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a wrong command line ends with, less "error: "."""
    with pytest.raises(SystemExit) as stop:
        program.main(arguments)
    assert isinstance(stop.value.code, str), "it ended well"
    assert "Traceback" not in capsys.readouterr().err
    assert re.fullmatch("error: .+", stop.value.code), stop.value.code  # . does not match a newline: one line
    return stop.value.code.removeprefix("error: ")


@pytest.mark.parametrize(("line", "named"), CASES, ids=[line[:90] for line, _ in CASES])
def test_wrong_command_line_is_one_sentence_and_writes_nothing(
    line: str, named: str, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)  # the default workdir is below it
    before = _files(world)
    sentence = _sentence([a.replace("W/", f"{world}/") for a in shlex.split(line)], capsys)
    assert re.search(named, sentence), sentence
    assert _files(world) == before


@pytest.mark.parametrize(
    ("command", "name", "content"),
    [*((EVAL, *damaged) for damaged in DAMAGED), *((command, "config.json", b"[1, 2]") for command in OTHERS)],
    ids=lambda value: str(value)[:30],
)
def test_damaged_file_of_a_run_is_named(
    command: str, name: str, content: bytes | None, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "run", tmp_path / "run")
    checksums.write(tmp_path / "run" / "checkpoints" / "0")  # without copies: with them the file would be restored
    (tmp_path / "run" / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / "run" / name).write_bytes(content)
    where = {"ensemble": "--workdirs", "weights export": "--output=/nowhere.npz --workdir"}.get(command, "--workdir")
    assert re.search(name, _sentence([*f"{command} {where}".split(), str(tmp_path / "run")], capsys))
    if content is not None:
        assert (tmp_path / "run" / name).read_bytes() == content


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device."),
        (OSError(28, "No space left on device"), "No space left on device."),
        (MemoryError("Unable to allocate 3 TiB"), "not enough memory (Unable to allocate 3 TiB)"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "not enough memory (RESOURCE_EXHAUSTED"),
    ],
)
def test_errors_of_the_system_are_one_sentence(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr("alexnet_jax.summary.recipes", fails)
    with pytest.raises(SystemExit, match=f"^error: {re.escape(said)}"):
        program.main(["recipes"])


@pytest.mark.parametrize("error", [KeyError("a bug"), OSError("raised by hand"), UnicodeError("a bug")])
def test_bugs_are_raised(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr("alexnet_jax.summary.recipes", fails)
    with pytest.raises(type(error)):
        program.main(["recipes"])


def test_bug_of_a_thread_is_shown_and_a_closed_event_loop_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Orbax's threads meet; a full disk is in tests/test_exits.py."""

    def fails() -> None:
        raise KeyError("bug")

    def command() -> str:
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()
        return "done"

    monkeypatch.setattr("alexnet_jax.summary.recipes", command)
    program.main(["recipes"])
    assert "KeyError: 'bug'" in capsys.readouterr().err
    late = RuntimeError("Event loop is closed")
    sys.unraisablehook(types.SimpleNamespace(exc_type=RuntimeError, exc_value=late, object=None))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "start", [["main.py"], ["-m", "alexnet_jax", "train"]], ids=["python main.py", "python -m alexnet_jax"]
)
def test_wrong_flag_ends_the_program_with_one_sentence_and_status_1(start: list[str]) -> None:
    command = [sys.executable, *start, "--config.train.stepz=3"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert re.fullmatch(r"error: config\.train\.stepz: .*\n", ended.stderr)
    assert ended.stdout == ""


def test_platform_that_jax_does_not_know_is_named() -> None:
    command, environment = [sys.executable, "main.py", "--mode=probe"], os.environ | {"JAX_PLATFORMS": "gpuu"}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert ended.returncode == 1
    assert re.fullmatch(r"error: .*JAX_PLATFORMS is 'gpuu'.*\n", ended.stderr)


def test_failed_layer_shows_its_file_and_line(small_flags: list[str], tmp_path: Path) -> None:
    """A wrong matmul in AlexNet.__call__, as somebody would write it who tries an idea."""
    layer = tmp_path / "my_layer.py"
    layer.write_text(
        "import jax.numpy as jnp\n"
        "from alexnet_jax.model import alexnet\n"
        "call = alexnet.AlexNet.__call__\n"
        "def broken(self, images, *rest, **options):\n"
        "    return call(self, images, *rest, **options) @ jnp.zeros((3, 3))\n"
        "alexnet.AlexNet.__call__ = broken\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import my_layer; sys.argv = ['alexnet']"
    run = "from alexnet_jax.__main__ import main; main(sys.orig_argv[3:])"
    train = ["train", "--config=alexnet:digits", f"--workdir={tmp_path / 'run'}", *small_flags]
    ended = subprocess.run([sys.executable, "-c", f"{code}\n{run}", *train], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert f'File "{layer}", line 5, in broken' in ended.stderr
    assert "dot_general" in ended.stderr
