"""How long runs will take: from the rows of others like them, or from the multiply-adds."""

import statistics
from collections.abc import Sequence

import jax

from alexnet_jax import builder, config as configs
from alexnet_jax.train import speed
from experiments.ledger.plans import Planned
from experiments.ledger.rows import Row

_SHARE = 0.35  # of the peak, assumed: docs/speed.md has 0.44 in float32 and 0.13 in bfloat16, of a CPU


def estimates(missing: Sequence[Planned], known: Sequence[Row], *, at_a_time: int) -> list[str]:
    """A line for each proxy that something is to be run on: how long, and how that is known."""
    lines = list[str]()
    for name in dict.fromkeys(run.proxy.name for run in missing):
        runs = [run for run in missing if run.proxy.name == name]
        here = [row for row in known if row["proxy"] == name and row["seconds"]]
        several = at_a_time if runs[0].proxy.cores else 1
        if here:
            seconds = sum(_from_rows(run, here) for run in runs) / several
            how = f"by the {len(here)} rows of this proxy, with {several} at a time"
        else:
            seconds, how = _by_peak(runs)
        lines.append(f"{name}: {len(runs)} runs, about {_hours(seconds)} of steps, {how}")
    return lines


def _from_rows(run: Planned, here: Sequence[Row]) -> float:
    same = [float(row["seconds"]) for row in here if row["digest"] == run.digest]
    return statistics.median(same or [float(row["seconds"]) for row in here])


def _by_peak(runs: Sequence[Planned]) -> tuple[float, str]:
    """(seconds, how they are known) of runs on all the devices here, where none has run before."""
    work, images = 0.0, 0.0
    for run in runs:
        config = configs.load_recipe(run.recipe, run.overrides)
        network = builder.model(config, classes=run.proxy.classes)
        seen = config.train.steps * config.train.batch_size or config.train.epochs * run.proxy.images
        images += seen
        work += seen * speed.flops_per_image(network, config.data.crop_pixels)
    peak, devices = speed.peak(builder.compute_dtype(config)), jax.device_count()
    per_second = _SHARE * peak.teraflops * 1e12 * devices
    return work / per_second, (
        f"{images / 1e6:,.1f} million images and {work / 1e15:,.1f} PFLOP at {100 * _SHARE:.0f} % of "
        f"{peak.teraflops * devices:.3g} TFLOP/s, the peak of the {devices} device(s) here: an estimate, and a feed "
        "that keeps up (python -m tools.bench_input)"
    )


def _hours(seconds: float) -> str:
    if seconds > 72 * 3600:
        return f"{seconds / 86400:,.1f} days"
    return f"{seconds / 3600:,.1f} h" if seconds > 5400 else f"{seconds / 60:,.0f} min"
