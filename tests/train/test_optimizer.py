"""The update rule of 2012 and the schedules, step by step by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax import builder
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.train import optimizer

Tree = dict[str, dict[str, np.ndarray]]
SHAPES = {"conv1": {"kernel": (2, 3, 3, 1, 2), "bias": (2, 2)}, "fc8": {"kernel": (2, 4, 3), "bias": (2, 3)}}


def _random(seed: int) -> Tree:
    rng = np.random.default_rng(seed)
    return {
        layer: {name: rng.normal(size=shape).astype(np.float32).astype(np.float64) for name, shape in leaves.items()}
        for layer, leaves in SHAPES.items()
    }


def _f32(tree: Tree) -> dict[str, dict[str, jax.Array]]:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


@pytest.mark.parametrize(
    ("bias_rate", "weight_decay", "decays"),
    [(2.0, 0.0005, {}), (3.0, 0.3, {}), (1.0, 0.0, {}), (2.0, 0.004, {"fc8": 1.0}), (1.0, 0.3, {"conv1": 0.0})],
)
def test_three_steps_by_hand(bias_rate: float, weight_decay: float, decays: dict[str, float]) -> None:
    """V <- momentum V - decay e W - e g, W <- W + V; biases at bias_rate e without decay; e drops before step 2.

    A layer may have a decay of its own.
    """
    schedule = optimizer.step_schedule(learning_rate=0.1, drop_steps=[2], drop_factor=10.0)

    def rate_of(layer: str, name: str) -> optax.Schedule:
        return (lambda step: bias_rate * schedule(step)) if name == "bias" else schedule

    rule = optimizer.sgd_2012(rate_of=rate_of, momentum=0.9, weight_decay=weight_decay, decays=decays)
    by_hand = _random(0)
    velocity = jax.tree.map(np.zeros_like, by_hand)
    params = _f32(by_hand)
    state = rule.init(params)
    for step, rate in enumerate([0.1, 0.1, 0.01]):
        gradients = _random(1 + step)
        for layer, leaves in by_hand.items():
            for name in leaves:
                own = decays.get(layer, weight_decay)
                e, decay = (rate, own) if name == "kernel" else (rate * bias_rate, 0.0)
                old, g = velocity[layer][name], gradients[layer][name]
                velocity[layer][name] = 0.9 * old - decay * e * leaves[name] - e * g
                leaves[name] = leaves[name] + velocity[layer][name]
        updates, state = jax.jit(rule.update)(_f32(gradients), state, params)
        params = optax.apply_updates(params, updates)
        for layer, leaves in by_hand.items():
            for name, wanted in leaves.items():
                np.testing.assert_allclose(updates[layer][name], velocity[layer][name], rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(params[layer][name], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("drop_steps", "wanted"),
    [
        ((), {0: 0.02, 1_000_000: 0.02}),
        ((5,), {0: 0.02, 4: 0.02, 5: 0.005, 6: 0.005, 1000: 0.005}),
        ((5, 7), {4: 0.02, 5: 0.005, 6: 0.005, 7: 0.00125, 8: 0.00125}),
    ],
)
def test_schedule(drop_steps: tuple[int, ...], wanted: dict[int, float]) -> None:
    """The rate is divided at each drop step itself, not one before or after it, and stays there."""
    schedule = optimizer.step_schedule(learning_rate=0.02, drop_steps=drop_steps, drop_factor=4.0)
    for step, rate in wanted.items():
        assert float(schedule(jnp.asarray(step, jnp.int32))) == pytest.approx(rate, rel=1e-6), step


# ---------------------------------------------------------------- schedules by hand


def test_a_frozen_layer_stands_still_with_its_velocity() -> None:
    """Frozen at step 1 and free again at 3: between them neither moves, then both go on from where they were."""
    rates = [0.1, 0.0, 0.0, 0.1]
    frozen = lambda step: jnp.asarray(rates)[step]  # noqa: E731
    free = optax.constant_schedule(0.1)
    rule = optimizer.sgd_2012(
        rate_of=lambda layer, _: frozen if layer == "conv1" else free, momentum=0.9, weight_decay=0.0
    )
    params, gradient = _f32(_random(0)), _f32(_random(1))
    state, seen = rule.init(params), []
    for _ in rates:
        updates, state = jax.jit(rule.update)(gradient, state, params)
        seen.append((updates["conv1"]["kernel"], state.velocity["conv1"]["kernel"], updates["fc8"]["kernel"]))
    g = gradient["conv1"]["kernel"]
    np.testing.assert_allclose(seen[0][0], -0.1 * g, rtol=1e-6)
    for step in (1, 2):
        assert not np.any(seen[step][0])
        np.testing.assert_array_equal(seen[step][1], seen[0][1])
        assert np.all(np.abs(seen[step][2]) > np.abs(seen[step - 1][2])), "the other layer goes on"
    np.testing.assert_allclose(seen[3][1], 0.9 * seen[0][1] - 0.1 * g, rtol=1e-5)


def _dexp_by_hand(base: float, factor: float, pieces: int, step: int, steps: int) -> float:
    """lr.cu: the first piece i with progress <= (i + 1) / pieces has base * factor ** -(i / (pieces - 1))."""
    for i in range(pieces):
        if step * pieces <= (i + 1) * steps:
            return base * factor ** -(i / (pieces - 1))
    raise AssertionError(step)


@pytest.mark.parametrize(("factor", "pieces", "steps"), [(250.0, 4, 100), (10.0, 2, 7), (250.0, 4, 10)])
def test_dexp(factor: float, pieces: int, steps: int) -> None:
    schedule = optimizer.dexp_schedule(learning_rate=0.01, factor=factor, pieces=pieces, steps=steps)
    for step in range(steps + 1):
        wanted = _dexp_by_hand(0.01, factor, pieces, step, steps)
        assert float(schedule(jnp.asarray(step))) == pytest.approx(wanted, rel=1e-5), step


def test_polynomial_and_constant() -> None:
    schedule = optimizer.polynomial_schedule(learning_rate=0.4, power=2.0, steps=10)
    assert [float(schedule(jnp.asarray(s))) for s in (0, 5, 9, 10, 11)] == pytest.approx([0.4, 0.1, 0.004, 0.0, 0.0])
    assert float(optax.constant_schedule(0.3)(7)) == 0.3


def test_the_plateau_by_hand() -> None:
    """Patience 2, two drops by 10: they come after two evaluations in a row without a new best, and no third."""
    rule = optimizer.PlateauRule(factor=10.0, patience=2, drops=2)
    state = optimizer.sgd_2012(
        rate_of=lambda *_: optax.constant_schedule(1.0), momentum=0.0, weight_decay=0.0
    ).init(_f32(_random(0)))  # fmt: skip
    plateau, scales = state.plateau, []
    for number, error in enumerate([50, 40, 40, 39, 39, 41, 39.5, 38, 38, 38, 38, 38, 38], start=1):
        plateau = rule.after(plateau, step=10 * number, error=float(error))
        assert jax.tree.all(jax.tree.map(jnp.array_equal, plateau, rule.after(plateau, step=10 * number, error=99.0)))
        scales.append(float(plateau.scale))
    assert scales == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])
    gradient = _f32(_random(1))
    rule_of = optimizer.sgd_2012(rate_of=lambda *_: optax.constant_schedule(1.0), momentum=0.0, weight_decay=0.0)
    updates, _ = rule_of.update(gradient, state._replace(plateau=plateau), gradient)
    np.testing.assert_allclose(updates["fc8"]["bias"], -0.01 * gradient["fc8"]["bias"], rtol=1e-6)


def test_the_schedule_of_net_145() -> None:
    """layer-params-145.cfg: weights at epochs 25, 51, 79; conv1 at 25, 51, 67 and frozen from 72; biases never."""
    config = get_config("imagenet2012")
    images = 1_281_167
    seen: dict[tuple[str, str], dict[int, float]] = {}

    def spy(*, rate_of: optimizer.RateOf, **_: object) -> None:
        for layer, name in (("conv1", "kernel"), ("conv1", "bias"), ("conv2", "kernel"), ("fc8", "bias")):
            schedule = rate_of(layer, name)
            steps = {e: builder.step_of_epoch(e, images=images, batch_size=128) for e in (0, 25, 51, 67, 72, 79, 90)}
            seen[layer, name] = {e: float(schedule(jnp.asarray(step))) for e, step in steps.items()}
            before = {e: float(schedule(jnp.asarray(step - 1))) for e, step in steps.items() if e}
            assert before[25] == pytest.approx(seen[layer, name][0]), "the drop is not one step before its epoch"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "sgd_2012", spy)
        builder.optimizer(config, images=images, steps=910_000)
    assert seen["conv2", "kernel"] == pytest.approx(
        {0: 1e-2, 25: 1e-3, 51: 1e-4, 67: 1e-4, 72: 1e-4, 79: 1e-5, 90: 1e-5}
    )
    assert seen["conv1", "kernel"] == pytest.approx({0: 1e-2, 25: 1e-3, 51: 1e-4, 67: 1e-5, 72: 0, 79: 0, 90: 0})
    assert seen["fc8", "bias"] == pytest.approx(dict.fromkeys((0, 25, 51, 67, 72, 79, 90), 2e-2))
    assert seen["conv1", "bias"] == pytest.approx({0: 2e-2, 25: 2e-2, 51: 2e-2, 67: 2e-2, 72: 0, 79: 0, 90: 0})


def test_any_layer_has_the_decay_the_config_gives_it() -> None:
    """In an update without a gradient: e times the layer's own decay, or that of all; biases have none."""
    config = get_config()
    config.train.decays.fc8, config.train.weight_decay = 0.5, 0.004
    rule, _ = builder.optimizer(config, images=100, steps=10)
    ones = {name: {"kernel": jnp.ones(2), "bias": jnp.ones(2)} for name in ("fc7", "fc8")}
    updates, _ = rule.update(jax.tree.map(jnp.zeros_like, ones), rule.init(ones), ones)
    for name, decay in (("fc7", 0.004), ("fc8", 0.5)):
        np.testing.assert_allclose(updates[name]["kernel"], -config.train.learning_rate * decay, rtol=1e-6)
        np.testing.assert_array_equal(updates[name]["bias"], 0.0)


