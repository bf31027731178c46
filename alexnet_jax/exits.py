"""How a process ends: one line for people, an exit status (docs/faults.md), and nothing half written.

Ctrl-C, SIGTERM and SIGHUP end a command at once, or ask the training loop to save and stop. A run survives kill -9, so
nothing needs to be unwound first. Imported before anything else, so it imports little.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

FAILED = 1  # the same command would fail again
LOST = 75  # EX_TEMPFAIL of sysexits.h: a process is gone or hangs; started again, the run resumes
SIGNALED = 128  # + the signal's number: it was stopped, and resumes
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_HOOK_SECONDS = 5.0
hooks: list[Callable[[int, str], object]] = []  # each is called with (status, message) before the process ends
hint: Callable[[], str] | None = None  # what follows "interrupted: ": what is saved, how to resume
patience = 0.0  # seconds until a process of several knows that another one is gone; 0 for a single one
abort_is_expected = False  # by JAX's runtime, once all processes are through
_exiting = threading.Lock()
_screen = 2  # the file descriptor of the terminal: another one once `redirect_native_output` was called
_native_log = ""
_requested = 0  # the number of the signal that asks the training loop to stop
_graceful = False


class Stopped(Exception):
    """The run was asked to stop, and did, with everything saved. `signal` is the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def exit_now(message: str | None = "", *, status: int) -> NoReturn:
    """Prints the message, or "interrupted" and the hint for "", nothing for None, and ends the process with `status`.

    Not through the interpreter's own shutdown: it would wait for Orbax's threads, and crash under XLA's.
    """
    if not _exiting.acquire(blocking=False):
        threading.Event().wait()  # the other thread ends the process
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


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Around a whole command: a signal ends it, and so does sys.exit(message), by `exit_now`."""
    _watch_signals()
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, str):
            exit_now(end.code, status=FAILED)
        raise


@contextlib.contextmanager
def graceful() -> Iterator[None]:
    """While it is entered the first signal only sets `requested()`; the second ends the process at once."""
    global _graceful  # noqa: PLW0603
    _graceful = True
    try:
        yield
    finally:
        _graceful = False


def requested() -> int:
    """The number of the signal that asked this process to stop, 0 without one."""
    return _requested


def _watch_signals() -> None:
    """In a thread, since Python runs no handler while XLA compiles or computes. Ignored signals stay ignored."""
    # The C-level handler writes the signal's number to the pipe at once; the thread waits at its other end.
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
            signal.signal(number, lambda *_: None)
    sys.warnoptions.append("ignore:resource_tracker")  # the process that frees shared memory after this one says so
    threading.Thread(target=_on_signals, args=(read,), daemon=True).start()


def _on_signals(read: int) -> None:
    while number := os.read(read, 1)[0]:
        if number in SIGNALS:
            _on_signal(number)


def _on_signal(number: int) -> None:
    global _requested  # noqa: PLW0603
    if _requested or not _graceful:
        exit_now(status=SIGNALED + number)
    _requested = number
    write(f"\n{signal.Signals(number).name}: saving after this step (once more ends at once, unsaved)\n")


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
