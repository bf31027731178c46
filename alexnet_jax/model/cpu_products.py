"""Convolution and matmul of one tower: all that a step multiplies, in the forms that each kind of device runs well.

Shapes: `B` batch, `H W` space, `C` channels of one tower, `M` features. What is multiplied is float32 or bfloat16,
parameters and sums are float32. docs/speed.md has what was measured.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_NHWC = ("NHWC", "HWIO", "NHWC")
_WRITTEN_OUT = 8  # so many members of a vmap are written out one after the other; more are a loop


def tower_conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]) -> jax.Array:
    """Convolution of one tower: [B, H, W, C] and [k, k, C, M] -> [B, H', W', M] float32.

    `padding` is (top and left, bottom and right), in pixels.

    Under `vmap` over towers it is one convolution per tower, where JAX would make a grouped one (half as fast on a
    CPU), and a single wide one where all towers read the same input.
    """
    _, height, width, _ = x.shape
    return _product(_Conv(stride, padding, kernel.shape[0], (height, width), x.dtype), x, kernel)


def tower_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[B, C] @ [C, units] of one tower -> float32. Under `vmap` over towers it is one matmul per tower.

    JAX would make one wide matmul where both towers read the same input, for which XLA:CPU first
    transposes fc6's 75 MB of weights, and their gradient after it.
    """
    return _product(_Matmul(x.dtype), x, kernel)


# ---------------------------------------------------------------- the three products of a layer
#
# Each is linear in both operands, and its gradients are the other two. As JAX primitives they have a form of their own
# for each device and still every transformation: `custom_vjp` would refuse forward mode, and `custom_vmap` (which
# writes the towers out) cannot be transposed.


def _product(op: "_Conv | _Matmul", x: jax.Array, kernel: jax.Array) -> jax.Array:
    out: jax.Array = _VALUE.bind(x, kernel, op=op)
    return out


_VALUE, _INPUT_GRADIENT, _KERNEL_GRADIENT = (
    Primitive(name) for name in ("tower_product", "tower_product_input_gradient", "tower_product_kernel_gradient")
)
ad.defbilinear(
    _VALUE,
    lambda g, x, kernel, op: _INPUT_GRADIENT.bind(kernel, g, op=op),
    lambda g, x, kernel, op: _KERNEL_GRADIENT.bind(x, g, op=op),
)
ad.defbilinear(
    _INPUT_GRADIENT,
    lambda dx, kernel, g, op: _KERNEL_GRADIENT.bind(dx, g, op=op),
    lambda dx, kernel, g, op: _VALUE.bind(dx, kernel, op=op),
)
ad.defbilinear(
    _KERNEL_GRADIENT,
    lambda dkernel, x, g, op: _INPUT_GRADIENT.bind(dkernel, g, op=op),
    lambda dkernel, x, g, op: _VALUE.bind(x, dkernel, op=op),
)


def _define(primitive: Primitive, method: str, examples: int | None) -> None:
    """How `primitive` runs and what vmap makes of it; operand `examples` alone has a batch axis that the result has."""

    def run(*operands: jax.Array, op: "_Conv | _Matmul") -> jax.Array:
        out: jax.Array = getattr(op, method)(*operands)
        return out

    def abstract(*avals: Any, op: "_Conv | _Matmul") -> Any:
        return jax.make_jaxpr(lambda *operands: run(*operands, op=op))(*avals).out_avals[0]

    def batched(operands: Sequence[jax.Array], axes: Sequence[int | None], *, op: Any) -> tuple[jax.Array, int]:
        each = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True)]
        numbers = [number for number, axis in enumerate(axes) if axis is not None]
        size = each[numbers[0]].shape[0]
        if examples is not None and numbers == [examples]:  # they share a kernel: one batch of them all
            each[examples] = each[examples].reshape(-1, *each[examples].shape[2:])
            y = primitive.bind(*each, op=op)
            return y.reshape(size, -1, *y.shape[1:]), 0
        if primitive is _VALUE and numbers == [1] and isinstance(op, _Conv):  # they share the input
            wide = primitive.bind(each[0], jnp.concatenate(list(each[1]), axis=-1), op=op)
            return jnp.stack(jnp.split(wide, size, axis=-1)), 0

        def one(member: dict[int, jax.Array]) -> jax.Array:
            return primitive.bind(*(dict(enumerate(each)) | member).values(), op=op)

        members = {number: each[number] for number in numbers}
        if size > _WRITTEN_OUT:
            return lax.map(one, members), 0
        return jnp.stack([one({number: x[t] for number, x in members.items()}) for t in range(size)]), 0

    primitive.def_impl(run)
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))


_define(_VALUE, "value", examples=0)
_define(_INPUT_GRADIENT, "input_gradient", examples=1)
_define(_KERNEL_GRADIENT, "kernel_gradient", examples=None)


# ---------------------------------------------------------------- matmul


