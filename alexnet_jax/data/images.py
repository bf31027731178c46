"""Pictures as a person has them, on disk or in memory, to the squares that the network's views are cut from.

A file goes the way that it goes in training and evaluation: a JPEG of twice the size that is needed, or more, is
decoded at a half or less of it. Pixels are resized from all of them, as the feed does with a data set of arrays.
"""

import io
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from alexnet_jax.data import augment, pictures
from alexnet_jax.errors import AlexNetError

Picture = Any  # a path, a PIL image, or uint8 [H, W, 3]
_KINDS = "paths, PIL images or uint8 arrays [H, W, 3]"


def batches(images: Picture | Iterable[Picture], pixels: int, size: int) -> tuple[Iterator[np.ndarray], bool]:
    """(uint8 [up to `size`, pixels, pixels, 3], batch after batch; whether `images` are several).

    The short side is brought to `pixels` and the center square cropped, as in evaluation. No more than a batch is read
    ahead. Raises AlexNetError for what is not a picture, and when it is iterated.
    """
    found, several = _listed(images)

    def read() -> Iterator[np.ndarray]:
        named = ((image, f"images[{i}]" if several else "images") for i, image in enumerate(found))
        squares = (square(image, pixels, name) for image, name in named)
        while batch := list(itertools.islice(squares, size)):
            yield np.stack(batch)

    return read(), several


def _listed(images: Picture | Iterable[Picture]) -> tuple[Iterable[Picture], bool]:
    """(the pictures one by one, whether they are several)."""
    if isinstance(images, str | os.PathLike | Image.Image | bytes | bytearray | dict):
        return [images], False
    if isinstance(images, Iterable) and not hasattr(images, "shape"):
        return images, True
    # An array: [H, W, 3] is a picture, [B, H, W, 3] several, and [N] may hold paths.
    array = _array(images, "images")
    return (array, True) if array.ndim in (1, 4) else ([array], False)


def square(image: Picture, pixels: int, name: str = "image") -> np.ndarray:
    """uint8 [pixels, pixels, 3] of one picture, called `name` where it is not one. Raises AlexNetError."""
    if isinstance(image, str | os.PathLike):
        rgb = read(Path(image), at_least=pixels)
    else:
        rgb = _upright(image, name) if isinstance(image, Image.Image) else _checked(_array(image, name), name)
    return augment.crop_resized(rgb, pixels, pixels, None)


def read(path: Path, *, at_least: int) -> np.ndarray:
    """The pixels of a file, uint8 [H, W, 3], turned upright as `alexnet prepare` does; a large JPEG is scaled down.

    No side of it gets under `at_least` pixels. Raises AlexNetError.
    """
    try:
        if path.is_dir():
            raise AlexNetError(f"{path} is a folder: name its pictures, such as sorted(Path({str(path)!r}).iterdir()).")
        data = path.read_bytes()
        whole = pictures.checked(data, own=True, encoded=False)[1]
    except OSError as error:
        raise AlexNetError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise AlexNetError(f"{path} is not a decodable image ({error}).") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of very large pictures
        opened = Image.open(io.BytesIO(data))
    if not isinstance(opened, JpegImageFile) or opened.mode not in ("L", "RGB"):
        return whole
    scaled = Image.fromarray(augment.decode(data, at_least=at_least))
    scaled.getexif().update(opened.getexif())
    return np.asarray(ImageOps.exif_transpose(scaled))


def _upright(image: Image.Image, name: str) -> np.ndarray:
    try:
        return np.asarray(pictures.as_rgb(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # read only now, and damaged, or closed
        raise AlexNetError(f"{name} is a PIL image that cannot be decoded ({error}).") from error


def _array(image: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AlexNetError(
            f"{name} is of type {type(image).__name__}: give {_KINDS}; inside jit, grad and vmap use net.apply."
        ) from error


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    """The array, if it is a picture. Raises AlexNetError."""
    if not array.ndim or array.dtype.kind not in "buif":
        kind = f"an array of {array.dtype}" if array.ndim else f"of type {type(array.item()).__name__}"
        raise AlexNetError(f"{name} is {kind}: give {_KINDS}.")
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        hint = ": x.transpose(1, 2, 0) puts the channels last" if array.ndim == 3 and array.shape[0] == 3 else ""
        raise AlexNetError(f"{name} has the shape {array.shape}, but a picture is [H, W, 3], RGB{hint}.")
    if array.dtype != np.uint8:
        low, high = array.min(), array.max()
        cure = "(255 * x).astype('uint8')" if array.dtype.kind in "bf" and high <= 1 else "x.astype('uint8')"
        raise AlexNetError(
            f"{name} has the dtype {array.dtype} and values from {low} to {high}, but pixels are uint8 in 0..255: "
            f"convert it, such as {cure}."
        )
    return array
