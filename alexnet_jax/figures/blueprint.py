"""The network as a drawing, read off the live model: its towers, what each layer gives, and where they exchange."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

from alexnet_jax.errors import AlexNetError
from alexnet_jax.figures import drawing
from alexnet_jax.model import alexnet as models, placement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BOX, _LINE, _ARROW, _GATHER = 2.45, 0.2, 0.22, 0.68  # inches: a box's width; heights: a line, an arrow, an exchange
_CENTERS = (0.05 + _BOX / 2, drawing.WIDTH - 0.05 - _BOX / 2)
_GRAY = "#8d99a9"
_WORDS = {"relu": "ReLU", "batch_norm": "BN", "spatial_norm": "spatial norm"}


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
        names.append(name if word in ("norm", *models.POOLS) else _WORDS.get(word, word))
        if shapes[name] != held:
            held = shapes[name]
            lines += _wrapped(names, _shape(held))
            names = []
    return lines + _wrapped(names, ""), held


def _wrapped(names: list[str], shape: str) -> list[tuple[str, str]]:
    """Operations in as many lines as they take, the shape after the last."""
    lines = textwrap.wrap(", ".join(names), 17 if shape else 28)
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
        self._box(drawing.WIDTH / 2, self._centers[-1] - self._centers[0] + _BOX, 1, _GRAY)
        self._text(drawing.WIDTH / 2, self._y + 0.2, words, ha="center")
        for tower, center in enumerate(self._centers if names and len(self._centers) > 1 else ()):
            x, ha = (center + _BOX / 2 - 0.08, "right") if tower else (center - _BOX / 2 + 0.08, "left")
            self._text(x, self._y + 0.2, f"tower {tower}", ha=ha, color=drawing.TOWERS[tower], fontweight="bold")
        self._y += 0.1 + _LINE

    def layer(self, lines: list[tuple[str, str]]) -> None:
        """A layer, once per tower."""
        for center, color in zip(self._centers, drawing.TOWERS, strict=False):
            self._box(center, _BOX, len(lines), color)
            for number, (operations, shape) in enumerate(lines):
                y = self._y + 0.2 + _LINE * number
                self._text(center - _BOX / 2 + 0.08, y, operations, fontweight="normal" if number else "bold")
                self._text(center + _BOX / 2 - 0.08, y, shape, ha="right")
        self._y += 0.1 + _LINE * len(lines)

    def arrows(self) -> None:
        """From each tower's last layer to its next one, none between the towers."""
        for center, color in zip(self._centers, drawing.TOWERS, strict=False):
            self._arrow(center, center, _ARROW, color)
        self._y += _ARROW

    def gather(self, sent: str, held: str) -> None:
        """An exchange: each tower's features go to both towers."""
        for own, other, color in zip(self._centers, reversed(self._centers), drawing.TOWERS, strict=True):
            side = 1 if own < other else -1
            self._arrow(own - 1.05 * side, own - 1.05 * side, _GATHER, color)
            self._arrow(own + 0.8 * side, other - 0.8 * side, _GATHER, color)
        left, right = self._centers[0] - 0.95, self._centers[1] + 0.95
        for row, (ours, theirs) in enumerate((("all_gather", "each now holds"), (sent, held))):
            y = self._y + 0.3 + _LINE * row
            self._text(left, y, ours, fontweight="normal" if row else "bold")
            self._text(right, y, theirs, ha="right")
        self._y += _GATHER

    def finish(self, note: str) -> "Figure":
        """The figure, as high as it has become."""
        if note:
            self._text(drawing.WIDTH / 2, self._y + 0.2, note, ha="center")
            self._y += 0.1 + _LINE
        height = self._y + 0.05
        self._figure.set_size_inches(drawing.WIDTH, height)
        self._axes.set(xlim=(0, drawing.WIDTH), ylim=(height, 0))
        self._axes.axis("off")
        return self._figure

    def _box(self, center: float, width: float, lines: int, color: str) -> None:
        from matplotlib.patches import Rectangle

        corner = (center - width / 2, self._y)
        height = 0.1 + _LINE * lines
        self._axes.add_patch(Rectangle(corner, width, height, facecolor=(color, 0.16), edgecolor=color, linewidth=1.3))

    def _text(self, x: float, y: float, words: str, **style: Any) -> None:
        self._axes.text(x, y, words.replace(" x ", " \u00d7 "), fontsize=9.5, **style)

    def _arrow(self, start: float, end: float, height: float, color: str) -> None:
        arrow = {"arrowstyle": "-|>,head_width=0.25", "color": color, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        self._axes.annotate("", xytext=(start, self._y), xy=(end, self._y + height), arrowprops=arrow)
