"""The train state and the training step, without a config and without a file."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from alexnet_jax.data.preprocess import Augmentation, Input, fold_in_each
from alexnet_jax.model import placement, towers
from alexnet_jax.model.alexnet import AlexNet, in_top_k, init_variables
from alexnet_jax.model.towers import BATCH_SHARDED, REPLICATED, TOWER


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run is at a step. Every leaf but the scalars has a leading tower axis."""

    step: jax.Array  # [] int32: how many updates were made
    params: Any
    statistics: Any  # running means and variances of batch norms; {} without any
    opt_state: Any
    average: Any  # a moving average of `variables`; {} without one
    key: jax.Array  # [] key: the seed; every random number is a function of it and `step`

    @property
    def variables(self) -> dict[str, Any]:
        """What `logits_fn` takes."""
        return variables_of(self.params, self.statistics)


def variables_of(params: Any, statistics: Any) -> dict[str, Any]:
    """Parameters and running statistics as `logits_fn` takes them."""
    return {"params": params} | ({"batch_stats": statistics} if statistics else {})


def make_state(
    model: AlexNet, optimizer: optax.GradientTransformation, *, seed: int, image_pixels: int, averaged: bool = False
) -> TrainState:
    """The state at step 0. Run it under jit with `placement.shardings` as its output's shardings."""
    init_key, key = jax.random.split(jax.random.key(seed))
    variables = init_variables(model, init_key, image_pixels)
    params, statistics = variables["params"], variables.get("batch_stats", {})
    average = jax.tree.map(jnp.copy, variables) if averaged else {}
    return TrainState(jnp.zeros((), jnp.int32), params, statistics, optimizer.init(params), average, key)


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """How a step makes a loss and an average of the weights, besides what the optimizer does.

    `microbatches`: a device computes its share of the batch in so many parts, one after the other, to save memory. The
    gradient is that of the whole; batch norms see one part at a time, and their running statistics go through all.
    `label_smoothing`: the share of a label that is spread over all classes (Szegedy et al. 2015, arXiv 1512.00567,
    section 7). `ema_decay`: of the moving average of the weights and running statistics; 0 for none.
    """

    microbatches: int = 1
    label_smoothing: float = 0.0
    ema_decay: float = 0.0


def cross_entropy(logits_BK: jax.Array, label_B: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """The loss of each example, [B], in nats."""
    of_label_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, label_B)
    if not label_smoothing:
        return of_label_B
    of_all_B = -jax.nn.log_softmax(logits_BK).mean(axis=-1)
    return (1.0 - label_smoothing) * of_label_B + label_smoothing * of_all_B


def _updated(
    state: TrainState, optimizer: optax.GradientTransformation, gradients: Any, statistics: Any, ema_decay: float
) -> TrainState:
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = _averaged(state.average, variables_of(params, statistics), state.step, ema_decay)
    return TrainState(state.step + 1, params, statistics, opt_state, average, state.key)


def _averaged(average: Any, variables: Any, step: jax.Array, decay: float) -> Any:
    """The moving average after update number `step`, from 0; early ones decay faster, to forget the initialization."""
    if not decay:
        return average
    count = step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda old, new: decay_now * old + (1.0 - decay_now) * new, average, variables)


def train_apply(model: AlexNet) -> Callable[..., tuple[jax.Array, Any]]:
    """`program(variables, images, keys_B)` of one tower -> (logits, the running statistics after this batch).

    These are {} without batch norms.
    """

    def program(variables: Any, images: jax.Array, keys_B: jax.Array) -> tuple[jax.Array, Any]:
        logits, new = model.apply(variables, images, keys_B, train=True, mutable=["batch_stats"])
        assert isinstance(logits, jax.Array)
        return logits, new.get("batch_stats", {})

    return program


def make_train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
    *,
    batch_size: int,
    inputs: Input,
    augmentation: Augmentation,
    settings: StepSettings = StepSettings(),
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted `step(state, batch)` -> (state, {loss, top1, top5}); it consumes the old state.

    `batch` is one of `data.train_batches` on `mesh`, `batch_size` its global size, `state` any tree of the state's
    shapes, which lies as `placement.specs` says. Loss in nats and top-k in percent, of the whole batch before the
    update. Any optimizer of optax will do.
    """
    run = towers.over_towers(train_apply(placement.for_mesh(model, mesh)), mesh=mesh, out_axes=(None, 0))
    spec = placement.specs(model, state, mesh)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(state.key, state.step)

        def learn(statistics: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any, dict[str, jax.Array]]:
            """(gradients, running statistics, metrics) of a microbatch."""
            keys_B = fold_in_each(step_key, batch["place"])
            with jax.named_scope("images"):
                images = augmentation(
                    batch["image"], inputs, step=state.step, step_key=step_key, place_B=batch["place"]
                )

            def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
                logits_BK, new_statistics = run(variables_of(params, statistics), images, keys_B)
                with jax.named_scope("loss"):
                    losses_B = cross_entropy(logits_BK, batch["label"], settings.label_smoothing)
                # Every tower that has its own device computes this loss from the gathered logits, and the
                # transpose of all_gather adds up what all of them ask for: each asks for its part.
                return losses_B.sum() / (batch_size * mesh.shape[TOWER]), (logits_BK, new_statistics)

            (loss, (logits_BK, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
            percent = 100.0 / batch_size
            metrics = {"loss": loss * mesh.shape[TOWER]} | {
                f"top{k}": in_top_k(logits_BK, batch["label"], k).sum(dtype=jnp.float32) * percent for k in (1, 5)
            }
            return gradients, statistics, metrics

        gradients, statistics, metrics = _in_microbatches(learn, state.statistics, batch, settings.microbatches)
        gradients = towers.sum_over_data(gradients, mesh, "gradients", spec.params)
        with jax.named_scope("update"):
            state = _updated(state, optimizer, gradients, statistics, settings.ema_decay)
        return state, towers.sum_over_data(metrics, mesh, "metrics")

    return towers.sharded(
        step, mesh=mesh, in_specs=(spec, BATCH_SHARDED), out_specs=(spec, REPLICATED), donate_argnums=(0,)
    )


def _in_microbatches(learn: Callable[..., Any], statistics: Any, batch: dict[str, jax.Array], count: int) -> Any:
    """`learn(statistics, batch)` over `count` parts of the batch, one after the other; gradients and metrics add up."""
    if count == 1:
        return learn(statistics, batch)
    microbatches = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batch)

    def add(total: Any, microbatch: dict[str, jax.Array]) -> tuple[Any, None]:
        gradients, statistics, metrics = total
        new_gradients, statistics, new_metrics = learn(statistics, microbatch)
        gradients, metrics = jax.tree.map(jnp.add, (gradients, metrics), (new_gradients, new_metrics))
        return (gradients, statistics, metrics), None

    shapes = jax.eval_shape(learn, statistics, jax.tree.map(lambda leaf: leaf[0], microbatches))
    gradients, _, metrics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, (gradients, statistics, metrics), microbatches)[0]
