"""Computes the statistics of a data set that recipes need: mean, mean image, principal components of color.

They are sums of integers, so any order gives the same values to the bit.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import files, progress
from alexnet_jax.data import feed, preprocess, sources
from alexnet_jax.data.statistics import JSON, MEAN_IMAGE, mean_of
from alexnet_jax.errors import AlexNetError


@dataclasses.dataclass
class Sums:
    """Over images of P x P pixels: their count, sum [P, P, 3] and sum of products [3, 3]; all int64."""

    images: int
    total: np.ndarray
    products: np.ndarray

    @classmethod
    def zero(cls, pixels: int) -> "Sums":
        """The sums over no image."""
        return cls(0, np.zeros((pixels, pixels, 3), np.int64), np.zeros((3, 3), np.int64))

    def add(self, image: np.ndarray) -> None:
        """Adds an image, uint8 [H, W, 3]: its short side brought to P, the center square."""
        pixels = len(self.total)
        square = preprocess.crop_resized(preprocess.resize_short_side(image, pixels), pixels, pixels)
        flat = square.reshape(-1, 3).astype(np.float64)
        self.merge(Sums(1, square, np.rint(flat.T @ flat).astype(np.int64)))  # integers below 2**53: exact

    def merge(self, other: "Sums") -> None:
        """Adds other sums of the same size of images."""
        self.images += other.images
        self.total += other.total
        self.products += other.products


def write(sums: Sums, folder: Path) -> None:
    """Those of the split train: statistics.json and mean_image.npy (float32 [P, P, 3]) in a prepared set's folder.

    The principal components are those of the colors of all pixels (paper, section 4.1): std in levels of
    0..255, largest first, and unit vectors over R, G, B.
    """
    pixels = sums.images * len(sums.total) ** 2
    mean = sums.total.sum(axis=(0, 1)) / pixels
    covariance = sums.products / pixels - np.outer(mean, mean)
    variances, vectors = np.linalg.eigh(covariance)
    vectors = vectors * np.where(vectors.sum(axis=0) < 0, -1, 1)  # the sign is free: it must not depend on the library
    text = json.dumps(
        {
            "split": "train",
            "images": sums.images,
            "pixels": len(sums.total),
            "mean": mean.round(4).tolist(),
            "std": np.sqrt(np.maximum(variances[::-1], 0)).round(4).tolist(),
            "vectors": vectors.T[::-1].round(6).tolist(),
        },
        indent=2,
    )
    mean_image = (sums.total / sums.images).astype(np.float32)
    files.write(folder / MEAN_IMAGE, lambda growing: np.save(growing, mean_image))
    files.write_text(folder / JSON, text + "\n")


def compute(name: str, data_dir: Path, threads: int) -> None:
    """Writes the statistics of a prepared data set's split train beside it. Raises AlexNetError."""
    split = sources.open_split(name, "train", str(data_dir))
    if split.folder is None:
        raise AlexNetError(f"{name} lies in no folder, and the recipes know its means: there is nothing to do.")
    total, size = Sums.zero(256), len(split.source)
    parts = [range(i, min(i + 100, size)) for i in range(0, size, 100)]

    def sums_of(n: int) -> Sums:
        sums = Sums.zero(256)
        for i in parts[n]:
            with contextlib.suppress(ValueError):  # training will name it
                sums.add(preprocess.decode(split.source[i]["image"]))
        return sums

    for sums in counted(sums_of, [len(part) for part in parts], threads, name):
        total.merge(sums)
    if not total.images:
        raise AlexNetError(f"None of the {size:,} pictures of {name} can be decoded: prepare it again.")
    write(total, split.folder)
    print(f"{split.folder / JSON}: channel means {mean_of(split.folder, name)}")


def counted(
    compute: Callable[[int], Any], sizes: Sequence[int], threads: int, name: str, *, done: int = 0
) -> Iterator[Any]:
    """compute(0), compute(1), ... of `sizes` images each, in order, several at a time.

    `done` images were computed before. Progress is a bar on a terminal, else a line every ten seconds.
    """
    printed, total = time.monotonic(), done + sum(sizes)
    results = feed.computed_ahead(0, len(sizes), compute, feed.Feed(threads, prefetch_batches=2 * threads))
    with contextlib.closing(results), progress.bar(total=total, done=done, what=name, unit="image") as bar:  # type: ignore[type-var]
        for size, result in zip(sizes, results, strict=True):
            yield result
            done += size
            bar.update(size)
            if bar.disable and time.monotonic() - printed > 10:
                printed = time.monotonic()
                print(f"{name}: {done:,} of {total:,} images", flush=True)
