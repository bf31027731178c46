"""Several networks as one, their probabilities averaged: what each says of a split, and weights tuned for them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import builder, config as configs, progress as bars
from alexnet_jax.data import feed
from alexnet_jax.errors import AlexNetError
from alexnet_jax.evaluate import make_eval_step
from alexnet_jax.model import towers
from alexnet_jax.train import checksums
from alexnet_jax.train.checkpoint import restore_network

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Member:
    """What one checkpoint says of a split: probabilities [N, K] by the center crop and by all views."""

    name: str
    center: Array
    views: Array


def errors(probabilities_NK: Array, labels_N: Array) -> tuple[float, float]:
    """(top-1, top-5) error in percent; of equal probabilities the first class is the larger."""
    right = np.take_along_axis(probabilities_NK, labels_N[:, None], axis=1)
    earlier = np.arange(probabilities_NK.shape[1])[None] < labels_N[:, None]
    ahead = ((probabilities_NK > right) | ((probabilities_NK == right) & earlier)).sum(axis=1)
    return float(100 * np.mean(ahead >= 1)), float(100 * np.mean(ahead >= 5))


def mixed(probabilities: Sequence[Array], weights: Sequence[float]) -> Array:
    """The weighted mean of several [N, K]; all weights 0 count as equal ones."""
    shares = np.asarray(weights, float)
    shares = shares / shares.sum() if shares.sum() else np.full(len(shares), 1 / len(shares))
    return np.asarray(sum(share * p for share, p in zip(shares, probabilities, strict=True)))


def tuned(probabilities: Sequence[Array], labels_N: Array) -> list[float]:
    """Weights in steps of 0.05 with a smaller top-5 error, one after the other until none helps.

    What the 2012 source does on its validation set (`avg-valid.py`, find_coeffs); the paper says "averaging".
    """
    weights = [0.5] * len(probabilities)
    best = errors(mixed(probabilities, weights), labels_N)[1]
    for _ in range(5):
        before = list(weights)
        for i in range(len(weights)):
            for candidate in np.linspace(0.0, 1.0, 21):
                tried = [*weights[:i], float(candidate), *weights[i + 1 :]]
                error = errors(mixed(probabilities, tried), labels_N)[1]
                if error < best:
                    best, weights = error, tried
        if weights == before:
            break
    return weights


def member(
    workdir: Path, which: str, split: feed.Split | None, overrides: Sequence[str]
) -> tuple[Member, Array, feed.Split]:
    """(what a checkpoint says, the labels, the split) of its run's evaluation split, or of `split` of another run.

    `overrides` ("section.field=value") are set in the run's config, such as where its data lie here.
    Raises AlexNetError.
    """
    checksums.restore_files(workdir)
    config = configs.load(workdir, ("mesh.tower=0", *overrides))
    evaluation = builder.evaluation(config, classes=len(configs.load_classes(workdir)), workdir=workdir)
    mesh, own = evaluation.mesh, evaluation.split
    if split and (own.name, own.class_names, len(own.source)) != (split.name, split.class_names, len(split.source)):
        raise AlexNetError(
            f"{workdir} is evaluated on {own.name}, another split than the first workdir's {split.name}."
        )
    configs.check_classes(workdir, own.class_names)
    net = restore_network(workdir, which, mesh=mesh, overrides=overrides)
    step = make_eval_step(net.model, mesh, inputs=evaluation.inputs, views=builder.views(config))
    labels, found = [], []
    total = -(-len(own.source) // evaluation.batch_size)
    for batch in bars.bar(evaluation.batches(bars.write), total=total, what=str(workdir)):
        real = batch["label"] >= 0
        _, probabilities_2BK = step(net.variables, towers.to_devices(batch, mesh))
        found.append(np.asarray(probabilities_2BK)[:, real])
        labels.append(batch["label"][real])
    center, all_views = np.concatenate(found, axis=1)
    return Member(f"{workdir} step {net.step}", center, all_views), np.concatenate(labels), own
