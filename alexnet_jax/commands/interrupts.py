"""Ctrl-C: one line and status 130 at any time, also while XLA computes or compiles and Python runs no handler.

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
from typing import NoReturn

_GRACE_SECONDS = 2.0  # for a command to clean up by itself
_asked = threading.Event()
_leaving = threading.Lock()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """While it is entered, Ctrl-C raises KeyboardInterrupt, and two seconds later the process ends whatever it does.

    A handler that is installed meanwhile, such as that of training, replaces this one.
    """
    _watch()
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        # What is interrupted may end in another error.
        if isinstance(error, KeyboardInterrupt) or _asked.is_set():
            leave(str(error) if isinstance(error, KeyboardInterrupt) else "")
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, lambda *_: leave())  # the command is over: nothing is left to clean up


def asked() -> bool:
    """Whether Ctrl-C was pressed."""
    return _asked.is_set()


def leave(message: str = "", *, number: int = signal.SIGINT) -> NoReturn:
    """Says the message, or "interrupted", and ends the process with the status of a signal: 130.

    Not through the interpreter's own shutdown: XLA's threads are still at work, and it crashes under them.
    """
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()  # the other thread ends the process
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        if "alexnet_jax.files" in sys.modules:
            sys.modules["alexnet_jax.files"].drop_unfinished()
    with contextlib.suppress(Exception):
        for child in sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else ():
            child.kill()
    start = "\n" if os.isatty(2) else ""  # below the bar and the terminal's ^C
    os.write(2, f"{start}{message or 'interrupted'}\n".encode())
    os._exit(128 + number)


def _watch() -> None:
    """Installs the handler, and a thread that ends the process where Python does not come to run it.

    The C-level handler writes the signal's number to a pipe at once; the thread waits at its other end.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # it is ignored, as under nohup, or watched already
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _interrupt)
    sys.warnoptions.append("ignore:resource_tracker")  # the process that frees shared memory after this one says so
    threading.Thread(target=_wait, args=(read,), daemon=True).start()


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _asked.is_set() or _is_importing(frame):
        leave()
    _asked.set()
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    """Imports have nothing to clean up, and some of them print an exception or make another one of it."""
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _wait(read: int) -> None:
    first = True
    while number := os.read(read, 1)[0]:
        if number not in (signal.SIGINT, signal.SIGTERM):
            continue
        if signal.getsignal(number) is _interrupt or not first:  # a handler of training's has the first alone
            _asked.set()
            select.select([read], [], [], _GRACE_SECONDS)  # or until it is asked once more
            leave(number=number)
        first = False
