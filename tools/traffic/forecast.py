"""From what a step sends and stated link speeds: the time of each placement on 2 to 1,024 devices, and a plot of it."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_jax import files
from alexnet_jax.figures import drawing
from alexnet_jax.model import alexnet as models
from tools.traffic import formula as traffic
from tools.traffic.formula import Layout


@dataclasses.dataclass(frozen=True)
class Link:
    """What one device can send: bytes/s in one direction, and seconds until a message is there."""

    name: str
    bytes_per_s: float
    latency_s: float
    source: str


# Latencies of GPUs: NCCL's own model of a step of a ring (src/graph/tuning.cc, hwLat, Ring, Simple, at b647562).
LINKS = (
    Link("10 Gb Ethernet", 1.25e9, 14e-6, "10 Gb/s by definition; NCCL, network"),
    Link("100 Gb Ethernet", 12.5e9, 14e-6, "100 Gb/s by definition; NCCL, network"),
    Link("PCIe 3.0 x16", 15.75e9, 5.7e-6, "16 lanes of 8 GT/s, 128b/130b; NCCL, PCI"),
    Link("NVLink 4", 450e9, 3.4e-6, "900 GB/s in both directions (NVIDIA, H100); NCCL, NVLink"),
    Link("TPU v5e ICI", 100e9, 1e-6, "two links of 50 GB/s along one axis, 1 us a hop (jax-ml/scaling-book)"),
)

# soumith/convnet-benchmarks at b458aab: the one-tower AlexNet, 128 images forward and backward in 81 ms with cuDNN R4
# in float32 on a Titan X; no dropout, no softmax, no update.
IMAGES_PER_SECOND = 128 / 0.081
IMAGES_PER_SECOND_SOURCE = "Titan X, float32: soumith/convnet-benchmarks"

DEVICES = tuple(2**n for n in range(1, 11))
DATA_PARALLEL, TOWERS, HYBRID = "data parallel", "towers x data", "hybrid"


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A network and how it is trained: `per_device` images of every step for each device, at `images_per_second`."""

    model: models.AlexNet
    pixels: int
    per_device: int
    images_per_second: float
    exchange_dtype: str

    def placements(self) -> tuple[str, ...]:
        """Those there are for this network."""
        return (DATA_PARALLEL, *((TOWERS,) if self.model.towers == 2 else ()), HYBRID)

    def sent(self, placement: str, devices: int, batch: float) -> list[traffic.Sent]:
        """What one of `devices` sends in a step on a global `batch`."""
        tower = 2 if placement == TOWERS else 1
        layout = Layout(devices // tower, tower, placement == HYBRID, self.exchange_dtype)
        return traffic.least(self.model, self.pixels, layout, batch)

    def seconds(self, placement: str, devices: int, link: Link) -> float:
        """The time of a step: computing, then sending, one collective after the other; nothing overlaps."""
        sent = self.sent(placement, devices, self.per_device * devices)
        messages, total = sum(row.messages for row in sent), sum(row.bytes for row in sent)
        return self.per_device / self.images_per_second + total / link.bytes_per_s + messages * link.latency_s

    def pays_below(self, placement: str, devices: int) -> float:
        """The global batch below which a placement sends fewer bytes than data parallelism does.

        nan where the two are the same, as a hybrid is whose layers have too few units for so many devices.
        """

        def more(batch: float) -> float:
            """The bytes sent more than by data parallelism: linear in the batch."""
            ours, theirs = (self.sent(name, devices, batch) for name in (placement, DATA_PARALLEL))
            return sum(row.bytes for row in ours) - sum(row.bytes for row in theirs)

        per_image = more(1) - more(0)
        return -more(0) / per_image if per_image else math.nan


# ---------------------------------------------------------------- tables


def table(forecast: Forecast) -> list[str]:
    """The times of a step for each link, and the batch at which each placement stops paying."""
    compute = 1e3 * forecast.per_device / forecast.images_per_second
    lines = [
        f"Predicted time of a step in ms, {forecast.per_device:,} images per device: {compute:.1f} ms of computing "
        f"({forecast.images_per_second:,.0f} images/s per device)",
        "plus bytes / bandwidth plus latency x messages, nothing overlapped, the same link between all devices.",
    ]
    names = forecast.placements()

    def times(devices: int, link: Link) -> tuple[str, ...]:
        return tuple(f"{1e3 * forecast.seconds(name, devices, link):,.1f}" for name in names)

    for link in LINKS:
        lines += ["", f"{link.name}: {link.bytes_per_s / 1e9:g} GB/s, {link.latency_s * 1e6:g} us ({link.source})"]
        lines += _columns(("devices", *names), [(devices, *times(devices, link)) for devices in DEVICES])
    return [*lines, "", *_break_even(forecast)]


def _break_even(forecast: Forecast) -> list[str]:
    """From formulas: a placement's exchanges grow with the batch, the gradients of data parallelism do not."""
    names = [name for name in forecast.placements() if name != DATA_PARALLEL]
    rows = []
    for devices in DEVICES:
        below = [forecast.pays_below(name, devices) for name in names]
        batches = [number for batch in below for number in (batch, batch / devices)]
        rows.append((devices, *("-" if math.isnan(number) else f"{number:,.0f}" for number in batches)))
    head = ("devices", *(text for name in names for text in (name, "per device")))
    return [
        "The global batch at which a placement stops paying: from there on it sends more bytes than data parallelism.",
        *_columns(head, rows),
    ]


def _columns(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    cells = [tuple(map(str, row)) for row in ((head), *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in cells]


# ---------------------------------------------------------------- the plot

_STYLES = {DATA_PARALLEL: ("#c44e52", "o"), TOWERS: ("#4c72b0", "s"), HYBRID: ("#55a868", "^")}


def plot(forecast: Forecast, path: Path) -> None:
    """A PNG: the time of a step against the devices for each link, and bytes against the batch on two devices.

    Raises AlexNetError where it cannot be written.
    """
    figure = drawing.new(7.5, width=12)
    panels = list(figure.subplots(2, 3).flat)
    for panel, link in zip(panels, LINKS, strict=False):
        _times(panel, forecast, link)
        if panel is not panels[0]:
            panel.sharey(panels[0])
    _bytes(panels[len(LINKS)], forecast)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(
        f"Predicted time of a training step, {forecast.per_device:,} images per device "
        f"({forecast.images_per_second:,.0f} images/s), nothing overlapped"
    )
    files.write(path, lambda growing: figure.savefig(growing, dpi=120, format="png"))


def _times(panel: Any, forecast: Forecast, link: Link) -> None:
    for name in forecast.placements():
        color, marker = _STYLES[name]
        times = [1e3 * forecast.seconds(name, devices, link) for devices in DEVICES]
        panel.plot(DEVICES, times, color=color, marker=marker, markersize=4, label=name)
    compute = 1e3 * forecast.per_device / forecast.images_per_second
    panel.axhline(compute, color="gray", linestyle="--", linewidth=1, label="computing alone")
    panel.set_title(f"{link.name}, {link.bytes_per_s / 1e9:g} GB/s", fontsize=10)
    _logarithmic(panel, "devices", "ms per step", DEVICES[::3])


def _bytes(panel: Any, forecast: Forecast) -> None:
    """What one of two devices sends, with the batches at which the placements stop paying."""
    batches = [2**n for n in range(4, 15)]
    for name in forecast.placements():
        color, _ = _STYLES[name]

        def sent(batch: float, name: str = name) -> float:
            return sum(row.bytes for row in forecast.sent(name, 2, batch)) / 1e6

        panel.plot(batches, [sent(batch) for batch in batches], color=color)
        if not math.isnan(below := forecast.pays_below(name, 2)):
            panel.plot(below, sent(below), "o", color=color)
            left = name == TOWERS  # the lines leave room above the one and below the other
            place = {"xytext": (-7, 6) if left else (7, -14), "ha": "right" if left else "left"}
            panel.annotate(f"{below:,.0f}", (below, sent(below)), color=color, textcoords="offset points", **place)
    panel.set_title("two devices: what one sends", fontsize=10)
    _logarithmic(panel, "global batch", "MB per step", [16, 128, 1024, 8192])


def _logarithmic(panel: Any, x: str, y: str, ticks: Any) -> None:
    count: Callable[..., str] = lambda number, _: f"{number:,.0f}"  # noqa: E731
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(list(ticks))
    panel.xaxis.set_major_formatter(count)
    panel.yaxis.set_major_formatter(count)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(visible=True, alpha=0.3)
