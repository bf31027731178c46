"""Wrong command lines, as a new user would type them: each ends in one sentence, and nothing is written.

The slow ones (a full disk, Ctrl-C at any moment, wrong devices) are in wrong_inputs.py beside this file.
"""

import io
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from command_lines import CHANGED, DAMAGED, EVAL, LAYER_FILES, RECIPES, TRAIN, WRONG
from ml_collections import ConfigDict
from PIL import Image

from alexnet_jax import __main__ as program, builder, config as configs
from alexnet_jax.cli import app, prepare
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import checksums as sums, loop
from alexnet_jax.train.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parent.parent.parent

CASES = [(kind, line, said) for kind, lines in WRONG.items() for line, said in lines]


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the command lines gets as far as a step."""
    monkeypatch.setattr("alexnet_jax.train.metrics.SummaryWriter", _NoBoard)
    monkeypatch.setattr(loop.Run, "loop", lambda *_: pytest.fail("it trains"))


class _NoBoard:
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def close(self) -> None: ...

    def add_scalar(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder W of the command lines above."""
    w = tmp_path_factory.mktemp("w")
    for files, suffix in ((RECIPES, "py"), (LAYER_FILES, "cfg")):
        for name, text in files.items():
            (w / f"{name}.{suffix}").write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, line in CHANGED.items():
        (w / f"{name}.py").write_text(
            "from alexnet_jax.configs import alexnet\n"
            f"def get_config(data_name='digits'):\n    c = alexnet.get_config(data_name)\n"
            f"    with c.ignore_type():\n        {line}\n    return c\n"
        )
    (w / "empty.json").touch()
    (w / "tars").mkdir()
    (w / "tars" / "ILSVRC2012_img_train.tar").write_bytes(b"404 Not Found")
    for folder, odd in (("pictures", None), ("not_utf8_pictures", "\udcff.png"), ("line_break", "a\nb.png")):
        for class_name in ("cat", "dog"):
            (w / folder / class_name).mkdir(parents=True)
            for i in range(20):
                Image.new("RGB", (8, 8), (i, i, i)).save(w / folder / class_name / f"{i}.png")
        if odd:
            (w / folder / "cat" / "7.png").rename(w / folder / "cat" / odd)
    for name in ("pets", "cut", "no_info", "no_shard", "cut_shard", "no_statistics", "cut_statistics"):
        prepare.main(["folder", f"--from={w / 'pictures'}", f"--name={name}", f"--data_dir={w / 'data'}"])
    there = w / "data"
    (there / "cut" / "1.0.0" / "features.json").write_bytes(b'{"feat')
    (there / "no_info" / "1.0.0" / "dataset_info.json").unlink()
    next((there / "no_shard" / "1.0.0").glob("*train*")).unlink()
    shard = next((there / "cut_shard" / "1.0.0").glob("*train*"))
    shard.write_bytes(shard.read_bytes()[:1000])
    (there / "no_statistics" / "1.0.0" / "statistics.json").unlink()
    (there / "cut_statistics" / "1.0.0" / "statistics.json").write_bytes(b'{"mean": [1.0,')
    for suffix in ("npz", "safetensors"):
        (w / f"cut.{suffix}").write_bytes(_weights()[:200] if suffix == "npz" else b"\x40\0\0\0\0\0\0\0{")
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
    assert "This is a bug" not in stop.value.code, stop.value.code
    return stop.value.code.removeprefix("error: ")


@pytest.mark.parametrize(("kind", "line", "said"), CASES, ids=[f"{k}: {c[:80]}" for k, c, _ in CASES])
def test_a_wrong_command_line_is_one_sentence_and_writes_nothing(
    kind: str, line: str, said: str, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)  # the default workdir is below it
    before = _files(world)
    sentence = _sentence([a.replace("W/", f"{world}/") for a in shlex.split(line)], capsys)
    assert re.search(said, sentence), sentence
    assert _files(world) == before