def test_the_rate_of_the_weights_may_rise_again() -> None:
    """By the factor at each of the epochs, drops continue from there; biases and frozen layers are left as they are."""
    config = get_config()
    c = config.train
    c.batch_size, c.learning_rate, c.drop_factor = 1, 0.01, 10.0
    c.drop_epochs, c.bias_drop_epochs, c.own_drop_epochs.conv2 = (2, 4, 8), (6,), (3,)
    c.raise_epochs, c.raise_factor, c.freeze_epochs.conv1 = (5, 9), 50.0, 4
    seen: dict[tuple[str, str], list[float]] = {}

    def spy(*, rate_of: optimizer.RateOf, **_: object) -> None:
        for layer, name in (("conv1", "kernel"), ("conv2", "kernel"), ("conv3", "kernel"), ("conv3", "bias")):
            seen[layer, name] = [float(rate_of(layer, name)(jnp.asarray(step))) for step in range(10)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "sgd_2012", spy)
        _, shown = builder.optimizer(config, images=1, steps=10)
    of_all = [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 5e-3, 5e-3, 5e-3, 5e-4, 2.5e-2]
    assert seen["conv3", "kernel"] == pytest.approx(of_all)
    assert [float(shown(jnp.asarray(step))) for step in range(10)] == pytest.approx(of_all)
    assert seen["conv2", "kernel"] == pytest.approx([1e-2] * 3 + [1e-3] * 2 + [5e-2] * 4 + [2.5])
    assert seen["conv3", "bias"] == pytest.approx([2e-2] * 6 + [2e-3] * 4)
    assert seen["conv1", "kernel"] == pytest.approx([*of_all[:4], *[0.0] * 6])


def test_any_layer_has_the_rate_the_config_gives_it() -> None:
    """A rate of its own for a layer; batch norms have that of the layer they follow."""
    config = get_config()
    config.train.rates.conv3 = 0.5
    config.train.schedule = "constant"
    rule, _ = builder.optimizer(config, images=100, steps=10)
    names = ("conv3", "bn3", "conv4")
    params = {name: {"kernel": jnp.ones(2), "bias": jnp.ones(2)} for name in names}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = rule.update(params, rule.init(zero), zero)
    rate = config.train.learning_rate
    for name, times in zip(names, (0.5, 0.5, 1.0), strict=True):
        np.testing.assert_allclose(updates[name]["kernel"], -rate * times, rtol=1e-6)
        np.testing.assert_allclose(updates[name]["bias"], -2 * rate * times, rtol=1e-6)
