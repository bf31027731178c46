"""The operations of one tower that Flax lacks, or that XLA runs badly where the towers share a device.

Shapes: `B` batch, `H W` space, `C` channels of one tower, `M` features. Activations are float32 or bfloat16, and so is
what is multiplied; parameters are float32, and so are sums. docs/speed.md has the figures.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from alexnet_jax.model import cpu_bfloat16
from alexnet_jax.model.towers import with_neighbors

_NHWC = ("NHWC", "HWIO", "NHWC")
_WRITTEN_OUT = 8  # so many members of a vmap are written out one after the other; more are a loop

# ---------------------------------------------------------------- convolution, matmul


def tower_conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]) -> jax.Array:
    """Convolution of one tower: [B, H, W, C] and [k, k, C, M] -> [B, H', W', M] float32.

    `padding` is (top and left, bottom and right), in pixels. Under `vmap` over towers it is one convolution per tower,
    where JAX would make a grouped one (half as fast on a CPU), and a single wide one where all read the same input.
    """
    _, height, width, _ = x.shape
    return _VALUE.bind(x, kernel, op=_Conv(stride, padding, kernel.shape[0], (height, width), x.dtype))


def tower_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[B, C] @ [C, units] of one tower -> float32. Under `vmap` over towers it is one matmul per tower.

    JAX would make one wide matmul where both towers read the same input, for which XLA:CPU first transposes fc6's 75 MB
    of weights, and their gradient after it.
    """
    return _VALUE.bind(x, kernel, op=_Matmul(x.dtype))


# ---------------------------------------------------------------- the three products of a layer
#
# Each is linear in both operands, and its gradients are the other two. As JAX primitives they have a form of their own
# for each device and still every transformation: `custom_vjp` would refuse forward mode, and `custom_vmap` (which
# writes the towers out) cannot be transposed.

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
        return getattr(op, method)(*operands)

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
            parts = lambda y: jnp.stack(jnp.split(y, size, axis=-1))  # noqa: E731
            # With the rounding that the next operation makes: XLA would leave it out and store float32.
            rounded = lambda y: parts(lax.optimization_barrier(y.astype(op.dtype))).astype(y.dtype)  # noqa: E731
            return lax.platform_dependent(wide, tpu=rounded, default=parts), 0

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


