"""alexnet traffic, or --mode=traffic: what crosses the wires in a training step, and the time it takes."""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import config as configs, parts
from alexnet_jax.allowed import check_batches
from alexnet_jax.commands import border, devices as settled, forecast as forecasts, summary
from alexnet_jax.commands.overrides import split_overrides
from alexnet_jax.network import model as models, traffic
from alexnet_jax.network.towers import DATA, TOWER
from alexnet_jax.network.traffic import BACKWARD, FORWARD, GRADIENTS, METRICS, Layout, Sent
from alexnet_jax.training import traffic as compiled

_HEAD = ("layer", "pass", "axis", "collective", "type", "arrays", "bytes/step", "bytes/image")
_CONVENTION = """\
Bytes are what one device sends in a step (it receives as many), the n devices of a group in a ring or in pairs: (n-1)/n
of the result of an all-gather, (n-1)/n of the operand of a reduce-scatter or an all-to-all, 2(n-1)/n of an all-reduce.
Per image: over the images of a replica."""


def traffic_of(config: ConfigDict, *, classes: int | None = None) -> str:
    """The collectives of the compiled training step on all devices, against the least and against data parallelism.

    `classes` is by default what the config's data set has. Compiles the step and runs nothing. Raises AlexNetError.
    """
    mesh = parts.mesh(config)
    check_batches(config, mesh.shape[DATA])
    model, pixels = parts.network(config, classes or summary.classes_of(config)), config.data.crop_pixels
    layout, batch = _layout(config, mesh), config.train.batch_size
    lines = [_first_line(config, model, mesh)]
    if layout.devices == 1:
        return "\n".join([*lines, "One device sends nothing: use more of them, or --cpu_devices=2."])
    found = compiled.sent(config, model, mesh)
    lines += [_CONVENTION, "", *_table(found, batch / layout.data), ""]
    return "\n".join([*lines, *_against(model, pixels, layout, batch, found)])


def _layout(config: ConfigDict, mesh: Mesh) -> Layout:
    return Layout.of(
        mesh, hybrid=config.mesh.get("hybrid", False), exchange_dtype=config.mesh.get("exchange_dtype", "float32")
    )


def _first_line(config: ConfigDict, model: models.AlexNet, mesh: Mesh) -> str:
    hybrid = ", fully connected layers split over data" if config.mesh.get("hybrid", False) else ""
    batch, rows, platform = config.train.batch_size, mesh.shape[DATA], mesh.devices.flat[0].platform
    return (
        f"{model.classes:,} classes; {mesh.devices.size} {platform} device(s), data {rows} x tower "
        f"{mesh.shape[TOWER]}{hybrid}; a global batch of {batch:,}, {batch // rows:,} images per replica; exchanges in "
        f"{config.mesh.get('exchange_dtype', 'float32')}."
    )


# ---------------------------------------------------------------- the compiled step


