"""Pictures as people have them, files or in memory: checked, turned upright, and the squares that networks see of them.

A file goes the way that it goes in training and evaluation: a JPEG of twice the size that is needed, or more, is
decoded at a half or less of it. Pixels are resized from all of them, as the feed does with a data set of arrays.
"""

import collections
import contextlib
import io
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from alexnet_jax.data import feed, preprocess
from alexnet_jax.errors import AlexNetError

Picture = Any  # a path, a PIL image, or uint8 [H, W, 3]
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError)  # what Pillow raises for a file that is damaged, or closed
_KINDS = "paths, PIL images or uint8 arrays [H, W, 3]"


def batches(images: Picture | Iterable[Picture], pixels: int, size: int) -> tuple[Iterator[np.ndarray], bool]:
    """(uint8 [up to `size`, pixels, pixels, 3], batch after batch; whether `images` are several).

    The short side is brought to `pixels` and the center square cropped, as in evaluation. Threads read a batch ahead,
    and no more. Raises AlexNetError for what is not a picture, and when it is iterated.
    """
    found, several = _listed(images)

    def read() -> Iterator[np.ndarray]:
        named = ((image, f"images[{i}]" if several else "images") for i, image in enumerate(found))
        squares = in_threads(lambda one: square(one[0], pixels, one[1]), named, ahead=size if several else 0)
        while batch := list(itertools.islice(squares, size)):
            yield np.stack(batch)

    return read(), several


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], *, ahead: int) -> Iterator[Any]:
    """`function` of each item, in order; a thread for each core computes it for up to `ahead` items before."""
    if not ahead:  # to start threads takes longer than a small picture
        yield from map(function, items)
        return
    futures = collections.deque[Future[Any]]()
    with ThreadPoolExecutor(feed.parallelism(0, 0)[0]) as pool:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()


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
    elif isinstance(image, Image.Image):
        try:
            rgb = np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
        except _DAMAGED as error:  # read only now
            raise AlexNetError(f"{name} is a PIL image that cannot be decoded ({error}).") from error
    else:
        rgb = _checked_array(_array(image, name), name)
    return preprocess.crop_resized(rgb, pixels, pixels)


def read(path: Path, *, at_least: int) -> np.ndarray:
    """The pixels of a file, uint8 [H, W, 3], turned upright as `alexnet prepare` does; a large JPEG is scaled down.

    No side of it gets under `at_least` pixels. Raises AlexNetError.
    """
    try:
        if path.is_dir():
            raise AlexNetError(f"{path} is a folder: name its pictures, such as sorted(Path({str(path)!r}).iterdir()).")
        data = path.read_bytes()
        scaled = _scaled_jpeg(data, at_least)
        return decode(data, own=True)[0] if scaled is None else scaled
    except OSError as error:
        raise AlexNetError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise AlexNetError(f"{path} is not a decodable image ({error}).") from error


def _scaled_jpeg(data: bytes, at_least: int) -> np.ndarray | None:
    """A gray or RGB JPEG without damage, upright; None for any other file. Four times as fast as `decode`."""
    with contextlib.suppress(Image.DecompressionBombError, *_DAMAGED), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of very large pictures
        opened = Image.open(io.BytesIO(data))
        if isinstance(opened, JpegImageFile) and opened.mode in ("L", "RGB"):
            pixels = preprocess.decode_jpeg(data, at_least=at_least)
            if (mark := opened.getexif().get(0x0112, 1)) == 1:
                return pixels
            turned = Image.fromarray(pixels)
            turned.getexif()[0x0112] = mark
            return np.asarray(ImageOps.exif_transpose(turned))
    return None


def _array(image: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AlexNetError(
            f"{name} is of type {type(image).__name__}: give {_KINDS}; inside jit, grad and vmap use net.apply."
        ) from error


def _checked_array(array: np.ndarray, name: str) -> np.ndarray:
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


def decode(data: bytes, *, own: bool) -> tuple[np.ndarray, bool]:
    """(the pixels of a picture, uint8 [H, W, 3] RGB, alpha over white; whether its bytes can be stored as they are).

    Gray and RGB JPEGs can, and among `own` pictures 8-bit PNGs; not CMYK, WebP, 16 bits, what has an alpha channel, and
    `own` ones that their orientation mark turns. Raises ValueError for what is not a whole picture.
    """
    if not data:
        raise ValueError("zero bytes")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as opened:
            warnings.simplefilter("ignore")
            is_known = opened.format in (("JPEG", "PNG") if own else ("JPEG",)) and opened.mode in ("L", "RGB")
            turned = own and opened.getexif().get(0x0112, 1) != 1
            is_plain = is_known and not turned and "transparency" not in opened.info
            opened.load()  # to its last byte: what is truncated ends here
            picture = opened if is_plain else _as_rgb(ImageOps.exif_transpose(opened) if turned else opened)
            return np.asarray(picture.convert("RGB")), is_plain
    except Image.DecompressionBombError as error:
        raise ValueError(f"more pixels than a photograph has ({error})") from error
    except UnidentifiedImageError as error:
        raise ValueError("no image") from error
    except _DAMAGED as error:
        raise ValueError(f"damaged: {error}") from error


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Any picture as 8-bit RGB, alpha over white."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return picture.convert("RGB")
