"""The update rule of 2012, step by step by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax import optimizer

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


@pytest.mark.parametrize(("bias_rate", "weight_decay"), [(2.0, 0.0005), (3.0, 0.3), (1.0, 0.0)])
def test_three_steps_by_hand(bias_rate: float, weight_decay: float) -> None:
    """V <- momentum V - decay e W - e g, W <- W + V; biases at bias_rate e without decay; e drops before step 2."""
    schedule = optimizer.step_schedule(learning_rate=0.1, drop_steps=[2], drop_factor=10.0)

    def rate_of(layer: str, name: str) -> optax.Schedule:
        return (lambda step: bias_rate * schedule(step)) if name == "bias" else schedule

    rule = optimizer.sgd_2012(rate_of=rate_of, momentum=0.9, weight_decay=weight_decay)
    by_hand = _random(0)
    velocity = jax.tree.map(np.zeros_like, by_hand)
    params = _f32(by_hand)
    state = rule.init(params)
    for step, rate in enumerate([0.1, 0.1, 0.01]):
        gradients = _random(1 + step)
        for layer, leaves in by_hand.items():
            for name in leaves:
                e, decay = (rate, weight_decay) if name == "kernel" else (rate * bias_rate, 0.0)
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
