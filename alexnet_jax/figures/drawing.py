"""What all figures share: a width that a phone and a page can show, colors of the towers, and files."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax import extras, files
from alexnet_jax.errors import AlexNetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 5.4  # inches: its text of 10.5 points is 10 pixels high on a phone of 390, and in print as in a book
TOWERS = ("#2f6ad9", "#cf5a14")  # as in the drawing of the towers; both stand out on white and on black
SERIES = (*TOWERS, "#2a8c4a", "#8a4fbf", "#b58900", "#5d6d7e", "#d63384", "#0a9396")  # of curves and bars
GOOD, BAD = "#2a8c4a", "#c9364b"
_PIXELS_PER_INCH = 150
_TEXT = "#1b2330"


def new(height: float, *, width: float = WIDTH) -> "Figure":
    """An empty figure, in inches. Raises AlexNetError without Matplotlib."""
    # On a new machine it lists the fonts for a few seconds and warns of that: nobody has to know.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    # Not pyplot: no window, no state.
    figure: Figure = extras.module("matplotlib.figure", extra="figures", what="a figure").Figure(
        figsize=(width, height), layout="constrained"
    )
    return figure


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Figures made inside have the fonts and colors of the project, on white.

    Names of files and classes are shown as they are: a $ is a $.
    """
    matplotlib = extras.module("matplotlib", extra="figures", what="a figure")
    colors = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
    rules = {"font.size": 10.5, "axes.titlesize": 10.5, "text.parse_math": False, "axes.facecolor": "none"}
    with matplotlib.rc_context(rules | dict.fromkeys(colors, _TEXT)):
        yield


def check_name(path: Path) -> None:
    """Raises AlexNetError where a figure cannot have this name."""
    if path.suffix not in (".png", ".svg"):
        raise AlexNetError(f"output={path} must end in .png or .svg.")
    if path.is_dir():
        raise AlexNetError(f"output={path} is a folder: name a file in it.")


def save(figure: Any, path: str | Path, *, about: str = "") -> None:
    """Writes a figure as .png or .svg, `about` as the file's description. Raises AlexNetError."""
    path = Path(path)
    check_name(path)
    files.make_folder(path.absolute().parent)
    matplotlib = extras.module("matplotlib", extra="figures", what="a figure")
    # Without the date and with a fixed salt, a figure is the same file each time. An SVG's text stays text.
    metadata = ({"Date": None} if path.suffix == ".svg" else {}) | ({"Description": about} if about else {})
    options: dict[str, Any] = {"format": path.suffix[1:], "dpi": _PIXELS_PER_INCH, "metadata": metadata}
    svg = {"svg.hashsalt": "alexnet_jax", "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans", "Verdana"]}
    with matplotlib.rc_context(svg):
        files.write(path, lambda growing: figure.savefig(growing, **options))


def plain(axes: Any) -> None:
    """No ticks and no frame: for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def short(name: str, letters: int = 24) -> str:
    """A name on one line, with its end cut off where it is long."""
    line = "".join(letter if letter.isprintable() else " " for letter in name)
    return line if len(line) <= letters else line[: letters - 1] + "\u2026"
