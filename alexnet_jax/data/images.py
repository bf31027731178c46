"""Pictures in memory or on disk, as a person hands them over, to the squares that the network's views are cut from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data import augment, pictures
from alexnet_jax.errors import AlexNetError

Picture = Any  # a path, a PIL image, or uint8 [H, W, 3] or [B, H, W, 3]


def squares(images: Picture | Sequence[Picture], pixels: int) -> tuple[np.ndarray, bool]:
    """(uint8 [N, pixels, pixels, 3], whether several pictures were given).

    The short side is brought to `pixels` and the center square cropped, as in evaluation. Raises AlexNetError.
    """
    if isinstance(images, str | os.PathLike) or not isinstance(images, Sequence):
        array = None if isinstance(images, str | os.PathLike) else _array(images)
        if array is None or array.ndim != 4:
            return _square(images if array is None else array, pixels)[None], False
        several: Sequence[Picture] = list(array)
    else:
        several = images
    if not len(several):
        raise AlexNetError("images is empty: give at least one picture.")
    return np.stack([_square(image, pixels) for image in several]), True


def _square(image: Picture, pixels: int) -> np.ndarray:
    rgb = _read(Path(image)) if isinstance(image, str | os.PathLike) else _array(image)
    if rgb.ndim != 3:
        raise AlexNetError(f"images have the shape {rgb.shape}: a picture is [H, W, 3], several are [B, H, W, 3].")
    return augment.crop_resized(rgb, pixels, pixels, None)


def _read(path: Path) -> np.ndarray:
    """The pixels of a file, upright. Raises AlexNetError."""
    if path.is_dir():
        raise AlexNetError(f"{path} is a folder: name its pictures, such as sorted(Path({str(path)!r}).iterdir()).")
    try:
        return pictures.checked(path.read_bytes(), own=True, encoded=False)[1]
    except OSError as error:
        raise AlexNetError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise AlexNetError(f"{path} is not a decodable image ({error}).") from error


def _array(image: Any) -> np.ndarray:
    """A PIL image upright, or an array as it is; uint8 [H, W, 3] or [B, H, W, 3]. Raises AlexNetError."""
    from PIL import Image, ImageOps

    if isinstance(image, Image.Image):
        return np.asarray(pictures.as_rgb(ImageOps.exif_transpose(image)))
    try:
        array = np.asarray(image)
    except (TypeError, ValueError) as error:
        raise AlexNetError(f"images is a {type(image).__name__}: give paths, PIL images or uint8 arrays.") from error
    if array.dtype == object or not array.ndim:
        raise AlexNetError(f"images is a {type(image).__name__}: give paths, PIL images or uint8 arrays.")
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise AlexNetError(
            f"images have the shape {array.shape}: a picture is [H, W, 3] and several are [B, H, W, 3], RGB."
        )
    if array.dtype != np.uint8:
        raise AlexNetError(
            f"images have the dtype {array.dtype}: they must be uint8 in 0..255 (floats in 0..1: multiply by 255 "
            "first; net.apply takes floats in 0..255)."
        )
    return array
