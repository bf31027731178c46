"""The step: the same on every mesh, and nothing crosses the towers but what the paper says."""

import contextlib
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import SMALL
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from alexnet_jax import builder, config as configs
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.data.preprocess import Augmentation, Input, mirrored
from alexnet_jax.model import alexnet as models, placement, towers
from alexnet_jax.model.alexnet import in_top_k
from alexnet_jax.train import optimizer
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.step import TrainState, make_state, make_train_step

MESHES = [(1, 1), (1, 2), (2, 1), (2, 2)]
HYBRID = (4, 1)  # in tests that have it: the placement of 2014 on four devices


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
    network = builder.model(config, classes)
    optimizer, _ = builder.optimizer(config, images=1000, steps=100)
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
    return mesh, step, jax.jit(make, out_shardings=placement.shardings(network, shapes, mesh))()


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
def on_meshes() -> dict[tuple[int, int], tuple[float, Any]]:
    """Loss and gradients on each mesh, dropout and flips on."""
    config = get_config()
    # Without a decay the first velocity is the gradient alone.
    config.update_from_flattened_dict(SMALL | {"train.weight_decay": 0.0})
    results = {}
    for shape in (*MESHES, HYBRID):
        config.mesh.hybrid = shape == HYBRID
        losses, first, _ = _train(config, shape, steps=1, classes=8)
        results[shape] = (losses[0], first)
    return results


@pytest.mark.parametrize("shape", [*MESHES[1:], HYBRID])
def test_loss_and_gradients_are_equal_on_every_mesh(shape: tuple[int, int], on_meshes: Any) -> None:
    """Loss within 1e-6, each layer's gradient within 1e-5 of its largest value."""
    (expected_loss, expected), (loss, first) = on_meshes[1, 1], on_meshes[shape]
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(first), strict=True):
        assert np.abs(left).max() > 0, path
        np.testing.assert_allclose(right, left, rtol=0, atol=1e-5 * np.abs(left).max(), err_msg=str(path))


def test_meshes_stay_together_over_steps(small_config: ConfigDict) -> None:
    """What the meshes differ by after 20 steps is what one rounding of the first weights leads to."""
    together = {shape: _train(small_config, shape, steps=20, classes=2)[0] for shape in MESHES}
    small_config.mesh.hybrid = True
    together["hybrid"] = _train(small_config, (4, 1), steps=20, classes=2)[0]
    small_config.mesh.hybrid = False
    rounded, _, _ = _train(small_config, (1, 1), steps=20, classes=2, first_weights_times=1 + 2**-23)
    apart = {shape: np.abs(np.subtract(losses, together[1, 1])).max() for shape, losses in together.items()}
    assert max(together[1, 1]) - min(together[1, 1]) > 0.3, "nothing was learned, so nothing could drift"
    yardstick = np.abs(np.subtract(rounded, together[1, 1])).max()
    assert 0 < yardstick < 1e-3
    assert max(apart.values()) < 5 * yardstick, (apart, yardstick)


