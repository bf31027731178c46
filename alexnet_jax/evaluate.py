"""Evaluation: every image of a split once, centre cropped, counted exactly."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from alexnet_jax import towers
from alexnet_jax.data import Batch
from alexnet_jax.towers import EVERYWHERE, PER_EXAMPLE, PER_TOWER

Counts = dict[str, jax.Array]
EvalStep = Callable[[Any, dict[str, jax.Array]], Counts]


def to_input(images: jax.Array, mean: tuple[float, ...], flips_B: jax.Array | None = None) -> jax.Array:
    """uint8 [B, H, W, 3] -> float32 less the channel means, mirrored where `flips_B` says so."""
    if flips_B is not None:
        images = jnp.where(flips_B[:, None, None, None], images[:, :, ::-1], images)
    return images.astype(jnp.float32) - jnp.asarray(mean, jnp.float32)[None, None, None]


def is_among_best(logits_BK: jax.Array, labels_B: jax.Array, k: int) -> jax.Array:
    """Whether the label is one of the k largest logits, [B] bool; of equal ones the first is the larger."""
    label_logit = jnp.take_along_axis(logits_BK, labels_B[:, None], axis=1)
    earlier = jnp.arange(logits_BK.shape[1])[None] < labels_B[:, None]
    ahead = (logits_BK > label_logit) | ((logits_BK == label_logit) & earlier)
    return ahead.sum(axis=1) < k


def make_eval_step(program: Callable[..., jax.Array], mesh: Mesh, *, mean: tuple[float, ...]) -> EvalStep:
    """The jitted `step(params, batch)` -> sums over the whole batch: loss, top1, top5 [K], images [K] by class."""
    run = towers.over_towers(program, mesh=mesh)

    def step(params: Any, batch: dict[str, jax.Array]) -> Counts:
        logits_BK = run(params, to_input(batch["image"], mean))
        real_B = batch["label"] >= 0
        labels_B = jnp.where(real_B, batch["label"], 0)
        losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels_B)

        def by_class(counted_B: jax.Array) -> jax.Array:
            counts_K = jnp.zeros(logits_BK.shape[1], jnp.int32)
            return counts_K.at[labels_B].add((real_B & counted_B).astype(jnp.int32))

        sums = {
            "loss": jnp.where(real_B, losses_B, 0.0).sum(),
            "top1": by_class(is_among_best(logits_BK, labels_B, 1)),
            "top5": by_class(is_among_best(logits_BK, labels_B, 5)),
            "images": by_class(real_B),
        }
        return towers.sum_over_data(sums, mesh)

    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(PER_TOWER, PER_EXAMPLE), out_specs=EVERYWHERE, check_vma=False)
    )


def evaluate(
    step: EvalStep, params: Any, batches: Iterable[Batch], mesh: Mesh, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """{eval_top1, eval_top5 (percent), eval_loss (nats), eval_images, eval_classes} over all the batches.

    `eval_classes` is {name: top-1 in percent} of every class that has images.
    """
    total: dict[str, Any] = {"loss": 0.0, "top1": 0, "top5": 0, "images": 0}
    pending: list[Counts] = []
    for batch in batches:
        pending.append(step(params, towers.to_devices(batch, mesh)))
        if len(pending) > 1:  # one batch ahead of the device, and no more of them in its memory
            _add(total, pending.pop(0))
    for counts in pending:
        _add(total, counts)
    images = int(total["images"].sum())
    each = zip(class_names, total["top1"].tolist(), total["images"].tolist(), strict=True)
    return {
        "eval_top1": 100.0 * int(total["top1"].sum()) / images,
        "eval_top5": 100.0 * int(total["top5"].sum()) / images,
        "eval_loss": float(total["loss"]) / images,
        "eval_images": images,
        "eval_classes": {name: 100.0 * right / of for name, right, of in each if of},
    }


def _add(total: dict[str, Any], counts: Counts) -> None:
    for name, value in counts.items():
        total[name] = total[name] + np.asarray(value, np.float64 if name == "loss" else np.int64)
