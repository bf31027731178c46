"""What a network computes of one picture: its layers' activations by tower, and what its prediction depends on."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import progress
from alexnet_jax.classifier import Classifier
from alexnet_jax.data import pictures
from alexnet_jax.data.pictures import Picture
from alexnet_jax.errors import AlexNetError
from alexnet_jax.figures import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

_CHANNELS = 8  # of a tower that are shown
_AT_ONCE = 64  # occluded pictures


def activations(net: Classifier, picture: Picture) -> "Figure":
    """Each layer's activations for one picture, by tower: a row per layer.

    Of a convolution, the channels of each tower whose mean is largest, the largest first, each on a scale of its own
    from black (its smallest value) to white; of a fully connected layer, all units of each tower as one block, on one
    scale. Raises AlexNetError for what is not a picture.
    """
    square = pictures.square(picture, net.image_pixels, "picture")
    towers = net.tower.towers
    layers = {layer.name: net.features(square, layer.name) for layer in net.tower.stack[:-1]}
    with drawing.style():
        each = drawing.WIDTH / (_CHANNELS * towers + 1)
        # Rows of a fully connected layer are as high as those of a convolution.
        figure = drawing.new(1.9 + len(layers) * (each * (2 if towers == 1 else 1) + 0.18), width=drawing.WIDTH)
        whole = figure.add_gridspec(2, 1, height_ratios=(1.5, len(layers) * each * (2 if towers == 1 else 1.25)))
        _predictions(figure, whole[0], net, square)
        rows = whole[1].subgridspec(len(layers), towers, hspace=0.05, wspace=0.04)
        for row, (name, found) in enumerate(layers.items()):
            for tower, part in enumerate(np.split(found, towers, axis=-1)):
                axes = figure.add_subplot(rows[row, tower])
                tiles = _strongest(part) if part.ndim == 3 else _block(part)
                axes.imshow(tiles, cmap="gray", interpolation="nearest", aspect="equal" if part.ndim == 3 else "auto")
                drawing.plain(axes)
                if tower == 0:
                    axes.set_ylabel(name, rotation=0, ha="right", va="center")
                if row == 0 and towers > 1:
                    axes.set_title(f"tower {tower}", color=drawing.TOWERS[tower % 2], fontweight="bold")
    return figure


def _strongest(part: Array) -> Array:
    """[H, W, C] -> the channels with the largest means side by side, each from 0 to 1, NaN between them."""
    order = np.argsort(-part.mean(axis=(0, 1)), kind="stable")[:_CHANNELS]
    gap = max(1, part.shape[0] // 20)
    tiles = []
    for channel in order:
        low, high = part[..., channel].min(), part[..., channel].max()
        tiles += [(part[..., channel] - low) / (high - low or 1.0), np.full((part.shape[0], gap), np.nan)]
    return np.concatenate(tiles[:-1], axis=1)


def _block(part: Array) -> Array:
    """[C] -> the units in a block of 16 rows, NaN in what they do not fill."""
    rows = 16 if len(part) >= 64 else 1
    filled = np.full(rows * math.ceil(len(part) / rows), np.nan, np.float32)
    filled[: len(part)] = part
    return filled.reshape(rows, -1)


def occlusion(
    net: Classifier, picture: Picture, *, class_name: str | None = None, side: int = 0, stride: int = 0
) -> "Figure":
    """The probability of a class while a gray square hides a part of the picture: what the prediction depends on.

    Zeiler and Fergus (2014, arXiv 1311.2901, section 4.2). The square has the color of the mean, `side` pixels (a
    fifth of the picture's if 0) and moves by `stride` (a quarter of that if 0); a pixel of the map is the mean over the
    squares that hide it. The class is `class_name`, or the predicted one of the whole picture. Raises AlexNetError.
    """
    square = pictures.square(picture, net.image_pixels, "picture")
    if class_name is not None and class_name not in net.class_names:
        raise AlexNetError(f"class_name={class_name!r} is not a class of this network: see net.class_names.")
    whole = net.probabilities(square)
    k = int(whole.argmax()) if class_name is None else net.class_names.index(class_name)
    found = occluded(net, square, k, side=side or net.image_pixels // 5, stride=stride)
    with drawing.style():
        figure = drawing.new(3.5)
        left, right = figure.subplots(1, 2)
        left.imshow(square)
        left.set_title("the picture")
        right.imshow(square.mean(axis=-1), cmap="gray", alpha=0.45, vmin=0, vmax=255)
        shown = right.imshow(found, cmap="viridis", alpha=0.75, vmin=found.min(), vmax=found.max() + 1e-6)
        right.set_title(f"P({drawing.short(net.class_names[k])}), hidden there")
        for axes in (left, right):
            drawing.plain(axes)
        bar = figure.colorbar(shown, ax=right, shrink=0.75)
        bar.ax.set_title("P", fontsize=9)
        figure.supxlabel(f"nothing hidden: P = {whole[k]:.3f}; dark is what the prediction depends on", fontsize=9)
    return figure


def occluded(net: Classifier, square: Array, k: int, *, side: int, stride: int = 0) -> Array:
    """[H, W] float64: the mean probability of class `k` over the gray squares that hide a pixel.

    `square` is uint8 [H, W, 3]; the squares reach the edges on all sides. Raises AlexNetError.
    """
    pixels = square.shape[0]
    if not 1 <= side <= pixels or stride < 0:
        raise AlexNetError(f"side={side} and stride={stride} must be pixels of a picture of {pixels}.")
    step = stride or max(1, side // 4)
    starts = sorted({*range(0, pixels - side, step), pixels - side})
    gray = np.clip(net.inputs.mean, 0, 255).astype(np.uint8)
    total, times = np.zeros((pixels, pixels)), np.zeros((pixels, pixels))
    places = [(top, left) for top in starts for left in starts]
    parts = range(0, len(places), _AT_ONCE)
    for first in progress.bar(parts, total=len(parts), what="hiding parts of the picture"):
        some = places[first : first + _AT_ONCE]
        hidden = np.repeat(square[None], len(some), axis=0)
        for one, (top, left) in zip(hidden, some, strict=True):
            part = (slice(top, top + side), slice(left, left + side))
            one[part] = gray if gray.ndim == 1 else gray[part]
        for (top, left), value in zip(some, net.probabilities(hidden)[:, k], strict=True):
            total[top : top + side, left : left + side] += value
            times[top : top + side, left : left + side] += 1
    return total / np.maximum(times, 1)


def _predictions(figure: "Figure", place: Any, net: Classifier, square: Array) -> None:
    """The picture, and the network's five most probable classes beside it."""
    left, right = (figure.add_subplot(part) for part in place.subgridspec(1, 2, width_ratios=(1, 2.2)))
    left.imshow(square)
    drawing.plain(left)
    prediction_bars(right, net.predict(square, top=5))


def prediction_bars(axes: Any, predictions: list[tuple[str, float]], label: str | None = None) -> None:
    """Classes and their probabilities as bars, the most probable at the top; the `label` is green."""
    axes.set_xlim(0, 1)
    axes.set_ylim(len(predictions) - 0.4, -0.6)
    for i, (name, probability) in enumerate(predictions):
        color = drawing.TOWERS[0] if label is None else drawing.GOOD if name == label else drawing.BAD
        axes.barh(i, probability, color=color, alpha=0.45, height=0.86)
        axes.text(0.015, i, f"{drawing.short(name)}  {100 * probability:.1f} %", va="center", fontsize=9)
    drawing.plain(axes)
