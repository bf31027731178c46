"""From the bytes of a picture to what the network is given, in training and in evaluation.

On the host a picture is decoded, resized and cropped to uint8 RGB; on the device come the mean, the std and the order
of the channels, the views of a test image, and the flip and the color noise of a training batch.
"""

import contextlib
import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import simplejpeg

cv2.setNumThreads(0)  # the threads of the feed are the parallelism

# Folded into an example's key, for its flip and its color noise; dropout folds in the number of its layer.
_FLIP, _COLOR = 1_000_000, 1_000_001

Views = tuple[tuple[int, int, bool], ...]  # top, left, mirrored


def decode(image: bytes | np.ndarray, *, at_least: int = 0) -> np.ndarray:
    """An encoded image (JPEG, PNG, WebP, ...) or an array [H, W, 1 or 3] -> uint8 [H, W, 3], RGB.

    A JPEG may be decoded at half its size or less, as long as no side has under `at_least` pixels;
    0 is its own size. A camera's orientation mark is ignored, as TFDS and the 2012 source ignore it.
    Raises ValueError for bytes that are not a whole image.
    """
    if isinstance(image, np.ndarray):
        return image if image.shape[2] == 3 else np.broadcast_to(image, (*image.shape[:2], 3))
    if image[:2] == b"\xff\xd8":
        with contextlib.suppress(ValueError):  # CMYK, or damage that OpenCV may be able to pass over
            return decode_jpeg(image, at_least=at_least)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), flags) if image else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ValueError(f"{len(image):,} bytes that are not a whole image")
    return np.asarray(pixels)


def decode_jpeg(image: bytes, *, at_least: int = 0) -> np.ndarray:
    """As `decode`, of a JPEG in gray or color without damage. Raises ValueError for any other."""
    size = at_least or 1 << 16
    # The factors between 1 and 2 are slower than no scaling: libjpeg-turbo has no SIMD for them.
    return np.asarray(simplejpeg.decode_jpeg(image, "RGB", min_height=size, min_width=size, min_factor=2))


def _resized_shape(height: int, width: int, short: int) -> tuple[int, int]:
    """(height, width) of an image resized to a short side of `short` pixels."""
    scale = short / min(height, width)
    return max(short, round(height * scale)), max(short, round(width * scale))


def resize_short_side(image: np.ndarray, pixels: int) -> np.ndarray:
    """[H, W, 3] resized to a short side of `pixels`: bicubic where it grows, by area where it shrinks.

    The interpolation of the authors' make-data.py (cuda-convnet2).
    """
    height, width = _resized_shape(image.shape[0], image.shape[1], pixels)
    if (height, width) == image.shape[:2]:
        return image
    way = cv2.INTER_CUBIC if min(image.shape[:2]) < pixels else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, (width, height), interpolation=way))


def crop_resized(
    image: np.ndarray, short: int, pixels: int, place: np.ndarray | None = None, *, in_center: bool = False
) -> np.ndarray:
    """[H, W, 3] -> [pixels, pixels, 3]: a square of the image whose short side has `short` pixels.

    `place` is two numbers in [0, 1): how far down and to the right among all the places there are,
    each as likely; None is the center. With `in_center` the places are those within the center square of
    the image: 33 x 33 of them for 224 pixels of 256, as in 2012 (`convdata_jpeg.py`; the paper's 2048
    crops with mirroring would be 32 x 32). Only the square is resized, after it was cut out to the nearest pixel.

    Differs: bilinear between one and two source pixels a pixel, where `resize_short_side` goes by
    area, which costs more than decoding does. Packed data (`prepare --pack`) has it by area.
    """
    height, width = image.shape[:2]
    corner = []
    for i, side in enumerate(_resized_shape(height, width, short)):  # in plain numbers: NumPy's take ten times as long
        spare = side - pixels
        first = (spare - (short - pixels)) // 2 if in_center else 0
        corner.append(spare // 2 if place is None else first + int(place[i] * (spare - 2 * first + 1)))
    top, left = corner
    scale = min(height, width) / short  # source pixels a pixel
    if scale == 1:
        return image[top : top + pixels, left : left + pixels]
    size = max(1, min(round(pixels * scale), height, width))
    top, left = min(round(top * scale), height - size), min(round(left * scale), width - size)
    way = cv2.INTER_CUBIC if scale < 1 else cv2.INTER_LINEAR if scale < 2 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image[top : top + size, left : left + size], (pixels, pixels), interpolation=way))


@dataclasses.dataclass(frozen=True)
class Crop:
    """How a record becomes a square of pixels: its short side to `resize_pixels`, then a crop.

    `square`: random crops stay within the center square. `chunk`: how many neighbors in a batch share
    a crop (32 in 2012, convdata_jpeg.py). `random`: where it is is drawn in training; it is the center
    otherwise, as in evaluation, and nothing else that is drawn changes.
    """

    resize_pixels: int
    crop_pixels: int
    square: bool = False
    chunk: int = 1
    random: bool = True

    def __call__(self, image: bytes | np.ndarray, place: np.ndarray | None = None) -> np.ndarray:
        """uint8 [crop, crop, 3]. `place` is as in `crop_resized`. Raises ValueError."""
        pixels = decode(image, at_least=self.resize_pixels)
        return crop_resized(pixels, self.resize_pixels, self.crop_pixels, place, in_center=self.square)


