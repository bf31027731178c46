"""Weights in and out: nothing is lost or exchanged on the way, and a file is recognised."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from numpy.lib.stride_tricks import sliding_window_view

from alexnet_jax import AlexNetError, config as configs, model as models, recipes, run, towers, weights
from alexnet_jax.evaluate import Input

Array = np.ndarray[Any, np.dtype[Any]]


def _random(network: models.AlexNet, pixels: int, seed: int = 0) -> dict[str, Any]:
    """Random variables of all towers; what rounds the classes up is 0, as no gradient ever reaches it."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: models.init_variables(network, jax.random.key(0), pixels))
    drawn: dict[str, Any] = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes)
    last = drawn["params"][network.stack[-1].name]
    if spare := network.towers * last["bias"].shape[-1] - network.classes:
        for name, value in last.items():
            value[-1, ..., -spare:] = 1 if name == "kernel" and "scale" in last else 0
    return drawn


def _network(config: ConfigDict, classes: int = 10) -> models.AlexNet:
    return run.build_model(config, classes)


VARIANTS: dict[str, dict[str, Any]] = {
    "two towers": {},
    "one tower": {"model.towers": 1, "model.exchange": ()},
    "no exchange": {"model.exchange": ("fc8",)},
    "weight norm": {"model.weight_norm": True},
    "batch norm": {"model.conv1.then": "batch_norm relu pool", "model.fc6.then": "batch_norm relu"},
}


@pytest.mark.parametrize("classes", [10, 7])
@pytest.mark.parametrize("variant", VARIANTS)
def test_out_and_in_again_is_the_identity(variant: str, classes: int, small_config: ConfigDict) -> None:
    """Towers to one network to towers, and back, every bit of it."""
    small_config.update_from_flattened_dict(VARIANTS[variant])
    network = _network(small_config, classes)
    variables = _random(network, 67)
    arrays = weights.to_arrays(network, variables)
    assert {name: array.shape for name, array in arrays.items()} == weights.shapes_of(network, 67)
    assert len(arrays["fc8_b"]) == classes
    back = weights.from_arrays(network, arrays, 67)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    again = weights.to_arrays(network, back)
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_files_keep_every_bit(variant: str, ending: str, small_config: ConfigDict, tmp_path: Path) -> None:
    small_config.update_from_flattened_dict(VARIANTS[variant])
    network = _network(small_config)
    arrays, about = weights.to_arrays(network, _random(network, 67)), {"model": small_config.model.to_dict()}
    path = tmp_path / f"weights{ending}"
    weights.write(path, arrays, about)
    read, said, _ = weights.read(path)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)
    assert said == json.loads(json.dumps(about))


# ---------------------------------------------------------------- what the numbers mean, computed outside


def _conv(x: Array, w: Array, b: Array, *, stride: int, padding: tuple[int, int], groups: int) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), padding, padding))
    outs = []
    for xg, wg in zip(np.split(x, groups, 1), np.split(w, groups, 0), strict=True):
        windows = sliding_window_view(xg, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
        outs.append(np.einsum("bchwij,ocij->bohw", windows, wg))
    return np.concatenate(outs, 1) + b[:, None, None]


def _lrn(x: Array) -> Array:
    squares = np.pad(x**2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    return x / (2 + 2e-5 * sum(squares[:, i : i + x.shape[1]] for i in range(5))) ** 0.75


def _pool(x: Array) -> Array:
    return sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))


def _net_145(path: Path, images: Array) -> Array:
    """Logits of net 145 in float64 from a file of its weights and images [B, H, W, 3] less the mean."""
    with np.load(path) as file:
        w = {name: file[name].astype(np.float64) for name in file.files if name != "about"}
    two = lambda norm, x: np.concatenate([norm(part) for part in np.split(x, 2, 1)], 1)  # noqa: E731
    x = _conv(
        images.astype(np.float64).transpose(0, 3, 1, 2), w["conv1_w"], w["conv1_b"], stride=4, padding=(0, 3), groups=1
    )
    x = np.maximum(_pool(two(_lrn, x)), 0)
    x = two(_lrn, np.maximum(_conv(x, w["conv2_w"], w["conv2_b"], stride=1, padding=(2, 2), groups=2), 0))
    squares = np.pad(x**2, ((0, 0), (0, 0), (2, 2), (2, 2)))
    x = _pool(x / (1 + 4e-5 * sliding_window_view(squares, (5, 5), (2, 3)).sum((4, 5))) ** 0.75)
    for name, groups in (("conv3", 1), ("conv4", 2), ("conv5", 2)):
        x = np.maximum(_conv(x, w[f"{name}_w"], w[f"{name}_b"], stride=1, padding=(1, 1), groups=groups), 0)
    x = _pool(x).reshape(len(x), -1)
    for name in ("fc6", "fc7"):
        x = 0.5 * np.maximum(x @ w[f"{name}_w"].T + w[f"{name}_b"], 0)
    return x @ w["fc8_w"].T + w["fc8_b"]


