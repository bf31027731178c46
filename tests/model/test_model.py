"""The network: its numbers, what each tower sees, and what the words of its config mean."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from alexnet_jax import builder, summary
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, layers, towers


def _network(config: ConfigDict, classes: int = 10) -> tuple[models.AlexNet, Any, jax.Array]:
    network = builder.model(config, classes)
    pixels = config.data.crop_pixels
    params = jax.jit(lambda key: models.init_variables(network, key, pixels))(jax.random.key(0))["params"]
    images = 50.0 * jax.random.normal(jax.random.key(1), (4, pixels, pixels, 3))
    return network, params, images


def _logits(network: models.AlexNet) -> Any:
    run_towers = towers.over_towers(models.logits_fn(network))
    return jax.jit(lambda params, images: run_towers({"params": params}, images))


def test_counts_and_shapes_are_those_of_the_paper() -> None:
    """Per layer as counted by hand from the paper's table, 60,965,224 and 724,406,816 in all."""
    rows = {row.name: row for row in summary.layer_rows(builder.model(get_config(), 1000), 224)}
    counts = {name: (row.parameters, row.macs) for name, row in rows.items() if row.parameters}
    assert counts == {
        "conv1": (34_944, 105_415_200),
        "conv2": (307_456, 223_948_800),
        "conv3": (885_120, 149_520_384),
        "conv4": (663_936, 112_140_288),
        "conv5": (442_624, 74_760_192),
        "fc6": (37_752_832, 37_748_736),
        "fc7": (16_781_312, 16_777_216),
        "fc8": (4_097_000, 4_096_000),
    }
    assert sum(p for p, _ in counts.values()) == 60_965_224
    assert sum(m for _, m in counts.values()) == 724_406_816
    assert {name: (row.input, row.output, row.reads) for name, row in rows.items()} == {
        "conv1": ((224, 224, 3), (55, 55, 48), "image"),
        "pool1": ((55, 55, 48), (27, 27, 48), "own"),
        "conv2": ((27, 27, 48), (27, 27, 128), "own"),
        "pool2": ((27, 27, 128), (13, 13, 128), "own"),
        "conv3": ((13, 13, 256), (13, 13, 192), "both"),
        "conv4": ((13, 13, 192), (13, 13, 192), "own"),
        "conv5": ((13, 13, 192), (13, 13, 128), "own"),
        "pool5": ((13, 13, 128), (6, 6, 128), "own"),
        "fc6": ((9216,), (2048,), "both"),
        "fc7": ((4096,), (2048,), "both"),
        "fc8": ((4096,), (500,), "both"),
    }


@pytest.mark.parametrize("classes", [1000, 10, 7, 1])
def test_any_number_of_classes(classes: int, small_config: ConfigDict) -> None:
    """Odd numbers too: what rounds them up to two halves is in no logit and in no count."""
    network, params, images = _network(small_config, classes)
    logits = _logits(network)(params, images)
    assert logits.shape == (4, classes)
    rest = sum(leaf.size for name, layer in params.items() if name != "fc8" for leaf in layer.values())
    assert models.count_parameters(network, params) == rest + (32 + 1) * classes


def test_initialization_is_that_of_the_source() -> None:
    """Net 145: std 0.03 in conv3 to conv5 and 0.01 elsewhere; bias 1 in conv2, conv4 to fc7."""
    network = builder.model(get_config(), 10)
    params = jax.jit(lambda key: models.init_variables(network, key, 67))(jax.random.key(0))["params"]
    for name, layer in params.items():
        kernel = np.asarray(layer["kernel"], np.float64)
        expected = 0.03 if name in ("conv3", "conv4", "conv5") else 0.01
        assert kernel.std() == pytest.approx(expected, rel=0.02), name
        assert abs(kernel.mean()) < 0.02 * expected, name
        assert not np.array_equal(kernel[0], kernel[1]), "the towers begin alike"
        assert np.all(layer["bias"] == (1.0 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0)), name


def _seen(network: models.AlexNet, params: Any, images: jax.Array, moved: Any) -> dict[str, jax.Array]:
    """Every operation's result with `moved` added to each, [T, B, ...]."""

    def one_tower(params: Any, moved: Any) -> dict[str, jax.Array]:
        variables = {"params": params, "perturbations": moved}
        return dict(network.apply(variables, images, mutable=["intermediates"])[1]["intermediates"])

    return jax.vmap(one_tower, axis_name=towers.TOWER)(params, moved)


