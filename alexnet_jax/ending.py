"""How a process ends before its time: one line for people, a status, and nothing half written.

The statuses are those of docs/faults.md. Imported first of all, so it imports little.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

FAILED = 1  # the same command would fail again
LOST = 75  # EX_TEMPFAIL of sysexits.h: a process is gone or hangs; started again, the run resumes
SIGNALED = 128  # + the signal's number: it was stopped, and resumes

_leaving = threading.Lock()
_before: list[Callable[[int, str], None]] = []
_after: list[Callable[[], Any]] = []
_words: Callable[[], str] | None = None
_screen = 2  # where people read: another file descriptor once `hide_native_output` was called
_log = ""


def note(words: Callable[[], str]) -> None:
    """`words()` is what `leave` says of the run where it is given nothing else: what is saved, how to resume."""
    global _words  # noqa: PLW0603
    _words = words


def before_leaving(action: Callable[[int, str], None]) -> None:
    """Has `leave` call `action(status, message)` first."""
    _before.append(action)


def after_leaving(action: Callable[[], Any]) -> None:
    """Has `leave` call `action()` last."""
    _after.append(action)


def leave(message: str = "", *, status: int, below: str = "\n") -> NoReturn:
    """Says the message, or "interrupted" with the words of `note`, and ends the process with `status`.

    On a terminal `below` comes first: below the bar and ^C.
    Not through the interpreter's own shutdown: XLA's threads are still at work, and it crashes under them.
    """
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()  # the other thread ends the process
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    message = message or f"interrupted{f': {_words()}' if _words else ''}"
    message += _native_output(keep=status == LOST)
    # What people read comes first: whatever follows may take its time.
    with contextlib.suppress(OSError):
        os.write(_screen, f"{below if os.isatty(_screen) else ''}{message}\n".encode())
    for action in _before:
        with contextlib.suppress(Exception):
            action(status, message)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        if "alexnet_jax.files" in sys.modules:
            sys.modules["alexnet_jax.files"].drop_unfinished()
    with contextlib.suppress(Exception):
        for child in sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else ():
            child.kill()
    for last in _after:
        with contextlib.suppress(Exception):
            last()
    os._exit(status)


def is_one_of_several() -> bool:
    """Whether somebody has to be told before this process ends: it must end by `leave` then."""
    return bool(_before)


def hide_native_output(log: str) -> None:
    """Sends what C++ writes to the terminal, such as stack dumps, to the file `log`. Raises OSError.

    Python's own stdout and stderr stay where they are. An abort() of C++ becomes one sentence and a status.
    """
    global _screen, _log  # noqa: PLW0603
    ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)
    _log = log
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            continue  # it is closed
        getattr(sys, name).flush()
        kept = os.dup(number)
        setattr(sys, name, open(kept, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False))  # noqa: SIM115
        os.dup2(handle, number)
        _screen = kept
    os.close(handle)


def drop_native_output() -> None:
    """Removes the file of `hide_native_output`: all went well."""
    _native_output(keep=False)


def _native_output(*, keep: bool) -> str:
    """Where to find what C++ wrote, if it is more than Gloo's greeting and worth to be kept; else it is removed."""
    with contextlib.suppress(OSError):
        with open(_log, errors="replace") as file:
            lines = [line for line in file if line.strip() and not line.startswith("[Gloo]")]
        if keep and lines:
            return f" What its libraries wrote is in {_log}."
        os.unlink(_log)
    return ""


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(number: int) -> None:
    """In the C++ thread that calls abort(), as JAX's runtime does as soon as process 0 is gone."""
    leave(
        "error: JAX's runtime ended this process, as it does where another one is gone: start the same command again "
        "on all of them, and it resumes from the last checkpoint.",
        status=LOST,
    )


def say_now(line: str) -> None:
    """Writes to the terminal past Python's buffers: for a handler, which runs in the middle of anything."""
    with contextlib.suppress(OSError):  # the terminal is gone: that is what SIGHUP says
        os.write(_screen, line.encode())
