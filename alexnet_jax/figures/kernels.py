"""conv1's kernels by tower, and how colorful each tower's are: the paper's figure 3, and its question."""

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from alexnet_jax.classifier import Classifier
from alexnet_jax.errors import AlexNetError
from alexnet_jax.figures import drawing
from alexnet_jax.model import alexnet as models

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

_SHUFFLES = 10_000


def kernels(net: Classifier) -> Array:
    """The kernels of the first layer by tower, float32 [T, C, k, k, 3] over R, G, B. Raises AlexNetError."""
    layer = net.tower.stack[0]
    if not isinstance(layer, models.ConvLayer):
        raise AlexNetError(f"{layer.name}, the first layer of this network, is not a convolution: it has no kernels.")
    params = jax.device_get(net.variables["params"][layer.name])
    found = np.asarray(params["kernel"], np.float32)  # [T, k, k, 3, C]
    if "scale" in params:  # weight norm: scale * v / |v|
        length = np.sqrt((found * found).sum(axis=(1, 2, 3), keepdims=True))
        found = found * np.asarray(params["scale"])[:, None, None, None] / length
    found = np.moveaxis(found, -1, 1)
    return found[..., ::-1] if net.inputs.bgr else found


def color_of_kernels(net: Classifier) -> Array:
    """How colorful each kernel of the first layer is, [T, C] in 0..1: 0 for a gray one.

    The share of its energy (the sum of squared weights) that lies off the gray axis (1, 1, 1) of RGB. A kernel of
    independent Gaussian weights, such as an untrained one, has 2/3. The definition is ours: the paper only describes
    its figure 3, "kernels on GPU 1 are largely color-agnostic, while the kernels on GPU 2 are largely color-specific"
    (section 6.1).
    """
    found = kernels(net).astype(np.float64)
    energy = (found**2).sum(axis=(2, 3, 4))
    gray = (found.sum(axis=-1) ** 2).sum(axis=(2, 3)) / 3.0
    return 1.0 - gray / np.maximum(energy, np.finfo(np.float64).tiny)


def specialization(net: Classifier) -> dict[str, Any]:
    """Do the towers specialize in color? {color: its mean by tower, difference, chance}.

    `chance` is how often kernels dealt to the towers at random differ as much in their means (10,000 deals, seed 0):
    0.01 is a difference that chance makes once in a hundred. None with one tower.
    """
    color = color_of_kernels(net)
    means = color.mean(axis=1)
    found: dict[str, Any] = {"color": means.tolist(), "difference": float(np.ptp(means)), "chance": None}
    if len(color) == 2:
        rng = np.random.default_rng(0)
        dealt = rng.permuted(np.tile(color.reshape(-1), (_SHUFFLES, 1)), axis=1).reshape(_SHUFFLES, 2, -1).mean(axis=2)
        more = np.abs(dealt[:, 0] - dealt[:, 1]) >= found["difference"] - 1e-12
        found["chance"] = float((1 + more.sum()) / (1 + _SHUFFLES))
    return found


def filters(net: Classifier) -> "Figure":
    """conv1's kernels by tower, as the paper's figure 3: gray is 0, and all of them have one scale.

    White and black, or full colors, are the largest weight of all and its negative. Each tower's title has the mean of
    `color_of_kernels`. Raises AlexNetError.
    """
    found, color = kernels(net), color_of_kernels(net)
    towers, channels, size = found.shape[:3]
    scale = float(np.abs(found).max()) or 1.0
    columns = min(channels, 16 if size > 7 else 24)
    rows = math.ceil(channels / columns)
    each = drawing.WIDTH / columns
    with drawing.style():
        figure = drawing.new(towers * (rows * each + 0.42) + 0.32)
        panels = figure.subplots(towers, 1, squeeze=False)[:, 0]
        for tower, panel in enumerate(panels):
            panel.imshow(_grid(0.5 + found[tower] / (2 * scale), columns), interpolation="nearest")
            name = f"tower {tower}, " if towers > 1 else ""
            own = {"color": drawing.TOWERS[tower % 2]} if towers > 1 else {}
            text = f"{name}{channels} kernels of {size} x {size}, color {color[tower].mean():.2f}"
            panel.set_title(text, loc="left", fontweight="bold", **own)
            drawing.plain(panel)
        figure.supxlabel(f"gray is 0, white +{scale:.3g}, black -{scale:.3g}", fontsize=9)
    return figure


def _grid(tiles: Array, columns: int) -> Array:
    """[N, k, k, 3] in 0..1 -> one picture with `columns` tiles a row and a transparent line between them, RGBA."""
    count, size = tiles.shape[:2]
    rows, step = math.ceil(count / columns), size + 1
    out = np.zeros((rows * columns, step, step, 4), np.float32)
    out[:count, :size, :size, :3] = tiles
    out[:count, :size, :size, 3] = 1.0
    out = out.reshape(rows, columns, step, step, 4).swapaxes(1, 2)
    return out.reshape(rows * step, columns * step, 4)[:-1, :-1]
