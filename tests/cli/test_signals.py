"""A signal to a command: one line and 128 + its number, in the imports and in the middle of a computation."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
_COMPUTES = """
import hashlib
from alexnet_jax import signals
with signals.guard():
    try:
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000)  # in C, where Python runs no handler
    finally:
        print("cleaned up", flush=True)
"""


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


def test_command_cleans_up_after_a_signal_in_a_computation() -> None:
    command = [sys.executable, "-c", _COMPUTES]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "cleaned up\ninterrupted\n"
    assert process.returncode == 128 + signal.SIGTERM
