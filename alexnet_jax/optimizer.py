"""The update rule of 2012 and its schedule, as optax transformations."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax


def sgd_2012(
    *, learning_rate: optax.Schedule, bias_rate: float, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """V <- momentum V - weight_decay e W - e dL/dW;  W <- W + V (paper, section 5; weights.cu:146).

    The learning rate e goes *into* the velocity, so a drop leaves the old velocity as it is (as in
    Caffe; PyTorch's SGD scales it at once). Biases learn at `bias_rate` e and do not decay.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=lambda params: _where_named("kernel", params)),
        optax.scale_by_learning_rate(learning_rate),
        optax.masked(optax.scale(bias_rate), lambda params: _where_named("bias", params)),
        optax.trace(decay=momentum),
    )


def step_schedule(*, learning_rate: float, drop_steps: Sequence[int], drop_factor: float) -> optax.Schedule:
    """step -> learning rate: constant, and divided by `drop_factor` from each of `drop_steps` on."""
    return lambda step: learning_rate * drop_factor ** -sum(jnp.where(step >= drop, 1.0, 0.0) for drop in drop_steps)


def _where_named(name: str, params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == name, params)
