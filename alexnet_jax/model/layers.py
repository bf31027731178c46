"""The operations that Flax lacks, or that XLA runs badly where the towers share a device.

Shapes: `B` batch, `H W` space, `C` channels of one tower. Everything is written for one tower. Activations are float32
or bfloat16, and so is what is multiplied; parameters are float32, and so are sums.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.errors import AlexNetError
from alexnet_jax.model.cpu_products import tower_conv, tower_matmul
from alexnet_jax.model.towers import TOWER, own_units

Initializer = Callable[..., jax.Array]  # (key, shape, dtype) -> array


@dataclasses.dataclass(frozen=True)
class Normal:
    """Gaussian weights, not truncated (2012 source, layers-145.cfg). Equal to another of the same `std`."""

    std: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return nn.initializers.normal(self.std)(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same number everywhere."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return nn.initializers.constant(self.value)(key, shape, dtype)


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Uniform within 1 / sqrt(fan-in) of a kernel [..., units], PyTorch's default for its Conv2d and Linear."""
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Conv(nn.Module):
    """A tower's convolution with bias: [B, H, W, C] -> [B, H', W', features], before the nonlinearity.

    `padding` is as in `tower_conv`; the other fields are as in `Dense`.
    """

    features: int
    kernel_size: int
    stride: int
    padding: tuple[int, int]
    kernel_init: Initializer = fan_in_uniform
    bias_init: Initializer | None = None
    weight_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = _weights(self, (self.kernel_size, self.kernel_size, x.shape[-1], self.features))
        y = tower_conv(x, kernel, stride=self.stride, padding=self.padding)
        return (y + _last_axis(bias, x.ndim)).astype(x.dtype)


class Dense(nn.Module):
    """A tower's fully connected layer with bias: [B, C] -> [B, features] float32, before the nonlinearity.

    `bias_init` None is uniform within 1 / sqrt(fan-in) of the kernel, as in PyTorch. With `weight_norm` the weights of
    a unit are scale * v / |v| (Salimans and Kingma 2016, arXiv 1602.07868, equation 2); `kernel` is v, and `scale`
    starts as |v|. All parameters are float32.
    """

    features: int
    kernel_init: Initializer = fan_in_uniform
    bias_init: Initializer | None = None
    weight_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = _weights(self, (x.shape[-1], self.features))
        return tower_matmul(x, kernel) + _last_axis(bias, x.ndim)


