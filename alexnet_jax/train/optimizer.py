"""The update rule of 2012 and its schedules, from parts of optax."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

RateOf = Callable[[str, str], optax.Schedule]  # of a layer's name and a parameter's


class Plateau(NamedTuple):
    """The state of "divide by ten when validation stops improving"; scalars."""

    scale: jax.Array  # [] float32: of every learning rate
    best: jax.Array  # [] float32: the smallest validation error so far
    waited: jax.Array  # [] int32: evaluations since then, or since the last drop
    drops: jax.Array  # [] int32: how often the rates were divided
    step: jax.Array  # [] int32: of the last evaluation that was counted


class State(NamedTuple):
    """The state of `sgd_2012`, as it is in checkpoints since version 0.1."""

    updates: jax.Array  # [] int32: how many there were
    velocity: Any  # like the parameters
    plateau: Plateau


def sgd_2012(
    *,
    rate_of: RateOf,
    momentum: float,
    weight_decay: float,
    decays: Mapping[str, float] | None = None,
    lars: float = 0.0,
) -> optax.GradientTransformation:
    """V <- momentum V - e (dL/dW + decay W);  W <- W + V (paper, section 5; weights.cu:146).

    e is `rate_of(layer, parameter)(step)` times the plateau's scale. It goes *into* the velocity, so a drop leaves the
    old velocity as it is (as in Caffe; PyTorch's SGD scales it at once). Only kernels decay, by the layer's own number
    in `decays` or by `weight_decay`. Where e is 0 the parameter is frozen: it stands still at once, and its velocity is
    kept as it is (weights.cu, `if (getBaseRate() > 0)`). `lars` is the trust coefficient of You et al. 2017 (arXiv
    1708.03888, equation 6 and algorithm 1), 0 for none; the norms are of one tower's parameter.
    """

    def rule(layer: str, parameter: str, rate: jax.Array) -> optax.GradientTransformation:
        decay = (decays or {}).get(layer, weight_decay) if parameter == "kernel" else 0.0
        return optax.chain(
            optax.add_decayed_weights(decay),
            _for_each_tower(optax.scale_by_trust_ratio(trust_coefficient=lars)) if lars else optax.identity(),
            optax.scale_by_learning_rate(rate),
            optax.trace(momentum),
        )

    def init(params: Any) -> State:
        zero = jnp.zeros((), jnp.int32)
        plateau = Plateau(jnp.ones((), jnp.float32), jnp.full((), jnp.inf, jnp.float32), zero, zero, zero)
        return State(zero, jax.tree.map(jnp.zeros_like, params), plateau)

    def update(gradients: Any, state: State, params: Any = None) -> tuple[Any, State]:
        step = state.updates.astype(jnp.float32)  # optax's schedules mix it with floats, which strict promotion forbids

        def of_parameter(path: Any, gradient: jax.Array, old: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
            layer, parameter = path[0].key, path[-1].key
            rate = jnp.asarray(rate_of(layer, parameter)(step), jnp.float32) * state.plateau.scale
            chain = rule(layer, parameter, rate)
            velocity, _ = chain.update(gradient, (*chain.init(w)[:-1], optax.TraceState(old)), w)
            velocity = jnp.where(rate > 0, velocity, old)  # first: else XLA keeps both in memory
            return jnp.where(rate > 0, velocity, 0.0), velocity

        found = jax.tree_util.tree_map_with_path(of_parameter, gradients, state.velocity, params)
        updates, velocity = jax.tree.transpose(jax.tree.structure(gradients), jax.tree.structure((0, 0)), found)
        return updates, State(state.updates + 1, velocity, state.plateau)

    return optax.GradientTransformation(init, update)


def _for_each_tower(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """The stateless rule, along the leading axis of the parameters."""

    def update(updates: jax.Array, state: Any, params: jax.Array | None = None) -> tuple[jax.Array, Any]:
        return jax.vmap(lambda u, w: rule.update(u, state, w)[0])(updates, params), state

    return optax.GradientTransformation(rule.init, update)


def step_schedule(
    *,
    learning_rate: float,
    drop_steps: Sequence[int],
    drop_factor: float,
    raise_steps: Sequence[int] = (),
    raise_factor: float = 1.0,
) -> optax.Schedule:
    """Constant, but divided by `drop_factor` from each of `drop_steps` on, and multiplied from `raise_steps` on."""
    scales: dict[int, float] = collections.defaultdict(lambda: 1.0)
    for step in drop_steps:
        scales[step] /= drop_factor
    for step in raise_steps:
        scales[step] *= raise_factor
    return optax.piecewise_constant_schedule(learning_rate, scales)


def dexp_schedule(*, learning_rate: float, factor: float, pieces: int, steps: int) -> optax.Schedule:
    """Equally long pieces of constant rate, each lower than the last by the same ratio, `factor` in all.

    dexp of cuda-convnet2 (lr.cu, DiscreteExpParameterSchedule): a step exactly between two pieces
    belongs to the earlier one.
    """
    drops = [i * steps // pieces + 1 for i in range(1, pieces)]
    ratio = factor ** (1 / max(1, pieces - 1))
    return step_schedule(learning_rate=learning_rate, drop_steps=drops, drop_factor=ratio)


def warmed_up(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """The schedule times (step + 1) / `steps` in the first of them (Goyal et al. 2017, arXiv 1706.02677, 2.2).

    optax's own warm-ups begin the schedule after the warm-up; in this one it runs from step 0.
    """
    rise = optax.linear_schedule(1.0 / steps, 1.0, steps - 1) if steps > 1 else optax.constant_schedule(1.0)

    def warmed(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        return schedule(step) * rise(step)

    return warmed


@dataclasses.dataclass(frozen=True)
class PlateauRule:
    """Divide by `factor` after `patience` evaluations without a smaller error, `drops` times at most.

    The paper (section 5): by ten, when the validation error stopped improving, three times.
    `optax.contrib.reduce_on_plateau` counts updates, and does not bound the drops by a number.
    """

    factor: float
    patience: int
    drops: int

    def after(self, plateau: Plateau, *, step: int, error: float) -> Plateau:
        """The plateau after the evaluation at `step`, whose top-1 error is `error` percent, counted once."""
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
        counted = plateau.step >= step
        return jax.tree.map(lambda old, now: jnp.where(counted, old, now), plateau, new)
