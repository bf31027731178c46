"""Evaluation: every image of a split once, by its center crop and by all its views, counted exactly."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from alexnet_jax.data.feed import Batch
from alexnet_jax.model import placement, towers
from alexnet_jax.model.alexnet import AlexNet, in_top_k, logits_fn
from alexnet_jax.model.preprocess import Input, Views, crop_view
from alexnet_jax.model.towers import BATCH_SHARDED, DATA, REPLICATED

Counts = dict[str, jax.Array]
PerImage = dict[str, Any]  # what `make_eval_step` gives for each image
EvalStep = Callable[[Any, dict[str, jax.Array]], tuple[Counts, PerImage]]

BEST = 5  # so many answers of an image are kept


def make_eval_step(model: AlexNet, mesh: Mesh, *, inputs: Input, views: Views) -> EvalStep:
    """The jitted `step(variables, batch)` -> (sums over the whole batch, what is said of each image).

    The sums are by class: images [K], answered [K] (how often the class is the center crop's best), and for the center
    crop and for all views: loss, top1 [K], top5 [K]. With one view there are no sums of "views". For each image, by the
    center crop: best [B, 5] int32 and odds [B, 5], the most probable classes in order, and right [B], the probability
    of its label. The variables lie as `placement.specs` says.

    The images of a batch are squares that all views fit into; the probabilities of the views are
    averaged (2012 source, `layer.cu`:1804).
    """
    run, specs = _placed(model, mesh, inputs)

    def step(variables: Any, batch: dict[str, jax.Array]) -> tuple[Counts, PerImage]:
        real_B = batch["label"] >= 0
        labels_B = jnp.where(real_B, batch["label"], 0)
        probabilities = probabilities_of_views(run, variables, batch["image"], inputs, views)
        sums, classes = _sums(probabilities[0], labels_B, real_B, ""), probabilities.shape[-1]
        if len(views) > 1:
            sums |= _sums(probabilities.mean(axis=0), labels_B, real_B, "views_")
        odds, best = jax.lax.top_k(probabilities[0], min(BEST, classes))  # of equal ones the first class, as above
        sums |= {"images": _by_class(real_B, labels_B, classes), "answered": _by_class(real_B, best[:, 0], classes)}
        right = jnp.take_along_axis(probabilities[0], labels_B[:, None], axis=1)[:, 0]
        return towers.sum_over_data(sums, mesh, "metrics"), {"best": best, "odds": odds, "right": right}

    return towers.sharded(step, mesh=mesh, in_specs=(specs, BATCH_SHARDED), out_specs=(REPLICATED, BATCH_SHARDED))


def make_probabilities_step(
    model: AlexNet, mesh: Mesh, *, inputs: Input, views: Views
) -> Callable[[Any, dict[str, jax.Array]], jax.Array]:
    """The jitted `step(variables, batch)` -> probabilities [2, B, K]: by the center crop, and the mean of all views."""
    run, specs = _placed(model, mesh, inputs)

    def step(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
        probabilities = probabilities_of_views(run, variables, batch["image"], inputs, views)
        return jnp.stack([probabilities[0], probabilities.mean(axis=0)])

    out = PartitionSpec(None, DATA)
    return towers.sharded(step, mesh=mesh, in_specs=(specs, BATCH_SHARDED), out_specs=out)


def _placed(model: AlexNet, mesh: Mesh, inputs: Input) -> tuple[Callable[..., jax.Array], Any]:
    """`run(variables, images)` -> logits on a device of `mesh`, and how the variables lie on it."""
    program = logits_fn(placement.for_mesh(model, mesh))
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
    hit = {f"{prefix}top{k}": in_top_k(probabilities_BK, labels_B, k) for k in (1, 5)}
    counts = {name: _by_class(real_B & hit_B, labels_B, classes) for name, hit_B in hit.items()}
    return {f"{prefix}loss": jnp.where(real_B, losses_B, 0.0).sum(), **counts}


def _by_class(counted_B: jax.Array, labels_B: jax.Array, classes: int) -> jax.Array:
    return jnp.zeros(classes, jnp.int32).at[labels_B].add(counted_B.astype(jnp.int32))


def evaluate(
    step: EvalStep,
    variables: Any,
    batches: Iterable[Batch],
    mesh: Mesh,
    class_names: tuple[str, ...],
    *,
    each: Callable[[PerImage], None] | None = None,
) -> dict[str, Any]:
    """{eval_top1, eval_top5 (percent), eval_loss (nats), eval_images, ...} over all the batches.

    With several views also eval_views_top1, eval_views_top5 and eval_views_loss; all else is of the center crop.
    `eval_classes` is {name: top-1 in percent} of every class that has images. `eval_by_class` is {name: images, top1,
    top5, precision} of all, in percent: `top1` is the class's recall, and `precision` the share of images that are
    called so and are, 0 where none is called so. eval_recall and eval_precision are their means over the classes that
    have images. `each` is given what the step says of the images of every batch, with their labels; in one process.
    """
    total: dict[str, Any] = {}
    pending: list[tuple[Batch, Counts, PerImage]] = []

    def take(batch: Batch, counts: Counts, images: PerImage) -> None:
        _add(total, counts)
        if each is not None:
            real = batch["label"] >= 0
            each({name: np.asarray(value)[real] for name, value in (images | {"label": batch["label"]}).items()})

    for batch in batches:
        pending.append((batch, *step(variables, towers.to_devices(batch, mesh))))
        if len(pending) > 1:  # one batch ahead of the device, and no more in its memory
            take(*pending.pop(0))
    for waiting in pending:
        take(*waiting)
    images = int(total["images"].sum())
    entry: dict[str, Any] = {}
    for prefix in ("", "views_") if "views_loss" in total else ("",):
        for k in ("top1", "top5"):
            entry[f"eval_{prefix}{k}"] = 100.0 * int(total[prefix + k].sum()) / images
        entry[f"eval_{prefix}loss"] = float(total[prefix + "loss"]) / images
    return entry | {"eval_images": images} | _of_classes(total, class_names)


def _of_classes(total: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
    counts = zip(*(total[name].tolist() for name in ("images", "top1", "top5", "answered")), strict=True)
    by_class = {
        name: {
            "images": images,
            "top1": 100.0 * right / images if images else 0.0,
            "top5": 100.0 * among / images if images else 0.0,
            "precision": 100.0 * right / answered if answered else 0.0,
        }
        for name, (images, right, among, answered) in zip(class_names, counts, strict=True)
    }
    present = {name: row for name, row in by_class.items() if row["images"]}
    means = {name: sum(row[of] for row in present.values()) / len(present) for name, of in _MEANS.items()}
    return means | {"eval_classes": {name: row["top1"] for name, row in present.items()}, "eval_by_class": by_class}


_MEANS = {"eval_recall": "top1", "eval_precision": "precision"}


def _add(total: dict[str, Any], counts: Counts) -> None:
    for name, value in counts.items():
        part = np.asarray(value, np.float64 if name.endswith("loss") else np.int64)
        total[name] = total[name] + part if name in total else part
