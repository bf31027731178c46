"""alexnet summary, or --mode=summary: the network as a table, where it lies, and what is often said wrongly of it."""

import textwrap
from collections.abc import Iterator

from ml_collections import ConfigDict

from alexnet_jax import config as configs, parts
from alexnet_jax.cli import border
from alexnet_jax.cli.overrides import split_overrides
from alexnet_jax.data import datasets, sources
from alexnet_jax.model import alexnet as models, placement, table

_COLUMNS = 80
_HEAD = ("layer", "input", "kernel/stride", "output", "reads", "parameters", "multiply-adds")
_NUMBERS = ("parameters", "multiply-adds")  # these columns are aligned on the right

# A Chinese description of AlexNet and its many descendants. docs/paper-and-source.md goes through all of it.
_DESCRIPTION = "Where a widely copied description of AlexNet is wrong about this network:"
_COPIED_TOTAL, _TOTAL = 65_062_224, 60_965_224  # the sum of its table, and what it should be


def summarize(config: ConfigDict, *, classes: int | None = None) -> str:
    """The table of the config's network, the order of its operations, its placement, and common mistakes about it.

    `classes` is by default what the config's data set has. Raises AlexNetError.
    """
    model, pixels = parts.network(config, classes or classes_of(config)), config.data.crop_pixels
    rows = table.rows(model, pixels)
    data = "" if classes else f" ({config.data.name})"
    towers = "1 tower" if model.towers == 1 else f"{model.towers} towers"
    lines = [f"{model.classes} classes{data}, {towers}, images of {pixels} x {pixels} pixels", ""]
    if model.towers > 1:
        legend = (
            "Shapes are those of one tower; parameters and multiply-adds (per image) are of all towers together. "
            "reads: the channels of both towers, or only its own."
        )
        lines += [_wrapped(legend), ""]
    lines += [*_table(rows, one_tower=model.towers == 1), "", "The order of the operations:"]
    lines += ["  " + " -> ".join((layer.name, *_operations(layer))) for layer in model.stack]
    lines += ["", _wrapped(placement.describe(model, pixels))]
    points = [_wrapped(text, f"  {where:6} ") for where, text in _mistakes(model, rows)]
    if points:
        lines += ["", _DESCRIPTION, *points, "", "Its open questions are answered in docs/paper-and-source.md."]
    return "\n".join(lines)


def classes_of(config: ConfigDict) -> int:
    """How many classes the config's data set has. Raises AlexNetError where that cannot be known without it."""
    name = config.data.name
    if datasets.is_imagenet(name) or name == "synthetic":
        return 1000
    if name == "digits":
        return len(sources.open_split(name, "train", "").class_names)
    builder, _, label = sources.tfds_classification(name, config.data.data_dir)
    return int(builder.info.features[label].num_classes)


# ---------------------------------------------------------------- the table


def _table(rows: list[table.Row], *, one_tower: bool) -> list[str]:
    cells = [_HEAD]
    for row in rows:
        shapes = (_shape(row.input), row.window.replace(" x ", "x").replace(" / ", "/").replace(",", ""))
        cells.append((row.name, *shapes, _shape(row.output), row.reads, f"{row.parameters:,}", f"{row.macs:,}"))
    total = (f"{sum(row.parameters for row in rows):,}", f"{sum(row.macs for row in rows):,}")
    cells.append(("total", "", "", "", "", *total))
    columns = [column for column in zip(*cells, strict=True) if not (one_tower and column[0] == "reads")]
    padded = []
    for column in columns:
        width = max(map(len, column))
        padded.append([text.rjust(width) if column[0] in _NUMBERS else text.ljust(width) for text in column])
    lines = ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _operations(layer: models.ConvLayer | models.DenseLayer) -> list[str]:
    return [models.operation_name(word, layer.name) for word in layer.post_ops]


def _wrapped(text: str, label: str = "") -> str:
    return textwrap.fill(text, _COLUMNS, initial_indent=label, subsequent_indent=" " * len(label))


# ---------------------------------------------------------------- what is often said wrongly


