"""Progress: one kind of bar for everything that takes long, on a terminal and in a notebook; nowhere else."""

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_DELAY = 1.0  # seconds before a bar appears: what is done by then needs none
_FORMAT = "{percentage:3.0f}%|{bar}| {desc}{unit} {n_fmt}/{total_fmt}, {remaining} left{postfix}"
_OF_TIME = "{percentage:3.0f}%|{bar}| {desc}{remaining} left"


def bar(*, total: float, what: str = "", unit: str = "", done: int = 0, file: Any = None, delay: float = _DELAY) -> Any:
    """A tqdm bar with the time that is left, gone when it is closed; of a terminal it takes one line, however narrow.

    `what` is shown before `unit`, which is counted; without a unit there is no count. `file` is sys.stderr by default.
    """
    kind, options = _kind()
    return kind(
        total=total, initial=done, desc=f"{what}, " if what else "", unit=unit, file=file, delay=delay, leave=False,
        bar_format=_FORMAT if unit else _OF_TIME, **options,
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


def _kind() -> tuple[Any, dict[str, Any]]:
    """(the class of bars for where this runs, what it takes to show itself there)."""
    if _in_notebook():
        if importlib.util.find_spec("ipywidgets"):
            from tqdm.notebook import tqdm as of_widgets

            return of_widgets, {"disable": False}
        from tqdm import tqdm

        return tqdm, {"disable": False, "ncols": 79, "mininterval": 0.5}
    from tqdm import tqdm

    return tqdm, {"disable": None, "dynamic_ncols": True}  # None: not where nobody sees it


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows what is written to it, although it has no terminal."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return type(shell).__name__ == "ZMQInteractiveShell"
