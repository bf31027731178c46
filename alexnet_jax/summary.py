"""The network as a table, read off the live model."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from alexnet_jax import model as models, run, sources
from alexnet_jax.towers import TOWER

_HEAD = ("layer", "input", "kernel/stride", "output", "sees", "parameters", "multiply-adds")

# Where the table that is copied most (a Chinese description of the network, and its many descendants)
# is wrong. The numbers are those of the network with 1000 classes.
_COMMON_MISTAKES = """\
Where the commonly copied table is wrong:
  fc8    (4096 + 1) x 1000 x 2 parameters counts the layer twice: it is 4,097,000, once (the 2012 source keeps
         it whole on one GPU; here each tower has half of the classes). The copied table sums to 65,062,224.
  conv3  its input is 13 x 13 x 128 x 2, so its kernels are 256 deep, not 384 (which is conv4's input).
  conv1  224 gives 55 only with its padding: 3 zero pixels on the right and at the bottom, none on the left
         and on top. conv2 pads 2 and conv3 to conv5 pad 1, which the table leaves out too."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A weighted layer or a pooling: shapes of one tower without the batch, counts of all towers."""

    name: str
    input: tuple[int, ...]
    window: str
    output: tuple[int, ...]
    sees: str  # "image", "own" or "both"
    parameters: int = 0
    macs: int = 0  # multiply-adds an image


def describe(model: models.AlexNet, image_pixels: int) -> list[Row]:
    """The rows of the network's table, read off the shapes of the live model."""
    params, shapes = _params(model, image_pixels), _shapes(model, image_pixels)
    rows: list[Row] = []
    x: tuple[int, ...] = (image_pixels, image_pixels, 3)
    for layer in model.stack:
        if layer.name in model.exchange:
            x = (*x[:-1], x[-1] * model.towers)
        rows.append(_weighted_row(model, layer, params[layer.name], x, shapes))
        if len(rows) == 1:
            rows[0] = dataclasses.replace(rows[0], sees="image")
        x = shapes[f"{layer.name}_out"]
        for word in layer.then:
            name = models.operation_name(word, layer.name)
            if word == "pool":
                window = f"{model.pool.size} x {model.pool.size} / {model.pool.stride} {model.pool.kind}"
                rows.append(Row(name, x, window, shapes[name], "own"))
            elif word == "batch_norm":
                rows.append(Row(name, x, "batch", shapes[name], "own", parameters=2 * x[-1] * model.towers))
            x = shapes[name]
    return rows


def exchanges(model: models.AlexNet, image_pixels: int) -> dict[str, int]:
    """{where: how many numbers an image a tower gives to each other one}, in order; {} for a single tower.

    Counted from the shapes: a layer that sees all towers takes their whole maps, a norm across towers
    the outermost channels on both sides, and the logits are gathered in the end. On the way back each
    is taken once more.
    """
    if model.towers == 1:
        return {}
    found: dict[str, int] = {}
    outermost = model.norm.size - 1
    x: tuple[int, ...] = ()
    shapes = _shapes(model, image_pixels)
    for layer in model.stack:
        if layer.name in model.exchange:
            found[layer.name] = math.prod(x)
        x = shapes[f"{layer.name}_out"]
        for word in layer.then:
            name = models.operation_name(word, layer.name)
            x = shapes[name]
            if word == "norm" and model.norm.across_towers:
                found[name] = math.prod(x[:-1]) * outermost
    return found | {"the logits": math.prod(x)}


def placement(model: models.AlexNet, image_pixels: int) -> str:
    """How the network lies on two devices, in a sentence."""
    if model.towers == 1:
        return "Placement: one tower, so there is nothing to put on a second device; more devices share the batch."
    given = exchanges(model, image_pixels)
    parts = ", ".join(f"{name} {numbers:,}" for name, numbers in given.items())
    return (
        f"Placement: a tower on each of {model.towers} devices. Each gives every other one {sum(given.values()):,} "
        f"numbers an image ({parts}), and as many on the way back."
    )


def _weighted_row(
    model: models.AlexNet,
    layer: models.ConvLayer | models.DenseLayer,
    params: dict[str, Any],
    x: tuple[int, ...],
    shapes: dict[str, tuple[int, ...]],
) -> Row:
    kernel, output = params["kernel"].shape[1:], shapes[f"{layer.name}_out"]
    units = model.classes if layer is model.stack[-1] else output[-1] * model.towers
    weights = math.prod(kernel[:-1])  # into one unit or map
    if isinstance(layer, models.ConvLayer):
        window = f"{layer.kernel} x {layer.kernel} x {kernel[-2]} / {layer.stride}{_padding(layer.padding)}"
    else:
        x, window = (weights,), f"{weights} x {output[-1]}"
    sees = "both" if layer.name in model.exchange and model.towers > 1 else "own"
    of_a_unit = weights + len(params) - 1  # its weights, its bias, and its scale where it has one
    return Row(layer.name, x, window, output, sees, of_a_unit * units, weights * units * math.prod(output[:-1]))


def _variables(model: models.AlexNet, image_pixels: int) -> Any:
    images = jax.ShapeDtypeStruct((1, image_pixels, image_pixels, 3), jnp.float32)
    init = jax.vmap(model.init, in_axes=(0, None), axis_name=TOWER)
    return jax.eval_shape(init, jax.random.split(jax.random.key(0), model.towers), images)


def _params(model: models.AlexNet, image_pixels: int) -> dict[str, Any]:
    params: dict[str, Any] = _variables(model, image_pixels)["params"]
    return params


@functools.cache
def _shapes(model: models.AlexNet, image_pixels: int) -> dict[str, tuple[int, ...]]:
    """The shape that each operation gives, of one tower and without the batch."""
    seen = _variables(model, image_pixels)["perturbations"]
    return {name: leaf.shape[2:] for name, leaf in seen.items()}


def summarize(config: ConfigDict) -> str:
    """The table of the config's network, the order of its operations, and what is often wrong in others."""
    model = run.build_model(config, _classes(config))
    rows = describe(model, config.data.crop_pixels)
    times = f" (x{model.towers})" if model.towers > 1 else ""
    cells = [_HEAD]
    for row in rows:
        shapes = (_shape(row.input, times if row.sees == "own" else ""), row.window, _shape(row.output, times))
        cells.append((row.name, *shapes, row.sees, f"{row.parameters:,}", f"{row.macs:,}"))
    total = (f"{sum(row.parameters for row in rows):,}", f"{sum(row.macs for row in rows):,}")
    cells.append(("total", "", "", "", "", *total))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(_aligned, row, widths, range(len(_HEAD)))).rstrip() for row in cells]
    rule = "-" * max(map(len, lines))
    title = f"{config.data.name}: {model.classes} classes, {model.towers} tower(s)"
    legend = f"(x{model.towers}): in each tower; sees: the other tower's maps too (both) or only its own"
    order = [
        "  " + " -> ".join((layer.name, *(models.operation_name(word, layer.name) for word in layer.then)))
        for layer in model.stack
    ]
    table = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
    return "\n".join(
        [
            title,
            legend,
            "",
            *table,
            "",
            "The order of the operations:",
            *order,
            "",
            placement(model, config.data.crop_pixels),
            "",
            _COMMON_MISTAKES,
        ]
    )


def _classes(config: ConfigDict) -> int:
    if config.data.name in ("digits", "synthetic"):
        return len(sources.open_split(config.data.name, "train", "").class_names)
    builder, _, label = sources.tfds_classification(config.data.name, config.data.data_dir)
    return int(builder.info.features[label].num_classes)


def _padding(padding: tuple[int, int]) -> str:
    if padding == (0, 0):
        return ""
    return f", pad {padding[0]}" if padding[0] == padding[1] else f", pad {padding[0]}+{padding[1]}"


def _shape(shape: tuple[int, ...], times: str) -> str:
    return " x ".join(map(str, shape)) + times


def _aligned(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column >= 5 else text.ljust(width)
