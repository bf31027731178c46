"""Transformations of a layer and of the network, against the same functions in float64 by plain lax operations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.model import alexnet as models, layers, towers
from alexnet_jax.model.all_towers import AllTowers
from alexnet_jax.train.step import make_state, make_train_step

Function = Callable[[Any, jax.Array], jax.Array]  # of variables and an input


def _conv(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), (padding, padding), dimension_numbers=numbers)


def _biased(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + jnp.broadcast_to(bias, x.shape)


def _norm(x: jax.Array, c: models.ChannelNorm | models.SpatialNorm) -> jax.Array:
    across = isinstance(c, models.ChannelNorm)
    edges = (c.size // 2, c.size - 1 - c.size // 2)
    window, padding = ((1, 1, 1, c.size), [(0, 0)] * 3 + [edges]) if across else ((1, c.size, c.size, 1), None)
    padding = padding or [(0, 0), edges, edges, (0, 0)]
    total = lax.reduce_window(x * x, np.zeros((), x.dtype), lax.add, window, (1,) * 4, padding)
    return x * (c.k + c.alpha / (c.size if across else c.size**2) * total) ** -c.beta


def _pool(x: jax.Array, c: models.Pool) -> jax.Array:
    assert c.kind == "max"
    assert c.ceil
    beyond = [(0, -(n - c.size) % c.stride) for n in x.shape[1:3]]
    padding = [(0, 0), *beyond, (0, 0)]
    lowest = np.full((), -np.inf, x.dtype)
    return lax.reduce_window(x, lowest, lax.max, (1, c.size, c.size, 1), (1, c.stride, c.stride, 1), padding)


def _network(model: models.AlexNet, variables: Any, images: jax.Array) -> jax.Array:
    """The logits in evaluation, the towers one after the other."""
    xs = [images] * model.towers
    for layer in model.stack:
        if layer.name in model.exchange:
            xs = [jnp.concatenate(xs, axis=-1)] * model.towers
        for t in range(model.towers):
            x = xs[t]
            kernel, bias = (variables["params"][layer.name][name][t] for name in ("kernel", "bias"))
            if isinstance(layer, models.ConvLayer):
                x = _biased(_conv(x, kernel, layer.stride, layer.padding), bias)
            else:
                x = _biased(x.reshape(len(x), -1) @ kernel, bias)
            for word in layer.post_ops:
                operations: dict[str, Callable[[jax.Array], jax.Array]] = {
                    "relu": lambda x: jnp.where(x > 0, x, 0),
                    "norm": lambda x: _norm(x, model.norm),
                    "spatial_norm": lambda x: _norm(x, model.spatial_norm),
                    "pool": lambda x: _pool(x, model.pool),
                    "dropout": lambda x: x * (1 - model.dropout.rate),
                }
                x = operations[word](x)
            xs[t] = x
    return jnp.concatenate(xs, axis=-1)[:, : model.classes]


def _moved(tree: Any, seed: int) -> Any:
    """A tangent of `tree`: other numbers of about the same size."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * jnp.std(leaf), leaf.dtype), tree)


def _scalar(f: Function) -> Function:
    return lambda v, x: jnp.sin(3.0 * f(v, x)).sum()


def _hessian_vector_product(f: Function, v: Any, x: jax.Array, dv: Any) -> Any:
    return jax.jvp(lambda v: jax.grad(_scalar(f))(v, x), (v,), (dv,))[1]


def _jacfwd(f: Function, v: Any, x: jax.Array, dv: Any) -> Any:
    """By three numbers along `dv`: a whole Jacobian has as many columns as there are parameters."""
    return jax.jacfwd(lambda a: f(jax.tree.map(lambda p, d: p + a[0] * d + a[1] * p, v, dv), x * a[2]))(
        jnp.asarray([0.1, 0.2, 1.0], x.dtype)
    )


TRANSFORMATIONS: dict[str, Callable[[Function, Any, jax.Array, Any], Any]] = {
    "grad": lambda f, v, x, dv: jax.grad(_scalar(f), (0, 1))(v, x),
    "jvp": lambda f, v, x, dv: jax.jvp(lambda v: f(v, x), (v,), (dv,)),
    "jacfwd": _jacfwd,
    "hessian-vector": _hessian_vector_product,
    "linearize": lambda f, v, x, dv: jax.linearize(lambda v: f(v, x), v)[1](dv),
    "remat": lambda f, v, x, dv: jax.grad(jax.checkpoint(_scalar(f)))(v, x),
    "vmap-inputs": lambda f, v, x, dv: jax.vmap(f, (None, 0))(v, jnp.stack([x, x[::-1], 2 * x])),
    "vmap-variables": lambda f, v, x, dv: jax.vmap(jax.grad(_scalar(f)), (0, None))(
        jax.tree.map(lambda p, d: jnp.stack([p, p + 0.1 * d]), v, dv), x
    ),
    "vmap-many": lambda f, v, x, dv: jax.vmap(jax.grad(_scalar(f)), (None, 0))(v, jnp.stack([x] * 9)),
}


