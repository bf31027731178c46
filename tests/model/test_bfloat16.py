"""config.precision: what is rounded to bfloat16, and that nothing else is."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.model import alexnet as models, layers, placement, towers
from alexnet_jax.train import speed
from alexnet_jax.train.step import train_apply

ROUNDING = 2.0**-8  # of bfloat16: half of the distance from 1 to the next number


def _narrow(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)


def _close(got: jax.Array, wanted: Any, tolerance: float) -> None:
    wanted = np.asarray(wanted, np.float64)
    np.testing.assert_allclose(
        np.asarray(got, np.float64), wanted, rtol=tolerance, atol=tolerance / 16 * np.abs(wanted).max()
    )


CONVOLUTIONS = [  # height, width, channels, maps, size, stride, padding
    pytest.param((27, 34, 3, 5, 11, 4, (0, 3)), id="conv1"),  # 7 columns, which no group of neighbors divides
    pytest.param((24, 43, 3, 5, 11, 4, (0, 3)), id="groups-of-five"),
    pytest.param((9, 6, 4, 3, 5, 1, (2, 2)), id="groups-of-three"),
    pytest.param((7, 5, 3, 2, 3, 1, (1, 1)), id="conv3"),
    pytest.param((8, 8, 3, 2, 3, 1, (1, 1)), id="groups-of-two"),
    pytest.param((11, 10, 2, 3, 5, 2, (0, 3)), id="stride-2"),
    pytest.param((9, 12, 2, 3, 3, 4, (1, 1)), id="stride-larger-than-kernel"),
]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_are_those_of_float64(case: tuple[Any, ...], platform: str) -> None:
    """Products of rounded numbers are exact in float32: a CPU's kernel gradient is, the others are rounded once."""
    height, width, channels, maps, size, stride, padding = case
    x = _narrow(0, 2, height, width, channels)
    kernel = _narrow(1, size, size, channels, maps).astype(jnp.float32)

    def plain(x: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(part, np.float64)) for part in (x, kernel)]
        wanted, pullback = jax.vjp(plain, *wide)
        g = _narrow(2, *wanted.shape)
        dx, dkernel = pullback(jnp.asarray(np.asarray(g, np.float64)))
    conv = functools.partial(layers.tower_conv, stride=stride, padding=padding)

    @jax.jit
    def value_and_gradients(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        value, pullback = jax.vjp(conv, x, kernel)
        return value, *pullback(g)

    got = value_and_gradients(x, kernel, g.astype(jnp.float32))
    assert [part.dtype for part in got] == [jnp.float32, jnp.bfloat16, jnp.float32]
    _close(got[0], wanted, 1e-5 if platform == "cpu" else ROUNDING)  # the bias comes before the rounding
    _close(got[1], dx, ROUNDING)
    _close(got[2], dkernel, 1e-5 if platform == "cpu" else ROUNDING)


def test_matmuls_have_float32_sums() -> None:
    x, kernel, g = _narrow(0, 6, 40), _narrow(1, 40, 8).astype(jnp.float32), _narrow(2, 6, 8)
    value, pullback = jax.vjp(layers.tower_matmul, x, kernel)
    dx, dkernel = pullback(g.astype(jnp.float32))
    assert (value.dtype, dx.dtype, dkernel.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    x64, kernel64, g64 = (np.asarray(part, np.float64) for part in (x, kernel, g))
    _close(value, x64 @ kernel64, 1e-6)
    _close(dkernel, x64.T @ g64, 1e-6)
    _close(dx, g64 @ kernel64.T, ROUNDING)


@pytest.mark.parametrize(
    "operation",
    [
        functools.partial(layers.channel_norm, size=5, alpha=3.0, beta=0.75, k=2.0, alpha_over_size=True),
        functools.partial(layers.spatial_norm, size=5, alpha=3.0, beta=0.75, k=1.0),
        functools.partial(layers.pool, kind="max", size=3, stride=2, ceil=True),
        functools.partial(layers.pool, kind="avg", size=3, stride=2, ceil=True),
    ],
    ids=["channel_norm", "spatial_norm", "max", "avg"],
)
def test_norms_and_pooling_compute_in_float32(operation: Any) -> None:
    """They are the float32 operations with their inputs and results rounded."""
    x = _narrow(0, 2, 7, 7, 9)
    wide, wide_pullback = jax.vjp(operation, x.astype(jnp.float32))
    value, pullback = jax.vjp(operation, x)
    g = _narrow(1, *wide.shape)
    assert value.dtype == jnp.bfloat16
    _close(value, wide, ROUNDING)
    (dx,), (wide_dx,) = pullback(g), wide_pullback(g.astype(jnp.float32))
    assert dx.dtype == jnp.bfloat16
    _close(dx, wide_dx, 3 * ROUNDING)


def test_activations_are_rounded_and_parameters_are_not(small_config: ConfigDict) -> None:
    """Everything that is seen on the way is bfloat16; logits, parameters, statistics and gradients are float32."""
    small_config.precision = "bfloat16"
    small_config.model.conv3.post_ops = "batch_norm relu"
    network = builder.model(small_config, 10)
    variables, images = placement.variables(network, 67), jax.ShapeDtypeStruct((4, 67, 67, 3), jnp.float32)

    def program(variables: Any, images: jax.Array) -> Any:
        logits, state = network.apply(variables, images, mutable=["intermediates"])
        return state["intermediates"] | {"logits": logits}

    seen = jax.eval_shape(towers.over_towers(program, out_axes=0), variables, images)
    wide = {name for name, value in seen.items() if value.dtype != jnp.bfloat16}
    assert wide == {"fc8_out", "logits"}

    def loss(variables: Any, images: jax.Array) -> Any:
        keys = jax.random.split(jax.random.key(2), 4)
        run = towers.over_towers(train_apply(network), out_axes=(None, 0))
        logits, statistics = run(variables, images, keys)
        return logits.sum(), statistics

    gradients_and_statistics = jax.eval_shape(jax.grad(loss, has_aux=True), variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, gradients_and_statistics))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("size", ["small", pytest.param("full", marks=pytest.mark.slow)])
def test_gradients_are_those_of_float32_but_for_rounding(size: str, small_config: ConfigDict) -> None:
    """Each kernel's, as a share of its length: more for each layer that the gradient has come through.

    experiments/006_bfloat16 has it against float64, beside PyTorch's.
    """
    config, found = small_config if size == "small" else get_config(), {}
    pixels = config.data.crop_pixels
    images, labels = 50.0 * jax.random.normal(jax.random.key(1), (4, pixels, pixels, 3)), jnp.arange(4)
    for precision in ("float32", "bfloat16"):
        config.precision = precision
        network = builder.model(config, 10 if size == "small" else 1000)
        params = jax.jit(lambda network=network: models.init_variables(network, jax.random.key(0), pixels))()["params"]

        def loss(params: Any, network: Any = network) -> jax.Array:
            logits = towers.over_towers(models.logits_fn(network))({"params": params}, images)
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

        found[precision] = jax.jit(jax.grad(loss))(params)
    for number, layer in enumerate(reversed(network.stack)):
        wide, narrow = (found[precision][layer.name]["kernel"] for precision in ("float32", "bfloat16"))
        error = float(jnp.linalg.norm(narrow - wide) / jnp.linalg.norm(wide))
        assert 0 < error < 0.01 + 0.05 * number, (layer.name, error)


@pytest.mark.parametrize(
    ("asked", "features", "wanted"),
    [
        ("auto", {"amx_bf16", "avx512_bf16"}, "bfloat16"),
        ("auto", {"avx512_bf16"}, "float32"),  # such a CPU has the instructions, but no matrix units
        ("float32", {"amx_bf16"}, "float32"),
        ("bfloat16", set(), "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_a_cpu_has_units_for_it(
    asked: str, features: set[str], wanted: str, small_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the parameters are the same whatever it is."""
    plain = placement.variables(builder.model(small_config, 10), 67)
    monkeypatch.setattr(speed, "_cpu_features", lambda: frozenset(features))
    small_config.precision = asked
    network = builder.model(small_config, 10)
    assert (network.compute_dtype, network.exchange_dtype) == (wanted, wanted)
    assert placement.variables(network, 67) == plain


@pytest.mark.parametrize(
    ("platform", "capability", "wanted"),
    [
        ("gpu", "9.0", "bfloat16"),
        ("gpu", "8.0", "bfloat16"),
        ("gpu", "7.5", "float32"),
        ("gpu", "gfx942", "bfloat16"),
        ("tpu", None, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_on_accelerators_that_have_it(
    platform: str, capability: str | None, wanted: str, small_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    small_config.precision = "auto"
    assert builder.compute_dtype(small_config) == wanted
