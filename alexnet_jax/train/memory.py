"""Whether a network and its batches fit: at all, before anything is allocated, and exactly, once it is compiled."""

import contextlib
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import placement
from alexnet_jax.model.alexnet import AlexNet, count_parameters

_FLOAT = 4  # bytes


def check(
    model: AlexNet,
    *,
    batch_size: int,
    field: str,
    image_pixels: int,
    side_pixels: int,
    prefetch_batches: int,
    training: bool,
) -> None:
    """Raises AlexNetError where a model and its batches need more memory, at the very least, than there is.

    On the devices: the parameters (in training their gradients and momentum too), the images of a batch, and in
    training the outputs of its layers, which the backward pass reads. On the host: the batches that are prefetched.
    `field` of the config is the batch size; its images are `side_pixels` wide, those that the model reads
    `image_pixels`.
    """
    copies = 3 if training else 1
    weights = copies * _FLOAT * count_parameters(model, placement.variables(model, image_pixels)["params"])
    images = batch_size * 3 * side_pixels**2
    shapes = placement.shapes(model, image_pixels)
    outputs = sum(math.prod(shape) for name, shape in shapes.items() if name.endswith("_out"))
    batch = images + (batch_size * _FLOAT * model.towers * outputs if training else 0)
    fewer = f"lower {field}={batch_size}, or give it smaller pictures"
    _compare("the parameters", weights, _of_devices(), "give the layers fewer features, or smaller pictures")
    _compare("the parameters and a batch", weights + batch, _of_devices(), fewer)
    _compare(f"{prefetch_batches} batches of images", prefetch_batches * images, _of_hosts(), fewer)


def _compare(what: str, needed: int, there: int, cure: str) -> None:
    if needed > there:
        raise AlexNetError(
            f"There are {there / 1e9:,.1f} GB of memory, and {what} take at least {needed / 1e9:,.1f} GB: {cure}."
        )


def _of_devices() -> int:
    """Bytes of memory of all devices; those of a CPU share that of its machine."""
    device = jax.local_devices()[0]
    limit = None if device.platform == "cpu" else (device.memory_stats() or {}).get("bytes_limit")
    return int(limit) * jax.device_count() if limit else _of_hosts()


def _of_hosts() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * jax.process_count()


# ---------------------------------------------------------------- the compiled step


def check_step(compiled: Any, *, batch_size: int, multiple: int) -> str:
    """What a compiled training step takes of each device, in words, beside what the device has left.

    The state and the batch are there already. Raises AlexNetError where it does not fit, with the batch, a `multiple`
    of the rows of the mesh, that would.
    """
    found = compiled.memory_analysis()
    if found is None:
        return "not told by this device"
    together = jax.local_device_count() if jax.local_devices()[0].platform == "cpu" else 1
    more = found.temp_size_in_bytes + max(0, found.output_size_in_bytes - found.alias_size_in_bytes)
    needed, left = together * (more + found.argument_size_in_bytes), _left()
    if together * more > left:
        fits = int(batch_size * left / (together * more)) // multiple * multiple
        cure = f"config.train.batch_size={fits} would fit" if fits else "not even one image a device would fit"
        raise AlexNetError(
            f"A step on {batch_size} images takes {together * more / 1e9:,.1f} GB of memory beside the weights, and "
            f"{left / 1e9:,.1f} GB are left: {cure}, or config.train.accumulate=N, which computes a batch in N parts."
        )
    return f"{needed / 1e9:,.1f} GB for a step, {left / 1e9:,.1f} GB free"


def _left() -> int:
    """Bytes that this process can still have of one device, or of a CPU's memory under its limits."""
    device = jax.local_devices()[0]
    stats = (device.memory_stats() or {}) if device.platform != "cpu" else {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return min(free_of_machine(), *_free_of_limits())


def free_of_machine() -> int:
    """Bytes of the machine's memory that nothing uses, or that hold what can be read again."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    line = next((line for line in lines if line.startswith("MemAvailable")), "")
    return int(line.split()[1]) * 1024 if line else _of_hosts()


def _free_of_limits() -> list[int]:
    """What `ulimit` leaves to the process, one number for each limit."""
    path, found = Path("/proc/self/statm"), [sys.maxsize]
    pages = path.read_text().split() if path.exists() else ["0"] * 7
    for limit, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            found.append(max(0, most - int(used) * os.sysconf("SC_PAGE_SIZE")))
    return found


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Raises AlexNetError, one sentence, where the memory ends inside."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise AlexNetError(
            f"The memory was not enough for {what}: use a smaller config.train.batch_size or config.eval.batch_size, "
            "or config.train.accumulate=N, which computes a batch in N parts."
        ) from error