def test_step_equals_pmap(small_config: ConfigDict) -> None:
    """The lineage: three whole steps, written as two-device pmap was, end in the weights and momentum of the step.

    Loss, gradients with dropout and flips on, and update; per tower under `jax.pmap(axis_name="tower")`.
    """
    small_config.train.learning_rate = 0.01
    mesh, step, state = _parts(small_config, (1, 2), classes=10)
    network = builder.model(small_config, 10)
    rule, _ = builder.optimizer(small_config, images=1000, steps=100)
    inputs = Input(small_config.data.crop_pixels, np.asarray(small_config.data.mean))
    program, augmentation = models.train_apply(network), Augmentation(flip=True)

    def tower_step(params: Any, opt_state: Any, number: jax.Array, key: jax.Array, batch: Any) -> Any:
        step_key = jax.random.fold_in(key, number)
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(step_key, batch["place"])
        images = augmentation(batch["image"], inputs, step=number, step_key=step_key, place_B=batch["place"])

        def loss_of(params: Any) -> jax.Array:
            logits_BK = jax.vmap(program, in_axes=(0, None, None))(params, images, keys_B)[0][0]
            # Both devices compute this loss, and the transpose of all_gather adds up what both ask for.
            return optax.softmax_cross_entropy_with_integer_labels(logits_BK, batch["label"]).mean() / 2

        loss, gradients = jax.value_and_grad(loss_of)({"params": params})
        updates, opt_state = rule.update(gradients["params"], opt_state, params)
        return optax.apply_updates(params, updates), opt_state, 2 * loss

    axes: Any = optimizer.State(None, 0, None)  # type: ignore[arg-type]
    by_pmap = jax.pmap(
        tower_step, axis_name=towers.TOWER, in_axes=(0, axes, None, None, None), out_axes=(0, axes, None),
        devices=jax.devices()[:2],
    )  # fmt: skip
    # One more axis: pmap takes its own away, and a tower's leaves keep theirs, of size 1.
    host = jax.device_get((state.params, state.opt_state, jax.random.key_data(state.key)))
    params, opt_state = jax.tree.map(lambda leaf: leaf[:, None], host[0]), host[1]
    opt_state = opt_state._replace(velocity=jax.tree.map(lambda leaf: leaf[:, None], opt_state.velocity))
    key = jax.random.wrap_key_data(host[2])
    for number in range(3):
        batch = _batch(8, small_config.data.crop_pixels, 10, seed=number)
        params, opt_state, loss = by_pmap(params, opt_state, number, key, batch)
        state, metrics = step(state, towers.to_devices(batch, mesh))
        assert float(loss) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    assert np.abs(np.asarray(params["conv3"]["kernel"][:, 0]) - host[0]["conv3"]["kernel"]).max() > 1e-4
    pairs = ((state.params, params), (state.opt_state.velocity, opt_state.velocity))
    for wanted, got in pairs:
        for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(got), strict=True):
            largest = float(np.abs(np.asarray(left)).max())
            np.testing.assert_allclose(right[:, 0], left, rtol=0, atol=1e-5 * largest, err_msg=str(path))


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


