"""A network in words and numbers: its table of layers, its placement; all recipes.

Everything is read off the live model; nothing is computed and no data are needed.
"""

import dataclasses
import math
import textwrap
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import builder, config as configs
from alexnet_jax.data import datasets, sources
from alexnet_jax.model import alexnet as models, placement

_COLUMNS = 80


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer with weights or a pooling: shapes of one tower without the batch, counts of all towers."""

    name: str
    input: tuple[int, ...]
    window: str
    output: tuple[int, ...]
    reads: str  # "image", "own" or "both": the other tower's features too
    parameters: int = 0
    macs: int = 0  # multiply-adds per image


def layer_rows(model: models.AlexNet, image_pixels: int) -> list[Row]:
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
        size, pads = layer.kernel_size, "+".join(map(str, dict.fromkeys(layer.padding)))  # "2", or "0+3"
        window = f"{size} x {size} x {kernel[-2]} / {layer.stride}{'' if pads == '0' else f', pad {pads}'}"
    else:
        x, window = (weights,), f"{weights} x {output[-1]}"
    per_unit = weights + len(params) - 1  # its weights, its bias, and its scale where it has one
    return Row(layer.name, x, window, output, reads, per_unit * units, weights * units * math.prod(output[:-1]))


def summarize(config: ConfigDict, *, classes: int | None = None) -> str:
    """The table of the config's network, the order of its operations, and its placement.

    `classes` is by default what the config's data set has. Raises AlexNetError.
    """
    model, pixels = builder.model(config, classes or classes_of(config)), config.data.crop_pixels
    data = "" if classes else f" ({config.data.name})"
    towers = "1 tower" if model.towers == 1 else f"{model.towers} towers"
    lines = [f"{model.classes} classes{data}, {towers}, images of {pixels} x {pixels} pixels", ""]
    if model.towers > 1:
        legend = (
            "Shapes are those of one tower; parameters and multiply-adds (per image) are of all towers together. "
            "reads: the channels of both towers, or only its own."
        )
        lines += [_wrapped(legend), ""]
    lines += [*_table(model, pixels), "", "The order of the operations:"]
    lines += ["  " + " -> ".join((layer.name, *_operations(layer))) for layer in model.stack]
    lines += ["", _wrapped(placement_sentence(model, pixels))]
    return "\n".join(lines)


def classes_of(config: ConfigDict) -> int:
    """How many classes the config's data set has. Raises AlexNetError where that cannot be known without it."""
    name = config.data.name
    if datasets.is_imagenet(name) or name == "synthetic":
        return 1000
    if name == "digits":
        return len(sources.open_split(name, "train", "").class_names)
    prepared, _, label = sources.tfds_classification(name, config.data.data_dir)
    return int(prepared.info.features[label].num_classes)


def table_cells(model: models.AlexNet, image_pixels: int) -> list[tuple[str, ...]]:
    """The head, the rows and the total of the network's table, as text."""
    cells: list[tuple[str, ...]] = [
        ("layer", "input", "kernel/stride", "output", "reads", "parameters", "multiply-adds")
    ]
    parameters = macs = 0
    for row in layer_rows(model, image_pixels):
        shapes = (_shape(row.input), row.window.replace(" x ", "x").replace(" / ", "/").replace(",", ""))
        cells.append((row.name, *shapes, _shape(row.output), row.reads, f"{row.parameters:,}", f"{row.macs:,}"))
        parameters, macs = parameters + row.parameters, macs + row.macs
    return [*cells, ("total", "", "", "", "", f"{parameters:,}", f"{macs:,}")]


def _table(model: models.AlexNet, image_pixels: int) -> list[str]:
    cells = table_cells(model, image_pixels)
    columns = [column for column in zip(*cells, strict=True) if model.towers > 1 or column[0] != "reads"]
    padded = []
    for column in columns:
        width = max(map(len, column))
        right = column[0] in ("parameters", "multiply-adds")
        padded.append([text.rjust(width) if right else text.ljust(width) for text in column])
    lines = ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _operations(layer: models.ConvLayer | models.DenseLayer) -> list[str]:
    return [models.operation_name(word, layer.name) for word in layer.post_ops]


def _wrapped(text: str, label: str = "") -> str:
    return textwrap.fill(text, _COLUMNS, initial_indent=label, subsequent_indent=" " * len(label))