@pytest.mark.parametrize(
    ("command", "name", "content", "said"),
    [(command, *damage) for command in (TRAIN, EVAL, "ensemble", "weights export") for damage in DAMAGED],
    ids=lambda value: str(value)[:30],
)
def test_a_damaged_file_of_a_run_is_named(
    command: str, name: str, content: bytes | None, said: str, world: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(world / "run", tmp_path / "run")
    sums.write(tmp_path / "run" / "checkpoints" / "0")  # without copies: with them the file would be restored
    (tmp_path / "run" / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / "run" / name).write_bytes(content)
    saved = [f"--config.{k}={v}" for k, v in _flat(configs.load(world / "run").to_dict())] if command == TRAIN else []
    before = (tmp_path / "run" / name).read_bytes() if content is not None else None
    where = {"ensemble": "--workdirs", "weights export": "--output=/nowhere.npz --workdir"}.get(command, "--workdir")
    arguments = [*f"{command} {where}".split(), str(tmp_path / "run"), *saved]
    assert re.search(said, _sentence(arguments, capsys))
    assert before is None or (tmp_path / "run" / name).read_bytes() == before


@pytest.mark.parametrize(
    ("message", "flags"),
    [
        ("config.train.steps=3 is not possible", "--config.train.steps=3 is not possible"),
        ("checkpoint=7 is not in runs/a", "--checkpoint=7 is not in runs/a"),
        ("use one (checkpoint=STEP), or workdir=FOLDER", "use one (checkpoint=STEP), or --workdir=FOLDER"),
        ("--config.train has no field", "--config.train has no field"),
        ("a/config.json and config.json", "a/config.json and config.json"),
        ("tfds.builder('mnist', data_dir='x')", "tfds.builder('mnist', data_dir='x')"),
        ("alexnet prepare --data_dir=x", "alexnet prepare --data_dir=x"),
        ("config=half:cifar10", "--config=half:cifar10"),
    ],
)
def test_arguments_of_the_library_are_flags_on_the_command_line(message: str, flags: str) -> None:
    assert app.as_flags(message) == flags


def test_an_error_that_nobody_foresaw_keeps_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("alexnet_jax.catalog.recipes", lambda: {}["nothing"])
    with pytest.raises(SystemExit) as stop:
        program.main(["recipes"])
    found = re.fullmatch(r"error: KeyError: 'nothing' This is a bug; its traceback is in (.*)\.", str(stop.value.code))
    assert found
    assert "in <lambda>" in Path(found[1]).read_text()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device."),
        (OSError(28, "No space left on device"), "No space left on device."),
        (MemoryError("Unable to allocate 3 TiB"), "not enough memory (Unable to allocate 3 TiB): use a smaller batch"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "not enough memory (RESOURCE_EXHAUSTED"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), "a name or file is not UTF-8 text"),
    ],
)
def test_errors_of_the_system_are_one_sentence(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr("alexnet_jax.catalog.recipes", fails)
    with pytest.raises(SystemExit, match=f"^error: {re.escape(said)}"):
        program.main(["recipes"])


@pytest.mark.parametrize("fails", [True, False])
def test_what_a_thread_raises_is_told_where_nothing_else_tells_of_it(
    fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> str:
        thread = threading.Thread(target=lambda: {}["of a thread"])
        thread.start()
        thread.join()
        if fails:
            raise AlexNetError("One sentence.")
        return "done"

    monkeypatch.setattr("alexnet_jax.catalog.recipes", command)
    if fails:
        with pytest.raises(SystemExit, match=r"^error: One sentence\.$"):
            program.main(["recipes"])
    else:
        program.main(["recipes"])
    assert ("KeyError: 'of a thread'" in capsys.readouterr().err) == (not fails)


@pytest.mark.parametrize(
    "start", [["main.py"], ["-m", "alexnet_jax", "train"]], ids=["python main.py", "python -m alexnet_jax"]
)
def test_the_program_itself_ends_with_the_sentence_and_status_1(start: list[str]) -> None:
    command = [sys.executable, *start, "--config.train.stepz=3"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert re.fullmatch(r"error: --config\.train\.stepz: --config\.train has no field 'stepz'.*\n", ended.stderr)
    assert ended.stdout == ""


def test_ctrl_c_while_the_program_is_imported_is_one_line_and_status_130() -> None:
    """In the middle of the imports of a command, over which many a library puts an except of its own."""
    for seconds in (0.1, 0.25, 0.4):
        with subprocess.Popen(
            [sys.executable, "-m", "alexnet_jax", "summary", "alexnet"], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (130, "interrupted\n")


def _flat(fields: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in fields.items():
        found += _flat(value, f"{path}{key}.") if isinstance(value, dict) else [(path + key, value)]
    return found