def _check(transformation: str, f: Function, oracle: Function, v: Any, x: Any, tolerance: float) -> None:
    """Both agree on every leaf, up to `tolerance` of its largest number."""
    apply = TRANSFORMATIONS[transformation]
    dv = _moved(v, seed=9)
    got = jax.jit(lambda v, x, dv: apply(f, v, x, dv))(v, x, dv)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (v, x, dv))
        wanted = jax.jit(lambda v, x, dv: apply(oracle, v, x, dv))(*wide)
    for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        assert ours.dtype == jnp.float32
        assert theirs.dtype == jnp.float64
        scale = np.abs(np.asarray(theirs)).max()
        assert scale > 0, path
        assert np.abs(np.asarray(ours, np.float64) - np.asarray(theirs)).max() < tolerance * scale, path


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_layer_alone(kind: str, transformation: str) -> None:
    rng = np.random.default_rng(0)
    if kind == "conv":
        layer: Any = models.Weighted(models.ConvLayer("conv", features=5, kernel_size=5, stride=2, padding=(0, 3)))
        x = jnp.asarray(rng.normal(size=(2, 9, 8, 3)), jnp.float32)
    else:
        layer = models.Weighted(models.DenseLayer("fc", features=5))
        x = jnp.asarray(rng.normal(size=(3, 7)), jnp.float32)

    def oracle(v: Any, x: jax.Array) -> jax.Array:
        kernel, bias = v["params"]["kernel"], v["params"]["bias"]
        return _biased(_conv(x, kernel, 2, (0, 3)) if kind == "conv" else x @ kernel, bias)

    _check(transformation, layer.apply, oracle, layer.init(jax.random.key(0), x), x, 1e-5)


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.usefixtures("platform")
def test_network(transformation: str, small_config: ConfigDict) -> None:
    """One with an operation of each kind, and an exchange before a layer of each kind."""
    small_config.model.layers = ("conv1", "conv2", "conv3", "fc6", "fc8")
    small_config.model.exchange = ("conv3", "fc6", "fc8")
    model = builder.model(small_config, 10)
    variables = models.init_variables(model, jax.random.key(0), 67)
    images = 50.0 * jax.random.normal(jax.random.key(1), (2, 67, 67, 3))
    oracle = lambda v, x: _network(model, v, x)  # noqa: E731
    _check(transformation, AllTowers.of(model).apply, oracle, variables, images, 1e-3)


@pytest.mark.parametrize("transformation", ["jvp", "hessian-vector"])
def test_bfloat16_products_of_a_cpu_have_their_derivatives(transformation: str) -> None:
    """They move bits, which JAX would differentiate to zero without a word."""
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    conv = lambda v, x: layers.tower_conv(x.astype(jnp.bfloat16), v, stride=1, padding=(1, 1))  # noqa: E731
    oracle = lambda v, x: _conv(x, v, 1, (1, 1))  # noqa: E731
    wide = x.astype(jnp.float32)
    _check(transformation, lambda v, x: 0.02 * conv(v, x), lambda v, x: 0.02 * oracle(v, x), kernel, wide, 0.02)


@pytest.mark.parametrize("name", ["channel_norm", "spatial_norm"])
@pytest.mark.parametrize("transformation", ["jvp", "hessian-vector"])
def test_response_norm(name: str, transformation: str) -> None:
    """As strong as after conv1 on images of 0..255."""
    c: Any = models.SpatialNorm(5, 3.0, 0.75, 1.0)
    if name == "channel_norm":
        c = models.ChannelNorm(5, 3.0, 0.75, 2.0, alpha_over_size=True, across_towers=False)
    constants = {"size": 5, "alpha": 3.0, "beta": 0.75, "k": c.k}
    constants |= {"alpha_over_size": True} if name == "channel_norm" else {}
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 9))
    norm = getattr(layers, name)
    _check(transformation, lambda v, x: norm(v, **constants), lambda v, x: _norm(v, c), x, x, 1e-5)


def test_float64_mode_trains_in_float32(small_config: ConfigDict) -> None:
    """JAX_ENABLE_X64 changes no type of the train state, nor of what the step makes of it."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model, pixels = builder.model(small_config, 10), small_config.data.crop_pixels
        mesh = towers.make_mesh(towers=2, tower=1, devices=jax.devices()[:1])
        optimizer, _ = builder.optimizer(small_config, images=1000, steps=100)
        state = jax.eval_shape(lambda: make_state(model, optimizer, seed=0, image_pixels=pixels))
        step = make_train_step(
            model, optimizer, mesh, state, batch_size=8, inputs=builder.inputs(small_config),
            augmentation=builder.augmentation(small_config, images=1000),
        )  # fmt: skip
        image = jax.ShapeDtypeStruct((8, pixels, pixels, 3), jnp.uint8)
        number = jax.ShapeDtypeStruct((8,), jnp.int32)
        after, metrics = jax.eval_shape(step, state, {"image": image, "label": number, "place": number})
    types = {str(leaf.dtype) for leaf in jax.tree.leaves((state, after, metrics))}
    assert types == {"float32", "int32", "key<fry>"}
