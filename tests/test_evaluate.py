"""Evaluation: views, counts by class, predictions image by image; ensembles; the probe; a mean image."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL
from ml_collections import ConfigDict
from sklearn import metrics

from alexnet_jax import builder, config as configs, ensembles as ensemble, evaluate
from alexnet_jax.cli.ensemble import report
from alexnet_jax.data import preprocess
from alexnet_jax.data.feed import Split
from alexnet_jax.data.preprocess import Input
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement, probe, towers
from alexnet_jax.prepare import statistics
from alexnet_jax.train.metrics import format_classes

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "imagenette" / "val"


def test_views_are_the_ten_of_2012() -> None:
    """The center and the four corners of 224 in 256 pixels, and all of them mirrored."""
    places = [(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)]
    assert preprocess.views_of(256, 224, flip=True) == tuple((*p, m) for m in (False, True) for p in places)
    assert len(preprocess.views_of(256, 224, flip=False)) == 5
    assert preprocess.views_of(224, 224, flip=True) == ((0, 0, False), (0, 0, True))
    assert preprocess.views_of(224, 224, flip=False) == ((0, 0, False),)


def test_probabilities_are_averaged_over_views(small_config: ConfigDict) -> None:
    """By hand: each view cut out in NumPy, its softmax, their mean; the center is the first of them."""
    network = builder.model(small_config, 10)
    variables = jax.jit(lambda: models.init_variables(network, jax.random.key(0), 67))()
    images = np.random.default_rng(0).integers(0, 256, (4, 75, 75, 3), np.uint8)
    labels = np.asarray([3, 1, 4, -1], np.int32)
    mesh = towers.make_mesh(towers=2, tower=2, devices=jax.devices()[:4])
    inputs, views = Input(67, np.asarray([100.0, 90.0, 80.0])), preprocess.views_of(75, 67, flip=True)
    program = models.logits_fn(network)
    step = evaluate.make_eval_step(network, mesh, inputs=inputs, views=views)
    counts, probabilities = jax.device_get(step(variables, towers.to_devices({"image": images, "label": labels}, mesh)))
    one = jax.jit(towers.over_towers(program))
    by_hand = []
    for top, left, mirror in views:
        crop = images[:, top : top + 67, left : left + 67].astype(np.float32) - np.float32([100, 90, 80])
        logits = np.asarray(one(variables, crop[:, :, ::-1] if mirror else crop), np.float64)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        by_hand.append(odds / odds.sum(1, keepdims=True))
    assert np.abs(by_hand[0] - by_hand[1]).max() > 1e-3, "the views look alike"
    for prefix, wanted in (("", by_hand[0]), ("views_", np.mean(by_hand, axis=0))):
        right = wanted[np.arange(3), labels[:3]]
        assert counts[f"{prefix}loss"] == pytest.approx(-np.log(right).sum(), rel=1e-4)
        for k in (1, 5):
            hits = (wanted[:3] > right[:, None]).sum(1) < k
            assert counts[f"{prefix}top{k}"].sum() == hits.sum()
    assert counts["images"].sum() == 3
    np.testing.assert_allclose(probabilities, [by_hand[0], np.mean(by_hand, axis=0)], rtol=1e-4)
    np.testing.assert_array_equal(counts["predicted"], np.bincount(by_hand[0][:3].argmax(1), minlength=10))


@pytest.mark.parametrize("recipe", ["alexnet_bn", "one_weird_trick"])
def test_hybrid_placement_counts_as_one_device(recipe: str) -> None:
    """Two towers and one, padding in the last place: the same hits of the same classes, and probabilities."""
    config = configs.load_recipe(f"{recipe}:digits").copy_and_resolve_references()
    config.update_from_flattened_dict(SMALL)
    rng, views = np.random.default_rng(0), preprocess.views_of(75, 67, flip=False)[:2]
    batch = {"image": rng.integers(0, 256, (8, 75, 75, 3), np.uint8), "label": rng.integers(0, 10, 8).astype(np.int32)}
    batch["label"][-1] = -1
    inputs, results = Input(67, np.asarray([100.0, 90.0, 80.0])), []
    for devices in (1, 4):
        config.mesh.hybrid = devices > 1
        network = builder.model(config, 10)
        shapes = placement.variables(network, 67)
        mesh = towers.make_mesh(towers=network.towers, tower=1, devices=jax.devices()[:devices])
        variables = jax.jit(
            lambda network=network: models.init_variables(network, jax.random.key(0), 67),
            out_shardings=placement.shardings(network, shapes, mesh),
        )()
        on_device = towers.to_devices(batch, mesh)
        step = evaluate.make_eval_step(network, mesh, inputs=inputs, views=views)
        results.append(jax.device_get(step(variables, on_device)))
    (one, odds), (four, same_odds) = results
    assert one["images"].sum() == 7
    for name, value in one.items():
        check = np.testing.assert_allclose if "loss" in name else np.testing.assert_array_equal
        check(four[name], value, **({"rtol": 1e-5} if "loss" in name else {}), err_msg=name)
    np.testing.assert_allclose(same_odds, odds, rtol=1e-4, atol=1e-7)


def _predictions(images: int, classes: int) -> evaluate.Predictions:
    """Half of them right; the last class but one has no images, the last is never predicted."""
    rng = np.random.default_rng(0)
    labels = rng.choice([k for k in range(classes) if k != classes - 2], images).astype(np.int32)
    odds = rng.dirichlet(np.full(classes, 0.2), images).astype(np.float32)
    half = np.arange(images) % 2 == 0
    odds[half, labels[half]] += 1
    odds[:, -1] = 0
    odds /= odds.sum(1, keepdims=True)
    best = np.argsort(-odds, axis=1, kind="stable")[:, :5].astype(np.int32)
    names = tuple(f"class {k}" for k in range(classes))
    split = Split([{"key": f"{i}.jpg", "label": int(k)} for i, k in enumerate(labels)], "test", names)
    is_right = best[:, 0] == labels
    counts = {
        "images": np.bincount(labels, minlength=classes),
        "predicted": np.bincount(best[:, 0], minlength=classes),
        "top1": np.bincount(labels[is_right], minlength=classes),
        "top5": np.bincount(labels[(best == labels[:, None]).any(1)], minlength=classes),
        "loss": np.zeros(()),
    }
    step: Any = lambda *_: (counts, odds[None])  # noqa: E731
    per_image: list[evaluate.PerImage] = []
    mesh = towers.make_mesh(towers=2, tower=1, devices=jax.devices()[:1])
    entry = evaluate.evaluate(step, {}, [{"label": labels}], mesh, names, each=per_image.append)
    return evaluate.Predictions.of(split, entry, per_image)


def test_precision_and_recall_equal_scikit_learn() -> None:
    """Of a class without images, and of one that is never predicted, too."""
    found = _predictions(300, 8)
    labels, given = found.labels, found.top_classes[:, 0]
    numbers = metrics.precision_recall_fscore_support(labels, given, labels=range(8), zero_division=0.0)
    by_class = found.evaluation["eval_by_class"]
    assert [row["images"] for row in by_class.values()] == numbers[3].tolist()
    np.testing.assert_allclose([row["precision"] for row in by_class.values()], 100 * numbers[0])
    np.testing.assert_allclose([row["top1"] for row in by_class.values()], 100 * numbers[1])
    present = numbers[3] > 0
    assert found.evaluation["eval_precision"] == pytest.approx(100 * numbers[0][present].mean())
    assert found.evaluation["eval_recall"] == pytest.approx(100 * numbers[1][present].mean())
    assert "class 6" not in format_classes(found.evaluation)
    np.testing.assert_array_equal(found.confusion(), metrics.confusion_matrix(labels, given, labels=range(8)))
    label, called, count = found.most_confused(1)[0]
    off = found.confusion() * (1 - np.eye(8, dtype=int))
    assert count == off.max() == off[int(label[-1]), int(called[-1])]


def test_csv_has_worst_mistakes_first(tmp_path: Path) -> None:
    """Mistakes before what is right, each by the probability of the label."""
    found = _predictions(300, 8)
    found.write_csv(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["image"] for row in rows) == sorted(f"{i}.jpg" for i in range(300))
    wrong = [row for row in rows if row["is_right"] == "0"]
    assert rows[: len(wrong)] == wrong
    assert len(wrong) == 300 * (1 - found.evaluation["eval_top1"] / 100)
    for part in (wrong, rows[len(wrong) :]):
        assert [float(row["probability"]) for row in part] == sorted(float(row["probability"]) for row in part)
    for row in rows:
        assert (row["class"] == row["answer_1"]) == (row["is_right"] == "1")
        assert row["class"] == f"class {found.labels[int(row['image'].removesuffix('.jpg'))]}"


def _members(count: int, images: int, classes: int) -> tuple[list[ensemble.Member], Any]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, images)
    members = []
    for i in range(count):
        logits = rng.normal(0, 1, (2, images, classes))
        logits[:, np.arange(images), labels] += 1.5 / (i + 1)  # each worse than the one before
        odds = np.exp(logits)
        members.append(ensemble.Member(f"net {i}", *(odds / odds.sum(2, keepdims=True))))
    return members, labels


def test_ensemble_errors_by_hand() -> None:
    probabilities = np.asarray([[0.5, 0.2, 0.3], [0.2, 0.4, 0.4], [0.1, 0.1, 0.8]])
    assert ensemble.errors(probabilities, np.asarray([0, 2, 2])) == (pytest.approx(100 / 3), 0.0)
    assert ensemble.errors(np.tile(np.arange(8.0), (4, 1)), np.asarray([7, 3, 2, 6])) == (75.0, 25.0)


def test_ensemble_is_better_than_its_members() -> None:
    """Averaging helps on independent errors; tuning does not do worse on the images it was tuned on."""
    members, labels = _members(3, 2000, 20)
    single = [ensemble.errors(m.center, labels) for m in members]
    kinds = [m.center for m in members]
    average = ensemble.errors(ensemble.mixed(kinds, [1, 1, 1]), labels)
    assert average[0] < min(error for error, _ in single)
    found = ensemble.tuned(kinds, labels)
    assert ensemble.errors(ensemble.mixed(kinds, found), labels)[1] <= average[1]
    assert found[0] > found[2], "the best member weighs more than the worst"
    assert all(abs(w / 0.05 - round(w / 0.05)) < 1e-9 for w in found)


def test_ensemble_weights_are_reported_on_other_images() -> None:
    """Every second image tunes, the others are shown; changing the first ones' labels leaves the shown errors."""
    members, labels = _members(2, 200, 10)
    text = report(members, labels, tune=True)
    assert "on 100 images" in text
    assert "tuned on 100 other images" in text
    shown = [line for line in text.splitlines() if line.startswith("net")]
    other = np.where(np.arange(200) % 2 == 0, (labels + 1) % 10, labels)
    assert [line for line in report(members, other, tune=True).splitlines() if line.startswith("net")] == shown
    error = ensemble.errors(members[0].center[1::2], labels[1::2])
    assert f"{error[0]:14.2f}{error[1]:8.2f}" in shown[0]
    assert "2 averaged" in report(members, labels, tune=False)