def placement_sentence(model: models.AlexNet, image_pixels: int) -> str:
    """How the network lies on two devices, or on any number in the hybrid placement, in a few sentences."""
    if model.hybrid:
        return _hybrid_sentence(model, image_pixels)
    if model.towers == 1:
        return "Placement: one tower, so there is nothing to put on a second device; more devices share the batch."
    given = placement.traffic(model, image_pixels)
    parts = ", ".join(f"{name} {numbers:,}" for name, numbers in given.items())
    return (
        f"Placement: one tower on each of {model.towers} devices. Each sends every other one {sum(given.values()):,} "
        f"numbers per image ({parts}), and gets as many gradients back."
    )


def _hybrid_sentence(model: models.AlexNet, image_pixels: int) -> str:
    dense = [layer for layer in model.stack if isinstance(layer, models.DenseLayer)]
    first, *others = [layer.name for layer in dense]
    own = placement.variables(model, image_pixels)["params"][first]["kernel"].shape[-2]  # what one tower reads
    numbers = own if first in model.exchange else model.towers * own
    units = ", ".join(f"{layer.features:,} of {layer.name}" for layer in dense)
    return (
        f"Placement: the hybrid of 2014 (One weird trick, scheme (a)). Every device has all layers before {first} "
        f"and computes them for its own images. The units of a fully connected layer (per tower {units}) are "
        "split over the devices where their number is divisible by that of the devices, and computed for the whole "
        f"batch; otherwise the layer is whole on every device. Before {first} each device sends the others "
        f"{numbers:,} numbers per image of its own"
        + (f", before {' and '.join(others)} its units of every image." if others else ".")
        + " As many gradients come back."
    )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One network: its name, its title, and its numbers with 1000 classes."""

    name: str
    title: str
    towers: int
    conv1: str  # the post-ops of the first layer, in order
    conv2: str
    towers_meet_at: tuple[str, ...]
    parameters: int
    multiply_adds: int  # per image
    image_pixels: int

    def __str__(self) -> str:
        towers = "1 tower" if self.towers == 1 else f"{self.towers} towers"
        numbers = f"{self.parameters:10,} parameters {self.multiply_adds:11,} multiply-adds  {towers}"
        return f"{self.name:22}{numbers}\n{textwrap.indent(textwrap.fill(self.title, 76), '    ')}"


class Recipes(list[Recipe]):
    """A list of recipes that a terminal shows in 80 columns and a notebook as a table."""

    def __repr__(self) -> str:
        return "\n".join(("With 1000 classes, multiply-adds per image:", *map(str, self)))

    def _repr_markdown_(self) -> str:
        return markdown(self)


def recipes() -> Recipes:
    """All networks of the package with their numbers, for 1000 classes; takes a few seconds."""
    return Recipes(_recipe(name) for name in configs.recipe_names())


def recipe_network(name: str, classes: int = 1000) -> tuple[models.AlexNet, int]:
    """(the network of a recipe, its input's pixels). Raises AlexNetError for a name that is not one."""
    config = configs.recipe_module(name).get_config("imagenet2012")
    return builder.model(config, classes), config.data.crop_pixels


def title(name: str) -> str:
    """The first sentence of a recipe's docstring."""
    module: Any = configs.recipe_module(name)
    text: str = module.__doc__.strip().split("\n\n")[0].replace("\n", " ")
    return text.rstrip(".")


def _recipe(name: str) -> Recipe:
    model, pixels = recipe_network(name)
    rows = layer_rows(model, pixels)
    post_ops = {layer.name: " ".join(layer.post_ops) for layer in model.stack}
    meet = tuple(row.name for row in placement.table(model) if row.exchange and row.name != placement.LOGITS)
    return Recipe(
        name, title(name), model.towers,
        conv1=post_ops.get("conv1", "none"),
        conv2=post_ops.get("conv2", "none"),
        towers_meet_at=meet if model.towers > 1 else (),
        parameters=sum(row.parameters for row in rows),
        multiply_adds=sum(row.macs for row in rows),
        image_pixels=pixels,
    )  # fmt: skip


def markdown(found: list[Recipe]) -> str:
    """The recipes as a Markdown table; docs/recipes.md has it.

    Nobody has run one of them on ImageNet to its end here; the default recipe was, on the digits.
    """
    head = (
        "recipe", "what it is", "conv1", "conv2", "towers meet at", "parameters", "multiply-adds",
        "run to its end here",
    )  # fmt: skip
    lines = [head, ("---",) * len(head)]
    for r in found:
        ran = "on the digits" if r.name == "alexnet" else "no"
        where = " ".join(r.towers_meet_at) or "one tower"
        lines.append(
            (f"`{r.name}`", r.title, r.conv1, r.conv2, where, f"{r.parameters:,}", f"{r.multiply_adds:,}", ran)
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
