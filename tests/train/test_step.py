"""The step: the same on every mesh, and nothing crosses the towers but what the paper says."""

import contextlib
import functools
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
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict
from steps import CLASSES, Program, compiled, make_batch, make_mesh

from alexnet_jax import builder, config as configs
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.data.preprocess import Augmentation, Input, mirrored
from alexnet_jax.model import alexnet as models, placement, towers
from alexnet_jax.model.alexnet import in_top_k
from alexnet_jax.train import optimizer
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.step import make_state, make_train_step, train_apply

MESHES = [(1, 2), (2, 1), (2, 2)]
HYBRID = (4, 1)  # in tests that have it: the placement of 2014 on four devices


@pytest.fixture
def config() -> ConfigDict:
    """Without a decay, so that the first velocity is the gradient times minus the learning rate."""
    return _recipe("alexnet")


def _recipe(name: str) -> ConfigDict:
    config = configs.load_recipe(f"{name}:digits").copy_and_resolve_references()
    config.update_from_flattened_dict(SMALL | {"train.weight_decay": 0.0})
    return config


def _on(config: ConfigDict, shape: tuple[int, int]) -> Program:
    """The step on that mesh; `HYBRID` means the hybrid placement."""
    config = config.copy_and_resolve_references()
    config.mesh.hybrid = shape == HYBRID
    return compiled(config, shape)


def _losses(metrics: list[dict[str, float]]) -> list[float]:
    return [entry["loss"] for entry in metrics]


def _assert_close(found: Any, expected: Any, tolerance: float) -> None:
    """Each leaf within `tolerance` of its largest value, and none of them zero."""
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        largest = np.abs(left).max()
        assert largest > 0, path
        np.testing.assert_allclose(right, left, rtol=0, atol=tolerance * largest, err_msg=str(path))


@pytest.mark.parametrize("shape", [*MESHES, HYBRID])
def test_loss_and_gradients_are_equal_on_every_mesh(shape: tuple[int, int], config: ConfigDict) -> None:
    """Loss within 1e-6, each layer's gradient within 1e-5 of its largest value; dropout and flips on."""
    (expected_loss, expected), (loss, found) = (_on(config, mesh).run(1) for mesh in ((1, 1), shape))
    assert loss[0]["loss"] == pytest.approx(expected_loss[0]["loss"], rel=1e-6)
    _assert_close(found[1].opt_state.velocity, expected[1].opt_state.velocity, 1e-5)


def test_meshes_stay_together_over_steps(config: ConfigDict) -> None:
    """What the meshes differ by after 20 steps is what one rounding of the first weights leads to."""
    together = {shape: _losses(_on(config, shape).run(20)[0]) for shape in ((1, 1), *MESHES, HYBRID)}
    rounded = _losses(_on(config, (1, 1)).run(20, scale=1 + 2**-23)[0])
    apart = {shape: np.abs(np.subtract(losses, together[1, 1])).max() for shape, losses in together.items()}
    yardstick = np.abs(np.subtract(rounded, together[1, 1])).max()
    assert 0 < yardstick < 1e-3
    assert max(apart.values()) < 5 * yardstick, (apart, yardstick)


def test_step_equals_pmap(config: ConfigDict) -> None:
    """The lineage: three whole steps, written as two-device pmap was, end in the weights and momentum of the step.

    Loss, gradients with dropout and flips on, and update; per tower under `jax.pmap(axis_name="tower")`.
    """
    ours = _on(config, (1, 2))
    rule, _ = builder.optimizer(config, images=1000, steps=100)
    inputs = Input(config.data.crop_pixels, np.asarray(config.data.mean))
    program, augmentation = train_apply(ours.model), Augmentation(flip=True)

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
    metrics, states = ours.run(3)
    # One more axis: pmap takes its own away, and a tower's leaves keep theirs, of size 1.
    apart = functools.partial(jax.tree.map, lambda leaf: leaf[:, None])
    params, opt_state = apart(states[0].params), states[0].opt_state
    opt_state = opt_state._replace(velocity=apart(opt_state.velocity))
    for number in range(3):
        batch = make_batch(8, config.data.crop_pixels, ours.model.classes, seed=number)
        params, opt_state, loss = by_pmap(params, opt_state, number, jax.random.wrap_key_data(states[0].key), batch)
        assert float(loss) == pytest.approx(metrics[number]["loss"], rel=1e-5)
    assert np.abs(states[3].params["conv3"]["kernel"] - states[0].params["conv3"]["kernel"]).max() > 1e-5
    together = jax.tree.map(lambda leaf: leaf[:, 0], (params, opt_state.velocity))
    _assert_close(together, (states[3].params, states[3].opt_state.velocity), 1e-5)


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


