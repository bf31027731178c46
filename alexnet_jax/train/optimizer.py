"""The update rule of 2012 and its schedules, as an optax transformation."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

RateOf = Callable[[str, str], optax.Schedule]


class Plateau(NamedTuple):
    """What "divide by ten when validation stops improving" remembers; all of it scalars in the checkpoint."""

    scale: jax.Array  # [] float32: of every learning rate
    best: jax.Array  # [] float32: the smallest validation error so far
    waited: jax.Array  # [] int32: evaluations since then, or since the last drop
    drops: jax.Array  # [] int32: how often the rates were divided
    step: jax.Array  # [] int32: of the last evaluation that was looked at


class State(NamedTuple):
    """`updates` [] int32 so far, the velocity of every parameter, and the plateau."""

    updates: jax.Array
    velocity: Any
    plateau: Plateau


def sgd_2012(
    *,
    rate_of: RateOf,
    momentum: float,
    weight_decay: float,
    decays: Mapping[str, float] | None = None,
    lars: float = 0.0,
) -> optax.GradientTransformation:
    """V <- momentum V - weight_decay e W - e dL/dW;  W <- W + V (paper, section 5; weights.cu:146).

    e is `rate_of(layer, name)(step)` for the parameter `name` of a layer, times the plateau's scale.
    It goes *into* the velocity, so a drop leaves the old velocity as it is (as in Caffe; PyTorch's
    SGD scales it at once). Only kernels decay, those of a layer in `decays` by the number there instead of
    `weight_decay`. Where e is 0 the parameter is frozen: it stands still
    at once, and its velocity is kept as it is (weights.cu, `if (getBaseRate() > 0)`).

    With `lars`, the trust coefficient of You et al. 2017 (arXiv 1708.03888, equation 6 and algorithm 1), what e
    multiplies is scaled first, for each parameter of each tower, to `lars` times the norm of the parameter: optax's
    `scale_by_trust_ratio` over gradient and decay.
    """
    # Each tower has weights of its own, wherever it is: the norms are of one tower's.
    trust = optax.scale_by_trust_ratio(trust_coefficient=lars)

    def scaled(decayed: jax.Array, w: jax.Array) -> jax.Array:
        return jax.vmap(lambda d, w: trust.update(d, trust.init(w), w)[0])(decayed, w) if lars else decayed

    def init(params: Any) -> State:
        zero = jnp.zeros((), jnp.int32)
        plateau = Plateau(jnp.ones(()), jnp.full((), jnp.inf), zero, zero, zero)
        return State(zero, jax.tree.map(jnp.zeros_like, params), plateau)

    def update(gradients: Any, state: State, params: Any = None) -> tuple[Any, State]:
        assert params is not None, "the decay needs the parameters"

        def rate(path: Any) -> jax.Array:
            schedule = rate_of(path[0].key, path[-1].key)
            return jnp.asarray(schedule(state.updates), jnp.float32) * state.plateau.scale

        def new_velocity(path: Any, v: jax.Array, g: jax.Array, w: jax.Array) -> jax.Array:
            e = rate(path)
            decay = (decays or {}).get(path[0].key, weight_decay)
            decayed = g + decay * w if path[-1].key == "kernel" else g
            return jnp.where(e > 0, momentum * v - e * scaled(decayed, w), v)

        def moved(path: Any, v: jax.Array) -> jax.Array:
            return jnp.where(rate(path) > 0, v, 0.0)

        velocity = jax.tree_util.tree_map_with_path(new_velocity, state.velocity, gradients, params)
        updates = jax.tree_util.tree_map_with_path(moved, velocity)
        return updates, State(state.updates + 1, velocity, state.plateau)

    return optax.GradientTransformation(init, update)


# ---------------------------------------------------------------- schedules: step -> learning rate


def step_schedule(*, learning_rate: float, drop_steps: Sequence[int], drop_factor: float) -> optax.Schedule:
    """Constant, and divided by `drop_factor` from each of `drop_steps` on."""
    return lambda step: learning_rate * drop_factor ** -sum(jnp.where(step >= drop, 1.0, 0.0) for drop in drop_steps)


def raised(schedule: optax.Schedule, raise_steps: Sequence[int], factor: float) -> optax.Schedule:
    """The schedule, and `factor` times it from each of `raise_steps` on."""
    if not raise_steps:
        return schedule
    return lambda step: schedule(step) * factor ** sum(jnp.where(step >= start, 1.0, 0.0) for start in raise_steps)


def dexp_schedule(*, learning_rate: float, factor: float, pieces: int, steps: int) -> optax.Schedule:
    """Equally long pieces of constant rate, each lower than the last by the same ratio, `factor` in all.

    dexp of cuda-convnet2 (lr.cu, DiscreteExpParameterSchedule): a step exactly between two pieces
    belongs to the earlier one.
    """
    drops = [i * steps // pieces + 1 for i in range(1, pieces)]
    ratio = factor ** (1 / max(1, pieces - 1))
    return step_schedule(learning_rate=learning_rate, drop_steps=drops, drop_factor=ratio)


def polynomial_schedule(*, learning_rate: float, power: float, steps: int) -> optax.Schedule:
    """From the rate to 0 at `steps`, as (1 - step / steps) ** power (Caffe's policy "poly")."""
    return lambda step: learning_rate * jnp.maximum(0.0, 1.0 - step.astype(jnp.float32) / steps) ** power


def cosine_schedule(*, learning_rate: float, steps: int) -> optax.Schedule:
    """From the rate to 0 at `steps`, as half a cosine (Loshchilov and Hutter 2016, arXiv 1608.03983, equation 5)."""
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    return lambda step: schedule(jnp.asarray(step, jnp.float32))


def warmed_up(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """The schedule times (step + 1) / `steps` in the first of them (Goyal et al. 2017, arXiv 1706.02677, 2.2)."""
    if not steps:
        return schedule
    return lambda step: schedule(step) * jnp.minimum(1.0, (jnp.asarray(step, jnp.float32) + 1.0) / steps)


def frozen_from(schedule: optax.Schedule, step: int) -> optax.Schedule:
    """The schedule, and 0 from `step` on."""
    return lambda now: jnp.where(now >= step, 0.0, schedule(now))


# ---------------------------------------------------------------- the plateau


@dataclasses.dataclass(frozen=True)
class PlateauRule:
    """Divide by `factor` after `patience` evaluations without a smaller error, `drops` times at most.

    The paper (section 5): by ten, when the validation error stopped improving, three times.
    """

    factor: float
    patience: int
    drops: int

    def after(self, plateau: Plateau, *, step: int, error: float) -> Plateau:
        """The plateau after the evaluation at `step`, whose top-1 error is `error` percent; once for each."""
        value = np.float32(error)  # no array of this process alone: the others are of all processes
        better = value < plateau.best
        waited = jnp.where(better, 0, plateau.waited + 1)
        drop = (waited >= self.patience) & (plateau.drops < self.drops)
        new = Plateau(
            scale=jnp.where(drop, plateau.scale / self.factor, plateau.scale),
            best=jnp.where(better, value, plateau.best),
            waited=jnp.where(drop, 0, waited),
            drops=plateau.drops + drop.astype(jnp.int32),
            step=jnp.full_like(plateau.step, step),
        )
        seen = plateau.step >= step
        return jax.tree.map(lambda old, now: jnp.where(seen, old, now), plateau, new)
