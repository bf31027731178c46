"""The network as a table, read off the live model."""

import dataclasses
import math

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
    images = jax.ShapeDtypeStruct((1, image_pixels, image_pixels, 3), jnp.float32)
    init = jax.vmap(model.init, in_axes=(0, None), axis_name=TOWER)
    variables = jax.eval_shape(init, jax.random.split(jax.random.key(0), model.towers), images)
    shapes = {name: leaf.shape[2:] for name, leaf in variables["perturbations"].items()}  # without tower and batch
    rows: list[Row] = []
    x: tuple[int, ...] = images.shape[1:]
    for layer in model.stack:
        if layer.name in model.exchange:
            x = (*x[:-1], x[-1] * model.towers)
        rows.append(_weighted_row(model, layer, variables["params"][layer.name]["kernel"].shape[1:], x, shapes))
        if len(rows) == 1:
            rows[0] = dataclasses.replace(rows[0], sees="image")
        x = shapes[f"{layer.name}_out"]
        for word in layer.then:
            name = models.operation_name(word, layer.name)
            if word == "pool":
                window = f"{model.pool.size} x {model.pool.size} / {model.pool.stride} {model.pool.kind}"
                rows.append(Row(name, x, window, shapes[name], "own"))
            x = shapes[name]
    return rows


def _weighted_row(
    model: models.AlexNet,
    layer: models.ConvLayer | models.DenseLayer,
    kernel: tuple[int, ...],
    x: tuple[int, ...],
    shapes: dict[str, tuple[int, ...]],
) -> Row:
    output = shapes[f"{layer.name}_out"]
    units = model.classes if layer is model.stack[-1] else output[-1] * model.towers
    weights = math.prod(kernel[:-1])  # into one unit or map
    if isinstance(layer, models.ConvLayer):
        window = f"{layer.kernel} x {layer.kernel} x {kernel[-2]} / {layer.stride}{_padding(layer.padding)}"
    else:
        x, window = (weights,), f"{weights} x {output[-1]}"
    sees = "both" if layer.name in model.exchange and model.towers > 1 else "own"
    return Row(layer.name, x, window, output, sees, (weights + 1) * units, weights * units * math.prod(output[:-1]))


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
    return "\n".join([title, legend, "", *table, "", "The order of the operations:", *order, "", _COMMON_MISTAKES])


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
