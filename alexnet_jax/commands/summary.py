"""alexnet summary, or --mode=summary: the network as a table, where it lies, and what is often wrong in others."""

from ml_collections import ConfigDict

from alexnet_jax import config as configs, parts
from alexnet_jax.commands import border
from alexnet_jax.data import sources
from alexnet_jax.network import model as models, placement, table

_HEAD = ("layer", "input", "kernel/stride", "output", "reads", "parameters", "multiply-adds")

# Where the table that is copied most (a Chinese description of the network, and its many descendants)
# is wrong. The numbers are those of the network with 1000 classes.
_COMMON_MISTAKES = """\
Where the commonly copied table is wrong:
  fc8    (4096 + 1) x 1000 x 2 parameters counts the layer twice: it is 4,097,000, once (the 2012 source keeps
         it whole on one GPU; here each tower has half of the classes). The copied table sums to 65,062,224.
  conv3  its input is 13 x 13 x 128 x 2, so its kernels are 256 deep, not 384 (which is conv4's input).
  conv1  224 gives 55 only with its padding: 3 zero pixels on the right and at the bottom, none on the left
         and on top. conv2 pads 2 and conv3 to conv5 pad 1, which the table leaves out too."""


def summarize(config: ConfigDict) -> str:
    """The table of the config's network, the order of its operations, and what is often wrong in others."""
    model = parts.network(config, _classes(config))
    rows = table.rows(model, config.data.crop_pixels)
    times = f" (x{model.towers})" if model.towers > 1 else ""
    cells = [_HEAD]
    for row in rows:
        shapes = (_shape(row.input, times if row.reads == "own" else ""), row.window, _shape(row.output, times))
        cells.append((row.name, *shapes, row.reads, f"{row.parameters:,}", f"{row.macs:,}"))
    total = (f"{sum(row.parameters for row in rows):,}", f"{sum(row.macs for row in rows):,}")
    cells.append(("total", "", "", "", "", *total))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(_aligned, row, widths, range(len(_HEAD)))).rstrip() for row in cells]
    rule = "-" * max(map(len, lines))
    title = f"{config.data.name}: {model.classes} classes, {model.towers} tower(s)"
    legend = f"(x{model.towers}): in each tower; reads: the other tower's maps too (both) or only its own"
    order = [
        "  " + " -> ".join((layer.name, *(models.operation_name(word, layer.name) for word in layer.post_ops)))
        for layer in model.stack
    ]
    ruled = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
    return "\n".join(
        [
            title,
            legend,
            "",
            *ruled,
            "",
            "The order of the operations:",
            *order,
            "",
            placement.describe(model, config.data.crop_pixels),
            "",
            _COMMON_MISTAKES,
        ]
    )


def _classes(config: ConfigDict) -> int:
    if config.data.name in ("digits", "synthetic"):
        return len(sources.open_split(config.data.name, "train", "").class_names)
    builder, _, label = sources.tfds_classification(config.data.name, config.data.data_dir)
    return int(builder.info.features[label].num_classes)


def _shape(shape: tuple[int, ...], times: str) -> str:
    return " x ".join(map(str, shape)) + times


def _aligned(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column >= 5 else text.ljust(width)


def main(argv: list[str]) -> None:
    """Prints the summary of a recipe. Raises AlexNetError."""
    parser = border.Parser(prog="alexnet summary", description="a network as a table; it needs no data")
    parser.add_argument("config", nargs="?", default="alexnet:synthetic", metavar="RECIPE[:DATA]", help="%(default)s")
    options, rest = parser.parse_known_args(argv)
    print(summarize(configs.load_recipe(options.config, [field.removeprefix("--config.") for field in rest])))
