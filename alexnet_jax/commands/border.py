"""The border of every command: whatever goes wrong inside ends here, in one sentence and a status that is not 0.

Ctrl-C ends with status 130 at once, also while XLA computes or compiles and Python runs no handler.
"""

import argparse
import importlib
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from types import TracebackType
from typing import NoReturn

from alexnet_jax.errors import AlexNetError

_GRACE_SECONDS = 2.0  # for a command to clean up by itself after Ctrl-C


def run(command: str, argv: list[str]) -> None:
    """Runs `alexnet_jax.commands.<command>`; returns where it succeeds and exits where it fails."""
    watch_interrupts()
    try:
        importlib.import_module(f"alexnet_jax.commands.{command}").main(argv)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        leave(str(stop) or "interrupted")
    except AlexNetError as error:
        sys.exit(f"error: {as_flags(str(error))}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter does not flush into the pipe
        sys.exit(1)
    except Exception as error:
        sys.exit(f"error: {_in_words(error)}")


class Parser(argparse.ArgumentParser):
    """A parser of a command's options whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raises AlexNetError."""
        raise AlexNetError(f"{message}: see {self.prog} --help.")


# ---------------------------------------------------------------- errors

# Arguments of the library that are flags of a command.
_FLAGS = "config|workdir|checkpoint|data_dir|input|output|classes|channels|views|recipe|top"


def as_flags(message: str) -> str:
    """Arguments as flags: checkpoint=7 as --checkpoint=7, config.train.steps as --config.train.steps."""
    return re.sub(rf"(?<![\w.\-/=])((?:{_FLAGS})(?==)|config\.(?=[a-z]))", r"--\1", message)


def _in_words(error: Exception) -> str:
    """One sentence for an error that nobody foresaw where it happened."""
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or line}."
    if isinstance(error, UnicodeError):
        return f"a name or file is not UTF-8 text ({error.reason if hasattr(error, 'reason') else line})."
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line or "Out of memory" in line:
        return f"not enough memory ({line[:200]}): use a smaller batch or smaller pictures."
    return f"{type(error).__name__}: {line[:200]} This is a bug; its traceback is in {_traceback(error)}."


def _traceback(error: Exception) -> str:
    handle, name = tempfile.mkstemp(prefix="alexnet-", suffix=".traceback")
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        file.write(f"{sys.argv}\n{''.join(traceback.format_exception(error))}")
    return name


# ---------------------------------------------------------------- Ctrl-C


def watch_interrupts() -> None:
    """From now on Ctrl-C ends the process within two seconds, unless a handler of its own was installed.

    Python runs its handlers between bytecodes only, so a long computation of XLA would hold them up. The
    C-level handler writes the signal's number to a pipe at once, and a thread waits at its other end.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_wait_for_interrupt, args=(read,), daemon=True).start()
    threading.excepthook = _quiet_interrupts


def _wait_for_interrupt(read: int) -> None:
    while number := os.read(read, 1):
        if number[0] == signal.SIGINT and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            time.sleep(_GRACE_SECONDS)
            leave("interrupted")


def _quiet_interrupts(args: "threading.ExceptHookArgs") -> None:
    kind: type[BaseException] | None = args.exc_type
    trace: TracebackType | None = args.exc_traceback
    if kind is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
        traceback.print_exception(kind, args.exc_value, trace)


_leaving = threading.Lock()


def leave(message: str) -> NoReturn:
    """Says the message and ends the process with status 130.

    Not through the interpreter's own shutdown: XLA's threads are still at work, and it crashes under them.
    """
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()  # the other thread ends the process
    signal.signal(signal.SIGINT, signal.SIG_IGN) if threading.current_thread() is threading.main_thread() else None
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    os._exit(130)