def _mistakes(model: models.AlexNet, rows: list[table.Row]) -> Iterator[tuple[str, str]]:
    """(what about, why it is wrong), of what is wrong about this very network."""
    layers, row = {layer.name: layer for layer in model.stack}, {row.name: row for row in rows}
    conv1, last = model.stack[0], model.stack[-1]
    pixels = (row[conv1.name].input[0], row[conv1.name].output[0])
    if isinstance(conv1, models.ConvLayer) and conv1.padding == (0, 3) and pixels == (224, 55):
        yield (
            conv1.name,
            "Its table leaves out the padding. 224 pixels give 55 with 3 zero pixels on the right and at the bottom, "
            "none on the left and at the top. The padding of the others is in the table above.",
        )
    conv3 = row.get("conv3")
    if conv3 and (conv3.input, conv3.reads, conv3.output[-1] * model.towers) == ((13, 13, 256), "both", 384):
        yield (
            "conv3",
            "Its text says 13 x 13 x 192 x 2 inputs, so kernels 384 deep. Its table is right: 13 x 13 x 128 x 2, so "
            "256 deep. 384 is the number of conv3's output channels, of both towers.",
        )
    if model.towers == 2 and model.classes == 1000 and row[last.name].input == (4096,):
        parameters = sum(row.parameters for row in rows)
        yield (
            last.name,
            "Its table has (4096 + 1) x 1000 x 2 parameters, which counts the layer twice: there are 4,097,000, half "
            "of the classes in each tower (in 2012 all of them on one GPU)."
            + (f" So its table adds up to {_COPIED_TOTAL:,} instead of {_TOTAL:,}." if parameters == _TOTAL else ""),
        )
    yield from _mistakes_about_operations(model, layers)


def _mistakes_about_operations(
    model: models.AlexNet, layers: dict[str, models.ConvLayer | models.DenseLayer]
) -> Iterator[tuple[str, str]]:
    normed = [layers[name] for name in ("conv1", "conv2") if name in layers and "norm" in layers[name].post_ops]
    if normed:
        yield (
            "LRN",
            '"Local Responsible Normalization" is local response normalization. It divides a value by a function of '
            f"the {model.norm.size} neighboring channels at the same pixel.",
        )
    others = [layer for layer in normed if layer.post_ops != ("pool", "norm", "relu")]
    if others:
        orders = "; ".join(" -> ".join(_operations(layer)) for layer in others)
        yield "order", f"Its text puts LRN after the pool and before ReLU. Here: {orders}."
    dense = [layer.name for layer in model.stack if isinstance(layer, models.DenseLayer) and "relu" in layer.post_ops]
    if dense:
        yield "ReLU", f"It follows {' and '.join(dense)} too, not only the convolutions."
    words = {word for layer in model.stack for word in layer.post_ops if word in models.POOLS}
    kinds = {models.pool_of(model, word).kind for word in words}
    if kinds == {"max"} and model.pool.size > model.pool.stride:
        yield (
            "pool",
            "What avoids the averaging of average pooling is the maximum. That its windows overlap is a separate "
            "choice.",
        )
    if model.towers == 2:
        yield (
            "GPUs",
            "In 2012 a second one made room for a larger network, not for more data: a card had 3 GB of memory.",
        )


def main(argv: list[str]) -> None:
    """Prints the summary of a recipe. Raises AlexNetError."""
    parser = border.Parser(
        prog="alexnet summary",
        description="A recipe's network as a table; it needs no data. Without DATA it has 1000 classes.",
        epilog="--config.section.field=value sets a field of the recipe.",
    )
    parser.add_argument("recipe", nargs="?", default="alexnet", metavar="RECIPE[:DATA]", help="default: %(default)s")
    overrides, rest = split_overrides(argv)
    recipe = parser.parse_args(rest).recipe
    if ":" in recipe:
        print(summarize(configs.load_recipe(recipe, overrides)))
    else:
        print(summarize(configs.load_recipe(f"{recipe}:imagenet2012", overrides), classes=1000))
