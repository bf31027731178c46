"""The border of every command: whatever goes wrong inside ends here, in one sentence and a status that is not 0."""

import argparse
import contextlib
import importlib
import os
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn

from alexnet_jax import ending
from alexnet_jax.cli import interrupts
from alexnet_jax.errors import AlexNetError

_OTHERS_SECONDS = 3.0


def program(module: str) -> None:
    """Runs `module` as a program of its own: python -m MODULE."""
    with interrupts.watched():
        run(module, sys.argv[1:])


def run(module: str, argv: list[str]) -> None:
    """Runs the `main(argv)` of a module; returns where it succeeds and exits where it fails."""
    try:
        if module != "alexnet_jax.cli.predict":  # which only reads, and prints any name
            _check_text(argv)
        with _quiet():
            importlib.import_module(module).main(argv)
        if sys.stdout is not None:  # None where it is closed
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter does not flush into the pipe
        sys.exit(1)
    except Exception as error:
        if interrupts.asked():
            raise
        if ending.is_one_of_several() and not isinstance(error, AlexNetError):
            time.sleep(_OTHERS_SECONDS)  # where another process is gone, collectives fail here: that is told instead
        words = as_flags(str(error)) if isinstance(error, AlexNetError) else _in_words(error)
        words = "error: " + " ".join(words.splitlines())
        if ending.is_one_of_several():
            ending.leave(words, status=ending.FAILED)
        sys.exit(words)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What libraries say of an error beside raising it: nothing where the command fails, all of it where it does not.

    That is absl's log, and the exceptions of threads and of C++ (Orbax writes with both).
    """
    from absl import flags, logging

    logging.set_verbosity(logging.FATAL)
    flags.FLAGS(["alexnet"])  # Grain and Orbax read absl's own flags
    said = list[str]()

    def keep(kind: type[BaseException], value: BaseException | None, trace: TracebackType | None) -> None:
        said.append("".join(traceback.format_exception(kind, value, trace)))

    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    sys.excepthook = keep
    threading.excepthook = lambda args: keep(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: keep(args.exc_type, args.exc_value, args.exc_traceback)
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    sys.stderr.write("".join(said))


class Parser(argparse.ArgumentParser):
    """A parser of a command's options whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raises AlexNetError."""
        raise AlexNetError(f"{message}: see {self.prog} --help.")


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an option that is a whole number in a range."""

    def parsed(text: str) -> int:
        if not re.fullmatch("-?[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text[:20]} is not a whole number from {low} to {high:,}")
        return int(text)

    return parsed


# ---------------------------------------------------------------- errors

# Arguments of the library that are flags of a command.
_FLAGS = (
    "config|workdir|checkpoint|coordinator|num_processes|process_id|start_timeout|data_dir|input|output|classes|channels"
    "|views|recipe|top|predictions"
)


def as_flags(message: str) -> str:
    """Arguments as flags: checkpoint=7 as --checkpoint=7, config.train.steps as --config.train.steps.

    Not those of a call in Python, and not the file config.json.
    """
    return re.sub(rf"(?<![\w.\-/=(])(?<!, )((?:{_FLAGS})(?==)|config\.(?=[a-z])(?!json\b))", r"--\1", message)


def _check_text(argv: list[str]) -> None:
    """Raises AlexNetError for an argument that is not UTF-8: neither a log nor a checkpoint could name it."""
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise AlexNetError(f"{argument!a} is not UTF-8 text: rename it.") from error


def _in_words(error: Exception) -> str:
    """One sentence for an error that nobody foresaw where it happened."""
    line = (str(error).strip().splitlines() or [""])[0]
    if "jax" in sys.modules and os.environ.get("JAX_PLATFORMS"):
        from alexnet_jax.cli import devices

        try:
            devices.settle()
        except AlexNetError as cause:
            return str(cause)
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
