"""Ctrl-C, SIGTERM and SIGHUP: one line and status 128 + the signal's number at any time, also while XLA computes or
compiles and Python runs no handler.

Imported first of all, so it imports little.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from alexnet_jax import ending

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS = 2.0  # for a command to clean up by itself
_watching = threading.Event()
_asked: list[int] = []  # the number of the first signal
_handled = threading.Event()  # KeyboardInterrupt was raised


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """While it is entered, a signal raises KeyboardInterrupt, and two seconds later the process ends whatever it does.

    A handler that is installed meanwhile, such as that of training, replaces this one.
    """
    _watch()
    try:
        yield
    except SystemExit as error:
        # An error of a command. The interpreter's own shutdown would wait for Orbax's threads, and these for each other
        # for ten minutes where one of them could not write.
        if isinstance(error.code, str) and _watching.is_set():
            ending.leave(error.code, status=ending.FAILED, below="")
        raise
    except BaseException as error:
        # What is interrupted may end in another error.
        if isinstance(error, KeyboardInterrupt) or _asked:
            ending.leave(str(error) if isinstance(error, KeyboardInterrupt) else "", status=_status())
        raise
    finally:
        for number in NUMBERS:
            if signal.getsignal(number) is _interrupt:
                # The command is over: nothing is left to clean up.
                signal.signal(number, lambda number, _: ending.leave(status=ending.SIGNALED + number))


def asked() -> bool:
    """Whether the process was asked to end."""
    return bool(_asked)


def _status() -> int:
    return ending.SIGNALED + (_asked[0] if _asked else signal.SIGINT)


def _watch() -> None:
    """Installs the handler, and a thread that ends the process where Python does not come to run it.

    The C-level handler writes the signal's number to a pipe at once; the thread waits at its other end.
    """
    if _watching.is_set():
        return
    _watching.set()
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    sys.warnoptions.append("ignore:resource_tracker")  # the process that frees shared memory after this one says so
    threading.Thread(target=_wait, args=(read,), daemon=True).start()


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Not whether `_asked` has a number: the thread may have been first, and then nothing was cleaned up yet.
    if _handled.is_set() or _is_importing(frame):
        ending.leave(status=ending.SIGNALED + number)
    _handled.set()
    if not _asked:
        _asked.append(number)
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    """Imports have nothing to clean up, and some of them print an exception or make another one of it."""
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _wait(read: int) -> None:
    first = True
    while number := os.read(read, 1)[0]:
        if number not in NUMBERS:
            continue
        if signal.getsignal(number) is _interrupt or not first:  # a handler of training's has the first alone
            if not _asked:
                _asked.append(number)
            select.select([read], [], [], _GRACE_SECONDS)  # or until it is asked once more
            ending.leave(status=ending.SIGNALED + number)
        first = False
