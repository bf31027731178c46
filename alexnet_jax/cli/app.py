"""Running a command: a user's mistake ends in one sentence and status 1; a bug shows its traceback."""

import argparse
import importlib
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from absl import flags, logging

from alexnet_jax import exits
from alexnet_jax.errors import AlexNetError


def program(module: str) -> None:
    """Runs `module` as a program of its own: python -m MODULE."""
    with exits.guard():
        run(module, sys.argv[1:])


def run(module: str, argv: list[str]) -> None:
    """Runs the `main(argv)` of a module; returns where it succeeds, and raises or exits where it fails."""
    logging.set_verbosity(logging.FATAL)  # what Orbax logs of an error, it raises too
    flags.FLAGS.mark_as_parsed()  # Grain and Orbax read absl's flags
    try:
        for argument in argv if module != "alexnet_jax.cli.predict" else []:  # which only reads, and prints any name
            if argument != argument.encode(errors="replace").decode():  # neither a log nor a checkpoint could name it
                raise AlexNetError(f"{argument!a} is not UTF-8 text: rename it.")
        # Orbax's threads print the full disk that the main thread then ends with in a sentence: not if it does.
        held, show = list[threading.ExceptHookArgs](), threading.__excepthook__
        threading.excepthook = lambda args: held.append(args) if sentence(args.exc_value) else show(args)
        # And TensorStore's threads, in C++, that they report to an event loop that is gone by then.
        sys.unraisablehook = lambda args: "loop is closed" in str(args.exc_value) or sys.__unraisablehook__(args)
        importlib.import_module(module).main(argv)
        for args in held:
            show(args)
        if sys.stdout is not None:  # None where it is closed
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter does not flush into the pipe
        sys.exit(1)
    except Exception as error:
        several, words, status = exits.patience > 0, sentence(error), getattr(error, "status", exits.FAILED)
        if not (words or several):
            raise
        if words is None:
            time.sleep(exits.patience)  # where another process is gone, exchanges fail here: that is said instead
            words = f"{type(error).__name__}\n{traceback.format_exc()}"  # which the other processes print too
            if "Gloo " in str(error):  # JAX's transport between CPUs, which waits for 30 s
                words = "another process did not come to an exchange in time: start the same command again on all"
                words, status = f"{words} of them, and it resumes from the last checkpoint.", exits.LOST
        if several or status != exits.FAILED:
            exits.exit_now(f"error: {words}", status=status)
        sys.exit(f"error: {words}")


def sentence(error: BaseException | None) -> str | None:
    """A user's mistake in one sentence; None for a bug."""
    line = " ".join(str(error).split())
    if isinstance(error, AlexNetError | flags.Error):
        return line
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line or "Out of memory" in line:
        return f"not enough memory ({line[:200]}): use a smaller batch or smaller pictures."
    if isinstance(error, OSError) and error.strerror:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}."
    return None


class Parser(argparse.ArgumentParser):
    """A parser of a command's options whose errors are one sentence. No option is abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Raises AlexNetError."""
        raise AlexNetError(f"{message}: see {self.prog} --help.")


def parser_of(doc: str | None, **settings: Any) -> Parser:
    """The parser of a command by the docstring of its module, "alexnet NAME: what it does."."""
    prog, _, description = (doc or "").partition(": ")
    return Parser(prog=prog, description=description, **settings)


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an option that is a whole number in a range."""

    def parsed(text: str) -> int:
        if not re.fullmatch("-?[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text[:20]} is not a whole number from {low} to {high:,}")
        return int(text)

    return parsed
