"""The update rule of 2012 and its schedules, against a few lines of NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.train import optimizer

Tree = dict[str, dict[str, np.ndarray]]
SHAPES = {"conv1": {"kernel": (2, 3, 3, 1, 2), "bias": (2, 2)}, "fc8": {"kernel": (2, 4, 3), "bias": (2, 3)}}
ONE = optax.constant_schedule(1.0)


def _random(seed: int) -> Tree:
    rng = np.random.default_rng(seed)
    return {
        layer: {name: rng.normal(size=shape).astype(np.float32).astype(np.float64) for name, shape in leaves.items()}
        for layer, leaves in SHAPES.items()
    }


def _f32(tree: Tree) -> dict[str, dict[str, jax.Array]]:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _rates(schedule: optax.Schedule, steps: Any) -> list[float]:
    return [float(schedule(jnp.asarray(step, jnp.float32))) for step in steps]


def _lars(decayed: np.ndarray, w: np.ndarray, coefficient: float) -> np.ndarray:
    """Each tower's update with `coefficient` times the norm of its parameter; as it is where that is zero."""
    norms = [np.linalg.norm(tree.reshape(2, -1), axis=1).reshape(2, *[1] * (w.ndim - 1)) for tree in (decayed, w)]
    return decayed * np.where(norms[1] > 0, coefficient * norms[1] / norms[0], 1.0)


@pytest.mark.parametrize(
    ("bias_rate", "weight_decay", "decays", "lars"),
    [(2.0, 0.3, {}, 0.0), (2.0, 0.004, {"fc8": 1.0, "conv1": 0.0}, 0.0), (1.0, 0.01, {}, 0.02)],
)
def test_update_rule_by_hand(bias_rate: float, weight_decay: float, decays: dict[str, float], lars: float) -> None:
    """V <- momentum V - e (g + decay W), W <- W + V; biases without decay; e drops before step 2."""
    schedule = optimizer.step_schedule(learning_rate=0.1, drop_steps=[2], drop_factor=10.0)

    def rate_of(_: str, name: str) -> optax.Schedule:
        return (lambda step: bias_rate * schedule(step)) if name == "bias" else schedule

    rule = optimizer.sgd_2012(rate_of=rate_of, momentum=0.9, weight_decay=weight_decay, decays=decays, lars=lars)
    by_hand = _random(0)
    by_hand["fc8"]["bias"][1] = 0.0
    velocity = jax.tree.map(np.zeros_like, by_hand)
    params = _f32(by_hand)
    state = rule.init(params)
    for step, rate in enumerate([0.1, 0.1, 0.01]):
        gradients = _random(1 + step)
        for layer, leaves in by_hand.items():
            for name, w in leaves.items():
                decay, e = (decays.get(layer, weight_decay), rate) if name == "kernel" else (0.0, rate * bias_rate)
                decayed = gradients[layer][name] + decay * w
                velocity[layer][name] = 0.9 * velocity[layer][name] - e * (_lars(decayed, w, lars) if lars else decayed)
                leaves[name] = w + velocity[layer][name]
        updates, state = jax.jit(rule.update)(_f32(gradients), state, params)
        params = optax.apply_updates(params, updates)
        close = lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)  # noqa: E731
        jax.tree.map(close, (updates, state.velocity, params), (velocity, velocity, by_hand))


def test_frozen_layer_keeps_parameter_and_velocity() -> None:
    """Frozen at step 1 and free again at 3: it goes on from where it was."""
    rates = jnp.asarray([0.1, 0.0, 0.0, 0.1])
    frozen = lambda step: rates[step.astype(int)]  # noqa: E731
    rule = optimizer.sgd_2012(
        rate_of=lambda layer, _: frozen if layer == "conv1" else ONE, momentum=0.9, weight_decay=0.0
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


def test_plateau_drops_rates_by_hand() -> None:
    """Patience 2, two drops by 10: they come after two evaluations in a row without a new best, and no third."""
    plateau_rule = optimizer.PlateauRule(factor=10.0, patience=2, drops=2)
    rule = optimizer.sgd_2012(rate_of=lambda *_: ONE, momentum=0.0, weight_decay=0.0)
    gradient = _f32(_random(1))
    state = rule.init(gradient)
    plateau, scales = state.plateau, []
    for number, error in enumerate([50, 40, 40, 39, 39, 41, 39.5, 38, 38, 38, 38, 38, 38], start=1):
        plateau = plateau_rule.after(plateau, step=10 * number, error=float(error))
        again = plateau_rule.after(plateau, step=10 * number, error=99.0)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, plateau, again)), "an evaluation counts once"
        scales.append(float(plateau.scale))
    assert scales == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])
    updates, _ = rule.update(gradient, state._replace(plateau=plateau), gradient)
    np.testing.assert_allclose(updates["fc8"]["bias"], -0.01 * gradient["fc8"]["bias"], rtol=1e-6)


def test_step_schedule_changes_at_its_steps() -> None:
    """At the step itself, not one before or after it; a step that is given twice counts twice."""
    schedule = optimizer.step_schedule(
        learning_rate=0.02, drop_steps=(5, 7, 7), drop_factor=4.0, raise_steps=(9,), raise_factor=64.0
    )
    wanted = [0.02] * 5 + [0.005] * 2 + [0.005 / 16] * 2 + [0.02] * 2
    assert _rates(schedule, range(11)) == pytest.approx(wanted, rel=1e-6)


def _dexp_by_hand(base: float, factor: float, pieces: int, step: int, steps: int) -> float:
    """lr.cu: the first piece i with progress <= (i + 1) / pieces has base * factor ** -(i / (pieces - 1))."""
    i = next(i for i in range(pieces) if step * pieces <= (i + 1) * steps)
    return base * factor ** -(i / (pieces - 1))