def test_collectives_are_those_of_the_paper(config: ConfigDict) -> None:
    """1 x 2: all-gathers at conv3, fc6, fc7, fc8 and of the logits, their transposes, and scalars."""
    found = _collectives(_on(config, (1, 2)).step.as_text())
    moved = sorted((name, size) for name, size, _ in found if size > 1)
    c, B = config.model, 8
    of_both_towers = (3 * 3 * c.conv2.features, c.conv5.features, c.fc6.features, c.fc7.features)
    gathered = [*(B * 2 * size for size in of_both_towers), B * CLASSES]
    assert [size for name, size in moved if name == "all-gather"] == sorted(gathered)
    assert [size for name, size in moved if name == "reduce-scatter"] == sorted(n // 2 for n in gathered)
    assert len(moved) == 10, moved


def test_collectives_without_a_tower_axis_are_of_the_gradients(config: ConfigDict) -> None:
    """2 x 1: the gradients' all-reduce over `data`, and nothing between towers."""
    found = _collectives(_on(config, (2, 1)).step.as_text())
    assert {name for name, _, _ in found} == {"all-reduce"}
    assert all(groups in ("{{0,1}}", "mesh['data'=2,'tower'=1] {'data'}") for _, _, groups in found), found


def test_step_learns_and_follows_its_seed(config: ConfigDict) -> None:
    """Twice the same numbers to the bit; the loss of a network that learns falls."""
    config.train.learning_rate = 0.01
    (once, states), (again, same) = (compiled(config, (1, 1), 2).run(steps) for steps in (40, 5))
    assert once[:5] == again
    assert np.mean(_losses(once[-5:])) < 0.5 * np.mean(_losses(once[:5]))
    jax.tree.map(np.testing.assert_array_equal, states[5].params, same[5].params)


def test_randomness_follows_the_example(config: ConfigDict) -> None:
    """An example's flip and dropout follow its place in the global batch, not where it is computed."""
    program = _on(config, (1, 1))
    batch = make_batch(8, config.data.crop_pixels, CLASSES, seed=0)
    order = np.asarray([3, 1, 7, 0, 2, 6, 4, 5])
    losses = []
    for shuffled in (batch, {name: part[order] for name, part in batch.items()}):
        losses.append(float(program.step(program.state(), towers.to_devices(shuffled, program.mesh))[1]["loss"]))
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


def test_flip_of_a_chunk_of_images() -> None:
    """With chunks of 32 four draws for a batch of 128; with 1 each image has its own."""
    key, place_B = jax.random.key(0), jnp.arange(128)
    together = np.asarray(Augmentation(flip=True, chunk=32).flips(key, place_B)).reshape(4, 32)
    assert np.all(together == together[:, :1])
    drawn = [Augmentation(flip=True, chunk=32).flips(jax.random.key(seed), place_B) for seed in range(9)]
    assert 0 < np.asarray(drawn).mean() < 1
    alone = np.asarray(Augmentation(flip=True).flips(key, place_B))
    assert 40 < alone.sum() < 88


def test_inverted_dropout_equals_dropout_of_2012(small_config: ConfigDict) -> None:
    """Inverted dropout with half the weights after it, a quarter of their rate and four times their decay is the
    2012 form (after it: fc7 and fc8), step by step and in evaluation; with an optimizer of optax, which the step takes.
    """  # fmt: skip
    after, decay, mesh = ("fc7", "fc8"), 0.05, make_mesh((1, 1))
    losses, states = [], []
    for inverted in (False, True):
        small_config.model.dropout.inverted = inverted
        network = builder.model(small_config, 2)

        def is_after(path: Any, inverted: bool = inverted) -> bool:
            return inverted and path[0].key in after and path[-1].key == "kernel"

        def halved(path: Any, leaf: jax.Array, is_after: Any = is_after) -> jax.Array:
            return leaf / 2 if is_after(path) else jnp.copy(leaf)  # a step consumes it, and zeros may share memory

        def decayed(path: Any, g: jax.Array, w: jax.Array, is_after: Any = is_after) -> jax.Array:
            quarter, four = (0.25, 4.0) if is_after(path) else (1.0, 1.0)
            return quarter * (g + four * decay * w) if path[-1].key == "kernel" else g

        rule = optax.chain(
            optax.stateless(functools.partial(jax.tree_util.tree_map_with_path, decayed)),
            optax.sgd(0.003, momentum=0.9, nesterov=True),
        )
        state = jax.jit(functools.partial(make_state, network, rule, seed=1, image_pixels=67))()
        state = state.replace(params=jax.tree_util.tree_map_with_path(halved, state.params))
        step = make_train_step(
            network, rule, mesh, jax.eval_shape(lambda s=state: s), batch_size=8,
            inputs=Input(67, np.full(3, 79.4)), augmentation=Augmentation(),
        )  # fmt: skip
        for number in range(5):
            batch = towers.to_devices(make_batch(8, 67, 2, seed=number), mesh)
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        assert metrics.keys() == {"loss", "top1", "top5"}
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


@pytest.mark.parametrize("shape", [(2, 2), HYBRID])
def test_batch_norm_is_equal_on_every_mesh(shape: tuple[int, int], config: ConfigDict) -> None:
    """The same losses and running statistics, whichever devices hold the batch, the towers and the units."""
    for layer in ("conv1", "conv2", "fc6"):
        config.model[layer].post_ops = "batch_norm relu" + (" pool" if layer != "fc6" else " dropout")
    (expected, states), (found, others) = (_on(config, mesh).run(2) for mesh in ((1, 1), shape))
    # Sums over the batch in another order, which the second step's loss shows: 1.1e-5 on one processor.
    np.testing.assert_allclose(_losses(found), _losses(expected), rtol=3e-5)
    _assert_close(others[1].statistics, states[1].statistics, 1e-5)
    mean = _on(config, shape).state().statistics["bn6"]["mean"]
    assert mean.addressable_shards[0].data.shape == ((1, 16) if shape == (2, 2) else (2, 4))


def test_collectives_follow_exchanges_and_norms_across_towers(config: ConfigDict) -> None:
    """Caffe's norms move the four outermost channels at each; as `summary` counts them. conv3 reads its own tower."""
    config.model.norm.across_towers, config.model.exchange = True, ("fc6", "fc7", "fc8")
    program = _on(config, (1, 2))
    counted = placement.traffic(program.model, 67)
    assert counted["norm1"] == 15 * 15 * 4
    assert counted.keys() == {"norm1", "norm2", "fc6", "fc7", "fc8", "the logits"}
    found = [(name, size) for name, size, _ in _collectives(program.step.as_text()) if size > 1]
    assert sorted(size for name, size in found if name == "all-gather") == sorted(16 * n for n in counted.values())
    assert [name for name, _ in found].count("reduce-scatter") == 6


def test_traffic_of_net_145() -> None:
    """facts of the paper's network: 21,632 + 4,608 + 2,048 + 2,048 numbers an image each way, and its logits."""
    counted = placement.traffic(builder.model(get_config(), 1000), 224)
    assert counted == {"conv3": 21_632, "fc6": 4_608, "fc7": 2_048, "fc8": 2_048, "the logits": 500}


# ---------------------------------------------------------------- the hybrid placement of 2014


@pytest.mark.parametrize(
    ("name", "devices", "classes"),
    [
        ("half", 2, 10),  # one tower, all split
        ("alexnet", 2, 10),  # fc8 has 5 units per tower: it stays whole
        ("no_dropout", 4, 10),
        ("one_weird_trick", 4, 10),  # one tower, whose fc8 stays whole
    ],
)
def test_hybrid_placement_equals_one_device(name: str, devices: int, classes: int) -> None:
    """Dropout on where the recipe has it: each unit's mask is that of every other placement."""
    config = _recipe(name)
    expected_metrics, expected = compiled(config, (1, 1), classes).run(2)
    config.mesh.hybrid = True
    program = compiled(config, (devices, 1), classes)
    metrics, states = program.run(2)
    assert _losses(metrics) == pytest.approx(_losses(expected_metrics), rel=1e-6)
    _assert_close(states[1].opt_state.velocity, expected[1].opt_state.velocity, 1e-5)
    for part, leaf in program.state().params["fc7"].items():
        assert leaf.addressable_shards[0].data.shape == (*leaf.shape[:-1], leaf.shape[-1] // devices), part


def _named(program: Program) -> list[tuple[str, str, str, int]]:
    """[(scope, pass, operation, bytes of the whole array)] of the compiled step, the sums over `data` left out."""
    found = []
    for line in program.step.as_text().splitlines():
        match = re.search(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all)\(.*op_name=\"(.*?)\"", line)
        scope = match and re.search(r"/((exchange|split)_\w+)/", match[3])
        if match and scope:
            arrays = re.findall(r"[a-z](\d+)\[([\d,]+)\]", match[1])
            size = sum(int(bits) // 8 * math.prod(map(int, dims.split(","))) for bits, dims in arrays)
            whole = size * program.mesh.size if match[2] == "reduce-scatter" else size
            found.append((scope[1], "backward" if "transpose(" in match[3] else "forward", match[2], whole))
    return sorted(found)


@pytest.mark.parametrize(
    ("name", "classes", "devices", "dtype"),
    [
        ("alexnet", 8, 4, "float32"),
        ("half", 10, 2, "bfloat16"),
        ("alexnet", 10, 2, "float32"),
        ("alexnet", 8, 4, "bfloat16"),
        ("one_weird_trick", 8, 4, "float32"),
    ],
)
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
    assert _named(compiled(config, (devices, 1), classes)) == sorted(wanted)


def test_hybrid_gradients_of_split_layers_are_not_summed(config: ConfigDict) -> None:
    """The all-reduce has what is whole on each device, and the three metrics: nothing of fc6, fc7 and fc8."""
    program = _on(config, HYBRID)
    shapes = re.findall(r"= \(?(.*?)\)? all-reduce\(", program.step.as_text())
    summed = sum(math.prod(map(int, re.findall(r"\d+", dims))) for dims in re.findall(r"f32\[([\d,]*)\]", str(shapes)))
    whole = [leaf.size for name, part in program.first.params.items() if name < "fc" for leaf in part.values()]
    assert summed == sum(whole) + 3


def test_checkpoint_restores_on_every_placement(config: ConfigDict, tmp_path: Path) -> None:
    """Written by the hybrid placement on four devices, read on 1 x 1, written there and read back: to the bit."""

    def host(state: Any) -> list[np.ndarray]:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))]

    program = _on(config, HYBRID)
    state, expected, shapes = program.state(), host(program.state()), jax.eval_shape(lambda: program.first)
    for number, shape in enumerate([(1, 1), (4, 1), (1, 2), (2, 1)]):
        with contextlib.closing(Checkpoints(tmp_path / str(number))) as checkpoints:
            checkpoints.save(1, state)
        target = placement.on_mesh(program.model, shapes, make_mesh(shape))
        state = Checkpoints(tmp_path / str(number)).restore(1, target)
        jax.tree.map(np.testing.assert_array_equal, host(state), expected)
        spec = PartitionSpec("tower", None, "data") if shape[0] > 1 else PartitionSpec("tower")
        assert state.params["fc6"]["kernel"].sharding.spec == spec


