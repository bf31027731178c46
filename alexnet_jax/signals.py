"""Ctrl-C, SIGTERM and SIGHUP: they end a command, and ask the training loop to save and stop.

One handler and one thread, which ends the process where Python does not come to run the handler: while XLA compiles or
computes. Imported first of all, so it imports little.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from alexnet_jax import exits

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS = 2.0  # for a command to clean up by itself

_installed = False
_requested = 0  # the number of the first signal
_handled = False  # by the handler, in the main thread
_graceful = False  # the loop saves before it stops


class Stopped(Exception):
    """The run was asked to stop, and did, with everything saved. `signal` is the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Around a whole command: a signal raises KeyboardInterrupt, and ends the process two seconds later in any case.

    Both, and an error in one sentence, end it by `exits.exit_now`.
    """
    global _handled  # noqa: PLW0603
    _install()
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, str) and _installed:
            exits.exit_now(end.code, status=exits.FAILED)
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or _requested:  # what is interrupted may end in another error
            message = str(error) if isinstance(error, KeyboardInterrupt) else ""
            exits.exit_now(message, status=exits.SIGNALED + (_requested or signal.SIGINT))
        raise
    finally:
        _handled = True  # nothing is left to clean up: a signal ends the process at once


def _install() -> None:
    """Installs the handler and the thread. Signals that are ignored, as SIGHUP is under nohup, stay ignored."""
    global _installed  # noqa: PLW0603
    _installed = True
    # The C-level handler writes the signal's number to a pipe at once; the thread waits at its other end.
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    sys.warnoptions.append("ignore:resource_tracker")  # the process that frees shared memory after this one says so
    threading.Thread(target=_watch, args=(read,), daemon=True).start()


def requested() -> int:
    """The number of the signal that asked this process to stop, 0 without one."""
    return _requested


@contextlib.contextmanager
def graceful() -> Iterator[None]:
    """While it is entered the first signal only sets `requested()`; the second ends the process at once."""
    global _graceful  # noqa: PLW0603
    _graceful = True
    try:
        yield
    finally:
        _graceful = False


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _requested, _handled
    if _handled or (not _graceful and _is_importing(frame)):
        exits.exit_now(status=exits.SIGNALED + number)
    _handled, _requested = True, _requested or number
    if not _graceful:
        raise KeyboardInterrupt
    exits.write(f"\n{signal.Signals(number).name}: saving after this step (once more ends at once, unsaved)\n")


def _is_importing(frame: FrameType | None) -> bool:
    """Imports have nothing to clean up, and some of them print an exception or make another one of it."""
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _watch(read: int) -> None:
    global _requested  # noqa: PLW0603
    first = True
    while number := os.read(read, 1)[0]:
        if number not in NUMBERS:
            continue
        _requested = _requested or number
        if not (_graceful and first):
            select.select([read], [], [], _GRACE_SECONDS)  # or until it is asked once more
            exits.exit_now(status=exits.SIGNALED + number)
        first = False
