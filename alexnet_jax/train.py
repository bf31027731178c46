"""Training: the state and the step, without a config and without a file."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from alexnet_jax import towers
from alexnet_jax.evaluate import is_among_best, to_input
from alexnet_jax.model import AlexNet, init_params
from alexnet_jax.towers import EVERYWHERE, PER_EXAMPLE, TOWER

_FLIP = 1_000_000  # folded into an example's key for its flip; dropout folds in the number of its layer


class TrainState(flax.struct.PyTreeNode):
    """All that a run is at a step. Every leaf but the scalars has a leading tower axis."""

    step: jax.Array  # [] int32: how many updates were made
    params: Any
    opt_state: Any
    key: jax.Array  # [] key: the seed; every random number is a function of it and `step`


def make_state(model: AlexNet, optimizer: optax.GradientTransformation, *, seed: int, image_pixels: int) -> TrainState:
    """The state at step 0. Run it under jit with `towers.sharding_of` as its output's shardings."""
    init_key, key = jax.random.split(jax.random.key(seed))
    params = init_params(model, init_key, image_pixels)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params), key=key)


def make_train_step(
    program: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
    *,
    batch_size: int,
    mean: tuple[float, ...],
    flip: bool,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted `step(state, batch)` -> (state, {loss, top1, top5}); it consumes the old state.

    `batch` is one of `data.train_batches` on `mesh`, `batch_size` its global size, `state` any tree
    of the state's shapes. Loss in nats and rates in percent, of the whole batch before the update.
    """
    run = towers.over_towers(program, mesh=mesh)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(state.key, state.step)
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(step_key, batch["place"])
        flips_B = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, _FLIP)))(keys_B) if flip else None
        images = to_input(batch["image"], mean, flips_B)

        def loss_of(params: Any) -> tuple[jax.Array, jax.Array]:
            logits_BK = run(params, images, keys_B)
            losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, batch["label"])
            # Every tower that has its own device computes this loss from the gathered logits, and the
            # transpose of all_gather adds up what all of them ask for: each asks for its part.
            return losses_B.sum() / (batch_size * mesh.shape[TOWER]), logits_BK

        (loss, logits_BK), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        gradients = towers.sum_over_data(gradients, mesh)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        percent = 100.0 / batch_size
        metrics = {
            "loss": loss * mesh.shape[TOWER],
            "top1": is_among_best(logits_BK, batch["label"], 1).sum(dtype=jnp.float32) * percent,
            "top5": is_among_best(logits_BK, batch["label"], 5).sum(dtype=jnp.float32) * percent,
        }
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), towers.sum_over_data(
            metrics, mesh
        )

    spec = towers.spec_of(state)
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(spec, PER_EXAMPLE), out_specs=(spec, EVERYWHERE), check_vma=False
    )
    return jax.jit(sharded, donate_argnums=0)
