"""Microbatches, LARS on meshes, label smoothing and the average of the weights."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from alexnet_jax import builder, evaluate, schema
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.data.preprocess import Augmentation, Input
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import placement, towers
from alexnet_jax.train import loop
from alexnet_jax.train.checkpoint import restore_network
from alexnet_jax.train.step import TrainState, cross_entropy, make_state, make_train_step

CLASSES, PIXELS = 4, 67


def _batch(size: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, size).astype(np.int32)
    image = rng.integers(0, 60, (size, PIXELS, PIXELS, 3)) + 40 * label[:, None, None, None]
    return {"image": image.astype(np.uint8), "label": label, "place": np.arange(size, dtype=np.int32)}


def _train(config: ConfigDict, shape: tuple[int, int], steps: int) -> tuple[list[dict[str, float]], TrainState]:
    """The metrics of each step and the last state."""
    mesh = towers.make_mesh(towers=2, tower=shape[1], devices=jax.devices()[: shape[0] * shape[1]])
    network = builder.model(config, CLASSES)
    rule, _ = builder.optimizer(config, images=1000, steps=100)

    def make() -> TrainState:
        return make_state(network, rule, seed=1, image_pixels=PIXELS, averaged=config.train.ema_decay > 0)

    shapes = jax.eval_shape(make)
    step = make_train_step(
        network, rule, mesh, shapes, batch_size=config.train.batch_size, inputs=Input(PIXELS, np.asarray([60.0] * 3)),
        augmentation=Augmentation(flip=True), settings=builder.step_settings(config),
    )  # fmt: skip
    state = jax.jit(make, out_shardings=placement.shardings(network, shapes, mesh))()
    seen = []
    for number in range(steps):
        state, metrics = step(state, towers.to_devices(_batch(config.train.batch_size, number), mesh))
        seen.append({name: float(value) for name, value in metrics.items()})
    return seen, state


def _apart(left: Any, right: Any) -> float:
    """The largest difference of two trees, as a share of the largest number of its leaf."""
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


# ---------------------------------------------------------------- microbatches


@pytest.mark.parametrize("shape", [(1, 1), (2, 2)])
def test_four_microbatches_equal_the_batch(shape: tuple[int, int], small_config: ConfigDict) -> None:
    """Parameters after 5 steps, losses and hits: the same up to rounding, dropout and flips on."""
    small_config.train.batch_size = 32
    small_config.train.learning_rate = 0.0003  # a larger one amplifies rounding: experiments/005
    whole, expected = _train(small_config, shape, steps=5)
    small_config.train.accumulate = 4
    microbatches, got = _train(small_config, shape, steps=5)
    assert 0 < _apart(got.params, expected.params) < 1e-4
    for one, other in zip(microbatches, whole, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_running_statistics_go_through_microbatches(small_config: ConfigDict) -> None:
    """With momentum 0 they are those of the last part alone."""
    small_config.model.conv3.post_ops = "batch_norm relu"
    small_config.model.batch_norm.momentum = 0.0
    small_config.train.learning_rate = 0.0
    _, whole = _train(small_config, (1, 1), steps=1)
    small_config.train.accumulate = 2
    _, in_parts = _train(small_config, (1, 1), steps=1)
    assert _apart(in_parts.statistics, whole.statistics) > 0.01


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


# ---------------------------------------------------------------- LARS


def test_lars_is_equal_on_every_mesh(small_config: ConfigDict) -> None:
    """The norms are of one tower's weights, wherever it is."""
    small_config.train.lars = 0.001
    small_config.train.learning_rate = 1.0
    _, expected = _train(small_config, (1, 1), steps=3)
    for shape in ((1, 2), (2, 2)):
        _, got = _train(small_config, shape, steps=3)
        assert _apart(got.params, expected.params) < 1e-4


def test_lars_is_refused_with_hybrid_placement() -> None:
    config = get_config()
    config.mesh.hybrid, config.train.lars = True, 0.001
    with pytest.raises(AlexNetError, match=r"config\.train\.lars=0\.001 needs the norms of whole layers"):
        schema.check(config)


