"""One image on the host: decoded, resized, cropped. NumPy, OpenCV and libjpeg-turbo only: workers import this."""

import threading

import cv2
import numpy as np
import simplejpeg

cv2.setNumThreads(0)  # the threads of the feed are the parallelism
_THREAD, _MOST_KEPT = threading.local(), 1 << 24  # bytes


def decode(image: bytes | np.ndarray, *, at_least: int = 0, for_now: bool = False) -> np.ndarray:
    """An encoded image (JPEG, PNG, WebP, ...) or an array [H, W, 1 or 3] -> uint8 [H, W, 3], RGB.

    A JPEG may be decoded at half its size or less, as long as no side has under `at_least` pixels;
    0 is its own size. A camera's orientation mark is ignored, as TFDS and the 2012 source ignore it.
    `for_now`: the next image that this thread decodes so may lie in the same memory, which is
    faster. Raises ValueError for bytes that are not a whole image.
    """
    if isinstance(image, np.ndarray):
        return image if image.shape[2] == 3 else np.broadcast_to(image, (*image.shape[:2], 3))
    if image[:2] == b"\xff\xd8":
        try:
            size = at_least or 1 << 16
            # The factors between 1 and 2 are slower than no scaling: libjpeg-turbo has no SIMD for them.
            scale = {"min_height": size, "min_width": size, "min_factor": 2}
            buffer = _own_memory(simplejpeg.decode_jpeg_header(image, **scale)[:2]) if for_now else None
            return np.asarray(simplejpeg.decode_jpeg(image, "RGB", buffer=buffer, **scale))
        except ValueError:
            pass  # CMYK, or damage that OpenCV may be able to pass over
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), flags) if image else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ValueError(f"{len(image):,} bytes that are not a whole image")
    return np.asarray(pixels)


def _own_memory(shape: tuple[int, int]) -> np.ndarray | None:
    """What this thread decodes into, time after time, as another place for every image would cost page faults.

    It begins 16 bytes behind a line of the cache, as large blocks do that malloc gives: libjpeg-turbo fills others up
    to a fifth more slowly.
    """
    needed = 3 * shape[0] * shape[1]
    if needed > _MOST_KEPT:
        return None
    kept = getattr(_THREAD, "memory", None)
    if kept is None or kept.size < needed:
        block = np.empty(needed + 64, np.uint8)
        kept = _THREAD.memory = block[(16 - block.ctypes.data) % 64 :]
    return kept


def resized_shape(height: int, width: int, short: int) -> tuple[int, int]:
    """(height, width) of an image resized to a short side of `short` pixels."""
    scale = short / min(height, width)
    return max(short, round(height * scale)), max(short, round(width * scale))


def resize_short_side(image: np.ndarray, pixels: int) -> np.ndarray:
    """[H, W, 3] resized to a short side of `pixels`: bicubic where it grows, by area where it shrinks.

    The interpolation of the authors' make-data.py (cuda-convnet2).
    """
    height, width = resized_shape(image.shape[0], image.shape[1], pixels)
    if (height, width) == image.shape[:2]:
        return image
    way = cv2.INTER_CUBIC if min(image.shape[:2]) < pixels else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, (width, height), interpolation=way))


def crop_resized(
    image: np.ndarray,
    short: int,
    pixels: int,
    place: np.ndarray | None,
    out: np.ndarray | None = None,
    *,
    in_center: bool = False,
) -> np.ndarray:
    """[H, W, 3] -> [pixels, pixels, 3]: a square of the image whose short side has `short` pixels.

    `place` is two numbers in [0, 1): how far down and to the right among all the places there are,
    each as likely; None is the center. With `in_center` the places are those within the center square of
    the image: 33 x 33 of them for 224 pixels of 256, as in 2012 (`convdata_jpeg.py`; the paper's 2048
    crops with mirroring would be 32 x 32). `out` takes the result where it is given. Only the square
    is resized, after it was cut out to the nearest pixel.

    Differs: bilinear between one and two source pixels a pixel, where `resize_short_side` goes by
    area, which costs more than decoding does. Packed data (`prepare --pack`) has it by area.
    """
    height, width = image.shape[:2]
    corner = []
    for i, side in enumerate(resized_shape(height, width, short)):  # in plain numbers: NumPy's take ten times as long
        spare = side - pixels
        first = (spare - (short - pixels)) // 2 if in_center and place is not None else 0
        corner.append(spare // 2 if place is None else first + int(place[i] * (spare - 2 * first + 1)))
    top, left = corner
    scale = min(height, width) / short  # source pixels a pixel
    if scale == 1:
        square = image[top : top + pixels, left : left + pixels]
        if out is None:
            return square
        out[:] = square
        return out
    size = max(1, min(round(pixels * scale), height, width))
    top, left = min(round(top * scale), height - size), min(round(left * scale), width - size)
    way = cv2.INTER_CUBIC if scale < 1 else cv2.INTER_LINEAR if scale < 2 else cv2.INTER_AREA
    square = image[top : top + size, left : left + size]
    return np.asarray(cv2.resize(square, (pixels, pixels), dst=out, interpolation=way))
