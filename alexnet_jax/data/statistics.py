"""The statistics of a data set's pixels that the recipes need: mean, mean image, principal components of color.

They are sums of integers, so any order and any interruption give the same values to the bit.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.data import augment
from alexnet_jax.errors import AlexNetError

JSON, MEAN_IMAGE = "statistics.json", "mean_image.npy"


@dataclasses.dataclass
class Sums:
    """Over images of `pixels` x `pixels`: their count, sum [P, P, 3] and sum of products [3, 3]; all int64."""

    pixels: int
    images: int
    total: np.ndarray
    products: np.ndarray

    @classmethod
    def zero(cls, pixels: int) -> "Sums":
        """The sums over no image."""
        return cls(pixels, 0, np.zeros((pixels, pixels, 3), np.int64), np.zeros((3, 3), np.int64))

    def add(self, image: np.ndarray) -> None:
        """Adds an image, uint8 [H, W, 3]: its short side brought to `pixels`, the center square."""
        resized = augment.resize_short_side(image, self.pixels)
        square = augment.crop_resized(resized, self.pixels, self.pixels, None)
        self.images += 1
        self.total += square
        flat = square.reshape(-1, 3).astype(np.float64)
        self.products += np.rint(flat.T @ flat).astype(np.int64)  # integers below 2**53: exact

    def merge(self, other: "Sums") -> None:
        """Adds other sums of the same size of images."""
        self.images += other.images
        self.total += other.total
        self.products += other.products

    def save(self, path: Path) -> None:
        """As .npz."""
        with path.open("wb") as file:
            np.savez(file, images=self.images, total=self.total, products=self.products)

    @classmethod
    def load(cls, path: Path) -> "Sums":
        """What `save` wrote."""
        with np.load(path) as saved:
            return cls(saved["total"].shape[0], int(saved["images"]), saved["total"], saved["products"])


def write(sums: Sums, split: str, folder: Path) -> None:
    """statistics.json and mean_image.npy (float32 [P, P, 3]) into the folder of a prepared data set.

    The principal components are those of the colors of all pixels (paper, section 4.1): std in levels of
    0..255, largest first, and unit vectors over R, G, B.
    """
    pixels = sums.images * sums.pixels**2
    mean = sums.total.sum(axis=(0, 1)) / pixels
    covariance = sums.products / pixels - np.outer(mean, mean)
    variances, vectors = np.linalg.eigh(covariance)
    vectors = vectors * np.where(vectors.sum(axis=0) < 0, -1, 1)  # the sign is free: it must not depend on the library
    text = json.dumps(
        {
            "split": split,
            "images": sums.images,
            "pixels": sums.pixels,
            "mean": mean.round(4).tolist(),
            "std": np.sqrt(np.maximum(variances[::-1], 0)).round(4).tolist(),
            "vectors": vectors.T[::-1].round(6).tolist(),
        },
        indent=2,
    )
    mean_image = (sums.total / sums.images).astype(np.float32)
    files.write(folder / MEAN_IMAGE, lambda growing: np.save(growing, mean_image))
    files.write_text(folder / JSON, text + "\n")


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
    return augment.crop_resized(augment.resize_short_side(np.load(folder / MEAN_IMAGE), short), short, pixels, None)


def _stored(folder: Path | None, name: str, otherwise: str) -> dict[str, Any]:
    path = folder / JSON if folder else None
    if path is None or not path.exists():
        raise AlexNetError(
            f"{name} has no statistics: compute them with alexnet prepare statistics {name}, or set {otherwise}."
        )
    stored: dict[str, Any] = files.read_json(path)
    return stored
