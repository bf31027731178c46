"""Microbatches, LARS on meshes, label smoothing and the average of the weights."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from steps import compiled

from alexnet_jax import builder, config as configs, schema
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import towers
from alexnet_jax.train.checkpoint import restore_network
from alexnet_jax.train.step import cross_entropy


def _apart(left: Any, right: Any) -> float:
    """The largest difference of two trees, as a share of the largest number of its leaf."""
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


def test_four_microbatches_equal_the_batch(small_config: ConfigDict) -> None:
    """Parameters after 5 steps, losses and hits: the same up to rounding, dropout and flips on, on any mesh."""
    small_config.train.batch_size = 32
    small_config.train.learning_rate = 0.0003  # a larger one amplifies rounding: experiments/005
    whole, expected = compiled(small_config, (1, 1)).run(5)
    small_config.train.accumulate = 4
    microbatches, found = compiled(small_config, (2, 2)).run(5)
    assert 0 < _apart(found[-1].params, expected[-1].params) < 1e-4
    for one, other in zip(microbatches, whole, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.fixture
def normed_config(small_config: ConfigDict) -> ConfigDict:
    """With a batch norm whose running statistics are those of the last microbatch alone."""
    small_config.model.conv3.post_ops = "batch_norm relu"
    small_config.model.batch_norm.momentum = 0.0
    return small_config


def test_running_statistics_go_through_microbatches(normed_config: ConfigDict) -> None:
    _, whole = compiled(normed_config, (1, 1)).run(1)
    normed_config.train.accumulate = 2
    _, in_parts = compiled(normed_config, (1, 1)).run(1)
    assert _apart(in_parts[1].statistics, whole[1].statistics) > 0.01


def test_batch_must_be_divisible_by_microbatches() -> None:
    config = get_config()
    config.train.batch_size, config.train.accumulate = 12, 5
    with pytest.raises(AlexNetError, match=r"config\.train\.accumulate=5 does not divide 12, the images of a"):
        builder.check_batches(config, towers.make_mesh(towers=2, tower=1, devices=jax.devices()[:1]))
    config.train.accumulate = 6
    builder.check_batches(config, towers.make_mesh(towers=2, tower=1, devices=jax.devices()[:1]))
    config.eval.batch_size = 64
    with pytest.raises(AlexNetError, match=r"does not divide 3, the images"):
        builder.check_batches(config, towers.make_mesh(towers=2, tower=1, devices=jax.devices()[:4]))


def test_lars_is_equal_on_every_mesh(small_config: ConfigDict) -> None:
    """The norms are of one tower's weights, wherever it is."""
    small_config.train.lars = 0.001
    small_config.train.learning_rate = 1.0
    (_, expected), (_, found) = (compiled(small_config, shape).run(3) for shape in ((1, 1), (2, 2)))
    assert _apart(found[-1].params, expected[-1].params) < 1e-4


def test_lars_is_refused_with_hybrid_placement() -> None:
    config = get_config()
    config.mesh.hybrid, config.train.lars = True, 0.001
    with pytest.raises(AlexNetError, match=r"config\.train\.lars=0\.001 needs the norms of whole layers"):
        schema.check(config)


def test_label_smoothing_by_hand() -> None:
    """Cross-entropy with 1 - s of the label and s / K of every class."""
    logits = np.random.default_rng(0).normal(size=(5, 7))
    labels = np.array([0, 6, 3, 3, 1])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.full((5, 7), 0.1 / 7)
    target[np.arange(5), labels] += 0.9
    got = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), 0.1)
    np.testing.assert_allclose(got, -(target * log_p).sum(1), rtol=1e-5)


def test_step_uses_label_smoothing_and_averages_weights_by_hand(normed_config: ConfigDict) -> None:
    """d A + (1 - d) W after each update, d at most (1 + n) / (10 + n) after n of them; running statistics too."""
    plain, _ = compiled(normed_config, (1, 1)).run(1)
    normed_config.train.label_smoothing, normed_config.train.ema_decay = 0.5, 0.3
    smooth, states = compiled(normed_config, (1, 1)).run(4)
    assert abs(plain[0]["loss"] - smooth[0]["loss"]) > 1e-3
    average: Any = states[0].variables
    for steps, state in enumerate(states[1:], 1):
        d = min(0.3, steps / (9 + steps))
        average = jax.tree.map(lambda a, w, d=d: d * a + (1 - d) * w, average, state.variables)
        assert _apart(state.average, average) < 1e-5
    assert _apart(average, states[-1].variables) > 1e-4


def test_average_is_refused_where_there_is_none(small_config: ConfigDict, tmp_path: Path) -> None:
    configs.save(small_config, ("cat", "dog"), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for which in ("latest:average", "best:mean"):
        with pytest.raises(AlexNetError, match=rf"checkpoint={which}"):
            restore_network(tmp_path, which)
