"""The network as a table, read off the live model."""

import dataclasses
import math
from typing import Any

from alexnet_jax.model import alexnet as models, placement


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer with weights or a pooling: shapes of one tower without the batch, counts of all towers."""

    name: str
    input: tuple[int, ...]
    window: str
    output: tuple[int, ...]
    reads: str  # "image", "own" or "both": the other tower's maps too
    parameters: int = 0
    macs: int = 0  # multiply-adds per image


def rows(model: models.AlexNet, image_pixels: int) -> list[Row]:
    """The rows of the network's table, in order."""
    params = placement.variables(model, image_pixels)["params"]
    shapes = placement.shapes(model, image_pixels)
    gathers = {row.name for row in placement.table(model) if row.exchange == placement.ALL and model.towers > 1}
    found: list[Row] = []
    x: tuple[int, ...] = (image_pixels, image_pixels, 3)
    for layer in model.stack:
        if layer.name in gathers:
            x = (*x[:-1], x[-1] * model.towers)
        reads = "image" if not found else "both" if layer.name in gathers else "own"
        found.append(_weighted(model, layer, params[layer.name], x, shapes[f"{layer.name}_out"], reads))
        x = shapes[f"{layer.name}_out"]
        for word in layer.post_ops:
            name = models.operation_name(word, layer.name)
            if word in models.POOLS:
                pool = models.pool_of(model, word)
                window = f"{pool.size} x {pool.size} / {pool.stride} {pool.kind}"
                found.append(Row(name, x, window, shapes[name], "own"))
            elif word == "batch_norm":
                found.append(Row(name, x, "batch", shapes[name], "own", parameters=2 * x[-1] * model.towers))
            x = shapes[name]
    return found


def _weighted(
    model: models.AlexNet,
    layer: models.ConvLayer | models.DenseLayer,
    params: dict[str, Any],
    x: tuple[int, ...],
    output: tuple[int, ...],
    reads: str,
) -> Row:
    kernel = params["kernel"].shape[1:]
    units = model.classes if layer is model.stack[-1] else output[-1] * model.towers
    weights = math.prod(kernel[:-1])  # into one unit or channel
    if isinstance(layer, models.ConvLayer):
        size = layer.kernel_size
        window = f"{size} x {size} x {kernel[-2]} / {layer.stride}{_padding(layer.padding)}"
    else:
        x, window = (weights,), f"{weights} x {output[-1]}"
    per_unit = weights + len(params) - 1  # its weights, its bias, and its scale where it has one
    return Row(layer.name, x, window, output, reads, per_unit * units, weights * units * math.prod(output[:-1]))


def _padding(padding: tuple[int, int]) -> str:
    if padding == (0, 0):
        return ""
    return f", pad {padding[0]}" if padding[0] == padding[1] else f", pad {padding[0]}+{padding[1]}"
