"""Whether a network and its batches fit: at all, before anything is allocated, and exactly, once it is compiled."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from alexnet_jax.data.preprocess import Input
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import placement
from alexnet_jax.model.alexnet import AlexNet, count_parameters

_FLOAT = 4  # bytes


def check(
    model: AlexNet, inputs: Input, *, field: str, batch_size: int, side_pixels: int, prefetch_batches: int,
    training: bool,
) -> None:  # fmt: skip
    """Raises AlexNetError where a model and its batches need more memory, at the very least, than there is.

    On the devices: the parameters (in training their gradients and momentum too), the images of a batch, `side_pixels`
    wide, and in training the outputs of its layers, which the backward pass reads. On the host: the batches that are
    prefetched. `field` of the config is the batch size.
    """
    weights = _FLOAT * count_parameters(model, placement.variables(model, inputs.crop_pixels)["params"])
    images = batch = batch_size * 3 * side_pixels**2
    ahead = prefetch_batches
    if training:
        shapes = placement.shapes(model, inputs.crop_pixels)
        outputs = sum(math.prod(shape) for name, shape in shapes.items() if name.endswith("_out"))
        weights, batch = 3 * weights, batch + batch_size * _FLOAT * model.towers * outputs
    for what, needed, there, remedy in (
        ("the parameters", weights, _of_devices(), "give the layers fewer features"),
        ("the parameters and a batch", weights + batch, _of_devices(), f"lower {field}={batch_size}"),
        (f"{ahead} batches of images", ahead * images, _of_hosts(), f"lower config.data.prefetch_batches={ahead}"),
    ):
        if needed > there:
            raise AlexNetError(
                f"The memory is not enough: {what} take at least {needed / 1e9:,.1f} GB of {there / 1e9:,.1f} GB: "
                f"{remedy}, or use smaller images."
            )


def _stats() -> dict[str, int]:
    """JAX's statistics of the memory of a device of this process; {} of a CPU, which has that of its machine."""
    return jax.local_devices()[0].memory_stats() or {}


def _of_devices() -> int:
    """Bytes of memory of all devices."""
    return _stats().get("bytes_limit", 0) * jax.device_count() or _of_hosts()


def _of_hosts() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * jax.process_count()


def check_step(compiled: Any, *, batch_size: int, multiple: int) -> str:
    """The memory that a compiled training step takes of each device and that is left there, in words.

    The state and the batch are there already. Raises AlexNetError where it does not fit, with the batch, a `multiple`
    of the rows of the mesh, that would.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return "unknown: this device does not say"
    together = jax.local_device_count() if jax.local_devices()[0].platform == "cpu" else 1
    more = analysis.temp_size_in_bytes + max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
    needed, left = together * (more + analysis.argument_size_in_bytes), _left()
    if together * more > left:
        fits = int(batch_size * left / (together * more)) // multiple * multiple
        cure = f"config.train.batch_size={fits} would fit" if fits else "not even one image a device would fit"
        raise AlexNetError(
            f"A step on {batch_size} images takes {together * more / 1e9:,.1f} GB of memory beside the weights, and "
            f"{left / 1e9:,.1f} GB are left: {cure}, or config.train.accumulate=N, which computes a batch in N parts."
        )
    return f"{needed / 1e9:,.1f} GB for a step, {left / 1e9:,.1f} GB free"


def _left() -> int:
    """Bytes that are free of one device, or of a CPU's memory."""
    stats = _stats()
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else free_of_machine()


def free_of_machine() -> int:
    """Bytes of the machine's memory that nothing uses, or that hold what can be read again."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    line = next((line for line in lines if line.startswith("MemAvailable")), "")
    return int(line.split()[1]) * 1024 if line else _of_hosts()


@contextlib.contextmanager
def shortage_named(what: str) -> Iterator[None]:
    """Raises AlexNetError, one sentence, where `what` runs out of memory inside."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise AlexNetError(
            f"The memory was not enough for {what}: use a smaller config.train.batch_size or config.eval.batch_size, "
            "or config.train.accumulate=N, which computes a batch in N parts."
        ) from error
