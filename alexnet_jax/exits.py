"""Ending a process early: one line for people, an exit status (docs/faults.md), and nothing half written.

Imported first of all, so it imports little.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

FAILED = 1  # the same command would fail again
LOST = 75  # EX_TEMPFAIL of sysexits.h: a process is gone or hangs; started again, the run resumes
SIGNALED = 128  # + the signal's number: it was stopped, and resumes

_HOOK_SECONDS = 5.0
hooks: list[Callable[[int, str], object]] = []  # each is called with (status, message) before the process ends
hint: Callable[[], str] | None = None  # what follows "interrupted: ": what is saved, how to resume
patience = 0.0  # seconds until a process of several knows that another one is gone; 0 for a single one
abort_is_expected = False  # by JAX's runtime, once all processes are through
_exiting = threading.Lock()
_screen = 2  # the file descriptor of the terminal: another one once `redirect_native_output` was called
_native_log = ""


def exit_now(message: str | None = "", *, status: int) -> NoReturn:
    """Prints the message, or "interrupted" and the hint for "", nothing for None, and ends the process with `status`.

    Not through the interpreter's own shutdown: it would wait for Orbax's threads, and crash under XLA's.
    """
    if not _exiting.acquire(blocking=False):
        threading.Event().wait()  # the other thread ends the process
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    if message == "":
        below = "\n" if os.isatty(_screen) else ""  # the progress bar and ^C
        message = f"{below}interrupted{f': {hint()}' if hint else ''}"
    if status != LOST:
        with contextlib.suppress(OSError):
            os.unlink(_native_log)
    elif _native_log:
        message = f"{message} What its libraries wrote is in {_native_log}."
    if message is not None:  # before whatever follows, which may take its time
        write(f"{message}\n")
    for hook in hooks:
        thread = threading.Thread(target=_quietly, args=(hook, status, message), daemon=True)
        thread.start()
        thread.join(_HOOK_SECONDS)
    _quietly(lambda: sys.stdout.flush())  # noqa: PLW0108 (it may be None)
    _quietly(lambda: sys.modules["alexnet_jax.files"].drop_unfinished())  # noqa: PLW0108 (it may not be imported)
    os._exit(status)


def _quietly(action: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(Exception):
        action(*arguments)


def write(text: str) -> None:
    """Writes to the terminal past Python's buffers, from any thread and in the middle of anything."""
    with contextlib.suppress(OSError):  # the terminal is gone: that is what SIGHUP says
        os.write(_screen, text.encode("utf-8", "backslashreplace"))


def redirect_native_output(log: str) -> None:
    """Sends what C++ writes to the terminal, such as stack dumps, to the file `log`. Raises OSError.

    Python's own stdout and stderr stay where they are. An abort() of JAX's runtime, which it calls as soon as process 0
    is gone, becomes one sentence and a status.
    """
    global _screen, _native_log  # noqa: PLW0603
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
    _native_log = log
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


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    """Runs in the C++ thread that calls abort()."""
    if abort_is_expected:
        threading.Event().wait()  # the main thread ends the process
    exit_now(
        "error: JAX's runtime ended this process, as it does where process 0 is gone: start the same command again on "
        "all of them, and it resumes from the last checkpoint.",
        status=LOST,
    )