@dataclasses.dataclass(frozen=True)
class _Matmul:
    """x @ kernel, float32, of products of x's type. So are those of its gradients, which autodiff would widen."""

    dtype: Any  # of x

    def value(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _contract(x, kernel.astype(self.dtype), 1, 0)

    def input_gradient(self, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return _contract(g.astype(self.dtype), kernel.astype(self.dtype), 1, 1).astype(self.dtype)

    def kernel_gradient(self, x: jax.Array, g: jax.Array) -> jax.Array:
        return _contract(x, g.astype(self.dtype), 0, 0)


def _contract(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    """The sum over an axis of each of two matrices, float32."""
    axes = (((left_axis,), (right_axis,)), ((), ()))
    return lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


# ---------------------------------------------------------------- convolution


@dataclasses.dataclass(frozen=True)
class _Conv:
    """The convolution, of products of x's type, and its gradients, by default and in the forms that a CPU runs well.

    XLA:CPU runs the kernel gradient as a convolution with a window as large as the image: four times slower than
    matmuls for conv1 and half as fast for the others. It has no bfloat16 convolutions at all, but matmuls on the units
    for it where a CPU has such (docs/speed.md has the figures).
    """

    stride: int
    padding: tuple[int, int]
    size: int  # of the kernel
    pixels: tuple[int, int]  # of x, as its type
    dtype: Any

    def value(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        def default(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return self._plain(x, kernel).astype(jnp.float32)

        def narrow(x: jax.Array, kernel: jax.Array) -> jax.Array:
            _, height, width, _ = jax.eval_shape(self._plain, x, kernel).shape
            return _narrow_conv(x, kernel, stride=self.stride, before=self.padding[0], shape=(height, width))

        return lax.platform_dependent(x, kernel, cpu=narrow if self._narrow else default, default=default)

    def input_gradient(self, kernel: jax.Array, g: jax.Array) -> jax.Array:
        x = jax.ShapeDtypeStruct((g.shape[0], *self.pixels, kernel.shape[2]), self.dtype)

        def default(kernel: jax.Array, g: jax.Array) -> jax.Array:
            dx: jax.Array = jax.linear_transpose(lambda x: self._plain(x, kernel), x)(g)[0]
            return dx

        def narrow(kernel: jax.Array, g: jax.Array) -> jax.Array:
            return _narrow_input_gradient(kernel, g, before=self.padding[0], shape=self.pixels)

        on_cpu = narrow if self._narrow and self.stride == 1 else default
        return lax.platform_dependent(kernel, g.astype(self.dtype), cpu=on_cpu, default=default)

    def kernel_gradient(self, x: jax.Array, g: jax.Array) -> jax.Array:
        kernel = jax.ShapeDtypeStruct((self.size, self.size, x.shape[-1], g.shape[-1]), jnp.float32)

        def default(x: jax.Array, g: jax.Array) -> jax.Array:
            dkernel: jax.Array = jax.linear_transpose(lambda kernel: self._plain(x, kernel), kernel)(g)[0]
            return dkernel

        def on_cpu(x: jax.Array, g: jax.Array) -> jax.Array:
            form = _narrow_kernel_gradient if self._narrow else _kernel_gradient_by_matmul
            return form(x, g, size=self.size, stride=self.stride, before=self.padding[0])

        return lax.platform_dependent(x, g.astype(self.dtype), cpu=on_cpu, default=default)

    @property
    def _narrow(self) -> bool:
        return self.dtype == jnp.bfloat16

    def _plain(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        strides, padding = (self.stride, self.stride), (self.padding, self.padding)
        return lax.conv_general_dilated(x, kernel.astype(x.dtype), strides, padding, dimension_numbers=_NHWC)


def _kernel_gradient_by_matmul(x: jax.Array, g: jax.Array, *, size: int, stride: int, before: int) -> jax.Array:
    """dL/dkernel [k, k, C, M] from x [B, H, W, C] and g [B, H', W', M], one matmul per offset.

    `before` is the padding at the top and left. A stride s first becomes channels: s x s pixels are one pixel of
    s * s * C, and a kernel of 11 with stride 4 one of 3 with stride 1.
    """
    channels, features = x.shape[-1], g.shape[-1]
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


def _narrow_input_gradient(kernel: jax.Array, g: jax.Array, *, before: int, shape: tuple[int, int]) -> jax.Array:
    """dL/dx [B, *shape, C] of a convolution of stride 1: that of g [B, H', W', M] with the kernel turned around."""
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return _narrow_conv(g, turned, stride=1, before=kernel.shape[0] - 1 - before, shape=shape).astype(g.dtype)


def _narrow_kernel_gradient(x: jax.Array, g: jax.Array, *, size: int, stride: int, before: int) -> jax.Array:
    """dL/dkernel [k, k, C, M], float32, from x [B, H, W, C] and g [B, H', W', M]."""
    _, height, width, features = g.shape
    group = _group(size, width)
    patches = _patches(x, size, stride, before, (height, width), group)
    # Only a left matrix whose rows are summed over runs on the units. XLA must not see that it is a transposed one.
    rows = g.reshape(-1, height, width // group, group * features).transpose(3, 0, 1, 2).reshape(group * features, -1)
    wide = lax.optimization_barrier(_contract(lax.optimization_barrier(rows), patches, 1, 0)).T
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
