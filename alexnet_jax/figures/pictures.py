"""Predictions of many pictures: the confusion of classes, and the two panels of the paper's figure 4."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax.data import pictures as picture_files, preprocess
from alexnet_jax.errors import AlexNetError
from alexnet_jax.evaluate import Predictions
from alexnet_jax.features import FeatureFile
from alexnet_jax.figures import drawing
from alexnet_jax.figures.intermediates import prediction_bars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

_PIXELS = 224  # of a picture as it is shown
_NAMED = 25  # classes up to which the matrix has their names and numbers


def confusion(found: Predictions) -> "Figure":
    """The matrix of classes against predictions, in percent of each class, and the pairs confused most often."""
    counts, names = found.confusion(), found.split.class_names
    share = 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(names) <= _NAMED
    pairs = found.most_confused(10)
    with drawing.style():
        height = 5.6 if len(names) > 5 else 4.0
        figure = drawing.new(height + 0.19 * len(pairs) + 0.3)
        axes = figure.add_subplot()
        shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        if named:
            short = [drawing.short(name, 14) for name in names]
            axes.set_xticks(range(len(names)), short, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
            axes.set_yticks(range(len(names)), short, fontsize=9)
            for row, column in zip(*np.nonzero(counts), strict=True):
                color = "white" if share[row, column] > 55 else "#1b2330"
                axes.text(
                    column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color,
                    fontsize=min(9, 110 / len(names)),
                )  # fmt: skip
        axes.set_xlabel("predicted")
        axes.set_ylabel("class")
        figure.colorbar(shown, ax=axes, shrink=0.7, label="percent of the class")
        figure.supxlabel(_pairs_text(pairs), fontsize=9, x=0.02, ha="left")
    return figure


def _pairs_text(pairs: list[tuple[str, str, int]]) -> str:
    if not pairs:
        return "Nothing is confused."
    short = [f"{count:5,}  {drawing.short(a, 30)} called {drawing.short(b, 30)}" for a, b, count in pairs]
    return "\n".join(["Most often:", *short])


def predictions(found: Predictions, chosen: Sequence[int] | None = None) -> "Figure":
    """Pictures with their five most probable classes, as figure 4 (left) of the paper: the label is green.

    `chosen` are numbers of images of the split; without it eight from all over the split.
    """
    count = len(found.labels)
    if chosen is None:
        chosen = np.unique(np.linspace(0, count - 1, 8).round().astype(int)).tolist()
    if not chosen or not all(0 <= i < count for i in chosen):
        raise AlexNetError(f"chosen={list(chosen)!r} must be numbers of images, 0 to {count - 1:,}.")
    names, columns = found.split.class_names, min(4, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    with drawing.style():
        figure = drawing.new(rows * 2.75)
        panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1.6, 1.0] * rows)
        for axes in panels.flat:
            axes.axis("off")
        for place, i in enumerate(chosen):
            picture, under = (panels[2 * (place // columns) + part, place % columns] for part in (0, 1))
            label = names[int(found.labels[i])]
            picture.imshow(center_square(found.split.source[int(i)]["image"]))
            picture.set_title(drawing.short(label, 18), fontsize=9, fontweight="bold")
            top = zip(
                (names[k] for k in found.top_classes[i].tolist()), found.top_probabilities[i].tolist(), strict=True
            )
            under.axis("on")
            prediction_bars(under, list(top), label)
            for text, k in zip(under.texts, found.top_classes[i].tolist(), strict=True):  # in a narrow column
                text.set(text=drawing.short(names[k], 16), fontsize=8)
    return figure


def neighbours(
    queries: Sequence[Any], found: FeatureFile, rows: Array, distances: Array, picture: Callable[[int], Any]
) -> "Figure":
    """Each picture, and beside it the nearest ones of a file of features, closest first: figure 4 (right).

    `queries` are paths, PIL images or arrays; `rows` and `distances` [Q, top] are what `features.nearest` gave for
    them, and `picture` gives that of a row. Raises AlexNetError for what is not a picture.
    """
    top = rows.shape[1]
    with drawing.style():
        each = drawing.WIDTH / (top + 1)
        figure = drawing.new(len(queries) * (each + 0.32) + 0.1)
        panels = figure.subplots(len(queries), top + 1, squeeze=False)
        for line, query, nearest, far in zip(panels, queries, rows, distances, strict=True):
            line[0].imshow(picture_files.square(query, _PIXELS, "queries"))
            line[0].set_title(_name(query), fontsize=8, fontweight="bold")
            for axes, row, distance in zip(line[1:], nearest.tolist(), far.tolist(), strict=True):
                if distance == np.inf:  # itself, where there are no others left
                    continue
                given = picture(row)
                axes.imshow(center_square(given) if isinstance(given, bytes) else picture_files.square(given, _PIXELS))
                axes.set_title(
                    f"{drawing.short(found.label(row) or _name(found.names[row]), 12)}\n{distance:.4g}", fontsize=8
                )
        for axes in panels.flat:
            drawing.plain(axes)
    return figure


def _name(query: Any) -> str:
    return drawing.short(Path(str(query)).name, 10) if isinstance(query, str | Path) else ""


def center_square(image: bytes | Array, pixels: int = _PIXELS) -> Array:
    """A record's picture as it is looked at, uint8 [pixels, pixels, 3]: its center square; black if it is damaged."""
    try:
        decoded = preprocess.decode(image, at_least=pixels)
    except ValueError:
        return np.zeros((pixels, pixels, 3), np.uint8)
    return preprocess.crop_resized(decoded, pixels, pixels)
