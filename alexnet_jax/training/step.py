"""The train state and the training step, without a config and without a file."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from alexnet_jax.network import placement, towers
from alexnet_jax.network.model import AlexNet, init_variables, training_program
from alexnet_jax.network.preprocess import Augmentation, Input, fold_in_each
from alexnet_jax.network.ranking import is_among_best
from alexnet_jax.network.towers import EVERYWHERE, PER_EXAMPLE, TOWER


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run is at a step. Every leaf but the scalars has a leading tower axis."""

    step: jax.Array  # [] int32: how many updates were made
    params: Any
    statistics: Any  # running means and variances of batch norms; {} without any
    opt_state: Any
    key: jax.Array  # [] key: the seed; every random number is a function of it and `step`

    @property
    def variables(self) -> dict[str, Any]:
        """What the tower program takes."""
        return variables_of(self.params, self.statistics)


def variables_of(params: Any, statistics: Any) -> dict[str, Any]:
    """Parameters and running statistics as the tower program takes them."""
    return {"params": params} | ({"batch_stats": statistics} if statistics else {})


def make_state(model: AlexNet, optimizer: optax.GradientTransformation, *, seed: int, image_pixels: int) -> TrainState:
    """The state at step 0. Run it under jit with `placement.shardings` as its output's shardings."""
    init_key, key = jax.random.split(jax.random.key(seed))
    variables = init_variables(model, init_key, image_pixels)
    params, statistics = variables["params"], variables.get("batch_stats", {})
    return TrainState(jnp.zeros((), jnp.int32), params, statistics, optimizer.init(params), key)


def make_train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
    *,
    batch_size: int,
    inputs: Input,
    augmentation: Augmentation,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted `step(state, batch)` -> (state, {loss, top1, top5, rate_scale}); it consumes the old state.

    `batch` is one of `data.train_batches` on `mesh`, `batch_size` its global size, `state` any tree of the state's
    shapes, which lies as `placement.specs` says. Loss in nats and rates in percent, of the whole batch before the
    update.
    """
    run = towers.over_towers(training_program(placement.for_mesh(model, mesh)), mesh=mesh, out_axes=(None, 0))
    spec = placement.specs(model, state, mesh)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(state.key, state.step)
        keys_B = fold_in_each(step_key, batch["place"])
        images = augmentation(batch["image"], inputs, step=state.step, step_key=step_key, place_B=batch["place"])

        def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits_BK, statistics = run(variables_of(params, state.statistics), images, keys_B)
            losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, batch["label"])
            # Every tower that has its own device computes this loss from the gathered logits, and the
            # transpose of all_gather adds up what all of them ask for: each asks for its part.
            return losses_B.sum() / (batch_size * mesh.shape[TOWER]), (logits_BK, statistics)

        (loss, (logits_BK, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        gradients = towers.sum_over_data(gradients, mesh, "gradients", spec.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        percent = 100.0 / batch_size
        metrics = {
            "loss": loss * mesh.shape[TOWER],
            "top1": is_among_best(logits_BK, batch["label"], 1).sum(dtype=jnp.float32) * percent,
            "top5": is_among_best(logits_BK, batch["label"], 5).sum(dtype=jnp.float32) * percent,
        }
        state = TrainState(state.step + 1, params, statistics, opt_state, state.key)
        return state, towers.sum_over_data(metrics, mesh, "metrics") | {"rate_scale": opt_state.plateau.scale}

    return towers.sharded(
        step, mesh=mesh, in_specs=(spec, PER_EXAMPLE), out_specs=(spec, EVERYWHERE), donate_argnums=(0,)
    )
