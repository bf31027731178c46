"""The network as a drawing, read off the live model: its towers, what each layer gives, and where they exchange."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

from alexnet_jax.errors import AlexNetError
from alexnet_jax.figures import drawing
from alexnet_jax.model import alexnet as models, placement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In inches: a box's width; a line's height; what is around text, between boxes, and around an exchange's band.
_BOX, _LINE, _MARGIN, _ARROW, _GAP = 2.45, 0.2, 0.08, 0.24, 0.05
_CENTERS = (0.05 + _BOX / 2, drawing.WIDTH - 0.05 - _BOX / 2)
_GRAY, _DOTS = "#eceff4", "#8d99a9"
_WORDS = {"relu": "ReLU", "batch_norm": "BN"}


def architecture(model: models.AlexNet, image_pixels: int) -> "Figure":
    """The towers from the image to the logits, on images of so many pixels. Raises AlexNetError for three and more.

    Shapes are per tower: channels x height x width.
    """
    if model.towers > 2:
        raise AlexNetError(f"The drawing has room for one tower or two, and this network has {model.towers}.")
    shapes, sent = placement.shapes(model, image_pixels), placement.traffic(model, image_pixels)
    with drawing.style():
        sheet = _Sheet(model.towers)
        sheet.shared(f"image 3 x {image_pixels} x {image_pixels}", names=True)
        held: tuple[int, ...] = (image_pixels, image_pixels, 3)
        for layer in model.stack:
            if layer.name in model.exchange and model.towers > 1:
                joined = (*held[:-1], model.towers * held[-1])
                is_dense = isinstance(layer, models.DenseLayer)
                sheet.gather(f"{sent[layer.name]:,} floats", _shape((math.prod(joined),) if is_dense else joined))
            else:
                sheet.arrows()
            lines, held = _lines(model, layer, shapes)
            sheet.layer(lines)
        if model.towers > 1:
            sheet.gather(f"{held[-1]:,} logits", f"{model.classes:,} logits")
        else:
            sheet.arrows()
        sheet.shared("softmax, on both devices" if model.towers > 1 else "softmax")
        return sheet.finish(_note(model) if model.towers > 1 else "")


def _note(model: models.AlexNet) -> str:
    """What is below the drawing of two towers."""
    norms = [models.operation_name("norm", layer.name) for layer in model.stack if "norm" in layer.post_ops]
    if model.norm.across_towers and norms:
        return f"{' and '.join(norms)} also exchange their outermost channels"
    return "floats: per image, from each tower to the other"


def _lines(
    model: models.AlexNet, layer: models.ConvLayer | models.DenseLayer, shapes: dict[str, tuple[int, ...]]
) -> tuple[list[tuple[str, str]], tuple[int, ...]]:
    """[(operations, shape)] of a layer, a shape where it changes, and the shape in which it ends."""
    held = shapes[f"{layer.name}_out"]
    if layer is not model.stack[-1]:
        lines = [(layer.name, _shape(held))]
    else:
        lines = [(layer.name, f"{held[-1]:,} of {model.classes:,}" if model.towers > 1 else f"{model.classes:,}")]
    names = list[str]()
    for word in layer.post_ops:
        name = models.operation_name(word, layer.name)
        names.append(name if word in ("norm", *models.POOLS) else _WORDS.get(word, word.replace("_", " ")))
        if shapes[name] != held:
            held = shapes[name]
            lines += _wrapped(names, _shape(held))
            names = []
    return lines + _wrapped(names, ""), held


def _wrapped(names: list[str], shape: str) -> list[tuple[str, str]]:
    """Operations in as many lines as they take, the shape after the last."""
    lines = textwrap.wrap(", ".join(names), 14 if shape else 28)
    return [(line, shape if line is lines[-1] else "") for line in lines]


def _shape(shape: tuple[int, ...]) -> str:
    """[H, W, C] as channels x height x width."""
    return f"{shape[-1]:,}" if len(shape) == 1 else f"{shape[-1]} x {shape[0]} x {shape[1]}"


class _Sheet:
    """A figure that grows downwards, in inches: `_y` is where the next part begins."""

    def __init__(self, towers: int) -> None:
        self._figure, self._y = drawing.new(1.0), 0.05
        self._figure.set_layout_engine("none")
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._centers: tuple[float, ...] = _CENTERS if towers == 2 else (drawing.WIDTH / 2,)

    def shared(self, words: str, *, names: bool = False) -> None:
        """What all towers have, and their names beside it if asked for."""
        self._band(1)
        self._text(drawing.WIDTH / 2, 0, words, ha="center")
        if names and len(self._centers) > 1:
            edge, (blue, orange) = 0.05 + _MARGIN, drawing.TOWERS
            self._text(edge, 0, "tower 0", color=blue, fontweight="bold")
            self._text(drawing.WIDTH - edge, 0, "tower 1", ha="right", color=orange, fontweight="bold")
        self._y += _height(1)

    def layer(self, lines: list[tuple[str, str]]) -> None:
        """A layer, once per tower."""
        for center, color in zip(self._centers, drawing.TOWERS, strict=False):
            left, right = center - _BOX / 2, center + _BOX / 2
            self._box(left, right, len(lines), facecolor=(color, 0.16), edgecolor=color, zorder=2.5)
            for number, (operations, shape) in enumerate(lines):
                self._text(left + _MARGIN, number, operations, fontweight="normal" if number else "bold")
                self._text(right - _MARGIN, number, shape, ha="right")
        self._divide(_height(len(lines)))

    def arrows(self) -> None:
        """From each tower's last layer to its next one, none between the towers."""
        for center, color in zip(self._centers, drawing.TOWERS, strict=False):
            self._arrow(center, center, _ARROW, color)
        self._divide(_ARROW)

    def gather(self, sent: str, held: str) -> None:
        """An exchange: each tower's features go to both towers."""
        left, right = self._centers
        height, (blue, orange) = _height(2) + 2 * _GAP, drawing.TOWERS
        self._arrow(left - 1.05, left - 1.05, height, blue)
        self._arrow(left + 0.75, right - 0.75, height, blue)
        self._arrow(right - 0.75, left + 0.75, height, orange)
        self._arrow(right + 1.05, right + 1.05, height, orange)
        self._y += _GAP
        self._band(2)
        self._text(left - 0.92, 0, "all_gather", family="monospace", fontweight="bold")
        self._text(left - 0.92, 1, sent)
        self._text(right + 0.92, 0, "each now holds", ha="right")
        self._text(right + 0.92, 1, held, ha="right")
        self._y += _height(2) + _GAP

    def finish(self, note: str) -> "Figure":
        """The figure, as high as it has become."""
        if note:
            self._text(drawing.WIDTH / 2, 0, note, ha="center")
            self._y += _height(1)
        height = self._y + 0.05
        self._figure.set_size_inches(drawing.WIDTH, height)
        self._axes.set(xlim=(0, drawing.WIDTH), ylim=(height, 0))
        self._axes.axis("off")
        return self._figure

    def _band(self, lines: int) -> None:
        """What is common to the towers has a gray ground."""
        left, right = self._centers[0] - _BOX / 2, self._centers[-1] + _BOX / 2
        self._box(left, right, lines, facecolor=_GRAY, edgecolor="none", zorder=1)

    def _box(self, left: float, right: float, lines: int, **style: Any) -> None:
        from matplotlib.patches import FancyBboxPatch

        corners = "round,pad=0,rounding_size=0.07"
        box = FancyBboxPatch(
            (left, self._y), right - left, _height(lines), corners, linewidth=1.4, clip_on=False, **style
        )
        self._axes.add_patch(box)

    def _divide(self, height: float) -> None:
        """Moves down; a dotted line says that nothing crosses between two towers here."""
        if len(self._centers) > 1:
            x = [drawing.WIDTH / 2] * 2
            self._axes.plot(x, [self._y, self._y + height], ":", color=_DOTS, linewidth=1.5, clip_on=False)
        self._y += height

    def _text(self, x: float, line: int, words: str, **style: Any) -> None:
        """Text on a line of the part that begins here."""
        if words:
            y = self._y + _MARGIN + _LINE * (line + 0.5)
            self._axes.text(x, y, words.replace(" x ", " \u00d7 "), va="center_baseline", **style)

    def _arrow(self, start: float, end: float, height: float, color: str) -> None:
        """Down by `height`, in a curve with a white rim, so that one passes over the other."""
        from matplotlib.patches import FancyArrowPatch, PathPatch
        from matplotlib.path import Path

        low, middle = self._y + height, self._y + height / 2
        curve = Path([(start, self._y), (start, middle), (end, middle), (end, low)], [Path.MOVETO, *[Path.CURVE4] * 3])
        rim = PathPatch(curve, facecolor="none", edgecolor="white", linewidth=6, zorder=2, clip_on=False)
        head = "-|>,head_length=5,head_width=3.5"
        arrow = FancyArrowPatch(path=curve, arrowstyle=head, color=color, linewidth=2.2, zorder=2, clip_on=False)
        self._axes.add_patch(rim)
        self._axes.add_patch(arrow)


def _height(lines: int) -> float:
    """Of a box with so many lines."""
    return 2 * _MARGIN + _LINE * lines