@pytest.mark.parametrize(
    ("layer", "before", "sees_both"),
    [
        ("conv2", "pool1", False),
        ("conv3", "pool1", True),
        ("conv3", "pool2", True),
        ("conv4", "relu3", False),
        ("conv5", "relu4", False),
        ("fc6", "pool5", True),
        ("fc7", "relu6", True),
        ("fc8", "relu7", True),
    ],
)
def test_what_each_tower_sees(layer: str, before: str, sees_both: bool, small_config: ConfigDict) -> None:
    """Tower 0's layer has a gradient to tower 1's maps where towers meet, and none, exactly, elsewhere."""
    network, params, images = _network(small_config)
    init = jax.vmap(network.init, in_axes=(0, None), axis_name=towers.TOWER)
    shapes = jax.eval_shape(init, jax.random.split(jax.random.key(1), 2), images)["perturbations"]
    still = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def tower_0(moved: jax.Array) -> jax.Array:
        out = _seen(network, params, images, still | {before: moved})[f"{layer}_out"][0]
        return (out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32).reshape(out.shape))).sum()

    gradient = jax.jit(jax.grad(tower_0))(still[before])
    assert jnp.any(gradient[0] != 0), "its own tower"
    assert bool(jnp.any(gradient[1] != 0)) == sees_both, "the other tower"


def test_dropout_is_off_without_keys_and_differs_between_layers_and_towers(small_config: ConfigDict) -> None:
    network, params, images = _network(small_config)
    keys_B = jax.random.split(jax.random.key(3), 4)

    def seen(keys_B: jax.Array | None) -> dict[str, jax.Array]:
        def apply(params: Any) -> Any:
            options = {"train": keys_B is not None, "mutable": ["intermediates"]}
            return network.apply({"params": params}, images, keys_B, **options)[1]["intermediates"]

        return dict(jax.jit(jax.vmap(apply, axis_name=towers.TOWER))(params))

    off, on = seen(None), seen(keys_B)
    np.testing.assert_array_equal(off["dropout6"], 0.5 * off["relu6"])
    masks = [np.asarray(on[name] == 0) for name in ("dropout6", "dropout7")]
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0][0], masks[0][1])


@pytest.mark.parametrize("field", ["conv1", "conv2"])
def test_the_order_of_the_stages_is_the_configs(field: str, small_config: ConfigDict) -> None:
    """Another order of the same operations is another network, and is named by what it does."""
    network, params, images = _network(small_config)
    small_config.model[field].post_ops = "relu pool norm"
    other = builder.model(small_config, 10)
    both = [_logits(net)(params, images) for net in (network, other)]
    assert not np.allclose(both[0], both[1], rtol=1e-6, atol=0)
    assert f"{field} -> relu{field[-1]} -> pool{field[-1]} -> norm{field[-1]}" in summary.summarize(small_config)


def test_avg_pool_averages_in_one_layer_and_pool_is_what_its_kind_says(small_config: ConfigDict) -> None:
    """Its windows are those of `pool`, which takes the maximum in the other layers."""
    small_config.model.conv5.post_ops = "relu avg_pool"
    network, params, images = _network(small_config)
    seen = models.apply_with_intermediates(network)
    found = jax.jit(jax.vmap(lambda p: seen({"params": p}, images), axis_name=towers.TOWER))(params)
    for before, after, kind in (("spatial_norm2", "pool2", "max"), ("relu5", "avg_pool5", "avg")):
        for tower in range(2):
            wanted = layers.pool(found[before][tower], kind=kind, size=3, stride=2, ceil=True)
            np.testing.assert_allclose(found[after][tower], wanted, rtol=1e-6)
    rows = {row.name: row.window for row in summary.layer_rows(network, 67)}
    assert (rows["pool2"], rows["avg_pool5"]) == ("3 x 3 / 2 max", "3 x 3 / 2 avg")


def test_without_exchange_the_towers_never_meet(small_config: ConfigDict) -> None:
    """Only the logits are gathered: tower 0's half of the classes does not know tower 1's weights."""
    small_config.model.exchange = ()
    network, params, images = _network(small_config)
    gradient = jax.jit(jax.grad(lambda p: _logits(network)(p, images)[:, :5].sum()))(params)
    assert all(jnp.all(leaf[1] == 0) for leaf in jax.tree.leaves(gradient))
    assert all(jnp.any(leaf[0] != 0) for leaf in jax.tree.leaves(gradient))


def test_an_image_too_small_for_the_network_is_one_sentence(small_config: ConfigDict) -> None:
    small_config.data.crop_pixels = 40
    with pytest.raises(AlexNetError, match=r"conv5 .* shrunk to 2 x 2 pixels.*data\.crop_pixels"):
        _network(small_config)
