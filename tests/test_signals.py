"""A signal to a command: it cleans up, whichever of its threads hears of it first."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from alexnet_jax import exits, signals

ROOT = Path(__file__).resolve().parent.parent
_CODE = """
import hashlib
from alexnet_jax import signals
with signals.guard():
    try:
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000)  # in C, where Python runs no handler
    finally:
        print("cleaned up", flush=True)
"""


def test_signal_in_the_middle_of_a_computation_lets_a_command_clean_up() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert printed == "cleaned up\ninterrupted\n"
    assert process.returncode == 128 + signal.SIGTERM


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


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handler of this program, in this process."""
    monkeypatch.setattr(signals, "_requested", 0)
    monkeypatch.setattr(signals, "_handled", False)
    before = {number: signal.signal(number, signals._on_signal) for number in signals.NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_second_signal_ends_a_run_that_was_asked_to_save(
    number: signal.Signals, handled: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    class Exited(Exception):
        pass

    def exit_now(message: str = "", *, status: int) -> NoReturn:
        raise Exited(status)

    monkeypatch.setattr(exits, "exit_now", exit_now)
    with signals.graceful():
        signal.raise_signal(number)
        assert signals.requested() == number
        with pytest.raises(Exited, match=str(128 + number)):
            signal.raise_signal(number)
    assert capfd.readouterr().err.count("saving after this step") == 1


def test_signal_outside_of_the_loop_interrupts(handled: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signals.requested() == signal.SIGTERM
