"""How a process ends: by a signal, whatever it is doing; by a second one while it saves; by an error."""

import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import jax
import pytest

from alexnet_jax import exits
from alexnet_jax.cli import app
from alexnet_jax.errors import AlexNetError, LostError

ROOT = Path(__file__).resolve().parent.parent
_CODE = """
import hashlib, signal
from pathlib import Path
from alexnet_jax import exits, files
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has it ignore, and all that is started under it
def fill(path):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in C, where Python runs no handler
with exits.guard(), files.new_folder(Path("made")) as folder:
    files.write(folder / "whole", lambda path: path.write_text("whole"))
    files.write(Path("file"), fill)
"""


@pytest.mark.parametrize("number", exits.SIGNALS)
def test_signal_ends_a_computation_at_once_with_nothing_half_written(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout
    process.stdout.readline()
    process.send_signal(number)
    assert (process.communicate()[0], process.returncode) == ("interrupted\n", 128 + number)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["absl.flags", "numpy", "jax._src.core"])
def test_ctrl_c_during_imports_is_one_line_and_status_130(module: str) -> None:
    """As soon as Python says that the module is imported: over many others a library puts an except of its own."""
    command = [sys.executable, "-X", "importtime", "-m", "alexnet_jax", "recipes"]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert module in (line.split("|")[-1].strip() for line in process.stderr)
        process.send_signal(signal.SIGINT)
        said = [line for line in process.stderr if not line.startswith("import time:")]
    assert (process.returncode, said) == (130, ["interrupted\n"])


class _Exited(Exception):
    pass


@pytest.fixture
def exited(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    def exit_now(message: str = "", *, status: int) -> NoReturn:
        raise _Exited(status)

    monkeypatch.setattr(exits, "exit_now", exit_now)
    monkeypatch.setattr(exits, "_requested", 0)
    return _Exited


def test_second_signal_ends_a_run_that_was_asked_to_save(exited: type[Exception], capfd: pytest.CaptureFixture) -> None:
    with exits.graceful():
        exits._on_signal(signal.SIGTERM)
        assert exits.requested() == signal.SIGTERM
        with pytest.raises(exited, match="130"):
            exits._on_signal(signal.SIGINT)
    assert capfd.readouterr().err == "\nSIGTERM: saving after this step (once more ends at once, unsaved)\n"


def test_signal_after_the_loop_that_was_asked_to_save_ends_it(exited: type[Exception]) -> None:
    with exits.graceful():
        exits._on_signal(signal.SIGTERM)
    with pytest.raises(exited, match="143"):
        exits._on_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (AlexNetError("The disk is full."), exits.FAILED, "error: The disk is full."),
        (LostError("A worker died."), exits.LOST, "error: A worker died."),
        (ValueError("a bug"), exits.FAILED, "Traceback"),
        (jax.errors.JaxRuntimeError("INTERNAL: Gloo all-reduce failed: Timed out"), exits.LOST, "start the same"),
    ],
)
def test_error_of_one_process_of_several_is_its_status(
    error: Exception, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(argv: list[str]) -> NoReturn:
        raise error

    def exit_now(message: str, *, status: int) -> NoReturn:
        raise _Exited(status, message)

    monkeypatch.setattr(exits, "exit_now", exit_now)
    monkeypatch.setattr(exits, "patience", 0.001)
    monkeypatch.setitem(sys.modules, "failing", SimpleNamespace(main=fail))
    with pytest.raises(_Exited) as ended:
        app.run("failing", [])
    assert ended.value.args[0] == status
    assert said in ended.value.args[1]


@pytest.mark.parametrize("fails", [False, True])
def test_error_of_a_thread_is_shown_unless_the_command_ends_with_it(
    fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fill_disk() -> NoReturn:
        raise OSError(28, "No space left on device")

    def main(argv: list[str]) -> None:
        thread = threading.Thread(target=fill_disk)
        thread.start()
        thread.join()
        if fails:
            fill_disk()

    monkeypatch.setitem(sys.modules, "writing", SimpleNamespace(main=main))
    with pytest.raises(SystemExit, match="No space left") if fails else contextlib.nullcontext():
        app.run("writing", [])
    assert ("No space left" in capsys.readouterr().err) is not fails
