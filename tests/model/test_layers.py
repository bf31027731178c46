"""Each operation of `layers.py` against its definition, written out in NumPy and float64."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import config as configs
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, layers, towers

Array = np.ndarray


def _normal(seed: int, *shape: int) -> Array:
    # Rounded to float32, so that the oracle and the code under test start from the same numbers.
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32).astype(np.float64)


def _f32(x: Array) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def _assert_close(got: Any, wanted: Array) -> None:
    """Equal up to the rounding of float32 sums, relative to the largest number there is."""
    assert got.shape == wanted.shape
    np.testing.assert_allclose(np.asarray(got, np.float64), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradients(f: Callable[..., jax.Array], inputs: tuple[jax.Array, ...], g: jax.Array) -> tuple[Any, ...]:
    """(f(*inputs), the gradients of sum(g * f(*inputs)) to each input)."""
    value, pullback = jax.vjp(f, *inputs)
    return value, *pullback(g)


def _central_differences(f: Callable[[Array], Array], x: Array, g: Array) -> Array:
    """The gradient of sum(g * f(x)), one element of x after the other."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-5
        gradient[i] = (g * (f(x + step) - f(x - step))).sum() / 2e-5
    return gradient


def _of_recipes(section: str) -> list[dict[str, Any]]:
    """The different settings of this section of config.model that recipes have."""
    networks = [configs.load_recipe(f"{name}:imagenet2012").model for name in configs.recipe_names()]
    found = {tuple(network[section].to_dict().items()) for network in networks if section in network}
    return [dict(items) for items in sorted(found, key=str)]


CONVOLUTIONS = [  # height, width, channels, maps, size, stride, padding
    pytest.param((27, 24, 3, 5, 11, 4, (0, 3)), id="conv1"),  # with pixels to spare in height, none in width
    pytest.param((9, 7, 4, 3, 5, 1, (2, 2)), id="conv2"),
    pytest.param((7, 5, 3, 2, 3, 1, (1, 1)), id="conv3"),
    pytest.param((11, 10, 2, 3, 5, 2, (0, 3)), id="stride-2"),
    pytest.param((9, 12, 2, 3, 3, 4, (1, 1)), id="stride-larger-than-kernel"),
]


