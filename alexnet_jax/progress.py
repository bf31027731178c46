"""Progress bars for everything that takes long, on a terminal and in a notebook, and lines that fit beside them."""

import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterable
from typing import Any

_DELAY = 1.0  # seconds before a bar appears: what is done by then needs none
_FORMAT = "{percentage:3.0f}%|{bar}| {desc}{unit} {n_fmt}/{total_fmt}, {remaining} left{postfix}"


def bar(
    items: Iterable[Any] | None = None, *, total: int, what: str = "", unit: str = "batch", done: int = 0,
    delay: float = _DELAY,
) -> Any:  # fmt: skip
    """A tqdm bar with the time that is left, gone when it is closed; of a terminal it takes one line, however narrow.

    `what` is shown before `unit`, which is counted. It iterates over `items`, if there are any, and counts them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are nicer bars with ipywidgets
        from tqdm.auto import tqdm
    return tqdm(
        items, total=total, initial=done, desc=f"{what}, " if what else "", unit=unit, delay=delay, leave=False,
        bar_format=_FORMAT, dynamic_ncols=True,
        disable=not (_in_notebook() or (sys.stderr is not None and sys.stderr.isatty())),
    )  # fmt: skip


def write(line: str, file: Any = None) -> None:
    """A line above whatever bar there is."""
    from tqdm import tqdm

    tqdm.write(line, file=file)


def to_stderr(text: str) -> None:
    """A line for people, where there is no log."""
    print(text, file=sys.stderr, flush=True)


def wrap(text: str) -> str:
    """Broken between words to the width of the terminal, the rest of a line indented; as it is without a terminal."""
    if sys.stdout is None or sys.stdout.closed or not sys.stdout.isatty():
        return text
    width = max(40, shutil.get_terminal_size().columns - 1)
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows what is written to it, although it has no terminal."""
    return "ipykernel.zmqshell" in sys.modules
