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
    """Raises AlexNetError where the recipe needs more memory, at the very least, than all devices have together.

    Counted are the parameters (in training their gradients and momentum too), the images of one batch, and in training
    the outputs of its layers, which the backward pass reads.
    """
    size = config.train.batch_size if training else config.eval.batch_size
    weights, image = _bytes(config, training=training)
    needed, there = weights + size * image, _there()
    if needed <= there:
        return
    batch = f"lower config.{'train' if training else 'eval'}.batch_size={size}, or give it smaller pictures"
    cure = batch if weights <= there / 2 else "give its layers fewer features, or it smaller pictures"
    raise AlexNetError(
        f"This needs at least {needed / 1e9:,.1f} GB of memory ({weights / 1e9:,.1f} GB for the parameters, "
        f"{size * image / 1e9:,.1f} GB for a batch), and there are {there / 1e9:,.1f} GB: {cure}."
    )


def _bytes(config: ConfigDict, *, training: bool) -> tuple[int, int]:
    """(bytes of what belongs to the parameters, bytes of one image of a batch and what is computed from it)."""
    model = parts.network(config, config.model.towers * config.model[config.model.layers[-1]].features or _CLASSES)
    pixels, copies = config.data.crop_pixels, 3 if training else 1
    numbers = models.count_parameters(model, placement.variables(model, pixels)["params"])
    outputs = sum(math.prod(shape) for name, shape in placement.shapes(model, pixels).items() if name.endswith("_out"))
    image = 3 * (pixels if training else config.data.resize_pixels) ** 2
    return copies * _FLOAT * numbers, image + (_FLOAT * model.towers * outputs if training else 0)


def _there() -> int:
    """Bytes of memory of all devices; those of a CPU share that of its machine."""
    device = jax.local_devices()[0]
    limit = None if device.platform == "cpu" else (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(limit) * jax.device_count()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * jax.process_count()
