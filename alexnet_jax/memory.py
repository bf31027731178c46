"""Whether a network and its batches can fit at all, told before anything is allocated."""

import math
import os

import jax
from ml_collections import ConfigDict

from alexnet_jax import parts
from alexnet_jax.errors import AlexNetError
from alexnet_jax.network import model as models, placement

_CLASSES = 1000  # where the last layer has as many as the data set, which is not open yet
_FLOAT = 4  # bytes


def check(config: ConfigDict, *, training: bool) -> None:
    """Raises AlexNetError where a recipe needs more memory, at the very least, than there is.

    On the devices: the parameters (in training their gradients and momentum too), the images of a batch, and in
    training the outputs of its layers, which the backward pass reads. On the host: the batches that are prefetched.
    """
    section, copies = ("train", 3) if training else ("eval", 1)
    size, c = config[section].batch_size, config.data
    model = parts.network(config, config.model.towers * config.model[config.model.layers[-1]].features or _CLASSES)
    numbers = models.count_parameters(model, placement.variables(model, c.crop_pixels)["params"])
    outputs = sum(
        math.prod(shape) for name, shape in placement.shapes(model, c.crop_pixels).items() if name.endswith("_out")
    )
    weights = copies * _FLOAT * numbers
    images = size * 3 * (c.crop_pixels if training else c.resize_pixels) ** 2
    batch = images + (size * _FLOAT * model.towers * outputs if training else 0)
    fewer = f"lower config.{section}.batch_size={size}, or give it smaller pictures"
    _compare("the parameters", weights, _of_devices(), "give the layers fewer features, or smaller pictures")
    _compare("the parameters and a batch", weights + batch, _of_devices(), fewer)
    _compare(f"{c.prefetch_batches} batches of images", c.prefetch_batches * images, _of_hosts(), fewer)


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
