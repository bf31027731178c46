"""Training: the state and the step, without a config and without a file."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from alexnet_jax import towers
from alexnet_jax.evaluate import Input, is_among_best, mirrored
from alexnet_jax.model import AlexNet, init_variables, training_program
from alexnet_jax.towers import DATA, EVERYWHERE, PER_EXAMPLE, TOWER

# Folded into an example's key, for its flip and its colour; dropout folds in the number of its layer.
_FLIP, _COLOUR = 1_000_000, 1_000_001


class TrainState(flax.struct.PyTreeNode):
    """All that a run is at a step. Every leaf but the scalars has a leading tower axis."""

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


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to the images of a training batch on the device.

    `flip`: mirrored, half of them; drawn once for each `chunk` of neighbouring images. `colours` is
    [3, 3]: a row for each principal component, its unit vector over R, G, B times the deviation of the
    noise along it, in levels of 0..255; None is no noise. `shrink` divides what got noise. Both end
    before step `colour_steps`.
    """

    flip: bool = False
    chunk: int = 1
    colours: np.ndarray | None = None
    shrink: float = 1.0
    colour_steps: int = 0

    def flips(self, step_key: jax.Array, place_B: jax.Array) -> jax.Array:
        """Which images are mirrored, [B] bool."""
        keys_B = _fold_in_each(step_key, place_B // self.chunk)
        return jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, _FLIP)))(keys_B)

    def coloured(self, images: jax.Array, keys_B: jax.Array, step: jax.Array) -> jax.Array:
        """float32 RGB less the mean -> with the noise of the paper's section 4.1, one draw for each image."""
        if self.colours is None:
            return images
        draws_B3 = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, _COLOUR), (3,)))(keys_B)
        noise_B3 = jnp.matmul(draws_B3, self.colours.astype(np.float32), precision=jax.lax.Precision.HIGHEST)
        coloured = (images + noise_B3[:, None, None, :]) / np.float32(self.shrink)
        return jnp.where(step < self.colour_steps, coloured, images)


def _fold_in_each(key: jax.Array, number_B: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, number_B)


def make_state(model: AlexNet, optimizer: optax.GradientTransformation, *, seed: int, image_pixels: int) -> TrainState:
    """The state at step 0. Run it under jit with `towers.sharding_of` as its output's shardings."""
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

    `batch` is one of `data.train_batches` on `mesh`, `batch_size` its global size, `state` any tree
    of the state's shapes. Loss in nats and rates in percent, of the whole batch before the update.
    """
    model = model.clone(data_axis=DATA if mesh.shape[DATA] > 1 else None)
    run = towers.over_towers(training_program(model), mesh=mesh, out_axes=(None, 0))

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(state.key, state.step)
        keys_B = _fold_in_each(step_key, batch["place"])
        pixels = batch["image"]
        if augmentation.flip:
            pixels = mirrored(pixels, augmentation.flips(step_key, batch["place"]))
        images = inputs.finished(augmentation.coloured(inputs.centred(pixels), keys_B, state.step))

        def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits_BK, statistics = run(variables_of(params, state.statistics), images, keys_B)
            losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, batch["label"])
            # Every tower that has its own device computes this loss from the gathered logits, and the
            # transpose of all_gather adds up what all of them ask for: each asks for its part.
            return losses_B.sum() / (batch_size * mesh.shape[TOWER]), (logits_BK, statistics)

        (loss, (logits_BK, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        gradients = towers.sum_over_data(gradients, mesh)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        percent = 100.0 / batch_size
        metrics = {
            "loss": loss * mesh.shape[TOWER],
            "top1": is_among_best(logits_BK, batch["label"], 1).sum(dtype=jnp.float32) * percent,
            "top5": is_among_best(logits_BK, batch["label"], 5).sum(dtype=jnp.float32) * percent,
        }
        state = TrainState(state.step + 1, params, statistics, opt_state, state.key)
        return state, towers.sum_over_data(metrics, mesh) | {"rate_scale": opt_state.plateau.scale}

    spec = towers.spec_of(state)
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(spec, PER_EXAMPLE), out_specs=(spec, EVERYWHERE), check_vma=False
    )
    return jax.jit(sharded, donate_argnums=0)
