"""Evaluation: every image of a split once, by its center crop and by all its views, counted exactly."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from alexnet_jax.data.feed import Batch
from alexnet_jax.network import placement, towers
from alexnet_jax.network.model import AlexNet, tower_program
from alexnet_jax.network.preprocess import Input, Views, crop_view
from alexnet_jax.network.ranking import is_among_best
from alexnet_jax.network.towers import DATA, EVERYWHERE, PER_EXAMPLE

Counts = dict[str, jax.Array]
EvalStep = Callable[[Any, dict[str, jax.Array]], Counts]


def make_eval_step(model: AlexNet, mesh: Mesh, *, inputs: Input, views: Views) -> EvalStep:
    """The jitted `step(variables, batch)` -> sums over the whole batch, by class: images [K], and for the
    center crop and for all views: loss, top1 [K], top5 [K]. The variables lie as `placement.specs` says.

    The images of a batch are squares that all views fit into; the probabilities of the views are
    averaged (2012 source, `layer.cu`:1804). With one view there are no sums of "views".
    """
    run, specs = _placed(model, mesh, inputs)

    def step(variables: Any, batch: dict[str, jax.Array]) -> Counts:
        real_B = batch["label"] >= 0
        labels_B = jnp.where(real_B, batch["label"], 0)
        probabilities = probabilities_of_views(run, variables, batch["image"], inputs, views)
        sums = _sums(probabilities[0], labels_B, real_B, "")
        if len(views) > 1:
            sums |= _sums(probabilities.mean(axis=0), labels_B, real_B, "views_")
        sums["images"] = _by_class(real_B, labels_B, probabilities.shape[-1])
        return towers.sum_over_data(sums, mesh, "metrics")

    return towers.sharded(step, mesh=mesh, in_specs=(specs, PER_EXAMPLE), out_specs=EVERYWHERE)


def make_probabilities_step(
    model: AlexNet, mesh: Mesh, *, inputs: Input, views: Views
) -> Callable[[Any, dict[str, jax.Array]], jax.Array]:
    """The jitted `step(variables, batch)` -> probabilities [2, B, K]: by the center crop, and the mean of all views."""
    run, specs = _placed(model, mesh, inputs)

    def step(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
        probabilities = probabilities_of_views(run, variables, batch["image"], inputs, views)
        return jnp.stack([probabilities[0], probabilities.mean(axis=0)])

    out = PartitionSpec(None, DATA)
    return towers.sharded(step, mesh=mesh, in_specs=(specs, PER_EXAMPLE), out_specs=out)


def _placed(model: AlexNet, mesh: Mesh, inputs: Input) -> tuple[Callable[..., jax.Array], Any]:
    """`run(variables, images)` -> logits on a device of `mesh`, and how the variables lie on it."""
    program = tower_program(placement.for_mesh(model, mesh))
    variables = placement.variables(model, inputs.crop_pixels)
    return towers.over_towers(program, mesh=mesh), placement.specs(model, variables, mesh)


def probabilities_of_views(
    run: Callable[..., jax.Array], variables: Any, images: jax.Array, inputs: Input, views: Views
) -> jax.Array:
    """The probabilities of the classes, [V, B, K], one view after the other so that memory holds one."""

    def one(view: jax.Array) -> jax.Array:
        return jax.nn.softmax(run(variables, inputs(crop_view(images, view, inputs.crop_pixels))))

    return jax.lax.map(one, jnp.asarray(np.asarray(views, np.int32)))


def _sums(probabilities_BK: jax.Array, labels_B: jax.Array, real_B: jax.Array, prefix: str) -> Counts:
    right = jnp.take_along_axis(probabilities_BK, labels_B[:, None], axis=1)[:, 0]
    losses_B = -jnp.log(jnp.maximum(right, np.float32(1e-37)))
    classes = probabilities_BK.shape[-1]
    hit = {f"{prefix}top{k}": is_among_best(probabilities_BK, labels_B, k) for k in (1, 5)}
    counts = {name: _by_class(real_B & hit_B, labels_B, classes) for name, hit_B in hit.items()}
    return {f"{prefix}loss": jnp.where(real_B, losses_B, 0.0).sum(), **counts}


def _by_class(counted_B: jax.Array, labels_B: jax.Array, classes: int) -> jax.Array:
    return jnp.zeros(classes, jnp.int32).at[labels_B].add(counted_B.astype(jnp.int32))


def evaluate(
    step: EvalStep, variables: Any, batches: Iterable[Batch], mesh: Mesh, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """{eval_top1, eval_top5 (percent), eval_loss (nats), eval_images, eval_classes} over all the batches.

    With several views also eval_views_top1, eval_views_top5 and eval_views_loss. `eval_classes` is
    {name: top-1 in percent} of every class that has images.
    """
    total: dict[str, Any] = {}
    pending: list[Counts] = []
    for batch in batches:
        pending.append(step(variables, towers.to_devices(batch, mesh)))
        if len(pending) > 1:  # one batch ahead of the device, and no more in its memory
            _add(total, pending.pop(0))
    for counts in pending:
        _add(total, counts)
    images = int(total["images"].sum())
    entry: dict[str, Any] = {}
    for prefix in ("", "views_") if "views_loss" in total else ("",):
        for k in ("top1", "top5"):
            entry[f"eval_{prefix}{k}"] = 100.0 * int(total[prefix + k].sum()) / images
        entry[f"eval_{prefix}loss"] = float(total[prefix + "loss"]) / images
    each = zip(class_names, total["top1"].tolist(), total["images"].tolist(), strict=True)
    by_class = {name: 100.0 * right / of for name, right, of in each if of}
    return entry | {"eval_images": images, "eval_classes": by_class}


def _add(total: dict[str, Any], counts: Counts) -> None:
    for name, value in counts.items():
        part = np.asarray(value, np.float64 if name.endswith("loss") else np.int64)
        total[name] = total[name] + part if name in total else part
