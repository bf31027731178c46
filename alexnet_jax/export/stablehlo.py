"""A network as a program for JAX alone: StableHLO with the weights in it, for CPUs, GPUs and TPUs."""

import datetime
import importlib.metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from alexnet_jax import files
from alexnet_jax.classifier import Classifier

_PLATFORMS = ("cpu", "cuda", "tpu")
# jax-ml/jax, docs/export/export.md, "Compatibility guarantees": six months, which have 181 days at least.
_READABLE = datetime.timedelta(days=181)


def write(net: Classifier, path: Path, *, pixels: str, today: datetime.date | None = None) -> str:
    """Writes images `pixels` [B, crop, crop, 3], RGB in 0..255 -> logits float32 [B, K]; what was done, in words.

    `pixels` is "uint8" or "float32". The batch size is free, and the weights are constants of the program. `today` is
    the day of the export. Raises AlexNetError where the file cannot be written.
    """
    variables: Any = jax.device_get(net.variables)
    side = net.image_pixels
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, side, side, 3), np.dtype(pixels))
    program = jax.jit(lambda images: net.apply(variables, images))
    content = export.export(program, platforms=_PLATFORMS)(images).serialize()
    files.make_folder(path.parent)
    files.write(path, lambda growing: growing.write_bytes(content))
    version = importlib.metadata.version("jaxlib")
    return (
        f"{path}: StableHLO for {', '.join(_PLATFORMS)}, {len(content) / 1e6:,.1f} MB, images {pixels} "
        f"[B, {side}, {side}, 3] (RGB in 0..255) -> logits float32 [B, {len(net.class_names)}]\n"
        f"JAX promises to read it in releases up to 6 months newer than the jaxlib {version} that "
        f"wrote it: until {(today or datetime.date.today()) + _READABLE} at the latest. Export again before that.\n"
        "With jax and flatbuffers alone:\n"
        "    from jax import export\n"
        f'    net = export.deserialize(open("{path.name}", "rb").read())\n'
        "    logits = net.call(images)"
    )
