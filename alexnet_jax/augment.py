"""What is done to one image on the host: NumPy and OpenCV only, since worker threads and processes import it."""

import cv2
import numpy as np

cv2.setNumThreads(0)  # the threads of the feed are the parallelism


def decode(image: bytes | np.ndarray) -> np.ndarray:
    """An encoded image (JPEG, PNG, ...) or an array [H, W, 1 or 3] -> uint8 [H, W, 3], RGB.

    A camera's orientation mark is ignored, as TFDS and the 2012 source ignore it. Raises ValueError
    when the bytes are no image.
    """
    if isinstance(image, np.ndarray):
        return np.broadcast_to(image, (*image.shape[:2], 3))
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), flags) if image else None
    if pixels is None:
        raise ValueError(f"{len(image)} bytes that are no image OpenCV can read")
    return np.asarray(pixels)


def resize_short_side(image: np.ndarray, pixels: int) -> np.ndarray:
    """[H, W, 3] with its short side brought to `pixels`: cubic where it grows, by area where it shrinks.

    The interpolation of the authors' make-data.py (cuda-convnet2).
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if short == pixels:
        return image
    size = (max(pixels, round(width * pixels / short)), max(pixels, round(height * pixels / short)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if short < pixels else cv2.INTER_AREA))


def crop(image: np.ndarray, pixels: int, rng: np.random.Generator | None) -> np.ndarray:
    """[H, W, 3] -> [pixels, pixels, 3]: anywhere, each place as likely, or the centre without `rng`."""
    spare = np.asarray(image.shape[:2]) - pixels
    top, left = spare // 2 if rng is None else rng.integers(0, spare + 1)
    return image[top : top + pixels, left : left + pixels]
