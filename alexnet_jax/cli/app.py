"""Running a command: a user's mistake ends in one sentence and status 1; a bug shows its traceback."""

import argparse
import contextlib
import importlib
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn

from absl import flags, logging

from alexnet_jax import exits, signals
from alexnet_jax.errors import AlexNetError


def program(module: str) -> None:
    """Runs `module` as a program of its own: python -m MODULE."""
    with signals.guard():
        run(module, sys.argv[1:])


def run(module: str, argv: list[str]) -> None:
    """Runs the `main(argv)` of a module; returns where it succeeds, and raises or exits where it fails."""
    logging.set_verbosity(logging.FATAL)  # what Orbax logs of an error, it raises too
    flags.FLAGS.mark_as_parsed()  # Grain and Orbax read absl's flags
    try:
        if module != "alexnet_jax.cli.predict":  # which only reads, and prints any name
            _check_text(argv)
        with _threads_held_back():
            importlib.import_module(module).main(argv)
        if sys.stdout is not None:  # None where it is closed
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter does not flush into the pipe
        sys.exit(1)
    except Exception as error:
        several, words = exits.patience > 0, sentence(error)
        if signals.requested() or not (words or several):
            raise
        if words is None:
            time.sleep(exits.patience)  # where another process is gone, collectives fail here: that is said instead
            words = f"{type(error).__name__}\n{traceback.format_exc()}"  # which the other processes print too
        words, status = f"error: {words}", getattr(error, "status", exits.FAILED)
        if several or status != exits.FAILED:
            exits.exit_now(words, status=status)
        sys.exit(words)


def sentence(error: BaseException) -> str | None:
    """A user's mistake in one sentence; None for a bug."""
    line = " ".join(str(error).split())
    if isinstance(error, AlexNetError | flags.Error):
        return line
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line or "Out of memory" in line:
        return f"not enough memory ({line[:200]}): use a smaller batch or smaller pictures."
    if isinstance(error, OSError) and error.strerror:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}."
    return None


@contextlib.contextmanager
def _threads_held_back() -> Iterator[None]:
    """Drops what threads and C++ print, such as Orbax on a full disk, where the command ends in a sentence.

    Otherwise it follows when the command is over.
    """
    printed = list[str]()

    def hold_back(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        printed.append("".join(traceback.format_exception(kind, error, trace)))

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook = lambda args: hold_back(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: hold_back(args.exc_type, args.exc_value, args.exc_traceback)
    try:
        yield
    except Exception as error:
        if sentence(error):
            printed.clear()
        raise
    finally:
        threading.excepthook, sys.unraisablehook = before
        sys.stderr.write("".join(printed))


def _check_text(argv: list[str]) -> None:
    """Raises AlexNetError for an argument that is not UTF-8: neither a log nor a checkpoint could name it."""
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise AlexNetError(f"{argument!a} is not UTF-8 text: rename it.") from error


# ---------------------------------------------------------------- options of the commands that take no recipe


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