def _table(found: list[Sent], images: float) -> list[str]:
    rows = [
        (
            ", ".join(row.layers),
            row.direction,
            row.axis,
            row.kind,
            row.dtype,
            str(row.arrays),
            *_amounts(row.bytes, images),
        )
        for row in found
    ]
    total = ("total", "", "", "", "", str(sum(row.arrays for row in found)), *_amounts(_sum(found), images))
    cells = [_HEAD, *rows, total]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = _HEAD.index("arrays")
    lines = [
        "  ".join(text.rjust(width) if i >= numbers else text.ljust(width) for i, (text, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _amounts(number: float, images: float) -> tuple[str, str]:
    return f"{number:,.0f}", f"{number / images:,.0f}"


def _sum(rows: Iterable[Sent]) -> float:
    return sum(row.bytes for row in rows)


def _against(model: models.AlexNet, pixels: int, layout: Layout, batch: int, found: list[Sent]) -> list[str]:
    least = traffic.least(model, pixels, layout, batch)
    total, bound = _sum(found), _sum(least)
    lines = [
        "  ".join(
            f"{direction} {_sum(row for row in found if row.direction == direction) / 1e6:,.2f} MB"
            for direction in (FORWARD, BACKWARD)
        )
        + f"  together {total / 1e6:,.2f} MB per step and device"
    ]
    merged = [row for row in found if row.arrays > 1]
    if merged:
        sums = ", ".join(f"{row.arrays} arrays ({', '.join(row.layers)})" for row in merged)
        lines.append(f"XLA combined {sums} into {'one collective' if len(merged) == 1 else 'one collective each'}.")
    plain = traffic.data_parallel(model, pixels, layout.devices)
    lines.append(
        f"Data parallelism on the same {layout.devices} devices sends {plain / 1e6:,.2f} MB of gradients: "
        f"{plain / total:,.2f} times as much."
    )
    if differing := differences(found, least):
        lines.append(f"The least that the algorithm allows is {bound / 1e6:,.2f} MB. They do not agree:")
        return lines + [f"  {text}" for text in differing]
    return [*lines, f"The least that the algorithm allows is {bound / 1e6:,.2f} MB by formula: they agree."]


def differences(found: list[Sent], least: list[Sent]) -> list[str]:
    """Where the compiled step does not send what the formula says, in words; [] where they agree to the byte.

    What XLA has combined is compared together, over both passes: the sums over the batch always, as some of its
    backends name only the first of them.
    """
    groups = _groups([(GRADIENTS, METRICS), *(row.layers for row in (*found, *least))])
    ours, theirs = _sums(found, groups), _sums(least, groups)
    return [
        f"{what}: {ours.get(what, 0):,.0f} bytes compiled, {theirs.get(what, 0):,.0f} by formula"
        for what in dict.fromkeys((*theirs, *ours))
        if not math.isclose(ours.get(what, 0), theirs.get(what, 0), abs_tol=0.5)
    ]


def _groups(several: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The layers, those that some collective serves together in one group."""
    groups: list[tuple[str, ...]] = []
    for layers in several:
        touching = [group for group in groups if set(group) & set(layers)]
        together = dict.fromkeys(name for group in (*touching, layers) for name in group)
        groups = [*(group for group in groups if group not in touching), tuple(together)]
    return groups


def _sums(rows: list[Sent], groups: list[tuple[str, ...]]) -> dict[str, float]:
    """{layers and pass: bytes}."""
    sums: dict[str, float] = {}
    for row in rows:
        group = next(group for group in groups if row.layers[0] in group)
        what = ", ".join(group) if len(group) > 1 else f"{group[0]} {row.direction}"
        sums[what] = sums.get(what, 0) + row.bytes
    return sums


# ---------------------------------------------------------------- the command


def main(argv: list[str]) -> None:
    """Prints what a recipe's step sends, and the times of its placements. Raises AlexNetError."""
    parser = border.Parser(
        prog="alexnet traffic",
        description="What crosses the wires in a training step, from the compiled step, and the predicted time of "
        "each placement on 2 to 1,024 devices. It needs no data. Without DATA the network has 1000 classes.",
        epilog="--config.section.field=value sets a field of the recipe, such as --config.mesh.tower=1.",
    )
    parser.add_argument("recipe", nargs="?", default="alexnet", metavar="RECIPE[:DATA]", help="default: %(default)s")
    parser.add_argument(
        "--cpu_devices", type=border.whole(1, 512), metavar="N", help="compile for N virtual CPU devices"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="a plot of the predicted times")
    parser.add_argument(
        "--images_per_second", type=_rate, default=forecasts.IMAGES_PER_SECOND, metavar="R",
        help=f"what one device computes, for the prediction (default: {forecasts.IMAGES_PER_SECOND:,.0f}, "
        f"{forecasts.IMAGES_PER_SECOND_SOURCE})",
    )  # fmt: skip
    parser.add_argument(
        "--images_per_device", type=border.whole(1, 1_000_000), metavar="N",
        help="of each step, for the prediction (default: config.train.batch_size)",
    )  # fmt: skip
    overrides, rest = split_overrides(argv)
    given = parser.parse_args(rest)
    with_data = ":" in given.recipe
    config = configs.load_recipe(given.recipe if with_data else f"{given.recipe}:imagenet2012", overrides)
    settled.settle(cpu_devices=given.cpu_devices)
    classes = summary.classes_of(config) if with_data else 1000
    print(traffic_of(config, classes=classes))
    forecast = forecasts.Forecast(
        parts.network(config, classes),
        config.data.crop_pixels,
        per_device=given.images_per_device or config.train.batch_size,
        images_per_second=given.images_per_second,
        exchange_dtype=config.mesh.get("exchange_dtype", "float32"),
    )
    print("\n" + "\n".join(forecasts.table(forecast)))
    if given.output:
        forecasts.plot(forecast, given.output)
        print(f"\nwrote {given.output}")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:20]} is not a number of images/s from 0 to 1e9")
    return rate