@dataclasses.dataclass(frozen=True)
class _Conv:
    """The convolution, of products of x's type, and its gradients, by default and in the forms that a CPU runs well.

    XLA:CPU runs the kernel gradient as a convolution with a window as large as the image: four times slower than
    matmuls for conv1 and half as fast for the others. It has no bfloat16 convolutions at all: see `cpu_bfloat16`.
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
            return cpu_bfloat16.conv(x, kernel, stride=self.stride, before=self.padding[0], shape=(height, width))

        return lax.platform_dependent(x, kernel, cpu=narrow if self._narrow else default, default=default)

    def input_gradient(self, kernel: jax.Array, g: jax.Array) -> jax.Array:
        x = jax.ShapeDtypeStruct((g.shape[0], *self.pixels, kernel.shape[2]), self.dtype)

        def default(kernel: jax.Array, g: jax.Array) -> jax.Array:
            return jax.linear_transpose(lambda x: self._plain(x, kernel), x)(g)[0]

        def narrow(kernel: jax.Array, g: jax.Array) -> jax.Array:
            return cpu_bfloat16.input_gradient(kernel, g, before=self.padding[0], shape=self.pixels)

        on_cpu = narrow if self._narrow and self.stride == 1 else default
        return lax.platform_dependent(kernel, g.astype(self.dtype), cpu=on_cpu, default=default)

    def kernel_gradient(self, x: jax.Array, g: jax.Array) -> jax.Array:
        kernel = jax.ShapeDtypeStruct((self.size, self.size, x.shape[-1], g.shape[-1]), jnp.float32)

        def default(x: jax.Array, g: jax.Array) -> jax.Array:
            return jax.linear_transpose(lambda kernel: self._plain(x, kernel), kernel)(g)[0]

        def on_cpu(x: jax.Array, g: jax.Array) -> jax.Array:
            form = cpu_bfloat16.kernel_gradient if self._narrow else _kernel_gradient_by_matmul
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

    `before` is the padding at the top and left. A stride s first becomes channels: s x s pixels are one of s * s * C,
    and a kernel of 11 with stride 4 one of 3 with stride 1.
    """
    channels, features = x.shape[-1], g.shape[-1]
    height, width = g.shape[1:3]
    blocks = -(-size // stride)  # the kernel's size in blocks of stride pixels
    edges = [
        (before, (w - 1 + blocks) * stride - n - before, 0) for w, n in zip(g.shape[1:3], x.shape[1:3], strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
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


# ---------------------------------------------------------------- response normalization


def _on_each_platform(*operands: jax.Array, cpu: Callable[..., Any], gpu: Callable[..., Any], tpu: Any) -> jax.Array:
    """The form for the platform that the program is compiled for; any other takes the TPU's.

    `jax.checkpoint`, where its traffic is the limit: what the gradient needs is computed again, not stored in float32.
    """
    return lax.platform_dependent(*operands, cpu=cpu, cuda=gpu, rocm=gpu, default=tpu)


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

    x / (k + a * sum of x^2 over `size` neighboring channels) ** beta, the window centered and cut off at the edges. a
    is alpha / size with `alpha_over_size`, as in the 2012 source (cuda-convnet `layer.py`, NormLayerParser), Caffe and
    PyTorch; without it alpha, as the paper writes it (section 3.3) and TensorFlow has it. The channels are this
    tower's, as in 2012; with `gather`, a `towers.gather_towers`, those of all towers in their order, as in Caffe, which
    takes the outermost ones from its neighbors: a communication.
    """
    before, after = (size // 2, size - 1 - size // 2)  # of an even size one more to the left, as in cuda-convnet
    wide = (with_neighbors(x.astype(jnp.float32), before, after, gather),) if gather else ()

    def by_matmul(wide: jax.Array, of_tangent: bool) -> jax.Array:
        # A band matrix, where shifts along the channels are what neither a CPU's vector unit nor a TPU's lanes do well.
        low = np.arange(x.shape[-1]) - (0 if gather else before)
        channel = np.arange(wide.shape[-1])[:, None]
        band = ((channel >= low[None]) & (channel < low[None] + size)).astype(np.float32)
        return jnp.matmul(wide, band, precision=lax.Precision.HIGHEST)

    def by_shifts(wide: jax.Array, of_tangent: bool) -> jax.Array:
        wide = wide if gather else jnp.pad(wide, [(0, 0)] * (wide.ndim - 1) + [(before, after)])
        return functools.reduce(jnp.add, [lax.slice_in_dim(wide, i, i + x.shape[-1], axis=-1) for i in range(size)])

    scale = alpha / size if alpha_over_size else alpha
    return _normalized((x, *wide), scale, beta, k, keeps=("d",), cpu=by_matmul, gpu=by_shifts, tpu=by_matmul)


def spatial_norm(x: jax.Array, *, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    """Response normalization over `size` x `size` pixels of each channel: [B, H, W, C] -> the same.

    x / (k + alpha / size^2 * sum of x^2 over the window) ** beta. The paper does not mention it; the network of its
    numbers has it after conv2's LRN (layers-145.cfg, rnorm2).
    """
    edges, none = (size // 2, size - 1 - size // 2), (0, 0)

    def by_axis(x: jax.Array, of_tangent: bool) -> jax.Array:
        for axis in (2, 1) if of_tangent else (1, 2):  # its transpose, a gradient's sum, has the order of the value
            window, padding = zip(*((size, edges) if a == axis else (1, none) for a in range(4)), strict=True)
            x = lax.reduce_window(x, 0.0, lax.add, window, (1,) * 4, padding)
        return x

    def at_once(x: jax.Array, of_tangent: bool) -> jax.Array:
        return lax.reduce_window(x, 0.0, lax.add, (1, size, size, 1), (1,) * 4, (none, edges, edges, none))

    return _normalized((x,), alpha / size**2, beta, k, keeps=(), cpu=by_axis, gpu=at_once, tpu=at_once)


_WindowSum = Callable[[jax.Array, bool], jax.Array]  # of [B, H, W, C], and whether it is of a tangent


def _normalized(xs: tuple[jax.Array, ...], *constants: float, keeps: Any, **sums: _WindowSum) -> jax.Array:
    """`_response_norm` of x, or x and what the windows see, by the window sum of each platform; it has x's type.

    `keeps`: what its gradient reads beside x on a TPU, and does not compute again.
    """

    def norm(window_sum: _WindowSum, *xs: jax.Array) -> jax.Array:
        wide = [x.astype(jnp.float32) for x in xs]
        return _response_norm(wide[0], wide[-1], window_sum, *constants).astype(xs[0].dtype)

    forms: dict[str, Any] = {name: functools.partial(norm, window_sum) for name, window_sum in sums.items()}
    for name, names in (("gpu", ()), ("tpu", keeps)):
        forms[name] = jax.checkpoint(forms[name], policy=jax.checkpoint_policies.save_only_these_names(*names))
    return _on_each_platform(*xs, **forms)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _response_norm(
    x: jax.Array, wide: jax.Array, window_sum: _WindowSum, scale: float, beta: float, k: float
) -> jax.Array:
    """x * d^-beta with d = k + scale * window_sum(wide^2); `wide` is x, or x and what else the windows see.

    The derivative that autodiff finds costs as much as conv2. In reverse this one is dx = g d^-beta,
    dwide = - 2 beta scale wide * W^T(g x d^(-beta-1)).
    """
    return x * _negative_power(k + scale * window_sum(wide * wide, False), beta)


@_response_norm.defjvp
def _response_norm_jvp(window_sum, scale, beta, k, primals, tangents):  # type: ignore[no-untyped-def]
    (x, wide), (dx, dwide) = primals, tangents
    d = checkpoint_name(k + scale * window_sum(wide * wide, False), "d")
    power = _negative_power(d, beta)
    return x * power, (dx + x * (window_sum(((-2.0 * beta * scale) * wide) * dwide, True) / d)) * power


def _negative_power(d: jax.Array, beta: float) -> jax.Array:
    if beta == 0.75:  # the only value anyone used; two roots are half the time of a power on a CPU
        root = lax.rsqrt(d)
        return root * jnp.sqrt(root)
    return d**-beta


# ---------------------------------------------------------------- pooling


def pool(x: jax.Array, *, kind: str, size: int, stride: int, ceil: bool) -> jax.Array:
    """Max or average pooling, [B, H, W, C] -> [B, (H - size) / stride + 1, ..., C], no padding.

    The division is rounded down, or with `ceil` up, as in cuda-convnet (`layer.py`:1164) and Caffe: then a last window
    may reach beyond the image, and only its pixels inside count. It overlaps where `size` > `stride` (paper, section
    3.4: 3 and 2).

    Differs: equal maxima share the gradient (on a GPU in equal parts), and on a TPU the first of them gets it; in the
    source each gets all of it (cuda-convnet `conv_util.cu`:1559).
    """
    counts = tuple(pooled_length(n, size, stride, ceil) for n in x.shape[1:3])
    beyond = [max(0, (count - 1) * stride + size - n) for count, n in zip(counts, x.shape[1:3], strict=True)]
    edges = [(0, 0), *((0, n) for n in beyond), (0, 0)]
    lowest, larger, reducer = (-np.inf, jnp.maximum, lax.max) if kind == "max" else (0.0, jnp.add, lax.add)

    def by_axis(x: jax.Array) -> jax.Array:
        # Strided slices: the gradient of a window's maximum is a select-and-scatter, four times slower on a CPU. In
        # float32: that of a maximum in bfloat16 takes it six times as long.
        wide = jnp.pad(x.astype(jnp.float32), edges, constant_values=lowest)
        for axis, count in zip((1, 2), counts, strict=True):
            last = (count - 1) * stride + 1
            wide = functools.reduce(larger, [lax.slice_in_dim(wide, i, i + last, stride, axis) for i in range(size)])
        return wide.astype(x.dtype)

    def by_window(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, lowest, reducer, (1, size, size, 1), (1, stride, stride, 1), edges)

    if kind == "max":
        by_comparison = lambda x: _maximum(jnp.pad(x, edges, constant_values=lowest), size, stride)  # noqa: E731
        return _on_each_platform(x, cpu=by_axis, gpu=jax.checkpoint(by_comparison), tpu=by_window)
    wide, ones = x.astype(jnp.float32), jnp.ones((1, *x.shape[1:3], 1))
    total, inside = (_on_each_platform(a, cpu=by_axis, gpu=by_window, tpu=by_window) for a in (wide, ones))
    return (total / inside).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _maximum(x: jax.Array, size: int, stride: int) -> jax.Array:
    """The maximum of each window of a padded x; its derivative finds the maxima again by comparing."""
    return functools.reduce(jnp.maximum, _pixels_of_windows(x, size, stride))


@_maximum.defjvp
def _maximum_jvp(size, stride, primals, tangents):  # type: ignore[no-untyped-def]
    (x,), (dx,) = primals, tangents
    y = _maximum(x, size, stride)
    largest = [pixel == y for pixel in _pixels_of_windows(x, size, stride)]
    dys = map(jnp.where, largest, _pixels_of_windows(dx.astype(jnp.float32), size, stride), [0.0] * size**2)
    count = functools.reduce(jnp.add, [here.astype(jnp.float32) for here in largest])
    return y, (functools.reduce(jnp.add, dys) / count).astype(y.dtype)


def _pixels_of_windows(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """The first pixel of every window, [B, H', W', C], the second of every window, and so on."""
    height, width = (n - size + 1 for n in x.shape[1:3])
    return [x[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]


def pooled_length(length: int, size: int, stride: int, ceil: bool) -> int:
    """How many windows of a pooling there are along `length` pixels; with `ceil` each begins inside."""
    if not ceil:
        return (length - size) // stride + 1
    windows = -(-max(0, length - size) // stride) + 1
    return windows - 1 if (windows - 1) * stride >= length else windows
