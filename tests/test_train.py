"""The step: the same on every mesh, and nothing crosses the towers but what the paper says."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import run, towers
from alexnet_jax.evaluate import Input, is_among_best, mirrored
from alexnet_jax.train import Augmentation, TrainState, make_state, make_train_step
from configs.alexnet import get_config

MESHES = [(1, 1), (1, 2), (2, 1), (2, 2)]


def _mesh(shape: tuple[int, int]) -> Mesh:
    return towers.make_mesh(towers=2, tower=shape[1], devices=jax.devices()[: shape[0] * shape[1]])


def _batch(batch_size: int, pixels: int, classes: int, seed: int) -> dict[str, np.ndarray]:
    """Blobs of another brightness and place for each class: something a network can learn."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, batch_size).astype(np.int32)
    image = rng.integers(0, 60, (batch_size, pixels, pixels, 3))
    for i, k in enumerate(label):
        image[i, k * pixels // (2 * classes) :, :, k % 3] += 100 + 90 * k // classes
    return {"image": image.astype(np.uint8), "label": label, "place": np.arange(batch_size, dtype=np.int32)}


def _parts(config: ConfigDict, shape: tuple[int, int], classes: int) -> tuple[Any, Any, TrainState]:
    mesh = _mesh(shape)
    network = run.build_model(config, classes)
    optimizer, _ = run.build_optimizer(config, images=1000, steps=100)
    make = lambda: make_state(network, optimizer, seed=1, image_pixels=config.data.crop_pixels)  # noqa: E731
    shapes = jax.eval_shape(make)
    step = make_train_step(
        network,
        optimizer,
        mesh,
        shapes,
        batch_size=config.train.batch_size,
        inputs=Input(config.data.crop_pixels, np.asarray(config.data.mean)),
        augmentation=Augmentation(flip=True),
    )
    return mesh, step, jax.jit(make, out_shardings=towers.sharding_of(shapes, mesh))()


def _train(
    config: ConfigDict, shape: tuple[int, int], steps: int, classes: int, first_weights_times: float = 1.0
) -> tuple[list[float], Any, TrainState]:
    """The losses, the first step's velocity (-learning rate x gradient) and the last state."""
    mesh, step, state = _parts(config, shape, classes)
    state = state.replace(params=jax.tree.map(lambda leaf: leaf * first_weights_times, state.params))
    losses, first = [], None
    for number in range(steps):
        batch = _batch(config.train.batch_size, config.data.crop_pixels, classes, seed=number)
        state, metrics = step(state, towers.to_devices(batch, mesh))
        losses.append(float(metrics["loss"]))
        if first is None:
            first = jax.device_get(_velocity(state))
    return losses, first, state


def _velocity(state: TrainState) -> Any:
    return state.opt_state.velocity


@pytest.fixture(scope="module")
def full_network() -> dict[tuple[int, int], tuple[float, Any]]:
    """Loss and gradients of the full 224-pixel network on each mesh, dropout and flips on."""
    config = get_config()
    config.train.batch_size = 4
    config.train.weight_decay = 0.0  # so that the first velocity is the gradient alone
    results = {}
    for shape in MESHES:
        losses, first, _ = _train(config, shape, steps=1, classes=1000)
        results[shape] = (losses[0], first)
    return results


@pytest.mark.parametrize("shape", MESHES[1:])
def test_every_mesh_gives_the_same_loss_and_gradients(shape: tuple[int, int], full_network: Any) -> None:
    """The full network: loss within 1e-6, each layer's gradient within 1e-5 of its largest value."""
    (expected_loss, expected), (loss, first) = full_network[1, 1], full_network[shape]
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(first), strict=True):
        assert np.abs(left).max() > 0, path
        np.testing.assert_allclose(right, left, rtol=0, atol=1e-5 * np.abs(left).max(), err_msg=str(path))


def test_twenty_steps_stay_together(small_config: ConfigDict) -> None:
    """What the meshes differ by after 20 steps is what one rounding of the first weights leads to."""
    together = {shape: _train(small_config, shape, steps=20, classes=2)[0] for shape in MESHES}
    rounded, _, _ = _train(small_config, (1, 1), steps=20, classes=2, first_weights_times=1 + 2**-23)
    apart = {shape: np.abs(np.subtract(losses, together[1, 1])).max() for shape, losses in together.items()}
    assert max(together[1, 1]) - min(together[1, 1]) > 0.3, "nothing was learned, so nothing could drift"
    yardstick = np.abs(np.subtract(rounded, together[1, 1])).max()
    assert 0 < yardstick < 1e-3
    assert max(apart.values()) < 5 * yardstick, (apart, yardstick)