# ---------------------------------------------------------------- exchanges in bfloat16


def test_bfloat16_halves_the_exchanges(config: ConfigDict) -> None:
    """Forward and backward, at every layer but the logits. The gradients come back by an all-to-all: as many bytes."""
    full = _named(_on(config, (1, 2)))
    config.mesh.exchange_dtype = "bfloat16"
    half = _named(_on(config, (1, 2)))
    assert len(full) == len(half) == 10
    for (scope, way, kind, whole), (scope2, way2, kind2, whole2) in zip(full, half, strict=True):
        assert (scope, way) == (scope2, way2)
        if scope == "exchange_logits":
            assert (kind, whole) == (kind2, whole2)
        else:
            assert whole == 2 * whole2
            assert kind2 == ("all-gather" if way == "forward" else "all-to-all")


def test_bfloat16_exchanges_are_close_to_float32(config: ConfigDict) -> None:
    """Rounded alike where the towers share a device: the meshes agree as they do in float32, 1000 times closer."""
    metrics, states = compiled(config, (1, 1), 10).run(2)
    config.mesh.exchange_dtype = "bfloat16"
    rounded, expected = compiled(config, (1, 1), 10).run(2)
    assert 1e-5 < abs(rounded[0]["loss"] - metrics[0]["loss"]) < 0.01 * metrics[0]["loss"]
    _assert_close(expected[1].opt_state.velocity, states[1].opt_state.velocity, 0.03)
    there, found = compiled(config, (1, 2), 10).run(2)
    assert _losses(there) == pytest.approx(_losses(rounded), rel=1e-6)
    _assert_close(found[1].opt_state.velocity, expected[1].opt_state.velocity, 1e-5)