# ---------------------------------------------------------------- label smoothing


def test_label_smoothing_by_hand() -> None:
    """Cross-entropy with 1 - s of the label and s / K of every class."""
    logits = np.random.default_rng(0).normal(size=(5, 7))
    labels = np.array([0, 6, 3, 3, 1])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.full((5, 7), 0.1 / 7)
    target[np.arange(5), labels] += 0.9
    got = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), 0.1)
    np.testing.assert_allclose(got, -(target * log_p).sum(1), rtol=1e-5)


def test_step_uses_label_smoothing(small_config: ConfigDict) -> None:
    plain, _ = _train(small_config, (1, 1), steps=1)
    small_config.train.label_smoothing = 0.5
    smooth, _ = _train(small_config, (1, 1), steps=1)
    assert abs(plain[0]["loss"] - smooth[0]["loss"]) > 1e-3


# ---------------------------------------------------------------- the average of the weights


def test_average_of_weights_by_hand(small_config: ConfigDict) -> None:
    """d A + (1 - d) W after each update, d at most (1 + n) / (10 + n) after n of them; running statistics too."""
    small_config.model.conv3.post_ops = "batch_norm relu"
    small_config.train.ema_decay = 0.3
    average: Any = None
    for steps in range(5):
        _, state = _train(small_config, (1, 1), steps)
        weights = jax.device_get(state.variables)
        if steps:
            d = min(0.3, steps / (9 + steps))
            average = jax.tree.map(lambda a, w, d=d: d * a + (1 - d) * w, average, weights)
            assert _apart(state.average, average) < 1e-5
        else:
            average = weights
    assert _apart(state.average, weights) > 1e-4


def _run(config: ConfigDict, workdir: Path, steps: int) -> dict[str, Any]:
    """Trains up to `steps`; the last evaluation."""
    config.train.steps = steps
    loop.train(config, workdir, command="", eval_command="")
    return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])


def test_resume_with_average_equals_undisturbed_run(small_config: ConfigDict, tmp_path: Path) -> None:
    c = small_config.train
    c.accumulate, c.ema_decay, c.lars, c.label_smoothing = 2, 0.5, 0.02, 0.1
    c.schedule, c.warmup_epochs, c.batch_size, c.learning_rate = "constant", 0.05, 32, 1.0
    whole = _run(small_config, tmp_path / "whole", 6)
    _run(small_config, tmp_path / "resumed", 3)
    resumed = _run(small_config, tmp_path / "resumed", 6)
    assert {name: resumed[name] for name in whole if name.startswith("eval")} == {
        name: value for name, value in whole.items() if name.startswith("eval")
    }
    assert whole["eval_average_loss"] != whole["eval_loss"]
    assert whole["eval_average_views_loss"] > 0 if "eval_views" in whole else True
    weights, average = (restore_network(tmp_path / "whole", which).variables for which in ("latest", "latest:average"))
    again = restore_network(tmp_path / "resumed").average
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(average), jax.device_get(again))
    assert _apart(average, weights) > 1e-6
    entry = evaluate.evaluate_checkpoint(tmp_path / "whole", which="latest:average")
    assert entry["eval_loss"] == pytest.approx(whole["eval_average_loss"], rel=1e-6)


def test_average_is_refused_where_there_is_none(small_config: ConfigDict, tmp_path: Path) -> None:
    _run(small_config, tmp_path, 1)
    for which in ("latest:average", "best:mean"):
        with pytest.raises(AlexNetError, match=rf"checkpoint={which}"):
            restore_network(tmp_path, which)


def test_resume_in_another_precision(small_config: ConfigDict, tmp_path: Path) -> None:
    """Trained in bfloat16, resumed in float32: nothing but a line says so."""
    small_config.precision = "bfloat16"
    _run(small_config, tmp_path, 2)
    small_config.precision = "float32"
    _run(small_config, tmp_path, 4)
    log = (tmp_path / "train.log").read_text()
    assert "config.precision: 'bfloat16' so far, 'float32' from now on" in log