@pytest.mark.parametrize(("factor", "pieces", "steps"), [(10.0, 2, 7), (250.0, 4, 10), (250.0, 4, 3)])
def test_dexp_schedule_equals_source(factor: float, pieces: int, steps: int) -> None:
    schedule = optimizer.dexp_schedule(learning_rate=0.01, factor=factor, pieces=pieces, steps=steps)
    wanted = [_dexp_by_hand(0.01, factor, pieces, step, steps) for step in range(steps + 1)]
    assert _rates(schedule, range(steps + 1)) == pytest.approx(wanted, rel=1e-5)


def _config(**fields: Any) -> ConfigDict:
    """A config of 40 steps of ten images, five of them an epoch."""
    config = get_config()
    config.train.update(batch_size=10, learning_rate=0.8, **fields)
    return config


@pytest.mark.parametrize(
    ("schedule", "by_hand"),
    [
        ("constant", lambda _: 1.0),
        ("polynomial", lambda step: (1 - step / 40) ** 2),
        ("cosine", lambda step: (1 + np.cos(np.pi * step / 40)) / 2),
        ("steps", lambda step: 1.0 if step < 15 else 0.1),
        ("dexp", lambda step: 1.0 if step <= 20 else 0.1),
    ],
)
def test_warmup_applies_to_every_schedule(schedule: str, by_hand: Any) -> None:
    """(step + 1) / 10 in the first ten steps, times the schedule."""
    config = _config(schedule=schedule, warmup_epochs=2.0, power=2.0, drop_epochs=(3,), drop_factor=10.0)
    config.train.dexp.update(factor=10.0, pieces=2)
    _, rate = builder.optimizer(config, images=50, steps=40)
    steps = (0, 1, 4, 9, 10, 20, 39, 40)
    wanted = [0.8 * by_hand(step) * min(1.0, (step + 1) / 10) for step in steps]
    assert _rates(rate, steps) == pytest.approx(wanted, rel=1e-5, abs=1e-7)


def _schedules(config: ConfigDict, monkeypatch: pytest.MonkeyPatch, **run: int) -> tuple[optimizer.RateOf, Any]:
    """The schedules that the config gives to each parameter, and the one that is shown."""
    given: list[optimizer.RateOf] = []
    monkeypatch.setattr(optimizer, "sgd_2012", lambda *, rate_of, **_: given.append(rate_of))
    _, shown = builder.optimizer(config, **run)
    return given[0], shown


def test_net_145_schedule_equals_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """layer-params-145.cfg: weights at epochs 25, 51, 79; conv1 at 25, 51, 67 and frozen from 72; biases never."""
    images, epochs = 1_281_167, (0, 25, 51, 67, 72, 79, 90)
    rate_of, _ = _schedules(get_config("imagenet2012"), monkeypatch, images=images, steps=910_000)
    steps = [builder.step_of_epoch(epoch, images=images, batch_size=128) for epoch in epochs]
    for layer, name, wanted in (
        ("conv2", "kernel", [1e-2, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5, 1e-5]),
        ("conv1", "kernel", [1e-2, 1e-3, 1e-4, 1e-5, 0, 0, 0]),
        ("conv1", "bias", [2e-2, 2e-2, 2e-2, 2e-2, 0, 0, 0]),
        ("fc8", "bias", [2e-2] * 7),
    ):
        assert _rates(rate_of(layer, name), steps) == pytest.approx(wanted)
        assert _rates(rate_of(layer, name), [step - 1 for step in steps[1:]]) == pytest.approx(wanted[:-1])


def test_raised_rates_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the factor at each of the epochs, drops continue from there; biases and frozen layers are left as they are."""
    config = get_config()
    c = config.train
    c.batch_size, c.learning_rate, c.drop_factor = 1, 0.01, 10.0
    c.drop_epochs, c.bias_drop_epochs, c.own_drop_epochs.conv2 = (2, 4, 8), (6,), (3,)
    c.raise_epochs, c.raise_factor, c.freeze_epochs.conv1 = (5, 9), 50.0, 4
    rate_of, shown = _schedules(config, monkeypatch, images=1, steps=10)
    of_all = [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 5e-3, 5e-3, 5e-3, 5e-4, 2.5e-2]
    for schedule, wanted in (
        (rate_of("conv3", "kernel"), of_all),
        (shown, of_all),
        (rate_of("conv2", "kernel"), [1e-2] * 3 + [1e-3] * 2 + [5e-2] * 4 + [2.5]),
        (rate_of("conv3", "bias"), [2e-2] * 6 + [2e-3] * 4),
        (rate_of("conv1", "kernel"), [*of_all[:4], *[0.0] * 6]),
    ):
        assert _rates(schedule, range(10)) == pytest.approx(wanted)


def test_layer_rates_and_decays_from_config() -> None:
    """In one update: a rate and a decay of its own for a layer; a batch norm has the rate of the layer it follows."""
    config = _config(schedule="constant", weight_decay=0.004)
    config.train.rates.conv3, config.train.decays.conv3 = 0.5, 0.5
    rule, _ = builder.optimizer(config, images=100, steps=10)
    ones = {name: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2, 2))} for name in ("conv3", "bn3", "conv4")}
    updates, _ = rule.update(ones, rule.init(ones), ones)
    for name, rate, decay in (("conv3", 0.4, 0.5), ("bn3", 0.4, 0.004), ("conv4", 0.8, 0.004)):
        np.testing.assert_allclose(updates[name]["kernel"], -rate * (1 + decay), rtol=1e-6)
        np.testing.assert_allclose(updates[name]["bias"], -2 * rate, rtol=1e-6)
