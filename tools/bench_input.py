"""python -m tools.bench_input: the speed of a recipe's feed and of its step, and which of the two limits a run."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.cli import app, devices
from alexnet_jax.cli.flags import HELP, take_recipe
from alexnet_jax.data import feed, preprocess
from alexnet_jax.model import placement, towers

_SECONDS = 2.0  # for each stage


def bench_input(config: ConfigDict) -> str:
    """The report, in images/s. Reads training records in the order of training; writes nothing."""
    setup = builder.train_setup(config)
    mesh, split = setup.mesh, setup.split
    _, count = towers.feed_share(mesh)

    print(f"timing the feed of {config.data.name} ({len(split.source):,} images of {split.name}) ...", flush=True)
    per_batch = config.train.batch_size // count
    microseconds = _stages(split, setup.images)
    alone = _rate(_without_threads(setup).batches(0), per_batch)
    microseconds["batch"] = max(0.0, 1e6 / alone - sum(microseconds.values()))
    whole = _rate(setup.batches(0), per_batch, skip=setup.feed.batches_in_memory)
    batch = next(_without_threads(setup).batches(0))
    microseconds["transfer"] = _transfer(batch, mesh) / per_batch
    print("timing the step: compiling it ...", flush=True)
    step = _step_rate(setup, batch) / count
    cores = setup.feed.threads * max(1, setup.feed.workers)
    return "\n".join(
        [*_table(microseconds, alone, whole, cores, step, mesh), "", *_verdict(microseconds, whole, cores, step)]
    )


def _stages(split: feed.Split, images: preprocess.Crop) -> dict[str, float]:
    """Microseconds per image on one core for reading, decoding and cropping, each alone, over up to 300 records."""
    numbers = np.random.default_rng(0).permutation(len(split.source))[:300].tolist()
    encoded = [split.source[i]["image"] for i in numbers]
    decoded = [preprocess.decode(image, at_least=images.resize_pixels) for image in encoded[:50]]
    place = np.array([0.3, 0.7])

    def crop(pixels: np.ndarray) -> None:
        preprocess.crop_resized(pixels, images.resize_pixels, images.crop_pixels, place)

    return {
        "read": _microseconds(lambda i: split.source[i], numbers),
        "decode": _microseconds(lambda image: preprocess.decode(image, at_least=images.resize_pixels), encoded),
        "crop": _microseconds(crop, decoded),
    }


def _microseconds(work: Callable[[Any], Any], items: list[Any]) -> float:
    """The median over several passes, in microseconds per item."""
    passes: list[float] = []
    start = time.perf_counter()
    while not passes or time.perf_counter() - start < _SECONDS:
        since = time.perf_counter()
        for item in items:
            work(item)
        passes.append((time.perf_counter() - since) / len(items) * 1e6)
    return float(np.median(passes))


def _rate(batches: Iterable[feed.Batch], per_batch: int, *, skip: int = 1) -> float:
    """Images/s, after `skip` batches that may have been computed ahead."""
    stream = iter(batches)
    for _ in itertools.islice(stream, skip):
        pass
    seen, start = 0, time.perf_counter()
    while seen < 4 or time.perf_counter() - start < 2 * _SECONDS:
        next(stream)
        seen += 1
    rate = seen * per_batch / (time.perf_counter() - start)
    stream.close()  # type: ignore[attr-defined]
    return rate


def _transfer(batch: feed.Batch, mesh: Mesh) -> float:
    return _microseconds(lambda b: jax.block_until_ready(towers.to_devices(b, mesh)), [batch])


def _without_threads(setup: builder.TrainSetup) -> builder.TrainSetup:
    return dataclasses.replace(setup, feed=feed.Feed(threads=0, prefetch_batches=0))


def _step_rate(setup: builder.TrainSetup, batch: feed.Batch) -> float:
    """Images/s of the training step alone, over all devices, on one batch that lies there already."""
    shardings = placement.shardings(setup.model, setup.shapes(), setup.mesh)
    state = jax.jit(setup.new_state, out_shardings=shardings)()
    step = setup.train_step()
    on_devices = towers.to_devices(batch, setup.mesh)
    seconds: list[float] = []
    while len(seconds) < 4 or sum(seconds[1:]) < _SECONDS:
        since = time.perf_counter()
        state, metrics = step(state, on_devices)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - since)
    return setup.plan.batch_size / float(np.median(seconds[1:]))  # the first compiles


def _table(
    microseconds: dict[str, float], alone: float, whole: float, cores: int, step: float, mesh: Mesh
) -> list[str]:
    on_host = sum(microseconds[name] for name in ("read", "decode", "crop", "batch"))
    lines = [f"{'stage':28}{'images/s':>12}{'per core':>12}{'of a core':>12}"]
    for name in ("read", "decode", "crop", "batch"):
        rate = 1e6 / max(microseconds[name], 1e-3)
        lines.append(f"{name:28}{rate:12,.0f}{rate:12,.0f}{100 * microseconds[name] / on_host:10.0f} %")
    lines.append(f"{'all four, one thread':28}{alone:12,.0f}{alone:12,.0f}")
    lines.append(f"{f'the feed, {cores} thread(s)':28}{whole:12,.0f}{whole / cores:12,.0f}")
    lines.append(f"{'transfer to the device(s)':28}{1e6 / max(microseconds['transfer'], 1e-3):12,.0f}")
    device = mesh.devices.flat[0]
    return [*lines, f"{f'the step, {mesh.devices.size} {device.platform} device(s)':28}{step:12,.0f}"]


def _verdict(microseconds: dict[str, float], whole: float, cores: int, step: float) -> list[str]:
    """What the numbers mean, for one process."""
    slowest = max(("read", "decode", "crop", "batch"), key=lambda name: microseconds[name])
    needed = step / (whole / cores)
    lines = [
        f"Of the feed's stages {slowest} binds. "
        f"The step takes {step:,.0f} images/s of this process, which {needed:.2g} core(s) can feed."
    ]
    if whole < step:
        cure = "prepare the data with --pack=256" if slowest in ("decode", "crop") else "put the data on a faster disk"
        lines.append(
            f"The run would be input-bound: the feed gives {100 * whole / step:.0f} % of that with {cores} core(s). "
            f"Give it {int(np.ceil(needed))} cores, or {cure}."
        )
    else:
        lines.append(f"The run would not be input-bound: the feed gives {whole / step:.1f} times that.")
    if jax.default_backend() == "cpu":
        lines.append("On a CPU step and feed share the cores: what the feed takes, the step lacks.")
    return lines


def main(argv: list[str]) -> None:
    """Times the feed of a recipe. Raises AlexNetError."""
    _, config, rest = take_recipe(argv)
    description = (
        "The speed of a recipe's feed, stage by stage, and of its step, and which of the two limits a run. Run it from "
        "the top of a checkout."
    )
    app.Parser(prog="python -m tools.bench_input", description=description, epilog=HELP).parse_args(rest)
    devices.settle()
    print(bench_input(config))


if __name__ == "__main__":
    app.program("tools.bench_input")
