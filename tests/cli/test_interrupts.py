"""A signal to a command: it cleans up, whichever of its threads hears of it first."""

import signal
import subprocess
import sys

_CODE = """
import hashlib
from alexnet_jax.cli import interrupts
with interrupts.watched():
    try:
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000)  # a tenth of a second in C, where Python runs no handler
    finally:
        print("cleaned up", flush=True)
"""


def test_a_command_cleans_up_after_a_signal_that_came_in_the_middle_of_a_computation() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert said == "cleaned up\ninterrupted\n"
    assert process.returncode == 128 + signal.SIGTERM