def _run_with(config: ConfigDict, workdir: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """A run in `workdir` as if it had been trained, with random weights; returns them."""
    network = _network(config, len(classes))
    variables = _random(network, config.data.crop_pixels)
    optimizer, _ = run.build_optimizer(config, images=1, steps=1)
    state = run.make_state(network, optimizer, seed=0, image_pixels=config.data.crop_pixels)
    workdir.mkdir()
    configs.save(config, classes, workdir)
    checkpoints = run.Checkpoints(workdir)
    checkpoints.save(5, state.replace(params=variables["params"], statistics=variables.get("batch_stats", {})))
    checkpoints.close()
    return variables


DIGITS = tuple("0123456789")


@pytest.mark.parametrize("pixels", [67, 131])  # fc6 reads 1 x 1 and 3 x 3 maps: the order of its inputs matters
def test_an_export_says_the_same_logits_to_who_reads_it(pixels: int, small_config: ConfigDict, tmp_path: Path) -> None:
    """Random net 145 computed in NumPy from the .npz alone: within 1e-5 of the largest logit."""
    small_config.data.resize_pixels = small_config.data.crop_pixels = pixels
    variables = _run_with(small_config, tmp_path / "run", DIGITS)
    weights.export_weights(tmp_path / "run", "latest", tmp_path / "net.npz")
    images = np.random.default_rng(0).normal(0, 70, (3, pixels, pixels, 3)).astype(np.float32)
    program = models.tower_program(_network(small_config))
    got = jax.jit(towers.over_towers(program))(variables, images)
    wanted = _net_145(tmp_path / "net.npz", images)
    assert np.ptp(wanted, axis=0).max() > 0.1 * np.abs(wanted).max()
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.skipif(not recipes.FOLDER.is_dir(), reason="the recipes are not beside the package")
def test_the_full_net_145_from_its_file_alone(tmp_path: Path) -> None:
    """224 pixels, 1000 classes, 60,965,224 numbers: export, and the same logits outside."""
    _, config = recipes.load("alexnet")
    network = run.build_model(config, 1000)
    variables = jax.tree.map(lambda leaf: 0.1 * leaf, _random(network, 224))
    weights.write(tmp_path / "net.npz", weights.to_arrays(network, variables), {})
    images = np.random.default_rng(0).normal(0, 70, (2, 224, 224, 3)).astype(np.float32)
    got = jax.jit(towers.over_towers(models.tower_program(network)))(variables, images)
    wanted = _net_145(tmp_path / "net.npz", images)
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


# ---------------------------------------------------------------- import


def _evaluated(workdir: Path) -> dict[str, Any]:
    return run.evaluate_checkpoint(configs.load(workdir), workdir, which="latest")


def test_an_import_is_a_checkpoint_like_any_other(
    small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It evaluates to what its origin does, on one device and two, and a run goes on from it."""
    _run_with(small_config, tmp_path / "run", DIGITS)
    weights.export_weights(tmp_path / "run", "5", tmp_path / "net.safetensors")
    weights.import_weights(tmp_path / "net.safetensors", small_config, tmp_path / "imported")
    weights.export_weights(tmp_path / "imported", "latest", tmp_path / "again.safetensors")
    first, again = (weights.read(tmp_path / f"{name}.safetensors")[0] for name in ("net", "again"))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    there = jax.devices()
    entries = []
    for workdir, count in (("run", 1), ("imported", 1), ("imported", 2)):
        monkeypatch.setattr(jax, "devices", lambda *_, count=count: there[:count])
        entries.append(_evaluated(tmp_path / workdir))
    assert entries[0]["eval_loss"] == pytest.approx(entries[1]["eval_loss"], rel=1e-6)
    assert entries[0]["eval_loss"] == pytest.approx(entries[2]["eval_loss"], rel=1e-5)
    small_config.train.steps = 2
    training = run.Run(small_config, tmp_path / "imported", command="", eval_command="")
    start = training._shapes, training.first_step
    training.train()
    assert start[1] == 0
    assert (tmp_path / "imported" / "checkpoints" / "2").is_dir()
    log = (tmp_path / "imported" / "train.log").read_text()
    assert "going on after step 0" in log
    assert "probe" not in log, "it began with fresh weights"


def test_weights_of_another_network_of_the_same_shapes_are_told(small_config: ConfigDict, tmp_path: Path) -> None:
    """The file knows what it was trained as; importing it as another recipe says in which fields that differs."""
    _run_with(small_config, tmp_path / "run", DIGITS)
    weights.export_weights(tmp_path / "run", "latest", tmp_path / "w.npz")
    assert "warning" not in weights.import_weights(tmp_path / "w.npz", small_config, tmp_path / "same")
    small_config.model.conv1.then = "relu norm pool"
    said = weights.import_weights(tmp_path / "w.npz", small_config, tmp_path / "other")
    assert said.endswith("warning: these weights were trained with other values of config.model.conv1.then")


def test_fine_tuning_with_a_new_head(small_config: ConfigDict, tmp_path: Path) -> None:
    """init_from takes all layers but the last from a run with other classes."""
    variables = _run_with(small_config, tmp_path / "run", ("cat", "dog"))
    small_config.init_from, small_config.train.steps = str(tmp_path / "run"), 1
    small_config.train.learning_rate = 0.0
    run.Run(small_config, tmp_path / "tuned", command="", eval_command="").train()
    arrays = tmp_path / "tuned.npz"
    weights.export_weights(tmp_path / "tuned", "latest", arrays)
    got = weights.read(arrays)[0]
    network = _network(small_config, 2)
    for name, array in weights.to_arrays(network, variables).items():
        if name.startswith("fc8"):
            assert got[name].shape[0] == 10
        else:
            np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert "a new fc8 for 10 classes" in (tmp_path / "tuned" / "train.log").read_text()


def test_colours_and_classes_find_their_places(small_config: ConfigDict, tmp_path: Path) -> None:
    """A file with blue first and its classes in another order gives the same logits, by name."""
    network = _network(small_config)
    variables = _random(network, 67)
    arrays = weights.to_arrays(network, variables)
    order = np.random.default_rng(1).permutation(10)
    theirs = arrays | {"conv1_w": arrays["conv1_w"][:, ::-1]} | {f"fc8_{p}": arrays[f"fc8_{p}"][order] for p in "wb"}
    np.savez(tmp_path / "caffe.npz", **theirs)
    (tmp_path / "classes.txt").write_text("".join(f"{k} digit\n" for k in order))
    said = weights.import_weights(
        tmp_path / "caffe.npz", small_config, tmp_path / "run", classes=tmp_path / "classes.txt"
    )
    assert "BGR turned into RGB" in said
    weights.export_weights(tmp_path / "run", "latest", tmp_path / "back.npz")
    back, about, _ = weights.read(tmp_path / "back.npz")
    assert about["channels"] == "RGB"
    assert tuple(about["classes"]) == DIGITS
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_a_network_that_reads_blue_first_sees_the_same(small_config: ConfigDict) -> None:
    """conv1 reversed and the input reversed: the same logits."""
    network = _network(small_config)
    variables = _random(network, 67)
    reversed_conv1 = jax.tree.map(np.copy, variables)
    kernel = reversed_conv1["params"]["conv1"]["kernel"]
    reversed_conv1["params"]["conv1"]["kernel"] = kernel[:, :, :, ::-1]
    images = np.random.default_rng(0).integers(0, 256, (2, 67, 67, 3), np.uint8)
    program = jax.jit(towers.over_towers(models.tower_program(network)))
    mean = np.asarray([120.0, 110.0, 100.0])
    logits = [
        program(v, inputs.finished(inputs.centred(jax.numpy.asarray(images))))
        for v, inputs in ((variables, Input(67, mean)), (reversed_conv1, Input(67, mean, bgr=True)))
    ]
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-5)


def test_torchvision_names(small_config: ConfigDict, tmp_path: Path) -> None:
    """One tower of eight layers is written and read under torchvision's own names, two towers are not."""
    from safetensors.numpy import load_file

    for count, name in ((1, "features.10.weight"), (2, "conv5.weight")):
        small_config.model.towers = count
        network = _network(small_config)
        path = tmp_path / f"{count}.safetensors"
        weights.write(path, weights.to_arrays(network, _random(network, 67)), {"model": {"towers": count}})
        assert name in load_file(path)
        assert ("classifier.6.bias" in load_file(path)) == (count == 1)


# ---------------------------------------------------------------- which one it is, and what cannot be


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ("alexnet", ("conv2  256 filters of 48 x 5 x 5, 2 groups", "60,965,224 numbers", "alexnet, ", "caffenet")),
        (
            "torchvision",
            ("conv2  192 filters of 64 x 5 x 5\n", "61,100,840 numbers", "of: one_weird_trick, torchvision."),
        ),
        ("conv6", ("conv6  256 filters of 256 x 3 x 3\n", "The shapes are those of: conv6.")),
    ],
)
def test_identify(recipe: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    model, pixels = recipes.build(recipe)
    shapes = weights.shapes_of(model, pixels)
    np.savez_compressed(tmp_path / "w.npz", **{name: np.zeros(shape, np.int8) for name, shape in shapes.items()})
    said = weights.identify(tmp_path / "w.npz")
    for part in parts:
        assert part in said, said


def test_identify_names_what_differs(tmp_path: Path) -> None:
    model, pixels = recipes.build("half")
    shapes = weights.shapes_of(model, pixels) | {"fc7_w": (100, 4096), "fc7_b": (100,), "fc8_w": (1000, 100)}
    np.savez_compressed(tmp_path / "w.npz", **{name: np.zeros(shape, np.int8) for name, shape in shapes.items()})
    assert "the nearest: half (other: fc7, fc8)" in weights.identify(tmp_path / "w.npz")


def test_what_cannot_be_read_or_written_is_one_sentence(small_config: ConfigDict, tmp_path: Path) -> None:
    network = _network(small_config)
    arrays = weights.to_arrays(network, _random(network, 67))
    (tmp_path / "x.caffemodel").touch()
    (tmp_path / "x.bin").touch()
    for name, message in (
        ("none.npz", r"there is no such file"),
        ("x.caffemodel", r"no maintained package reads a \.caffemodel"),
        ("x.bin", r"must end in \.npz"),
    ):
        with pytest.raises(AlexNetError, match=message):
            weights.read(tmp_path / name)
    with pytest.raises(AlexNetError, match=r"must end in \.npz or \.safetensors"):
        weights.write(tmp_path / "x.h5", arrays, {})
    with pytest.raises(AlexNetError, match=r"conv2_w is \(8, 2, 5, 5\) in the file and \(8, 3, 5, 5\).*identify"):
        weights.from_arrays(network, arrays | {"conv2_w": arrays["conv2_w"][:, :2]}, 67)
    with pytest.raises(AlexNetError, match=r"holds conv7_w, which"):
        weights.from_arrays(network, arrays | {"conv7_w": arrays["conv2_w"]}, 67)
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(AlexNetError, match=r"Which 10 classes .* --classes=FILE"):
        weights.import_weights(tmp_path / "w.npz", small_config, tmp_path / "run")
    (tmp_path / "nine.txt").write_text("\n".join("abcdefghi"))
    with pytest.raises(AlexNetError, match=r"names 9 classes, but the weights have 10"):
        weights.import_weights(tmp_path / "w.npz", small_config, tmp_path / "run", classes=tmp_path / "nine.txt")
    _run_with(small_config, tmp_path / "there", DIGITS)
    with pytest.raises(AlexNetError, match=r"holds a run already"):
        weights.import_weights(tmp_path / "w.npz", small_config, tmp_path / "there")
    np.savez(tmp_path / "empty.npz", x=np.zeros(3))
    with pytest.raises(AlexNetError, match=r"holds no weights of layers"):
        weights.identify(tmp_path / "empty.npz")
    with pytest.raises(AlexNetError, match=r"no last layer|has no fc8_b"):
        weights.import_weights(tmp_path / "empty.npz", small_config, tmp_path / "run")


def test_the_classes_of_a_thousand_outputs_are_the_sorted_wnids() -> None:
    names = weights._sorted_wnids()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert names[0] == "n01440764"
