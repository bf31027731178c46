"""Convolution in bfloat16 on a CPU: XLA:CPU has none, but matmuls on the units for it where a CPU has such.

One matmul of all patches of the images with the kernel. Neighbors in a row share most of their patches: a group of
them has one together, wide enough for all, and the kernel stands in it once for each, shifted. There is less to move
about, which is what takes the time, and more to multiply, half of it by zero. docs/speed.md has the figures.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def conv(x: jax.Array, kernel: jax.Array, *, stride: int, before: int, shape: tuple[int, int]) -> jax.Array:
    """[B, H, W, C] and [k, k, C, M] -> [B, *shape, M] float32, with `before` pixels of padding at the top and left."""
    group = _group(kernel.shape[0], shape[1])
    patches = _patches(x, kernel.shape[0], stride, before, shape, group)
    wide = _wide_kernel(kernel.astype(x.dtype), stride, group)
    y = lax.dot(patches, wide, preferred_element_type=jnp.float32)
    return y.reshape(x.shape[0], *shape, kernel.shape[-1])


def input_gradient(kernel: jax.Array, g: jax.Array, *, before: int, shape: tuple[int, int]) -> jax.Array:
    """dL/dx [B, *shape, C] of a convolution of stride 1: that of g [B, H', W', M] with the kernel turned around."""
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return conv(g, turned, stride=1, before=kernel.shape[0] - 1 - before, shape=shape).astype(g.dtype)


def kernel_gradient(x: jax.Array, g: jax.Array, *, size: int, stride: int, before: int) -> jax.Array:
    """dL/dkernel [k, k, C, M], float32, from x [B, H, W, C] and g [B, H', W', M]."""
    _, height, width, features = g.shape
    group = _group(size, width)
    patches = _patches(x, size, stride, before, (height, width), group)
    # Only a left matrix whose rows are summed over runs on the units. XLA must not see that it is a transposed one.
    rows = g.reshape(-1, height, width // group, group * features).transpose(3, 0, 1, 2).reshape(group * features, -1)
    wide = lax.dot(lax.optimization_barrier(rows), patches, preferred_element_type=jnp.float32)
    wide = lax.optimization_barrier(wide).T
    kernel = jax.ShapeDtypeStruct((size, size, x.shape[-1], features), jnp.float32)
    dkernel: jax.Array = jax.linear_transpose(lambda k: _wide_kernel(k, stride, group), kernel)(wide)[0]
    return dkernel


def _group(size: int, width: int) -> int:
    """How many neighbors have a patch together: up to five, not more than the kernel is wide, without a rest."""
    return max(n for n in range(1, min(size, 5) + 1) if width % n == 0)


def _patches(x: jax.Array, size: int, stride: int, before: int, shape: tuple[int, int], group: int) -> jax.Array:
    """[B, H, W, C] -> [B * H' * W' / group, size * wide * C], where `wide` pixels of a row are what a group sees."""
    (height, width), channels = shape, x.shape[-1]
    step, wide = stride * group, size + stride * (group - 1)
    blocks = -(-wide // step)
    sides = stride * (height - 1) + size, (width // group - 1 + blocks) * step
    edges = [(before, side - n - before, 0) for side, n in zip(sides, x.shape[1:3], strict=True)]
    # As integers, for XLA:CPU would move bfloat16 about as float32.
    x = lax.pad(lax.bitcast_convert_type(x, jnp.uint16), np.uint16(0), [(0, 0, 0), *edges, (0, 0, 0)])
    x = x.reshape(*x.shape[:2], -1, step * channels)  # the pixels from one group to the next are neighbors in memory
    tall = sides[0] - size + 1
    parts = [
        x[:, i : i + tall : stride, j : j + width // group, : min(step, wide - j * step) * channels]
        for i in range(size)
        for j in range(blocks)
    ]
    patches = jnp.concatenate(parts, axis=-1)
    return lax.bitcast_convert_type(patches, jnp.bfloat16).reshape(-1, size * wide * channels)


def _wide_kernel(kernel: jax.Array, stride: int, group: int) -> jax.Array:
    """[k, k, C, M] -> [k * wide * C, group * M]: the kernel once for each of a group, over its part of the patch."""
    wide = kernel.shape[1] + stride * (group - 1)
    places = [(stride * i, wide - kernel.shape[1] - stride * i) for i in range(group)]
    shifted = [jnp.pad(kernel, ((0, 0), place, (0, 0), (0, 0))) for place in places]
    return jnp.stack(shifted, axis=3).reshape(-1, group * kernel.shape[-1])