def _start(config: ConfigDict, images: Any) -> list[probe.Stage]:
    network = builder.model(config, 10)
    variables = jax.jit(lambda: models.init_variables(network, jax.random.key(0), config.data.crop_pixels))()
    inputs = Input(config.data.crop_pixels, np.asarray(config.data.mean), tuple(config.data.std))
    return probe.stages(network, variables, images, inputs)


def test_probe_figures_by_hand(small_config: ConfigDict) -> None:
    """Deviation between images, root mean square within, dead units, and what the norm divides by."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 67, 67, 3), np.uint8)
    found = {stage.name: stage for stage in _start(small_config, images)}
    network = builder.model(small_config, 10)
    variables = jax.jit(lambda: models.init_variables(network, jax.random.key(0), 67))()
    x = jnp.asarray(images.astype(np.float32) - np.float32(small_config.data.mean))
    apply = lambda v: network.apply(v, x, mutable=["intermediates"])[1]["intermediates"]  # noqa: E731
    seen = {k: np.asarray(v, np.float64) for k, v in jax.jit(jax.vmap(apply, axis_name="tower"))(variables).items()}
    for name in ("conv1_out", "norm1", "relu7"):
        assert found[name].between == pytest.approx(np.sqrt(seen[name].var(axis=1).mean()), rel=1e-3)
        assert found[name].within == pytest.approx(np.sqrt((seen[name] ** 2).mean()), rel=1e-3)
    assert found["norm1"].divides == pytest.approx((seen["conv1_out"] / seen["norm1"]).mean(), rel=1e-3)
    assert found["relu6"].dead == pytest.approx((seen["relu6"] <= 0).all(axis=1).mean())
    assert found["conv1_out"].dead is None


def test_probe_warns_where_images_look_alike(small_config: ConfigDict) -> None:
    """Weights too small under large biases; the sentence names the place and the loss it will sit at."""
    images = np.random.default_rng(0).integers(0, 256, (8, 67, 67, 3), np.uint8)
    assert probe.warning(_start(small_config, images), 10) is None
    for layer in ("conv3", "conv4", "conv5"):
        small_config.model[layer].init_std = 0.001
    found = _start(small_config, images)
    assert "indistinguishable at relu7" in (said := probe.warning(found, 10) or "")
    assert "ln(10) = 2.303" in said
    assert "warning: " in probe.describe(found, 10)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs of shared/data are not there")
def test_probe_orders_initializations_on_photographs() -> None:
    """The five of the 2012 source, the paper's text and Caffe, in their order, and which are warned of.

    Computed elsewhere on synthetic images, std over mean at fc7: .108, .0089, .037, .0037, .00018.
    """
    files = sorted(PHOTOGRAPHS.glob("*/*.JPEG"))[:: 1000 // 8][:8]
    squares = [preprocess.crop_resized(preprocess.decode(file.read_bytes()), 256, 227) for file in files]
    ratios, warned = {}, {}
    as_they_are, unit = ("alexnet", "alexnet_paper_text", "caffe_alexnet"), ("alexnet", "alexnet_paper_text")
    for name, std in [*((name, 1.0) for name in as_they_are), *((name, 74.0) for name in unit)]:
        config = configs.load_recipe(f"{name}:imagenet2012")
        config.data.std = (std,) * 3
        pixels = config.data.crop_pixels
        found = _start(config, np.stack(squares)[:, :pixels, :pixels])
        ratios[name, std] = probe.last_hidden(found).ratio
        warned[name, std] = probe.warning(found, 10) is not None
    assert 0.05 < ratios["alexnet", 1.0] < 0.3
    assert 0.02 < ratios["caffe_alexnet", 1.0] < ratios["alexnet", 1.0]
    assert 0.003 < ratios["alexnet_paper_text", 1.0] < 0.02
    assert ratios["alexnet", 74.0] < 0.1 * ratios["alexnet", 1.0]
    assert ratios["alexnet_paper_text", 74.0] < 0.001
    assert [name for name, is_warned in warned.items() if not is_warned] == [("alexnet", 1.0), ("caffe_alexnet", 1.0)]


def _with_statistics(folder: Path, pixels: int) -> Split:
    """A split whose folder has the statistics of a few random images, and their mean image."""
    sums = statistics.Sums.zero(pixels)
    rng = np.random.default_rng(0)
    for level in (40, 90, 200):
        image = np.clip(rng.normal(level, 30, (pixels, pixels, 3)), 0, 255).astype(np.uint8)
        sums.add(image)
    statistics.write(sums, folder)
    return Split([], "train", ("a", "b"), folder)


def test_mean_image_center_is_subtracted_from_every_crop(small_config: ConfigDict, tmp_path: Path) -> None:
    """As the 2012 source does it, wherever the crop was taken; a run keeps its mean image for its evaluation."""
    split = _with_statistics(tmp_path, 71)
    small_config.data.mean_image, small_config.data.resize_pixels = True, 71
    whole = np.load(tmp_path / "mean_image.npy")
    images = np.random.default_rng(1).integers(0, 256, (2, 67, 67, 3), np.uint8)
    inputs = builder.inputs(small_config, folder=split.folder)
    np.testing.assert_array_equal(inputs.centered(jnp.asarray(images)), images.astype(np.float32) - whole[2:69, 2:69])
    (tmp_path / "workdir").mkdir()
    np.save(tmp_path / "workdir" / "mean_image.npy", inputs.mean + 1)
    kept = builder.inputs(small_config, folder=split.folder, workdir=tmp_path / "workdir")
    np.testing.assert_array_equal(kept.mean, inputs.mean + 1)
    with pytest.raises(AlexNetError, match=r"no statistics.*config\.data\.mean_image=false"):
        builder.inputs(small_config)


def test_mean_image_is_scaled_to_the_images(small_config: ConfigDict, tmp_path: Path) -> None:
    """Stored at twice the size of the images: every pixel is the mean of four, and then the center is taken."""
    split = _with_statistics(tmp_path, 72)
    small_config.data.mean_image, small_config.data.resize_pixels, small_config.data.crop_pixels = True, 36, 32
    halved = np.load(tmp_path / "mean_image.npy").reshape(36, 2, 36, 2, 3).mean((1, 3))
    np.testing.assert_allclose(builder.inputs(small_config, folder=split.folder).mean, halved[2:34, 2:34], rtol=1e-6)


def test_color_noise_uses_stored_components(small_config: ConfigDict, tmp_path: Path) -> None:
    """With () the noise has the components that `prepare statistics` found, and the config says which."""
    split = _with_statistics(tmp_path, 71)
    small_config.data.color_std = small_config.data.color_vectors = ()
    small_config.data.color_noise, small_config.data.color_noise_end_epoch = 0.1, 3
    filled = builder.with_statistics(small_config, split.folder)
    assert small_config.data.color_std == (), "the config itself stays as it was"
    colors = builder.augmentation(filled, images=100).colors
    assert colors is not None
    stored = json.loads((tmp_path / "statistics.json").read_text())
    np.testing.assert_allclose(colors, 0.1 * np.asarray(stored["std"])[:, None] * stored["vectors"], rtol=1e-6)
    assert filled.data.color_std == tuple(stored["std"])
