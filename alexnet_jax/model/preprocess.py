"""From uint8 pixels to what the network is given, on the device: mean, std, channel order, views, augmentation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

# Folded into an example's key, for its flip and its color noise; dropout folds in the number of its layer.
_FLIP, _COLOR = 1_000_000, 1_000_001

Views = tuple[tuple[int, int, bool], ...]  # top, left, mirrored


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


# ---------------------------------------------------------------- views of a test image


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


# ---------------------------------------------------------------- augmentation of a training batch


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