def _convolve(x: Array, kernel: Array, g: Array | None, stride: int, padding: tuple[int, int]) -> tuple[Array, ...]:
    """The sums as they are defined, place by place: (output, dL/dx, dL/dkernel), for dL/doutput = g."""
    before, after = padding
    size = kernel.shape[0]
    padded = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    height, width = ((n + before + after - size) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    dx, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(height, width):
        here = np.s_[:, i * stride : i * stride + size, j * stride : j * stride + size]
        out[:, i, j] = np.tensordot(padded[here], kernel, 3)
        if g is not None:
            dx[here] += np.tensordot(g[:, i, j], kernel, ((1,), (3,)))
            dkernel += np.tensordot(padded[here], g[:, i, j], ((0,), (0,)))
    return out, dx[:, before : before + x.shape[1], before : before + x.shape[2]], dkernel


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.usefixtures("platform")
def test_tower_conv_and_its_gradients(case: tuple[Any, ...]) -> None:
    """Output, input gradient and kernel gradient are the sums of the definition."""
    height, width, channels, maps, size, stride, padding = case
    x, kernel = _normal(0, 2, height, width, channels), _normal(1, size, size, channels, maps)
    g = _normal(2, *_convolve(x, kernel, None, stride, padding)[0].shape)

    conv = functools.partial(layers.tower_conv, stride=stride, padding=padding)
    results = _value_and_gradients(conv, (_f32(x), _f32(kernel)), _f32(g))
    for got, wanted in zip(results, _convolve(x, kernel, g, stride, padding), strict=True):
        _assert_close(got, wanted)


@pytest.mark.parametrize("towers", [2, 3])
@pytest.mark.parametrize("shared", [False, True], ids=["own-inputs", "shared-input"])
def test_tower_conv_under_vmap(towers: int, shared: bool) -> None:
    """Towers under vmap, and the gradients through it, are a loop over towers, and no grouped convolution."""
    stride, padding = 2, (0, 3)
    x, kernel = _normal(0, towers, 2, 9, 7, 3), _normal(1, towers, 5, 5, 3, 4)
    g = _normal(2, towers, 2, 4, 3, 4)
    if shared:
        x = x[0]
    one = functools.partial(layers.tower_conv, stride=stride, padding=padding)
    conv = jax.vmap(one, in_axes=(None if shared else 0, 0))
    results = _value_and_gradients(conv, (_f32(x), _f32(kernel)), _f32(g))
    each = [_convolve(x if shared else x[t], kernel[t], g[t], stride, padding) for t in range(towers)]
    out, dx, dkernel = (np.stack(part) for part in zip(*each, strict=True))
    for got, wanted in zip(results, (out, dx.sum(0) if shared else dx, dkernel), strict=True):
        _assert_close(got, wanted)

    lowered = jax.jit(conv).lower(_f32(x), _f32(kernel)).as_text()
    assert lowered.count("stablehlo.convolution") == (1 if shared else towers)
    assert lowered.count("feature_group_count = 1 ") == (1 if shared else towers)


def test_conv_and_dense_add_their_bias() -> None:
    """The modules are x * kernel + bias, the bias one number a map or unit."""
    x, kernel, bias = _normal(0, 2, 9, 9, 3), _normal(1, 5, 5, 3, 4), _normal(2, 4)
    conv = models.Weighted(models.ConvLayer("conv", features=4, kernel_size=5, stride=2, padding=(0, 3)))
    got = conv.apply({"params": {"kernel": _f32(kernel), "bias": _f32(bias)}}, _f32(x))
    _assert_close(got, _convolve(x, kernel, None, 2, (0, 3))[0] + bias)

    x, kernel = _normal(0, 3, 7), _normal(1, 7, 4)
    dense = models.Weighted(models.DenseLayer("fc", features=4))
    got = dense.apply({"params": {"kernel": _f32(kernel), "bias": _f32(bias)}}, _f32(x))
    _assert_close(got, np.array([[sum(row * column) for column in kernel.T] for row in x]) + bias)


_INIT: Any = {"kernel_init": nn.initializers.normal(0.03), "bias_init": nn.initializers.constant(1.0)}


@pytest.mark.parametrize(
    ("layer", "x_shape", "kernel_shape"),
    [
        (models.ConvLayer("conv", 64, 11, 4, (0, 3), **_INIT), (1, 8, 8, 8), (11, 11, 8, 64)),
        (models.DenseLayer("fc", 500, **_INIT), (1, 300), (300, 500)),
    ],
    ids=["conv", "dense"],
)
def test_initialization(layer: Any, x_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> None:
    """Weights are Gaussian of the std asked for, with its tails; the bias is the constant asked for."""
    params = jax.tree.map(np.asarray, jax.jit(models.Weighted(layer).init)(jax.random.key(0), jnp.zeros(x_shape)))[
        "params"
    ]
    kernel = params["kernel"]
    assert kernel.shape == kernel_shape
    assert abs(kernel.mean()) < 5 * 0.03 / math.sqrt(kernel.size)
    assert kernel.std() == pytest.approx(0.03, rel=0.01)
    # 0.27 % of a Gaussian is beyond three deviations; a truncated one has nothing beyond two.
    assert np.mean(np.abs(kernel) > 3 * 0.03) == pytest.approx(0.0027, rel=0.25)
    assert params["bias"].shape == kernel_shape[-1:]
    assert np.all(params["bias"] == 1.0)


def _channel_norm(x: Array, *, size: int, alpha: float, beta: float, k: float, alpha_over_size: bool = True) -> Array:
    out = np.zeros_like(x)
    for c in range(x.shape[-1]):
        first = c - size // 2
        inside = [j for j in range(first, first + size) if 0 <= j < x.shape[-1]]
        total = sum(x[..., j] ** 2 for j in inside)
        out[..., c] = x[..., c] / (k + (alpha / size if alpha_over_size else alpha) * total) ** beta
    return out


def _spatial_norm(x: Array, *, size: int, alpha: float, beta: float, k: float) -> Array:
    out = np.zeros_like(x)
    for i, j in np.ndindex(*x.shape[1:3]):
        top, left = (max(0, n - size // 2) for n in (i, j))
        window = x[:, top : i - size // 2 + size, left : j - size // 2 + size]
        out[:, i, j] = x[:, i, j] / (k + alpha / size**2 * (window**2).sum((1, 2))) ** beta
    return out


_own_norm = functools.partial(layers.channel_norm, alpha_over_size=True)
_paper_norm = functools.partial(layers.channel_norm, alpha_over_size=False)


def _norm_across_towers(x: jax.Array, **constants: Any) -> jax.Array:
    """The channels of `x` in three towers, normalised in each and put together again."""
    gather = functools.partial(towers.gather_towers, layer="norm1")
    norm = functools.partial(layers.channel_norm, gather=gather, **{"alpha_over_size": True} | constants)
    return jnp.concatenate(jax.vmap(norm, axis_name=towers.TOWER)(jnp.stack(jnp.split(x, 3, axis=-1))), axis=-1)


@pytest.mark.parametrize(
    "window",
    [{"size": 5, "beta": 0.75, "k": 2.0}, {"size": 5, "beta": 0.5, "k": 1.0}, {"size": 4, "beta": 0.75, "k": 1.0}],
)
@pytest.mark.parametrize(
    ("norm", "oracle", "shape"),
    [
        (_own_norm, _channel_norm, (2, 2, 1, 9)),
        (_own_norm, _channel_norm, (2, 1, 2, 3)),  # fewer channels than the window has
        (_paper_norm, functools.partial(_channel_norm, alpha_over_size=False), (2, 2, 1, 9)),
        (_norm_across_towers, _channel_norm, (2, 2, 1, 9)),
        (_norm_across_towers, _channel_norm, (1, 1, 2, 6)),  # the windows reach over all of the neighbor
        (layers.spatial_norm, _spatial_norm, (2, 7, 6, 1)),
        (layers.spatial_norm, _spatial_norm, (1, 3, 8, 2)),  # less high than the window
    ],
    ids=["channel", "channel-few", "paper", "across", "across-few", "spatial", "spatial-low"],
)
@pytest.mark.usefixtures("platform")
def test_response_norms_and_their_gradients(
    norm: Callable[..., jax.Array], oracle: Callable[..., Array], shape: tuple[int, ...], window: dict[str, float]
) -> None:
    """x / (k + alpha / n * sum of x^2) ** beta over a window cut off at the edges, and its derivative."""
    # As strong as after conv1 on images of 0..255: with the alpha of the paper alone it is a constant.
    constants = {"alpha": 3.0} | window
    x, g = _normal(0, *shape), _normal(1, *shape)
    got, dx = _value_and_gradients(functools.partial(norm, **constants), (_f32(x),), _f32(g))
    wanted = functools.partial(oracle, **constants)
    _assert_close(got, wanted(x))
    _assert_close(dx, _central_differences(wanted, x, g))


@pytest.mark.parametrize("constants", [*_of_recipes("norm"), *_of_recipes("spatial_norm")], ids=str)
@pytest.mark.usefixtures("platform")
def test_response_norms_of_recipes(constants: dict[str, Any]) -> None:
    """As strong as on images of 0..255: inputs 100 times as large are an alpha 10,000 times as large."""
    norm, oracle, shape = {
        None: (layers.spatial_norm, _spatial_norm, (1, 7, 6, 2)),
        False: (layers.channel_norm, _channel_norm, (2, 2, 1, 9)),
        True: (_norm_across_towers, _channel_norm, (2, 2, 1, 9)),
    }[constants.get("across_towers")]
    own = {name: value for name, value in constants.items() if name != "across_towers"}
    test_response_norms_and_their_gradients(norm, oracle, shape, own | {"alpha": 1e4 * own["alpha"]})


def test_a_window_that_reaches_beyond_the_neighbor_is_refused() -> None:
    with pytest.raises(AlexNetError, match=r"reaches over 2 channels .* a tower has 1"):
        _norm_across_towers(jnp.ones((1, 1, 1, 3)), size=5, alpha=1.0, beta=0.75, k=1.0)


def _pool(x: Array, g: Array, kind: str, size: int, stride: int) -> tuple[Array, Array]:
    """(output, dL/dx for dL/doutput = g) where no two pixels are equal, window by window."""
    out, dx = np.zeros_like(g), np.zeros_like(x)
    for b, i, j, c in np.ndindex(g.shape):
        rows, columns = slice(i * stride, i * stride + size), slice(j * stride, j * stride + size)
        window = x[b, rows, columns, c]  # what of it is inside
        out[b, i, j, c] = window.max() if kind == "max" else window.mean()
        share = window == window.max() if kind == "max" else np.full(window.shape, 1 / window.size)
        dx[b, rows, columns, c] += share * g[b, i, j, c]
    return out, dx


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize(
    ("size", "stride"),
    sorted({(3, 2), (2, 2), (1, 2), *((pool["size"], pool["stride"]) for pool in _of_recipes("pool"))}),
)
@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize("pixels", [28, 13, 6])
@pytest.mark.usefixtures("platform")
def test_pool_and_its_gradient(kind: str, size: int, stride: int, pixels: int, ceil: bool) -> None:
    """Each window's maximum or mean; the gradient goes to the maximum alone, or to all in equal parts."""
    height, width = pixels, pixels - 2
    x = np.random.default_rng(0).permutation(2 * height * width).reshape(1, height, width, 2).astype(float)
    rounded = math.ceil if ceil else math.floor
    # Every window begins inside the image.
    g = _normal(1, 1, *(min(rounded((n - size) / stride) + 1, -(-n // stride)) for n in (height, width)), 2)
    pool = functools.partial(layers.pool, kind=kind, size=size, stride=stride, ceil=ceil)
    results = _value_and_gradients(pool, (_f32(x),), _f32(g))
    for got, wanted in zip(results, _pool(x, g, kind, size, stride), strict=True):
        _assert_close(got, wanted)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2)])
def test_the_gradient_of_equal_maxima(size: int, stride: int, platform: str) -> None:
    """What a window's maximum gets is still all that came in: parts of it, equal ones on a GPU; on a TPU one has it."""
    x = np.random.default_rng(0).integers(0, 3, (9, 7)).astype(np.float64)
    pool = functools.partial(layers.pool, kind="max", size=size, stride=stride, ceil=False)
    jacobian = jax.jit(jax.jacrev(lambda x: pool(x[None, :, :, None])[0, :, :, 0]))
    gradients = np.asarray(jacobian(_f32(x)))  # [H', W', H, W]: what each window sends to each pixel
    ties = 0
    for i, j in np.ndindex(*gradients.shape[:2]):
        window = np.zeros(x.shape, bool)
        window[i * stride : i * stride + size, j * stride : j * stride + size] = True
        maxima = window & (x == x[window].max())
        got = gradients[i, j]
        if platform == "cpu":
            assert got.sum() == pytest.approx(1, abs=1e-6)
            assert np.all((got > 0) == maxima)
        elif platform == "cuda":
            np.testing.assert_allclose(got, maxima / maxima.sum(), atol=1e-6)
        else:
            np.testing.assert_array_equal(np.flatnonzero(got), np.flatnonzero(maxima)[:1])
            assert got.sum() == 1
        ties += maxima.sum() > 1
    assert ties > 3


def test_dropout_without_keys_scales() -> None:
    """In evaluation everything is multiplied by 1 - rate; not in the inverted form."""
    x = _normal(0, 3, 5)
    _assert_close(models.dropout(_f32(x), rate=0.2, inverted=False, keys_B=None), x * 0.8)
    _assert_close(models.dropout(_f32(x), rate=0.2, inverted=True, keys_B=None), x)


@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_dropout_with_keys_zeroes_without_rescaling(rate: float) -> None:
    """In training a value is 0, in a fraction `rate` of all places and of every example, or it is as it was."""
    x = _f32(_normal(0, 8, 4000))
    keys_B = jax.random.split(jax.random.key(0), 8)
    dropped = models.dropout(x, rate=rate, inverted=False, keys_B=keys_B)
    kept = np.asarray(dropped != 0)
    np.testing.assert_array_equal(dropped, np.where(kept, x, 0))
    assert kept.mean() == pytest.approx(1 - rate, abs=0.01)
    inverted = models.dropout(x, rate=rate, inverted=True, keys_B=keys_B)
    np.testing.assert_allclose(inverted, dropped / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(kept.mean(1), 1 - rate, atol=0.04)


def test_an_examples_dropout_depends_on_its_key_alone() -> None:
    """Examples in another order, with their keys, have the same masks in that order; no two masks are alike."""
    x, keys_B = jnp.ones((4, 100)), jax.random.split(jax.random.key(0), 4)
    masks = np.asarray(models.dropout(x, rate=0.5, inverted=False, keys_B=keys_B))
    order = np.array([2, 0, 3])
    np.testing.assert_array_equal(models.dropout(x[:3], rate=0.5, inverted=False, keys_B=keys_B[order]), masks[order])
    assert len(np.unique(masks, axis=0)) == 4