@dataclasses.dataclass(frozen=True)
class Input:
    """How pixels become the network's input.

    `mean` is [3], or [crop, crop, 3] for a mean image, and `std` three numbers; both are over R, G, B in 0..255.
    """

    crop_pixels: int
    mean: np.ndarray
    std: tuple[float, ...] = (1.0, 1.0, 1.0)  # what is left after the mean is divided by it
    bgr: bool = False  # blue first, as in Caffe

    def __call__(self, images: jax.Array) -> jax.Array:
        """RGB [B, crop, crop, 3] in 0..255 -> float32 as the network reads it."""
        return self.finished(self.centered(images))

    def centered(self, images: jax.Array) -> jax.Array:
        """RGB [B, crop, crop, 3] in 0..255 -> float32 less the mean."""
        mean = self.mean.astype(np.float32)
        return images.astype(jnp.float32) - mean.reshape((1,) * (4 - mean.ndim) + mean.shape)

    def finished(self, images: jax.Array) -> jax.Array:
        """What `centered` gave -> divided by the std, in the network's channel order."""
        if self.std != (1.0, 1.0, 1.0):
            images = images / np.asarray(self.std, np.float32)[None, None, None]
        return images[..., ::-1] if self.bgr else images


def views_of(resize_pixels: int, crop_pixels: int, *, flip: bool) -> Views:
    """The views of a test image: the center first, then the four corners, and with `flip` all of them mirrored.

    There were ten in 2012 (paper, section 4.1); there are fewer where the crop is the whole image or where a
    mirrored image means something else.
    """
    spare = resize_pixels - crop_pixels
    places = [(spare // 2, spare // 2), *((top, left) for top in (0, spare) for left in (0, spare))]
    kinds = (False, True) if flip else (False,)
    return tuple(dict.fromkeys((top, left, mirror) for mirror in kinds for top, left in places))


def crop_view(images: jax.Array, view: jax.Array, crop_pixels: int) -> jax.Array:
    """One view, [3] int32 as in `Views`, of [B, H, W, 3]."""
    size = (images.shape[0], crop_pixels, crop_pixels, 3)
    zero = jnp.zeros_like(view[0])  # all of one dtype, also in float64 mode
    crop = jax.lax.dynamic_slice(images, (zero, view[0], view[1], zero), size)
    return jnp.where(view[2] > 0, crop[:, :, ::-1], crop)


def mirrored(images: jax.Array, flips_B: jax.Array) -> jax.Array:
    """[B, H, W, 3] with left and right exchanged where `flips_B` says so."""
    return jnp.where(flips_B[:, None, None, None], images[:, :, ::-1], images)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to the images of a training batch on the device.

    `flip` mirrors half of them; it is drawn once for each `chunk` of neighboring images. `colors` is
    [3, 3]: one row per principal component, its unit vector over R, G, B times the std of the noise
    along it, in levels of 0..255; with None there is none. `shrink` divides what got noise. Each of
    `color_steps` is the first step with noise and the first without.
    """

    flip: bool = False
    chunk: int = 1
    colors: np.ndarray | None = None
    shrink: float = 1.0
    color_steps: tuple[tuple[int, ...], ...] = ()

    def __call__(
        self, pixels: jax.Array, inputs: Input, *, step: jax.Array, step_key: jax.Array, place_B: jax.Array
    ) -> jax.Array:
        """uint8 RGB [B, crop, crop, 3] -> the network's input, augmented; `place_B` as in a training batch."""
        if self.flip:
            pixels = mirrored(pixels, self.flips(step_key, place_B))
        keys_B = fold_in_each(step_key, place_B)
        return inputs.finished(self.colored(inputs.centered(pixels), keys_B, step))

    def flips(self, step_key: jax.Array, place_B: jax.Array) -> jax.Array:
        """Which images are mirrored, [B] bool."""
        keys_B = fold_in_each(step_key, place_B // self.chunk)
        return jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, _FLIP)))(keys_B)

    def colored(self, images: jax.Array, keys_B: jax.Array, step: jax.Array) -> jax.Array:
        """float32 RGB less the mean -> with the color noise of the paper's section 4.1, one draw per image."""
        if self.colors is None:
            return images
        draws_B3 = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, _COLOR), (3,), jnp.float32))(keys_B)
        noise_B3 = jnp.matmul(draws_B3, self.colors.astype(np.float32), precision=jax.lax.Precision.HIGHEST)
        colored = (images + noise_B3[:, None, None, :]) / np.float32(self.shrink)
        noisy = functools.reduce(jnp.logical_or, [(step >= first) & (step < end) for first, end in self.color_steps])
        return jnp.where(noisy, colored, images)


def fold_in_each(key: jax.Array, number_B: jax.Array) -> jax.Array:
    """[B] keys, one for each number."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, number_B)