def test_collectives_are_those_of_the_paper(small_config: ConfigDict) -> None:
    """1 x 2: all-gathers at conv3, fc6, fc7, fc8 and of the logits, their transposes, and scalars."""
    found = _compiled(small_config, (1, 2))
    moved = sorted((name, size) for name, size, _ in found if size > 1)
    c, B, classes = small_config.model, 8, 10
    of_both_towers = (3 * 3 * c.conv2.features, c.conv5.features, c.fc6.features, c.fc7.features)
    gathered = [*(B * 2 * size for size in of_both_towers), B * classes]
    assert [size for name, size in moved if name == "all-gather"] == sorted(gathered)
    assert [size for name, size in moved if name == "reduce-scatter"] == sorted(n // 2 for n in gathered)
    assert len(moved) == 10, moved


def test_collectives_without_a_tower_axis_are_of_the_gradients(small_config: ConfigDict) -> None:
    """2 x 1: the gradients' all-reduce over `data`, and nothing between towers."""
    found = _compiled(small_config, (2, 1))
    assert {name for name, _, _ in found} == {"all-reduce"}
    assert all(groups in ("{{0,1}}", "mesh['data'=2,'tower'=1] {'data'}") for _, _, groups in found), found


def test_collectives_follow_the_exchanges(small_config: ConfigDict) -> None:
    small_config.model.exchange = ("fc6", "fc7", "fc8")
    found = [name for name, size, _ in _compiled(small_config, (1, 2)) if size > 1]
    assert (found.count("all-gather"), found.count("reduce-scatter")) == (4, 4)


def test_step_learns_and_follows_its_seed(small_config: ConfigDict) -> None:
    """Twice the same numbers to the bit; the loss of a network that learns falls."""
    small_config.train.learning_rate = 0.01
    once, again = (_train(small_config, (1, 1), steps=40, classes=2) for _ in range(2))
    assert once[0] == again[0]
    assert np.mean(once[0][-5:]) < 0.5 * np.mean(once[0][:5])
    jax.tree.map(np.testing.assert_array_equal, once[2].params, again[2].params)


def test_step_takes_any_optimizer_of_optax(small_config: ConfigDict) -> None:
    mesh, network = _mesh((1, 2)), builder.model(small_config, 2)
    nesterov = optax.sgd(0.003, momentum=0.9, nesterov=True)
    state = make_state(network, nesterov, seed=1, image_pixels=67)
    step = make_train_step(
        network, nesterov, mesh, jax.eval_shape(lambda: state), batch_size=8, inputs=Input(67, np.full(3, 79.4)),
        augmentation=Augmentation(),
    )  # fmt: skip
    batch, losses = towers.to_devices(_batch(8, 67, 2, seed=0), mesh), []
    state = jax.device_put(state, placement.shardings(network, state, mesh))
    for _ in range(8):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert metrics.keys() == {"loss", "top1", "top5"}


def test_randomness_follows_the_example(small_config: ConfigDict) -> None:
    """An example's flip and dropout follow its place in the global batch, not where it is computed."""
    batch = _batch(8, small_config.data.crop_pixels, 10, seed=0)
    order = np.asarray([3, 1, 7, 0, 2, 6, 4, 5])
    mesh, step, first = _parts(small_config, (1, 1), classes=10)
    losses = []
    for shuffled in (batch, {name: part[order] for name, part in batch.items()}):
        state = jax.tree.map(jnp.copy, first)  # the step consumes it
        losses.append(float(step(state, towers.to_devices(shuffled, mesh))[1]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_in_top_k_counts_ties_once() -> None:
    """Of equal logits the first is the larger, so a network that says nothing has top-1 of one class."""
    logits = jnp.zeros((6, 6))
    labels = jnp.arange(6)
    assert in_top_k(logits, labels, 1).tolist() == [True] + [False] * 5
    assert in_top_k(logits, labels, 5).tolist() == [True] * 5 + [False]
    assert in_top_k(jnp.asarray([[1.0, 3.0, 2.0]]), jnp.asarray([2]), 1).tolist() == [False]
    assert in_top_k(jnp.asarray([[1.0, 3.0, 2.0]]), jnp.asarray([2]), 2).tolist() == [True]


def test_input_is_mirrored_and_centered() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    mean = (10.0, 20.0, 30.0)
    inputs = Input(4, np.asarray(mean))
    out = inputs.finished(inputs.centered(mirrored(jnp.asarray(images), jnp.asarray([True, False]))))
    np.testing.assert_array_equal(out[0], images[0][:, ::-1].astype(np.float32) - np.asarray(mean, np.float32))
    np.testing.assert_array_equal(out[1], images[1].astype(np.float32) - np.asarray(mean, np.float32))


# ---------------------------------------------------------------- what is done to a training image

DEVIATIONS = np.asarray([121.7801, 37.0939, 19.7208])
VECTORS = np.asarray([[0.5635, 0.5762, 0.5920], [0.7126, 0.0235, -0.7012], [0.4180, -0.8170, 0.3973]])


def _colored(form: str) -> Augmentation:
    config = get_config("imagenet2012")
    config.data.color_noise_form = form
    return builder.augmentation(config, images=1280)  # 10 steps an epoch: it ends at step 670


def test_color_noise_by_hand() -> None:
    """Three images: + 0.1 x the draws x deviations along the components, all over 1.1; nothing from epoch 67 on."""
    augmentation, keys_B = _colored("std"), jax.random.split(jax.random.key(0), 3)
    images = np.random.default_rng(0).normal(0, 50, (3, 4, 5, 3)).astype(np.float32)
    still = augmentation.colored(jnp.zeros((3, 1, 1, 3)), keys_B, jnp.asarray(0))
    got = augmentation.colored(jnp.asarray(images), keys_B, jnp.asarray(669))
    for b in range(3):
        noise = 1.1 * np.asarray(still[b, 0, 0], np.float64)
        draws = np.linalg.solve(VECTORS.T, noise) / (0.1 * DEVIATIONS)  # what N(0, 1) must have given
        assert np.abs(draws).max() < 4
        by_hand = sum(0.1 * d * s * v for d, s, v in zip(draws, DEVIATIONS, VECTORS, strict=True))
        np.testing.assert_allclose(got[b], (images[b] + by_hand) / 1.1, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(augmentation.colored(jnp.asarray(images), keys_B, jnp.asarray(670)), images)


def test_color_noise_may_come_back() -> None:
    """From epoch 91 to 124, of ten steps each; the same draws."""
    config = get_config("imagenet2012")
    config.data.color_noise_again = (91, 124)
    augmentation, keys_B = builder.augmentation(config, images=1280), jax.random.split(jax.random.key(0), 3)
    images = jnp.full((3, 1, 1, 3), 5.0)
    noisy = augmentation.colored(images, keys_B, jnp.asarray(0))
    for step, wanted in ((669, noisy), (670, images), (909, images), (910, noisy), (1239, noisy), (1240, images)):
        np.testing.assert_array_equal(augmentation.colored(images, keys_B, jnp.asarray(step)), wanted, str(step))
    config.data.color_noise_end_epoch = 0
    only = builder.augmentation(config, images=1280)
    np.testing.assert_array_equal(only.colored(images, keys_B, jnp.asarray(0)), images)
    np.testing.assert_array_equal(only.colored(images, keys_B, jnp.asarray(910)), noisy)


@pytest.mark.parametrize(
    ("form", "deviations", "shrink"),
    [("std", DEVIATIONS, 1.1), ("eigenvalues", DEVIATIONS**2 / 255, 1.0)],
)
def test_color_noise_has_std_of_the_source(form: str, deviations: Any, shrink: float) -> None:
    """Along the components the noise has a tenth of 121.78, 37.09 and 19.72 levels, and they are uncorrelated."""
    keys_B = jax.random.split(jax.random.key(1), 10_000)
    noise = _colored(form).colored(jnp.zeros((10_000, 1, 1, 3)), keys_B, jnp.asarray(0))
    flat = np.asarray(noise, np.float64)[:, 0, 0] * shrink
    covariance = np.cov(flat.T)
    wanted = sum((0.1 * d) ** 2 * np.outer(v, v) for d, v in zip(deviations, VECTORS, strict=True))
    np.testing.assert_allclose(covariance, wanted, atol=0.03 * wanted.max())
    along = np.linalg.solve(VECTORS.T, flat.T)
    np.testing.assert_allclose(along.std(axis=1), 0.1 * deviations, rtol=0.03)
    correlation = np.corrcoef(along)
    assert np.abs(correlation - np.eye(3)).max() < 0.03


def test_color_noise_as_copied_is_weaker() -> None:
    """2.1, 6.9 and 12.9 times, from deviations taken for eigenvalues of colors in 0..1."""
    ratios = DEVIATIONS / (DEVIATIONS**2 / 255)
    assert ratios == pytest.approx([2.094, 6.874, 12.93], rel=1e-3)


def test_flip_of_a_chunk_of_images() -> None:
    """With chunks of 32 four draws for a batch of 128; with 1 each image has its own."""
    key, place_B = jax.random.key(0), jnp.arange(128)
    together = np.asarray(Augmentation(flip=True, chunk=32).flips(key, place_B)).reshape(4, 32)
    assert np.all(together == together[:, :1])
    assert (
        0
        < np.asarray([Augmentation(flip=True, chunk=32).flips(jax.random.key(s), place_B) for s in range(9)]).mean()
        < 1
    )
    alone = np.asarray(Augmentation(flip=True).flips(key, place_B))
    assert 40 < alone.sum() < 88


def test_inverted_dropout_equals_dropout_of_2012(small_config: ConfigDict) -> None:
    """Inverted dropout with half the weights after it, a quarter of their rate and four times their decay is the
    2012 form (after it: fc7 and fc8), step by step and in evaluation."""
    after, decay, rate = ("fc7", "fc8"), 0.05, 0.003
    losses, states = [], []
    for inverted in (False, True):
        small_config.model.dropout.inverted = inverted
        network, mesh = builder.model(small_config, 2), _mesh((1, 1))

        def is_after(path: Any, inverted: bool = inverted) -> bool:
            return inverted and path[0].key in after and path[-1].key == "kernel"

        def halved(path: Any, leaf: jax.Array) -> jax.Array:
            return leaf / 2 if is_after(path) else leaf

        rule = optimizer.sgd_2012(rate_of=lambda *_: optax.constant_schedule(rate), momentum=0.9, weight_decay=0.0)

        def update(gradients: Any, state: Any, params: Any, rule: Any = rule) -> Any:
            def decayed(path: Any, g: jax.Array, w: jax.Array) -> jax.Array:
                quarter, four = (0.25, 4.0) if is_after(path) else (1.0, 1.0)
                return quarter * (g + four * decay * w) if path[-1].key == "kernel" else g

            return rule.update(jax.tree_util.tree_map_with_path(decayed, gradients, params), state, params)

        transformation = optax.GradientTransformation(rule.init, update)
        state = make_state(network, transformation, seed=1, image_pixels=67)
        state = state.replace(params=jax.tree_util.tree_map_with_path(halved, state.params))
        state = jax.tree.map(jnp.copy, state)  # the step consumes it, and zeros may share their memory
        step = make_train_step(
            network, transformation, mesh, jax.eval_shape(lambda s=state: s), batch_size=8,
            inputs=Input(67, np.full(3, 79.4)), augmentation=Augmentation(),
        )  # fmt: skip
        for number in range(5):
            batch = towers.to_devices(_batch(8, 67, 2, seed=number), mesh)
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        logits = jax.jit(towers.over_towers(models.logits_fn(network)))(
            state.variables, jnp.asarray(batch["image"], jnp.float32)
        )
        states.append((state.params, logits))
    np.testing.assert_allclose(losses[:5], losses[5:], rtol=1e-5)
    (theirs, logits), (ours, inverted_logits) = states
    np.testing.assert_allclose(2 * ours["fc7"]["kernel"], theirs["fc7"]["kernel"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours["fc6"]["kernel"], theirs["fc6"]["kernel"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(inverted_logits, logits, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- batch norm and norms across towers


def test_batch_norm_is_equal_on_every_mesh(small_config: ConfigDict) -> None:
    """The same losses, weights and running statistics, whichever devices hold the batch and the towers."""
    for layer in ("conv1", "conv2", "fc6"):
        small_config.model[layer].post_ops = "batch_norm relu" + (" pool" if layer != "fc6" else " dropout")
    results = {shape: _train(small_config, shape, steps=2, classes=10) for shape in MESHES}
    losses, _, state = results[1, 1]
    assert np.any(np.asarray(state.statistics["bn1"]["mean"]) != 0)
    for shape in MESHES[1:]:
        # Sums over the batch in another order, which the second step's loss shows: 1.1e-5 on one processor.
        np.testing.assert_allclose(results[shape][0], losses, rtol=3e-5)
        for left, right in zip(
            jax.tree.leaves(results[shape][2].statistics), jax.tree.leaves(state.statistics), strict=True
        ):
            np.testing.assert_allclose(left, right, rtol=5e-4, atol=1e-4)


def test_collectives_of_a_norm_across_towers(small_config: ConfigDict) -> None:
    """Caffe's: the four outermost channels at each norm, beside the paper's exchanges; as `summary` counts them."""
    small_config.model.norm.across_towers = True
    network = builder.model(small_config, 10)
    counted = placement.traffic(network, 67)
    assert counted["norm1"] == 15 * 15 * 4
    found = _compiled(small_config, (1, 2))
    gathered = sorted(size for name, size, _ in found if name == "all-gather")
    assert gathered == sorted(8 * 2 * numbers for numbers in counted.values())


def test_traffic_of_net_145() -> None:
    """facts of the paper's network: 21,632 + 4,608 + 2,048 + 2,048 numbers an image each way, and its logits."""
    counted = placement.traffic(builder.model(get_config(), 1000), 224)
    assert counted == {"conv3": 21_632, "fc6": 4_608, "fc7": 2_048, "fc8": 2_048, "the logits": 500}


# ---------------------------------------------------------------- the hybrid placement of 2014


def _recipe(name: str) -> ConfigDict:
    config = configs.load_recipe(f"{name}:digits").copy_and_resolve_references()
    config.update_from_flattened_dict(SMALL | {"train.weight_decay": 0.0})
    return config


@pytest.mark.parametrize(
    ("name", "devices", "classes"),
    [
        ("alexnet", 2, 10),  # fc8 has 5 units per tower: it stays whole
        ("alexnet", 4, 8),  # all of fc6, fc7, fc8 are split
        ("no_dropout", 4, 10),
        ("one_weird_trick", 4, 10),  # one tower, whose fc8 stays whole
        ("half", 2, 10),  # one tower, all split
    ],
)
def test_hybrid_placement_equals_one_device(name: str, devices: int, classes: int) -> None:
    """Dropout on where the recipe has it: each unit's mask is that of every other placement."""
    config = _recipe(name)
    expected_losses, expected, _ = _train(config, (1, 1), steps=2, classes=classes)
    config.mesh.hybrid = True
    losses, first, state = _train(config, (devices, 1), steps=2, classes=classes)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(first), strict=True):
        assert np.abs(left).max() > 0, path
        np.testing.assert_allclose(right, left, rtol=0, atol=1e-5 * np.abs(left).max(), err_msg=str(path))
    for part, leaf in state.params["fc7"].items():
        assert leaf.addressable_shards[0].data.shape == (*leaf.shape[:-1], leaf.shape[-1] // devices), part


def test_hybrid_batch_norm_equals_one_device() -> None:
    """alexnet_bn: the same losses and running statistics. They need no sum over the devices: they have all examples."""
    config = _recipe("alexnet_bn")
    losses, _, state = _train(config, (1, 1), steps=2, classes=10)
    config.mesh.hybrid = True
    for devices in (2, 4):
        hybrid, _, there = _train(config, (devices, 1), steps=2, classes=10)
        np.testing.assert_allclose(hybrid, losses, rtol=1e-5)
        for name, leaves in state.statistics.items():
            for part, left in leaves.items():
                np.testing.assert_allclose(there.statistics[name][part], left, rtol=5e-4, atol=1e-4, err_msg=name)
    mean = there.statistics["bn6"]["mean"]
    assert mean.addressable_shards[0].data.shape == (2, mean.shape[-1] // 4)


def _named(config: ConfigDict, shape: tuple[int, int], classes: int) -> list[tuple[str, str, str, int]]:
    """[(scope, pass, operation, bytes of the whole array)] of the compiled step, the sums over `data` left out."""
    mesh, step, state = _parts(config, shape, classes)
    batch = towers.to_devices(_batch(8, config.data.crop_pixels, classes, seed=0), mesh)
    found = []
    for line in step.lower(state, batch).compile().as_text().splitlines():  # type: ignore[attr-defined]
        match = re.search(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all)\(.*op_name=\"(.*?)\"", line)
        scope = match and re.search(r"/((exchange|split)_\w+)/", match[3])
        if match and scope:
            arrays = re.findall(r"[a-z](\d+)\[([\d,]+)\]", match[1])
            size = sum(int(bits) // 8 * math.prod(map(int, dims.split(","))) for bits, dims in arrays)
            whole = size * math.prod(shape) if match[2] == "reduce-scatter" else size
            found.append((scope[1], "backward" if "transpose(" in match[3] else "forward", match[2], whole))
    return sorted(found)


@pytest.mark.parametrize(
    ("name", "classes", "devices"), [("alexnet", 10, 2), ("alexnet", 8, 4), ("half", 10, 2), ("one_weird_trick", 8, 4)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_collectives_of_the_hybrid_placement(name: str, classes: int, devices: int, dtype: str) -> None:
    """By hand: all examples to fc6, all units to each split layer after it, own examples at the end."""
    config = _recipe(name)
    config.mesh.hybrid, config.mesh.exchange_dtype = True, dtype
    t, B, half, c = config.model.towers, 8, 4 if dtype == "float32" else 2, config.model
    gathers = [("split_fc6", B * t * c.conv5.features), ("split_fc7", B * t * c.fc6.features)]
    last = ("split_logits", 4 * B * classes) if classes // t % devices == 0 else ("split_fc8", half * B * t * 16)
    if last[0] == "split_logits":
        gathers.append(("split_fc8", B * t * c.fc7.features))
    back = "reduce-scatter" if dtype == "float32" else "all-to-all"
    wanted = [(scope, "forward", "all-gather", half * numbers) for scope, numbers in gathers]
    wanted += [(scope, "backward", back, half * numbers) for scope, numbers in gathers]
    # An all-to-all is counted by what one device has of it.
    wanted += [(last[0], way, "all-to-all", last[1] // devices) for way in ("forward", "backward")]
    if any("dropout" in c[layer].post_ops for layer in ("fc6", "fc7")):
        wanted.append(("split_keys", "forward", "all-gather", B * 2 * 4))
    assert _named(config, (devices, 1), classes) == sorted(wanted)


def test_hybrid_gradients_of_split_layers_are_not_summed(small_config: ConfigDict) -> None:
    """The all-reduce has what is whole on each device, and the three metrics: nothing of fc6, fc7 and fc8."""
    small_config.mesh.hybrid = True
    mesh, step, state = _parts(small_config, (4, 1), classes=8)
    batch = towers.to_devices(_batch(8, 67, 8, seed=0), mesh)
    text = step.lower(state, batch).compile().as_text()  # type: ignore[attr-defined]
    shapes = re.findall(r"= \(?(.*?)\)? all-reduce\(", text)
    summed = sum(math.prod(map(int, re.findall(r"\d+", dims))) for dims in re.findall(r"f32\[([\d,]*)\]", str(shapes)))
    whole = [leaf.size for name, part in state.params.items() if name < "fc" for leaf in part.values()]
    assert summed == sum(whole) + 3


def test_checkpoint_restores_on_every_placement(small_config: ConfigDict, tmp_path: Path) -> None:
    """Written by the hybrid placement on four devices, read on 1 x 1, written there and read back: to the bit."""

    def host(state: Any) -> list[np.ndarray]:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))]

    small_config.mesh.hybrid = True
    network = builder.model(small_config, 10)
    _, _, state = _train(small_config, (4, 1), steps=1, classes=10)
    for number, shape in enumerate([(1, 1), (4, 1), (1, 2), (2, 1)]):
        with contextlib.closing(Checkpoints(tmp_path / str(number))) as checkpoints:
            checkpoints.save(1, state)
        shapes = jax.eval_shape(lambda state=state: state)
        there = Checkpoints(tmp_path / str(number)).restore(1, placement.on_mesh(network, shapes, _mesh(shape)))
        jax.tree.map(np.testing.assert_array_equal, host(there), host(state))
        spec = PartitionSpec("tower", None, "data") if shape[0] > 1 else PartitionSpec("tower")
        assert there.params["fc6"]["kernel"].sharding.spec == spec
        state = there


# ---------------------------------------------------------------- exchanges in bfloat16


def test_bfloat16_halves_the_exchanges(small_config: ConfigDict) -> None:
    """Forward and backward, at every layer but the logits. The gradients come back by an all-to-all: as many bytes."""
    full = _named(small_config, (1, 2), classes=10)
    small_config.mesh.exchange_dtype = "bfloat16"
    half = _named(small_config, (1, 2), classes=10)
    assert len(full) == len(half) == 10
    for (scope, way, kind, whole), (scope2, way2, kind2, whole2) in zip(full, half, strict=True):
        assert (scope, way) == (scope2, way2)
        if scope == "exchange_logits":
            assert (kind, whole) == (kind2, whole2)
        else:
            assert whole == 2 * whole2
            assert kind2 == ("all-gather" if way == "forward" else "all-to-all")


def test_bfloat16_exchanges_are_close_to_float32(small_config: ConfigDict) -> None:
    """Rounded alike where the towers share a device: the meshes agree as they do in float32, 1000 times closer."""
    losses, first, _ = _train(small_config, (1, 1), steps=2, classes=10)
    small_config.mesh.exchange_dtype = "bfloat16"
    rounded, expected, _ = _train(small_config, (1, 1), steps=2, classes=10)
    assert 1e-5 < abs(rounded[0] - losses[0]) < 0.01 * losses[0]
    for left, right in zip(jax.tree.leaves(first), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(right, left, rtol=0, atol=0.03 * np.abs(left).max())
    for shape in ((1, 2), (2, 2)):
        there, got, _ = _train(small_config, shape, steps=2, classes=10)
        assert there == pytest.approx(rounded, rel=1e-6)
        for left, right in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
            np.testing.assert_allclose(right, left, rtol=0, atol=1e-5 * np.abs(left).max())
