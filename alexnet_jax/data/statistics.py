"""The statistics of pixels that are stored beside a data set: mean, mean image, principal components of color."""

from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.data import preprocess
from alexnet_jax.errors import AlexNetError

JSON, MEAN_IMAGE = "statistics.json", "mean_image.npy"


def mean_of(folder: Path | None, name: str) -> tuple[float, ...]:
    """The channel means that are stored with a prepared data set. Raises AlexNetError without any."""
    means = _stored(folder, name, "config.data.mean to its channel means, such as (127.3, 119.7, 104.9)")["mean"]
    return tuple(float(value) for value in means)


def components_of(folder: Path | None, name: str) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """(std, vectors) of the principal components stored with a data set. Raises AlexNetError without any."""
    stored = _stored(folder, name, "config.data.color_noise=0")
    std = stored["std"] if "std" in stored else stored["deviations"]  # as version 0.1 named it
    return tuple(std), tuple(tuple(vector) for vector in stored["vectors"])


def mean_image_of(folder: Path | None, name: str, short: int, pixels: int) -> np.ndarray:
    """The center [pixels, pixels, 3] of the mean image of images whose short side is `short`, float32.

    It is the stored one, resized as images are. Raises AlexNetError without one.
    """
    _stored(folder, name, "config.data.mean_image=false")
    assert folder is not None
    return preprocess.crop_resized(preprocess.resize_short_side(np.load(folder / MEAN_IMAGE), short), short, pixels)


def _stored(folder: Path | None, name: str, otherwise: str) -> dict[str, Any]:
    path = folder / JSON if folder else None
    if path is None or not path.exists():
        raise AlexNetError(
            f"{name} has no statistics: compute them with alexnet prepare statistics {name}, or set {otherwise}."
        )
    stored: dict[str, Any] = files.read_json(path)
    return stored