def _collectives(hlo: str) -> list[tuple[str, int, str]]:
    """[(operation, largest number of elements, replica groups)] of a compiled program."""
    found = []
    operation = r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    for line in hlo.splitlines():
        if match := re.search(operation, line):
            sizes = [
                int(np.prod([int(n) for n in dims.split(",") if n], dtype=np.int64))
                for dims in re.findall(r"[a-z]+\d*\[([\d,]*)\]", match[1])
            ]
            groups = re.search(r"replica_groups=(\{\{.*?\}\}|\[.*?\]<=\[.*?\](?:T\(.*?\))?|mesh\[.*?\] \{.*?\})", line)
            found.append((match[2], max(sizes), groups[1] if groups else ""))
    return found


def _compiled(config: ConfigDict, shape: tuple[int, int]) -> list[tuple[str, int, str]]:
    mesh, step, state = _parts(config, shape, classes=10)
    batch = towers.to_devices(_batch(8, config.data.crop_pixels, 10, seed=0), mesh)
    return _collectives(step.lower(state, batch).compile().as_text())  # type: ignore[attr-defined]


def test_two_towers_exchange_what_the_paper_says_and_nothing_else(small_config: ConfigDict) -> None:
    """1 x 2: all-gathers at conv3, fc6, fc7, fc8 and of the logits, their transposes, and scalars."""
    found = _compiled(small_config, (1, 2))
    moved = sorted((name, size) for name, size, _ in found if size > 1)
    c, B, classes = small_config.model, 8, 10
    of_both_towers = (3 * 3 * c.conv2.maps, c.conv5.maps, c.fc6.units, c.fc7.units)
    gathered = [*(B * 2 * size for size in of_both_towers), B * classes]
    assert [size for name, size in moved if name == "all-gather"] == sorted(gathered)
    assert [size for name, size in moved if name == "reduce-scatter"] == sorted(n // 2 for n in gathered)
    assert len(moved) == 10, moved


def test_without_a_tower_axis_only_data_is_reduced(small_config: ConfigDict) -> None:
    """2 x 1: the gradients' all-reduce over `data`, and nothing between towers."""
    found = _compiled(small_config, (2, 1))
    assert {name for name, _, _ in found} == {"all-reduce"}
    assert all(groups in ("{{0,1}}", "mesh['data'=2,'tower'=1] {'data'}") for _, _, groups in found), found


def test_an_exchange_less_is_a_collective_less(small_config: ConfigDict) -> None:
    small_config.model.exchange = ("fc6", "fc7", "fc8")
    found = [name for name, size, _ in _compiled(small_config, (1, 2)) if size > 1]
    assert (found.count("all-gather"), found.count("reduce-scatter")) == (4, 4)


def test_a_step_learns_and_follows_its_seed(small_config: ConfigDict) -> None:
    """Twice the same numbers to the bit; the loss of a network that learns falls."""
    small_config.train.learning_rate = 0.01
    once, again = (_train(small_config, (1, 1), steps=40, classes=2) for _ in range(2))
    assert once[0] == again[0]
    assert np.mean(once[0][-5:]) < 0.5 * np.mean(once[0][:5])
    jax.tree.map(np.testing.assert_array_equal, once[2].params, again[2].params)


def test_examples_keep_their_randomness_wherever_they_stand(small_config: ConfigDict) -> None:
    """An example's flip and dropout follow its place in the global batch, not where it is computed."""
    batch = _batch(8, small_config.data.crop_pixels, 10, seed=0)
    order = np.asarray([3, 1, 7, 0, 2, 6, 4, 5])
    mesh, step, first = _parts(small_config, (1, 1), classes=10)
    losses = []
    for shuffled in (batch, {name: part[order] for name, part in batch.items()}):
        state = jax.tree.map(jnp.copy, first)  # the step consumes it
        losses.append(float(step(state, towers.to_devices(shuffled, mesh))[1]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_is_among_best_counts_ties_once() -> None:
    """Of equal logits the first is the larger, so a network that says nothing has top-1 of one class."""
    logits = jnp.zeros((6, 6))
    labels = jnp.arange(6)
    assert is_among_best(logits, labels, 1).tolist() == [True] + [False] * 5
    assert is_among_best(logits, labels, 5).tolist() == [True] * 5 + [False]
    assert is_among_best(jnp.asarray([[1.0, 3.0, 2.0]]), jnp.asarray([2]), 1).tolist() == [False]
    assert is_among_best(jnp.asarray([[1.0, 3.0, 2.0]]), jnp.asarray([2]), 2).tolist() == [True]


def test_the_input_is_mirrored_and_less_the_mean() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    mean = (10.0, 20.0, 30.0)
    inputs = Input(4, np.asarray(mean))
    out = inputs.finished(inputs.centred(mirrored(jnp.asarray(images), jnp.asarray([True, False]))))
    np.testing.assert_array_equal(out[0], images[0][:, ::-1].astype(np.float32) - np.asarray(mean, np.float32))
    np.testing.assert_array_equal(out[1], images[1].astype(np.float32) - np.asarray(mean, np.float32))