def _weights(layer: Conv | Dense, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The kernel, [..., units], and the bias, [units], of a layer."""

    def as_kernel(key: jax.Array, bias_shape: tuple[int, ...], dtype: Any) -> jax.Array:
        bound = math.prod(shape[:-1]) ** -0.5
        return jax.random.uniform(key, bias_shape, dtype, -bound, bound)

    kernel = layer.param("kernel", layer.kernel_init, shape, jnp.float32)
    bias = layer.param("bias", layer.bias_init or as_kernel, shape[-1:], jnp.float32)
    if layer.weight_norm:
        length = jnp.sqrt((kernel * kernel).sum(axis=range(len(shape) - 1)))
        scale = layer.param("scale", lambda _: length)
        kernel = kernel * _last_axis(scale / length, len(shape))
    return kernel, bias


def _last_axis(bias: jax.Array, ndim: int) -> jax.Array:
    return bias.reshape((1,) * (ndim - 1) + bias.shape)


# ---------------------------------------------------------------- response normalization


def channel_norm(
    x: jax.Array,
    *,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    alpha_over_size: bool,
    gather: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Local response normalization across channels: [B, H, W, C] -> the same shape.

    x / (k + a * sum of x^2 over `size` neighboring channels) ** beta, the window centered and cut off
    at the edges. a is alpha / size with `alpha_over_size`, as in the 2012 source (cuda-convnet
    `layer.py`, NormLayerParser), Caffe and PyTorch; without it alpha, as the paper writes it (section
    3.3) and TensorFlow has it. The channels are this tower's, as in 2012; with `gather`, a
    `towers.gather_towers`, those of all towers in their order, as in Caffe, which takes the outermost
    ones from its neighbors: a communication.
    """
    # For an even size the window reaches one further to the left, as in cuda-convnet.
    before, after = (size // 2, size - 1 - size // 2)
    dtype, x = x.dtype, x.astype(jnp.float32)
    wide, offset = (_with_neighbors(x, before, after, gather), before) if gather else (x, 0)
    low = np.arange(x.shape[-1]) + offset - before
    channel = np.arange(wide.shape[-1])[:, None]
    band = ((channel >= low[None]) & (channel < low[None] + size)).astype(np.float32)

    def window_sum(x: jax.Array, of_tangent: bool) -> jax.Array:
        # A band matrix: a matmul, where shifts along the channels are what neither a CPU's vector
        # unit nor a TPU's lanes do well.
        return jnp.matmul(x, band, precision=lax.Precision.HIGHEST)

    return _response_norm(x, wide, window_sum, alpha / size if alpha_over_size else alpha, beta, k).astype(dtype)


def _with_neighbors(x: jax.Array, before: int, after: int, gather: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """[..., C] -> [..., before + C + after]: the last channels of the tower before, the first of the one after.

    Zeros where there is no such tower. Raises AlexNetError where a tower has fewer channels than that.
    """
    channels = x.shape[-1]
    if channels < max(before, after):
        raise AlexNetError(
            f"A response norm across towers reaches over {max(before, after)} channels to each side, but a tower has "
            f"{channels}: use a smaller config.model.norm.size, or more features."
        )
    first, last = x[..., :after], x[..., channels - before :]
    edges = gather(jnp.concatenate([first, last], axis=-1))
    edges = edges.reshape(*x.shape[:-1], -1, first.shape[-1] + last.shape[-1])  # [..., T, first and last]
    tower, none = lax.axis_index(TOWER), ((0, 0),) * (x.ndim - 1)
    edges = jnp.pad(edges, (*none, (1, 1), (0, 0)))
    left = lax.dynamic_index_in_dim(edges, tower, x.ndim - 1, keepdims=False)[..., first.shape[-1] :]
    right = lax.dynamic_index_in_dim(edges, tower + 2, x.ndim - 1, keepdims=False)[..., : first.shape[-1]]
    return jnp.concatenate([left, x, right], axis=-1)


def spatial_norm(x: jax.Array, *, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    """Response normalization over `size` x `size` pixels of each channel: [B, H, W, C] -> the same.

    x / (k + alpha / size^2 * sum of x^2 over the window) ** beta. The paper does not mention it;
    the network of its numbers has it after conv2's LRN (layers-145.cfg, rnorm2).
    """

    def window_sum(x: jax.Array, of_tangent: bool) -> jax.Array:
        edges = (size // 2, size - 1 - size // 2)
        for axis in (2, 1) if of_tangent else (1, 2):  # its transpose, a gradient's sum, has the order of the value
            padding = [edges if a == axis else (0, 0) for a in range(4)]
            x = lax.reduce_window(x, 0.0, lax.add, _along(axis, size), (1,) * 4, padding)
        return x

    wide = x.astype(jnp.float32)
    return _response_norm(wide, wide, window_sum, alpha / size**2, beta, k).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _response_norm(
    x: jax.Array,
    wide: jax.Array,
    window_sum: Callable[[jax.Array, bool], jax.Array],
    scale: float,
    beta: float,
    k: float,
) -> jax.Array:
    """x * d^-beta with d = k + scale * window_sum(wide^2); `wide` is x, or x and what else the windows see.

    Its derivative is written out because the one that autodiff finds costs as much as conv2. In reverse it is
    dx = g d^-beta, dwide = - 2 beta scale wide * W^T(g x d^(-beta-1)).
    """
    return x * _negative_power(k + scale * window_sum(wide * wide, False), beta)


@_response_norm.defjvp
def _response_norm_jvp(window_sum, scale, beta, k, primals, tangents):  # type: ignore[no-untyped-def]
    (x, wide), (dx, dwide) = primals, tangents
    d = k + scale * window_sum(wide * wide, False)
    power = _negative_power(d, beta)
    return x * power, (dx + x * (window_sum(((-2.0 * beta * scale) * wide) * dwide, True) / d)) * power


def _negative_power(d: jax.Array, beta: float) -> jax.Array:
    if beta == 0.75:  # the only value anyone used; two roots are half the time of a power on a CPU
        root = lax.rsqrt(d)
        return root * jnp.sqrt(root)
    return d**-beta


def _along(axis: int, size: int) -> tuple[int, ...]:
    return tuple(size if a == axis else 1 for a in range(4))


# ---------------------------------------------------------------- pooling, dropout


def pool(x: jax.Array, *, kind: str, size: int, stride: int, ceil: bool) -> jax.Array:
    """Max or average pooling, [B, H, W, C] -> [B, (H - size) / stride + 1, ..., C], no padding.

    The division is rounded down, or with `ceil` up, as in cuda-convnet (`layer.py`:1164) and Caffe:
    then a last window may reach beyond the image, and only its pixels inside count. It overlaps where
    `size` > `stride` (paper, section 3.4: 3 and 2). One axis after the other, each as `size` strided
    slices: the gradient of `reduce_window`'s maximum is a select-and-scatter, four times slower on a
    CPU. Equal maxima share the gradient.
    """
    dtype = x.dtype
    x = x.astype(jnp.float32)  # the gradient of a maximum in bfloat16 takes a CPU six times as long
    for axis in (1, 2):
        length = x.shape[axis]
        windows = pooled_length(length, size, stride, ceil)
        beyond = max(0, (windows - 1) * stride + size - length)
        if beyond:
            edges = [(0, beyond if a == axis else 0, 0) for a in range(4)]
            x = lax.pad(x, -np.inf if kind == "max" else 0.0, edges)
        last = (windows - 1) * stride + 1
        slices = [lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(size)]
        x = functools.reduce(jnp.maximum if kind == "max" else jnp.add, slices)
        if kind == "avg":
            inside = np.minimum(np.arange(windows) * stride + size, length) - np.arange(windows) * stride
            x = x / inside.astype(np.float32).reshape(_along(axis, windows))
    return x.astype(dtype)


def pooled_length(length: int, size: int, stride: int, ceil: bool) -> int:
    """How many windows of a pooling there are along `length` pixels; with `ceil` each begins inside."""
    if not ceil:
        return (length - size) // stride + 1
    windows = -(-max(0, length - size) // stride) + 1
    return windows - 1 if (windows - 1) * stride >= length else windows


def dropout(x: jax.Array, *, rate: float, inverted: bool, keys_B: jax.Array | None, split_over: int = 1) -> jax.Array:
    """Dropout: [B, ...] -> the same shape. `keys_B` is a key for each example, None in evaluation.

    As the 2012 source does it (`layer.cu`, HiddenSexLayer; paper, section 4.2): zero with probability
    `rate` in training, and everything times 1 - `rate` in evaluation. `inverted`: what is kept is
    divided by 1 - `rate` in training, and nothing is done in evaluation. Where the last axis is a
    device's share of `split_over`, the mask is that share of the whole one.
    """
    if keys_B is None:
        return x if inverted else x * (1.0 - rate)
    whole = (*x.shape[1:-1], split_over * x.shape[-1])
    keep = own_units(jax.vmap(lambda key: jax.random.bernoulli(key, np.float32(1.0 - rate), whole))(keys_B), split_over)
    return jnp.where(keep, x / (1.0 - rate) if inverted else x, 0.0)
