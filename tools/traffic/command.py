"""python -m tools.traffic: what crosses the wires in a training step, and the predicted time of each placement."""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import builder, summary
from alexnet_jax.cli import app, devices
from alexnet_jax.cli.flags import HELP, take_recipe
from alexnet_jax.model import alexnet as models
from tools.traffic import compiled, forecast as forecasts, formula as traffic
from tools.traffic.formula import BACKWARD, FORWARD, GRADIENTS, METRICS, Layout, Sent

_HEAD = ("layer", "pass", "axis", "collective", "type", "arrays", "bytes/step", "bytes/image")
_CONVENTION = """\
Bytes are what one device sends in a step (it receives as many), the n devices of a group in a ring or in pairs: (n-1)/n
of the result of an all-gather, (n-1)/n of the operand of a reduce-scatter or an all-to-all, 2(n-1)/n of an all-reduce.
Per image: over the images of a replica."""
_DESCRIPTION = (
    "The collectives of the compiled training step, with their bytes, and the predicted time of each placement on 2 to "
    "1,024 devices. It runs nothing and needs no data; without DATA the network has 1000 classes. Run it from the top "
    "of a checkout."
)


def traffic_of(
    config: ConfigDict,
    *,
    classes: int | None = None,
    images_per_second: float = forecasts.IMAGES_PER_SECOND,
    images_per_device: int | None = None,
    output: Path | None = None,
) -> str:
    """What the compiled training step sends on all devices, and the predicted times of the placements, in tables.

    `classes` is by default what the config's data set has, `images_per_device` the config's batch size; with
    `images_per_second`, of one device, it is for the prediction alone, of which `output` is a plot (PNG). The step is
    compiled and not run. Raises AlexNetError.
    """
    mesh = builder.mesh(config)
    builder.check_batches(config, mesh)
    model = builder.model(config, classes or summary.classes_of(config))
    forecast = forecasts.Forecast(
        model,
        config.data.crop_pixels,
        per_device=images_per_device or config.train.batch_size,
        images_per_second=images_per_second,
        exchange_dtype=config.mesh.exchange_dtype,
    )
    lines = [*_of_this_mesh(config, model, mesh), "", *forecasts.table(forecast)]
    if output:
        forecasts.plot(forecast, output)
        lines += ["", f"wrote {output}"]
    return "\n".join(lines)


# ---------------------------------------------------------------- the compiled step


def _of_this_mesh(config: ConfigDict, model: models.AlexNet, mesh: Mesh) -> list[str]:
    """The collectives of the compiled step, against the least and against data parallelism."""
    layout, batch, platform = Layout.of(model, mesh), config.train.batch_size, mesh.devices.flat[0].platform
    hybrid = ", the fully connected layers split over data" if layout.hybrid else ""
    lines = [
        f"{model.classes:,} classes; {layout.devices} {platform} device(s), data {layout.data} x tower {layout.tower}"
        f"{hybrid};",
        f"a global batch of {batch:,}, {batch // layout.data:,} images per replica; exchanges in "
        f"{layout.exchange_dtype}.",
    ]
    if layout.devices == 1:
        return [*lines, "One device sends nothing: use more of them, or --cpu_devices=2."]
    found = compiled.sent(config, model, mesh)
    least = traffic.least(model, config.data.crop_pixels, layout, batch)
    plain = traffic.data_parallel(model, config.data.crop_pixels, layout.devices)
    return [*lines, "", _CONVENTION, "", *_table(found, batch / layout.data), "", *_against(found, least, plain)]


def _table(found: list[Sent], images: float) -> list[str]:
    rows = [
        (", ".join(row.layers), row.direction, row.axis, row.kind, row.dtype, str(row.arrays),
         *_numbers(row.bytes, images))
        for row in found
    ]  # fmt: skip
    total = ("total", "", "", "", "", str(sum(row.arrays for row in found)), *_numbers(_sum(found), images))
    cells = [_HEAD, *rows, total]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = _HEAD.index("arrays")
    lines = [
        "  ".join(text.rjust(width) if i >= numbers else text.ljust(width) for i, (text, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _numbers(number: float, images: float) -> tuple[str, str]:
    return f"{number:,.0f}", f"{number / images:,.0f}"


def _sum(rows: Iterable[Sent]) -> float:
    return sum(row.bytes for row in rows)


def _against(found: list[Sent], least: list[Sent], plain: float) -> list[str]:
    """The sums, beside the formula's and the bytes of `plain` data parallelism."""
    total = _sum(found)
    passes = [f"{_amount(_sum(r for r in found if r.direction == way))} {way}" for way in (FORWARD, BACKWARD)]
    lines = [f"One device sends {_amount(total)} per step: {', '.join(passes)}."]
    if any(row.dtype == "u16" for row in found):
        lines.append("u16 are the bits of bfloat16, which XLA would not carry as such on every device.")
    if merged := [f"{row.arrays} arrays ({', '.join(row.layers)})" for row in found if row.arrays > 1]:
        lines.append(f"XLA combined {' and '.join(merged)} into one collective{' each' if len(merged) > 1 else ''}.")
    lines.append(
        f"Data parallelism on the same devices sends {_amount(plain)} of gradients: {plain / total:,.2f} times as much."
    )
    bound = f"The least that the algorithm allows is {_amount(_sum(least))} by formula"
    if differing := differences(found, least):
        return [*lines, f"{bound}: they differ at", *(f"  {text}" for text in differing)]
    return [*lines, f"{bound}: they agree."]


def _amount(number: float) -> str:
    return f"{number / 1e6:,.2f} MB" if number >= 1e4 else f"{number:,.0f} bytes"


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
    recipe, config, rest = take_recipe(argv, data="imagenet2012")
    parser = app.Parser(prog="python -m tools.traffic", description=_DESCRIPTION, epilog=HELP)
    parser.add_argument("--cpu_devices", type=app.whole(1, 512), metavar="N", help="compile for N virtual CPU devices")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="a plot of the predicted times")
    parser.add_argument(
        "--images_per_second", type=_rate, default=forecasts.IMAGES_PER_SECOND, metavar="R",
        help=f"of one device, for the prediction (default: {forecasts.IMAGES_PER_SECOND:,.0f}, "
        f"{forecasts.IMAGES_PER_SECOND_SOURCE})",
    )  # fmt: skip
    parser.add_argument(
        "--images_per_device", type=app.whole(1, 1_000_000), metavar="N",
        help="of each step, for the prediction (default: config.train.batch_size)",
    )  # fmt: skip
    options = parser.parse_args(rest)
    devices.settle(cpu_devices=options.cpu_devices)
    print(
        traffic_of(
            config,
            classes=None if ":" in recipe else 1000,
            images_per_second=options.images_per_second,
            images_per_device=options.images_per_device,
            output=options.output,
        )
    )


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:20]} is not a number of images/s from 0 to 1e9")
    return rate
