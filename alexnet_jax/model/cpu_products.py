"""Convolution and matmul of one tower: all that a step multiplies, in the forms that each kind of device runs well.

Shapes: `B` batch, `H W` space, `C` channels of one tower, `M` features. What is multiplied is float32 or bfloat16,
parameters and sums are float32. docs/speed.md has what was measured.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

_NHWC = ("NHWC", "HWIO", "NHWC")


# ---------------------------------------------------------------- convolution


def tower_conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]) -> jax.Array:
    """Convolution of one tower: [B, H, W, C] and [k, k, C, M] -> [B, H', W', M] float32.

    `padding` is (top and left, bottom and right), in pixels.

    Under `vmap` over towers it is one convolution per tower, where JAX would make a grouped one
    (half as fast on a CPU), and a single wide one where all towers read the same input. It has
    gradients only under such a `vmap`, which `towers.over_towers` always makes.
    """
    conv = functools.partial(_conv, stride=stride, padding=padding)

    @custom_vmap
    def per_tower(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(x, kernel)

    @per_tower.def_vmap
    def _(towers: int, batched: list[bool], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, bool]:
        x_differs, kernel_differs = batched
        assert kernel_differs, "every kernel belongs to a tower"
        if x_differs:
            return jnp.stack([conv(x[t], kernel[t]) for t in range(towers)]), True
        wide = conv(x, jnp.concatenate(list(kernel), axis=-1))
        return jnp.stack(jnp.split(wide, towers, axis=-1)), True

    return per_tower(x, kernel)


def _conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]) -> jax.Array:
    """The convolution itself, of products of x's type, and its gradients, in the forms that a CPU runs well.

    XLA:CPU runs the kernel gradient as a convolution with a window as large as the image: four times slower than
    matmuls for conv1 and half as fast for the others. It has no bfloat16 convolutions at all, but matmuls on the units
    for it where a CPU has such (docs/speed.md has the figures).
    """

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        kernel = kernel.astype(x.dtype)
        return lax.conv_general_dilated(x, kernel, (stride, stride), (padding, padding), dimension_numbers=_NHWC)

    def kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda k: plain(x, k), kernel)(g)[0]

    def input_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: plain(x, kernel), x)(g)[0]

    narrow = x.dtype == jnp.bfloat16
    value_on_cpu: Callable[..., jax.Array] = plain
    if narrow:
        shape = _shape(plain, x, kernel)
        value_on_cpu = functools.partial(_narrow_conv, stride=stride, before=padding[0], shape=shape)
    dx_on_cpu: Callable[..., jax.Array] = input_gradient
    if narrow and stride == 1:
        dx_on_cpu = functools.partial(_narrow_input_gradient, before=padding[0])
    kernel_gradient_on_cpu = _narrow_kernel_gradient if narrow else _kernel_gradient_by_matmul
    dk_on_cpu = functools.partial(kernel_gradient_on_cpu, stride=stride, before=padding[0])

    def rounded(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return plain(x, kernel).astype(jnp.float32)

    def value(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.platform_dependent(x, kernel, cpu=value_on_cpu, default=rounded)

    def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
        g = g.astype(saved[0].dtype)
        dx = lax.platform_dependent(*saved, g, cpu=dx_on_cpu, default=input_gradient)
        return dx, lax.platform_dependent(*saved, g, cpu=dk_on_cpu, default=kernel_gradient)

    op = jax.custom_vjp(value)
    op.defvjp(lambda x, kernel: (value(x, kernel), (x, kernel)), backward)
    return op(x, kernel)


def _shape(conv: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array) -> tuple[int, int]:
    """Height and width of what a convolution gives."""
    _, height, width, _ = jax.eval_shape(conv, x, kernel).shape
    return height, width


def _kernel_gradient_by_matmul(x: jax.Array, kernel: jax.Array, g: jax.Array, *, stride: int, before: int) -> jax.Array:
    """dL/dkernel [k, k, C, M] from x [B, H, W, C] and g [B, H', W', M], one matmul per offset.

    `before` is the padding at the top and left. A stride s first becomes channels: s x s pixels are one pixel of
    s * s * C, and a kernel of 11 with stride 4 one of 3 with stride 1.
    """
    size, channels, features = kernel.shape[0], x.shape[-1], g.shape[-1]
    height, width = g.shape[1:3]
    blocks = -(-size // stride)  # the kernel's size in blocks of stride pixels
    x = _padded(x, before, [(n - 1 + blocks) * stride for n in (height, width)])
    x = x.reshape(-1, x.shape[1] // stride, stride, x.shape[2] // stride, stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], x.shape[3], stride**2 * channels)
    flat_g = g.reshape(-1, features)
    dk = jnp.stack([
        x[:, i : i + height, j : j + width].reshape(-1, x.shape[-1]).T @ flat_g
        for i in range(blocks)
        for j in range(blocks)
    ])  # fmt: skip
    dk = dk.reshape(blocks, blocks, stride, stride, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return dk.reshape(blocks * stride, blocks * stride, channels, features)[:size, :size]


def _padded(x: jax.Array, before: int, wanted: Sequence[int]) -> jax.Array:
    """[B, H, W, C] with `before` zeros at the top and left, and as many after it as make H and W `wanted`."""
    edges = [(before, w - n - before, 0) for w, n in zip(wanted, x.shape[1:3], strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


# ---------------------------------------------------------------- convolution in bfloat16 on a CPU
#
# One matmul of all patches of the images with the kernel. Neighbors in a row share most of their patches: a group of
# them has one together, wide enough for all, and the kernel stands in it once for each, shifted. There is less to move
# about, which is what takes the time, and more to multiply, half of it by zero.


def _narrow_conv(x: jax.Array, kernel: jax.Array, *, stride: int, before: int, shape: tuple[int, int]) -> jax.Array:
    """[B, H, W, C] and [k, k, C, M] -> [B, *shape, M] float32, with `before` pixels of padding at the top and left."""
    group = _group(kernel.shape[0], shape[1])
    patches = _patches(x, kernel.shape[0], stride, before, shape, group)
    y = _contract(patches, _wide_kernel(kernel.astype(x.dtype), stride, group), 1, 0)
    return y.reshape(x.shape[0], *shape, kernel.shape[-1])


def _narrow_input_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, *, before: int) -> jax.Array:
    """dL/dx [B, H, W, C] of a convolution of stride 1: that of g [B, H', W', M] with the kernel turned around."""
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    _, height, width, _ = x.shape
    dx = _narrow_conv(g, turned, stride=1, before=kernel.shape[0] - 1 - before, shape=(height, width))
    return dx.astype(x.dtype)


def _narrow_kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, *, stride: int, before: int) -> jax.Array:
    """dL/dkernel [k, k, C, M], float32, from x [B, H, W, C] and g [B, H', W', M]."""
    _, height, width, features = g.shape
    group = _group(kernel.shape[0], width)
    patches = _patches(x, kernel.shape[0], stride, before, (height, width), group)
    # Only a left matrix whose rows are summed over runs on the units. XLA must not see that it is a transposed one.
    rows = g.reshape(-1, height, width // group, group * features).transpose(3, 0, 1, 2).reshape(group * features, -1)
    wide = lax.optimization_barrier(_contract(lax.optimization_barrier(rows), patches, 1, 0)).T
    return jax.linear_transpose(lambda k: _wide_kernel(k, stride, group), kernel)(wide)[0]


def _group(size: int, width: int) -> int:
    """How many neighbors have a patch together: up to five, not more than the kernel is wide, without a rest."""
    return max(n for n in range(1, min(size, 5) + 1) if width % n == 0)


def _patches(x: jax.Array, size: int, stride: int, before: int, shape: tuple[int, int], group: int) -> jax.Array:
    """[B, H, W, C] -> [B * H' * W' / group, size * wide * C], where `wide` pixels of a row are what a group sees."""
    (height, width), channels = shape, x.shape[-1]
    step, wide = stride * group, size + stride * (group - 1)
    blocks = -(-wide // step)
    x = _padded(_bits(x), before, (stride * (height - 1) + size, (width // group - 1 + blocks) * step))
    x = x.reshape(*x.shape[:2], -1, step * channels)  # the pixels from one group to the next are neighbors in memory
    parts = [
        x[
            :,
            i : i + stride * (height - 1) + 1 : stride,
            j : j + width // group,
            : min(step, wide - j * step) * channels,
        ]
        for i in range(size)
        for j in range(blocks)
    ]
    patches = jnp.concatenate(parts, axis=-1)
    return _pixels(patches).reshape(-1, size * wide * channels)


def _wide_kernel(kernel: jax.Array, stride: int, group: int) -> jax.Array:
    """[k, k, C, M] -> [k * wide * C, group * M]: the kernel once for each of a group, over its part of the patch."""
    wide = kernel.shape[1] + stride * (group - 1)
    places = [(stride * i, wide - kernel.shape[1] - stride * i) for i in range(group)]
    shifted = [jnp.pad(kernel, ((0, 0), place, (0, 0), (0, 0))) for place in places]
    return jnp.stack(shifted, axis=3).reshape(-1, group * kernel.shape[-1])


def _bits(x: jax.Array) -> jax.Array:
    """bfloat16 as integers, to be moved about: XLA:CPU would move it as float32."""
    return lax.bitcast_convert_type(x, jnp.uint16)


def _pixels(bits: jax.Array) -> jax.Array:
    """What `_bits` was given."""
    return lax.bitcast_convert_type(bits, jnp.bfloat16)


# ---------------------------------------------------------------- matmul


def tower_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[B, C] @ [C, units] of one tower -> float32. Under `vmap` over towers it is one matmul per tower.

    JAX would make one wide matmul where both towers read the same input, for which XLA:CPU first
    transposes fc6's 75 MB of weights, and their gradient after it. It has gradients only under such a `vmap`.
    """

    @custom_vmap
    def per_tower(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _matmul(x, kernel)

    @per_tower.def_vmap
    def _(towers: int, batched: list[bool], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, bool]:
        x_differs, kernel_differs = batched
        assert kernel_differs, "every kernel belongs to a tower"
        return jnp.stack([_matmul(x[t] if x_differs else x, kernel[t]) for t in range(towers)]), True

    return per_tower(x, kernel)


@jax.custom_vjp
def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel, float32, of products of x's type. So are those of its gradients, which autodiff would widen."""
    return _contract(x, kernel.astype(x.dtype), 1, 0)


def _matmul_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    g = g.astype(x.dtype)
    return _contract(g, kernel.astype(x.dtype), 1, 1).astype(x.dtype), _contract(x, g, 0, 0)


_matmul.defvjp(lambda x, kernel: (_matmul(x, kernel), (x, kernel)), _matmul_backward)


def _contract(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    """The sum over an axis of each of two matrices, float32."""
    axes = (((left_axis,), (right_axis,)), ((), ()))
    return lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
