"""Progress bars for everything that takes long, on a terminal and in a notebook, and lines that fit beside them."""

import importlib.util
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_DELAY = 1.0  # seconds before a bar appears: what is done by then needs none
_FORMAT = "{percentage:3.0f}%|{bar}| {desc}{unit} {n_fmt}/{total_fmt}, {remaining} left{postfix}"


def bar(
    *, total: int, what: str = "", unit: str = "batch", done: int = 0, file: Any = None, delay: float = _DELAY
) -> Any:
    """A tqdm bar with the time that is left, gone when it is closed; of a terminal it takes one line, however narrow.

    `what` is shown before `unit`, which is counted. `file` is sys.stderr by default.
    """
    tqdm, options = _tqdm()
    return tqdm(
        total=total, initial=done, desc=f"{what}, " if what else "", unit=unit, file=file, delay=delay, leave=False,
        bar_format=_FORMAT, **options,
    )  # fmt: skip


def watched(items: Iterable[T], *, total: int, what: str = "", unit: str = "batch", file: Any = None) -> Iterator[T]:
    """The items, with a bar that counts them."""
    with bar(total=total, what=what, unit=unit, file=file) as shown:
        for item in items:
            yield item
            shown.update()


def write(line: str, file: Any = None) -> None:
    """A line above whatever bar there is."""
    from tqdm import tqdm

    tqdm.write(line, file=file)


def wrap(text: str) -> str:
    """Broken between words to the width of the terminal, the rest of a line indented; as it is without a terminal."""
    if sys.stdout is None or sys.stdout.closed or not sys.stdout.isatty():
        return text
    width = max(40, shutil.get_terminal_size().columns - 1)
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def _tqdm() -> tuple[Any, dict[str, Any]]:
    """The class of bars for where this runs, and its options."""
    if not _in_notebook():
        from tqdm import tqdm

        return tqdm, {"disable": None, "dynamic_ncols": True}  # None: only on a terminal
    if importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm

        return tqdm, {"disable": False}
    from tqdm import tqdm

    return tqdm, {"disable": False, "ncols": 79, "mininterval": 0.5}


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows what is written to it, although it has no terminal."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return type(shell).__name__ == "ZMQInteractiveShell"
