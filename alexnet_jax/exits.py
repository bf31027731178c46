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
patience = 0.0  # seconds until this process would know that another one is gone
hooks: list[Callable[[int, str], object]] = []  # each is called with (status, message) before the process ends
_exiting = threading.Lock()
_hint: Callable[[], str] | None = None
_screen = 2  # the file descriptor of the terminal: another one once `redirect_native_output` was called
_native_log = ""


def set_hint(hint: Callable[[], str]) -> None:
    """`hint()` follows "interrupted: " where a signal ends the process: what is saved, how to resume."""
    global _hint  # noqa: PLW0603
    _hint = hint


def exit_now(message: str = "", *, status: int) -> NoReturn:
    """Prints the message, or "interrupted" with the hint, and ends the process with `status`.

    Not through the interpreter's own shutdown: it would wait for Orbax's threads, and crash under XLA's.
    """
    if not _exiting.acquire(blocking=False):
        threading.Event().wait()  # the other thread ends the process
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    message = message or (f"interrupted: {_hint()}" if _hint else "interrupted")
    if status == LOST and _has_native_output():
        message += f" What its libraries wrote is in {_native_log}."
    # The line comes first: whatever follows may take its time. On a terminal it goes below the progress bar and ^C.
    write(f"{chr(10) if os.isatty(_screen) and not message.startswith('error') else ''}{message}\n")
    for hook in reversed(hooks):
        thread = threading.Thread(target=_quietly, args=(hook, status, message), daemon=True)
        thread.start()
        thread.join(_HOOK_SECONDS)
    if status != LOST:
        drop_native_output()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if "alexnet_jax.files" in sys.modules:
        _quietly(sys.modules["alexnet_jax.files"].drop_unfinished)
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            _quietly(child.kill)
    os._exit(status)


def finish(status: int) -> NoReturn:
    """Ends a process that is through, whatever threads still run in it."""
    drop_native_output()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            _quietly(stream.flush)
    os._exit(status)


def _quietly(action: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(Exception):
        action(*arguments)


def write(text: str) -> None:
    """Writes to the terminal past Python's buffers, from any thread and in the middle of anything."""
    with contextlib.suppress(OSError):  # the terminal is gone: that is what SIGHUP says
        os.write(_screen, text.encode("utf-8", "backslashreplace"))


# ---------------------------------------------------------------- what C++ writes, and its abort()


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


def drop_native_output() -> None:
    """Removes the log of `redirect_native_output`."""
    with contextlib.suppress(OSError):
        os.unlink(_native_log)


def _has_native_output() -> bool:
    """Whether C++ wrote more than Gloo's greetings and the note that the runtime may go on without a process."""
    with contextlib.suppress(OSError), open(_native_log, errors="replace") as file:
        return any(line.strip() and not line.startswith("[Gloo]") and "recoverable task" not in line for line in file)
    return False


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    """Runs in the C++ thread that calls abort()."""
    exit_now(
        "error: JAX's runtime ended this process, as it does where process 0 is gone: start the same command again on "
        "all of them, and it resumes from the last checkpoint.",
        status=LOST,
    )
