"""Weights in and out: nothing is lost or exchanged on the way, and a file is a plain network that anyone can run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from numpy.lib.stride_tricks import sliding_window_view

import alexnet_jax as alexnet
from alexnet_jax import builder, catalog, config as configs
from alexnet_jax.classifier import Classifier
from alexnet_jax.cli import weights as command
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, towers
from alexnet_jax.model.preprocess import Input
from alexnet_jax.train import evaluation, loop, start
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.metrics import Report
from alexnet_jax.train.resume import Resume
from alexnet_jax.train.step import TrainState
from alexnet_jax.weights import formats as weight_files, layout as weight_layout, pretrained as weights

Array = np.ndarray[Any, np.dtype[Any]]
DIGITS = tuple("0123456789")


def _random(network: models.AlexNet, pixels: int, seed: int = 0) -> dict[str, Any]:
    """Random variables of all towers; what rounds the classes up is 0, as no gradient ever reaches it."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: models.init_variables(network, jax.random.key(0), pixels))
    drawn: dict[str, Any] = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes)
    for leaves in drawn.get("batch_stats", {}).values():
        leaves["var"] = np.abs(leaves["var"])
    last = drawn["params"][network.stack[-1].name]
    if spare := network.towers * last["bias"].shape[-1] - network.classes:
        for name, value in last.items():
            value[-1, ..., -spare:] = 1 if name == "kernel" and "scale" in last else 0
    return drawn


def _small(recipe: str, small_config: ConfigDict, pixels: int = 67) -> ConfigDict:
    """A recipe at the width and with the spread of weights of the small config."""
    config = configs.load_recipe(f"{recipe}:digits")
    with config.unlocked():
        config.data.crop_pixels = config.data.resize_pixels = pixels
        for name in config.model.layers:
            config.model[name].features = small_config.model[name].features
    return config


def _full(recipe: str) -> tuple[ConfigDict, models.AlexNet, dict[str, Any]]:
    """(config, network of 1000 classes, weights that neither fade nor explode) of a recipe at its own size."""
    config = configs.load_recipe(f"{recipe}:imagenet2012")
    network = builder.model(config, 1000)
    shapes = jax.eval_shape(lambda: models.init_variables(network, jax.random.key(0), config.data.crop_pixels))
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> Array:
        fan_in = np.prod(leaf.shape[1:-1]) if leaf.ndim > 2 else 100
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(fan_in**-0.5)

    return config, network, jax.tree.map(draw, shapes)


def _logits(network: models.AlexNet, variables: Any, images: Array) -> Array:
    return np.asarray(jax.jit(towers.over_towers(models.logits_fn(network)))(variables, images))


def _about(config: ConfigDict, classes: tuple[str, ...] = DIGITS) -> dict[str, Any]:
    return weights.about(config, classes, None)


VARIANTS: dict[str, dict[str, Any]] = {
    "two towers": {},
    "one tower": {"model.towers": 1, "model.exchange": ()},
    "no exchange": {"model.exchange": ("fc8",)},
    "weight norm": {"model.weight_norm": True},
    "batch norm": {"model.conv1.post_ops": "batch_norm relu pool", "model.fc6.post_ops": "batch_norm relu"},
    "inverted": {"model.dropout.inverted": True},
}


@pytest.mark.parametrize("classes", [10, 7])
@pytest.mark.parametrize("variant", VARIANTS)
def test_out_and_in_again_is_the_identity(variant: str, classes: int, small_config: ConfigDict) -> None:
    """Towers to one network to towers, and back, every bit of it."""
    small_config.update_from_flattened_dict(VARIANTS[variant])
    network = builder.model(small_config, classes)
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
    network = builder.model(small_config, 10)
    arrays, about = weights.to_arrays(network, _random(network, 67)), _about(small_config)
    path = tmp_path / f"weights{ending}"
    weights.write(path, arrays, about, network)
    read = weight_files.read(path)
    assert read.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array, err_msg=name)
    assert read.about == json.loads(json.dumps(about))
    assert read.layout == (weight_files.CAFFE if ending == ".npz" else weight_files.TORCH)


# ---------------------------------------------------------------- the factor of the 2012 dropout


def test_the_factor_goes_into_the_weights_of_the_next_layer(small_config: ConfigDict) -> None:
    """fc7 and fc8 are halved, and nothing else is; their biases and an inverted dropout take no factor."""
    network = builder.model(small_config, 10)
    variables = _random(network, 67)
    small_config.model.dropout.inverted = True
    plain = weights.to_arrays(builder.model(small_config, 10), variables)
    for name, array in weights.to_arrays(network, variables).items():
        by = 0.5 if name in ("fc7_w", "fc8_w") else 1.0
        np.testing.assert_array_equal(array, by * plain[name], err_msg=name)


def test_with_weight_norm_the_factor_goes_into_the_scale(small_config: ConfigDict) -> None:
    small_config.model.weight_norm = True
    network = builder.model(small_config, 10)
    variables = _random(network, 67)
    arrays = weights.to_arrays(network, variables)
    params = variables["params"]
    np.testing.assert_array_equal(arrays["fc7_scale"], 0.5 * params["fc7"]["scale"].reshape(-1))
    np.testing.assert_array_equal(arrays["fc7_w"], np.concatenate([tower.T for tower in params["fc7"]["kernel"]]))


@pytest.mark.parametrize(
    ("post_ops", "factors"),
    [
        ({"fc6": "relu dropout", "fc7": "tanh dropout"}, {"fc7": 0.75, "fc8": 0.75}),
        ({"conv5": "relu dropout pool", "fc6": "dropout relu dropout", "fc7": ""}, {"fc6": 0.75, "fc7": 0.75**2}),
        ({"conv2": "dropout pool relu", "fc6": "relu", "fc7": "relu"}, {"conv3": 0.75}),
        ({"conv2": "dropout avg_pool relu", "fc6": "relu", "fc7": "relu"}, {"conv3": 0.75}),
    ],
)
def test_where_the_factors_go(post_ops: dict[str, str], factors: dict[str, float], small_config: ConfigDict) -> None:
    small_config.model.dropout.rate = 0.25
    for name, words in post_ops.items():
        small_config.model[name].post_ops = words
    assert weight_layout.factors(builder.model(small_config, 10)) == factors


@pytest.mark.parametrize("word", ["tanh", "norm", "spatial_norm", "batch_norm"])
def test_a_factor_that_cannot_pass_an_operation_is_an_error(word: str, small_config: ConfigDict) -> None:
    small_config.model.conv5.post_ops = f"relu dropout {word} pool"
    network = builder.model(small_config, 10)
    with pytest.raises(AlexNetError, match=rf"config\.model\.conv5\.post_ops.* has {word} after a dropout .* of fc6"):
        weights.to_arrays(network, _random(network, 67))
    small_config.model.dropout.inverted = True
    network = builder.model(small_config, 10)
    weights.to_arrays(network, _random(network, 67))


# ---------------------------------------------------------------- plain programs that know nothing of this project


def _conv(x: Array, w: Array, b: Array, *, stride: int, padding: tuple[int, int], groups: int = 1) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), padding, padding))
    outs = []
    for xg, wg in zip(np.split(x, groups, 1), np.split(w, groups, 0), strict=True):
        windows = sliding_window_view(xg, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
        outs.append(np.tensordot(windows, wg, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2))
    return np.concatenate(outs, 1) + b[:, None, None]


def _lrn(x: Array, k: float) -> Array:
    squares = np.pad(x**2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    return x / (k + 2e-5 * sum(squares[:, i : i + x.shape[1]] for i in range(5))) ** 0.75


def _pool(x: Array, *, ceil: bool) -> Array:
    extra = (x.shape[2] - 3) % 2 if ceil else 0
    x = np.pad(x, ((0, 0), (0, 0), (0, extra), (0, extra)), constant_values=-np.inf)
    return sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _dense(x: Array, w: dict[str, Array]) -> Array:
    x = x.reshape(len(x), -1)
    for name in ("fc6", "fc7"):
        x = _relu(x @ w[f"{name}_w"].T + w[f"{name}_b"])
    return x @ w["fc8_w"].T + w["fc8_b"]


def _net_145(w: dict[str, Array], x: Array) -> Array:
    two = lambda x: np.concatenate([_lrn(part, 2) for part in np.split(x, 2, 1)], 1)  # noqa: E731
    x = _relu(_pool(two(_conv(x, w["conv1_w"], w["conv1_b"], stride=4, padding=(0, 3))), ceil=True))
    x = two(_relu(_conv(x, w["conv2_w"], w["conv2_b"], stride=1, padding=(2, 2), groups=2)))
    squares = np.pad(x**2, ((0, 0), (0, 0), (2, 2), (2, 2)))
    x = _pool(x / (1 + 4e-5 * sliding_window_view(squares, (5, 5), (2, 3)).sum((4, 5))) ** 0.75, ceil=True)
    for name, groups in (("conv3", 1), ("conv4", 2), ("conv5", 2)):
        x = _relu(_conv(x, w[f"{name}_w"], w[f"{name}_b"], stride=1, padding=(1, 1), groups=groups))
    return _dense(_pool(x, ceil=True), w)


def _bvlc_alexnet(w: dict[str, Array], x: Array) -> Array:
    """Caffe's AlexNet: its images are blue first, and its LRN runs over all channels."""
    x = x[:, ::-1]
    x = _pool(_lrn(_relu(_conv(x, w["conv1_w"], w["conv1_b"], stride=4, padding=(0, 0))), 1), ceil=True)
    x = _pool(_lrn(_relu(_conv(x, w["conv2_w"], w["conv2_b"], stride=1, padding=(2, 2), groups=2)), 1), ceil=True)
    for name, groups in (("conv3", 1), ("conv4", 2), ("conv5", 2)):
        x = _relu(_conv(x, w[f"{name}_w"], w[f"{name}_b"], stride=1, padding=(1, 1), groups=groups))
    return _dense(_pool(x, ceil=True), w)


def _torchvision(w: dict[str, Array], x: Array) -> Array:
    x = _pool(_relu(_conv(x, w["conv1_w"], w["conv1_b"], stride=4, padding=(2, 2))), ceil=False)
    x = _pool(_relu(_conv(x, w["conv2_w"], w["conv2_b"], stride=1, padding=(2, 2))), ceil=False)
    for name in ("conv3", "conv4", "conv5"):
        x = _relu(_conv(x, w[f"{name}_w"], w[f"{name}_b"], stride=1, padding=(1, 1)))
    return _dense(_pool(x, ceil=False), w)


PROGRAMS = {"alexnet": _net_145, "caffe_alexnet": _bvlc_alexnet, "torchvision": _torchvision}


def _read_plainly(path: Path) -> dict[str, Array]:
    """The arrays of a file as conv1_w, ..., without this project."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name].astype(np.float64) for name in file.files if name != "about"}
    from safetensors.numpy import load_file

    numbered = ["features.0", "features.3", "features.6", "features.8", "features.10"]
    numbered += ["classifier.1", "classifier.4", "classifier.6"]
    ours = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    names = dict(zip(numbered, ours, strict=True))
    found = {}
    for name, tensor in load_file(path).items():
        layer, part = name.rsplit(".", 1)
        found[f"{names.get(layer, layer)}_{part[0]}"] = tensor.astype(np.float64)
    return found


def _seen_alike(recipe: str, path: Path, got: Array, images: Array) -> None:
    """The plain program of a recipe says within 1e-5 of the largest logit what the project said."""
    wanted = PROGRAMS[recipe](_read_plainly(path), images.astype(np.float64).transpose(0, 3, 1, 2))
    assert np.ptp(wanted, axis=0).max() > 0.05 * np.abs(wanted).max(), "the images must tell"
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("pixels", [67, 131])  # fc6 reads 1 x 1 and 3 x 3 maps: the order of its inputs matters
@pytest.mark.parametrize("recipe", PROGRAMS)
def test_a_plain_program_gives_the_logits_of_an_export(
    recipe: str, pixels: int, small_config: ConfigDict, tmp_path: Path
) -> None:
    config = _small(recipe, small_config, pixels)
    network = builder.model(config, 10)
    variables = _random(network, pixels)
    images = np.random.default_rng(0).normal(0, 70, (3, pixels, pixels, 3)).astype(np.float32)
    got = _logits(network, variables, images[..., ::-1] if config.data.bgr else images)
    for path in (tmp_path / "w.npz", tmp_path / "w.safetensors"):
        weights.write(path, weights.to_arrays(network, variables), _about(config), network)
        _seen_alike(recipe, path, got, images)


@pytest.mark.parametrize(("recipe", "ending"), [("alexnet", ".npz"), ("torchvision", ".safetensors")])
def test_a_plain_program_gives_the_logits_at_full_size(recipe: str, ending: str, tmp_path: Path) -> None:
    """224 pixels, 1000 classes, 61 million numbers."""
    config, network, variables = _full(recipe)
    path = tmp_path / f"w{ending}"
    weights.write(path, weights.to_arrays(network, variables), _about(config, tuple(map(str, range(1000)))), network)
    images = np.random.default_rng(0).normal(0, 70, (2, 224, 224, 3)).astype(np.float32)
    _seen_alike(recipe, path, _logits(network, variables, images), images)


def test_plain_torch_layers_give_the_logits_of_net_145(small_config: ConfigDict, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is optional: it reads what the NumPy programs above read")
    from safetensors.torch import load_file

    f = torch.nn.functional
    network = builder.model(small_config, 10)
    variables = _random(network, 67)
    weights.write(tmp_path / "w.safetensors", weights.to_arrays(network, variables), _about(small_config), network)
    w = load_file(tmp_path / "w.safetensors")
    images = np.random.default_rng(0).normal(0, 70, (3, 67, 67, 3)).astype(np.float32)
    two = lambda x: torch.cat([f.local_response_norm(part, 5, 1e-4, 0.75, 2.0) for part in x.chunk(2, 1)], 1)  # noqa: E731
    x = f.pad(torch.from_numpy(images).permute(0, 3, 1, 2), (0, 3, 0, 3))
    x = f.relu(f.max_pool2d(two(f.conv2d(x, w["conv1.weight"], w["conv1.bias"], 4)), 3, 2, ceil_mode=True))
    x = two(f.relu(f.conv2d(x, w["conv2.weight"], w["conv2.bias"], padding=2, groups=2)))
    x = f.max_pool2d(x / (1 + 1e-3 * f.avg_pool2d(x**2, 5, 1, 2)) ** 0.75, 3, 2, ceil_mode=True)
    for name, groups in (("conv3", 1), ("conv4", 2), ("conv5", 2)):
        x = f.relu(f.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1, groups=groups))
    x = f.max_pool2d(x, 3, 2, ceil_mode=True).flatten(1)
    for name in ("fc6", "fc7"):
        x = f.relu(f.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]))
    wanted = f.linear(x, w["fc8.weight"], w["fc8.bias"]).numpy()
    assert np.abs(_logits(network, variables, images) - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("recipe", ["alexnet", "torchvision"])
def test_a_plain_file_gives_its_own_logits_in_any_recipe(recipe: str, small_config: ConfigDict, tmp_path: Path) -> None:
    """A file of others, random arrays, read as a recipe with the dropout of 2012 and as one without."""
    config = _small(recipe, small_config)
    network = builder.model(config, 10)
    rng = np.random.default_rng(3)
    shapes = weights.shapes_of(network, 67)
    np.savez(tmp_path / "w.npz", **{name: 0.3 * rng.standard_normal(s, np.float32) for name, s in shapes.items()})
    variables = weights.variables_of(weights.open_file(tmp_path / "w.npz"), config, DIGITS, channels="rgb")
    images = rng.normal(0, 70, (3, 67, 67, 3)).astype(np.float32)
    _seen_alike(recipe, tmp_path / "w.npz", _logits(network, variables, images), images)


# ---------------------------------------------------------------- a classifier out and in again


def _classifier(config: ConfigDict, classes: tuple[str, ...] = DIGITS, inputs: Input | None = None) -> Classifier:
    network = builder.model(config, len(classes))
    variables = _random(network, config.data.crop_pixels)
    return Classifier(config, classes, variables, inputs=inputs or builder.inputs(config))


def _pictures(pixels: int = 67) -> Array:
    return np.random.default_rng(5).integers(0, 256, (3, pixels, pixels, 3), np.uint8)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("recipe", ["alexnet", "caffe_alexnet", "torchvision", "alexnet_wn", "alexnet_bn", "half"])
def test_a_saved_classifier_loads_as_it_was(recipe: str, ending: str, small_config: ConfigDict, tmp_path: Path) -> None:
    """Its weights and logits to the bit, its classes, whole names of them, and what its config says of the network."""
    config = _small(recipe, small_config)
    net = _classifier(config, ("evening dress", *DIGITS[1:]))
    net.save(tmp_path / f"net{ending}")
    back = alexnet.load(tmp_path / f"net{ending}")
    assert back.class_names == net.class_names
    assert not configs.differences(back.config.model, config.model)
    for field in ("name", "mean", "std", "bgr", "crop_pixels", "resize_pixels", "flip"):
        assert back.config.data[field] == config.data[field], field
    jax.tree.map(np.testing.assert_array_equal, back.variables, net.variables)
    if ending == ".npz" and recipe in ("alexnet", "caffe_alexnet"):
        np.testing.assert_array_equal(back.logits(_pictures()), net.logits(_pictures()))
    back.save(tmp_path / f"again{ending}")
    assert (tmp_path / f"again{ending}").read_bytes() == (tmp_path / f"net{ending}").read_bytes()


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_a_mean_image_is_in_the_file(ending: str, small_config: ConfigDict, tmp_path: Path) -> None:
    image = np.random.default_rng(6).uniform(0, 255, (67, 67, 3)).astype(np.float32)
    net = _classifier(small_config, inputs=Input(67, image))
    net.save(tmp_path / f"net{ending}")
    back = alexnet.load(tmp_path / f"net{ending}")
    np.testing.assert_array_equal(back.inputs.mean, image)
    jax.tree.map(np.testing.assert_array_equal, back.variables, net.variables)
    pictures = jax.numpy.asarray(_pictures())
    np.testing.assert_array_equal(back.inputs(pictures), net.inputs(pictures))
    assert "alexnet with other values" in weights.identify(tmp_path / f"net{ending}")
    smaller = weight_files.read(tmp_path / f"net{ending}")
    weight_files.write(tmp_path / f"bad{ending}", smaller.arrays, smaller.about, mean_image=smaller.mean_image[:60])
    with pytest.raises(AlexNetError, match=r"bad\..* is damaged: its mean_image is \(60, 67, 3\)"):
        alexnet.load(tmp_path / f"bad{ending}")


def _as_version_0_1(net: Classifier, path: Path) -> None:
    """Writes a file as version 0.1 did: its names of fields, and no factor in the weights."""
    arrays = weights.to_arrays(net.tower, jax.device_get(net.variables))
    arrays |= {"fc7_w": 2 * arrays["fc7_w"], "fc8_w": 2 * arrays["fc8_w"]}
    config = net.config
    model = config.model.to_dict()
    for name in config.model.layers:
        layer = model[name]
        layer["then"] = layer.pop("post_ops")
        if "kernel_size" in layer:
            layer["maps"], layer["kernel"] = layer.pop("features"), layer.pop("kernel_size")
        else:
            layer["units"] = layer.pop("features")
    about = {
        "model": model,
        "channels": "RGB",
        "mean": config.data.mean,
        "deviation": config.data.std,
        "crop_pixels": 67,
        "classes": net.class_names,
        "step": 5,
    }
    weight_files.write(path, arrays, about)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_a_file_of_version_0_1_is_read_with_its_weights_as_they_were(
    ending: str, small_config: ConfigDict, tmp_path: Path
) -> None:
    net = _classifier(small_config)
    _as_version_0_1(net, tmp_path / f"old{ending}")
    back = alexnet.load(tmp_path / f"old{ending}")
    jax.tree.map(np.testing.assert_array_equal, back.variables, net.variables)
    assert back.class_names == DIGITS
    assert not configs.differences(back.config.model, small_config.model)
    np.testing.assert_array_equal(
        back.inputs(jax.numpy.asarray(_pictures())), net.inputs(jax.numpy.asarray(_pictures()))
    )
    if ending == ".npz":
        return
    small_config.model.dropout.inverted = True  # in a recipe without the factor the logits are the same
    file = weights.open_file(tmp_path / f"old{ending}")
    variables = weights.variables_of(file, small_config, DIGITS)
    images = np.random.default_rng(0).normal(0, 70, (2, 67, 67, 3)).astype(np.float32)
    wanted = _logits(net.tower, net.variables, images)
    got = _logits(builder.model(small_config, 10), variables, images)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


# ---------------------------------------------------------------- a file of others


def test_a_file_of_others_needs_a_recipe(tmp_path: Path) -> None:
    network, pixels = catalog.build("torchvision", 3)
    path = tmp_path / "theirs.safetensors"
    arrays = {name: np.zeros(shape, np.float32) for name, shape in weights.shapes_of(network, pixels).items()}
    weight_files.write(path, arrays, {}, torchvision_names=True)
    with pytest.raises(AlexNetError, match=r"theirs.* recipe='NAME', one of .* one_weird_trick, torchvision\.$"):
        weights.load_file(path)
    with pytest.raises(AlexNetError, match=r"theirs.* does not fit the recipe: conv1_. is \(64,.* in the network"):
        weights.load_file(path, recipe="alexnet")
    with pytest.raises(AlexNetError, match=r"There is no recipe 'alexnett'"):
        weights.load_file(path, recipe="alexnett")
    loaded = weights.load_file(path, recipe="torchvision")
    assert loaded.class_names == ("class 0", "class 1", "class 2")
    assert loaded.config.data.name == "imagenet2012"
    assert weights.load_file(path, recipe="torchvision:digits").config.data.name == "digits"
    assert weights.load_file(path, recipe="torchvision", classes=["a b", "c", "d"]).class_names == ("a b", "c", "d")


def test_an_own_file_knows_its_recipe(small_config: ConfigDict, tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    _classifier(small_config).save(path)
    with pytest.raises(AlexNetError, match=r"net\.npz says that it is not recipe='caffe_alexnet'"):
        weights.load_file(path, recipe="caffe_alexnet")
    assert weights.load_file(path, classes=[f"digit {name}" for name in DIGITS]).class_names[3] == "digit 3"


@pytest.mark.parametrize(
    ("dotted", "channels", "turned"),
    [(False, None, True), (True, None, False), (False, "rgb", False), (True, "bgr", True), (True, "BGR", True)],
)
def test_the_first_layer_is_turned_to_the_channel_order_of_the_recipe(
    dotted: bool, channels: str | None, turned: bool, small_config: ConfigDict, tmp_path: Path
) -> None:
    network = builder.model(small_config, 10)
    arrays = weights.to_arrays(network, _random(network, 67))
    path = tmp_path / ("w.safetensors" if dotted else "w.npz")
    weight_files.write(path, arrays, {})
    variables = weights.variables_of(weights.open_file(path), small_config, DIGITS, channels=channels)
    wanted = arrays["conv1_w"][:, ::-1] if turned else arrays["conv1_w"]
    np.testing.assert_array_equal(weights.to_arrays(network, variables)["conv1_w"], wanted)


def test_channels_are_rgb_or_bgr(small_config: ConfigDict, tmp_path: Path) -> None:
    _classifier(small_config).save(tmp_path / "w.npz")
    with pytest.raises(AlexNetError, match=r"channels='grb' must be 'rgb' or 'bgr'"):
        weights.load_file(tmp_path / "w.npz", channels="grb")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("evening dress\nmaillot, tank suit\ncrane\n", ("evening dress", "maillot, tank suit", "crane")),
        ("\ufeffone\r\ntwo\r\n\r\nthree\r\n", ("one", "two", "three")),
        ("n02119789 1 kit_fox\nn02100735 2 English_setter\nn02110185\t3\n", ("n02119789", "n02100735", "n02110185")),
        ("n02119789\nn02100735\nn02110185", ("n02119789", "n02100735", "n02110185")),
        ("n02119789 fox\nsetter\nn02110185 husky\n", ("n02119789 fox", "setter", "n02110185 husky")),
    ],
)
def test_class_names_are_whole_lines_or_the_devkits_ids(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(text.encode())
    file = weight_files.WeightFile(tmp_path / "w.npz", {}, {}, weight_files.CAFFE)
    assert weights.classes_of(file, path, 3) == names
    assert weights.classes_of(file, str(path), 3) == names


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "b"], r"classes has 2 names, but the weights have 3"),
        (["a", "b", "a"], r"classes has 'a' twice"),
        (["a", "b", 3], r"classes must be the names"),
        (3, r"classes must be the names"),
        ({"a", "b", "c"}, r"classes must be the names of the classes in order"),
        ("nowhere.txt", r"nowhere\.txt cannot be read: No such file"),
    ],
)
def test_class_names_that_do_not_fit_are_one_sentence(classes: Any, message: str, tmp_path: Path) -> None:
    file = weight_files.WeightFile(tmp_path / "w.npz", {}, {}, weight_files.CAFFE)
    with pytest.raises(AlexNetError, match=message):
        weights.classes_of(file, classes, 3)


def test_the_classes_of_a_thousand_outputs_are_the_sorted_wnids(tmp_path: Path) -> None:
    file = weight_files.WeightFile(tmp_path / "w.npz", {}, {}, weight_files.CAFFE)
    names = weights.classes_of(file, None, 1000)
    assert names is not None
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert names[0] == "n01440764"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"model": 5}, "AttributeError"),
        ({"model": {}}, "has no field"),
        ({"channels": "GRB"}, "KeyError"),
        ({"crop_pixels": "67"}, "TypeError"),
        ({"crop_pixels": -67}, "config.data.crop_pixels=-67 is not possible"),
        ({"mean": 3}, "TypeError"),
        ({"mean": [1, 2]}, "config.data.mean=(1, 2) is not possible"),
        ({"std": [0, 0, 0]}, "config.data.std"),
        ({"data": 5}, "AttributeError"),
    ],
)
def test_what_a_file_says_of_itself_is_checked(
    said: dict[str, Any], reason: str, small_config: ConfigDict, tmp_path: Path
) -> None:
    network = builder.model(small_config, 10)
    path = tmp_path / "odd.npz"
    weight_files.write(path, weights.to_arrays(network, _random(network, 67)), _about(small_config) | said)
    for use in (weights.load_file, weights.identify):
        with pytest.raises(AlexNetError) as raised:
            use(path)
        assert str(raised.value).startswith(f"{path} says something impossible of itself: ")
        assert reason in str(raised.value)


@pytest.mark.parametrize("said", [["a"], "abc", [1] * 10, ["a"] * 10])
def test_the_class_names_of_a_file_are_checked(said: Any, small_config: ConfigDict, tmp_path: Path) -> None:
    network = builder.model(small_config, 10)
    path = tmp_path / "odd.npz"
    weight_files.write(path, weights.to_arrays(network, _random(network, 67)), _about(small_config) | {"classes": said})
    with pytest.raises(AlexNetError, match=r"odd\.npz (has|must be)"):
        weights.load_file(path)


def test_a_network_that_reads_blue_first_sees_the_same(small_config: ConfigDict) -> None:
    """conv1 reversed and the input reversed: the same logits."""
    network = builder.model(small_config, 10)
    variables = _random(network, 67)
    reversed_conv1 = jax.tree.map(np.copy, variables)
    kernel = reversed_conv1["params"]["conv1"]["kernel"]
    reversed_conv1["params"]["conv1"]["kernel"] = kernel[:, :, :, ::-1]
    images = jax.numpy.asarray(_pictures())
    mean = np.asarray([120.0, 110.0, 100.0])
    rgb, bgr = (
        _logits(network, v, inputs(images))
        for v, inputs in ((variables, Input(67, mean)), (reversed_conv1, Input(67, mean, bgr=True)))
    )
    np.testing.assert_allclose(bgr, rgb, rtol=0, atol=1e-5 * np.abs(rgb).max())


# ---------------------------------------------------------------- torchvision's names


@pytest.mark.parametrize(
    ("recipe", "changes", "named"),
    [
        ("torchvision", {}, True),
        (
            "torchvision",
            {"dropout.inverted": False, "conv5.post_ops": "relu pool", "fc7.post_ops": "relu dropout"},
            True,
        ),
        ("torchvision", {"conv1.padding": (3, 1)}, False),
        ("torchvision", {"conv1.post_ops": "pool"}, False),
        ("torchvision", {"pool.ceil": True}, False),
        ("torchvision", {"pool.kind": "avg"}, False),
        ("torchvision", {"weight_norm": True}, False),
        ("torchvision", {"conv5.post_ops": "relu norm pool"}, False),
        ("one_weird_trick", {}, False),
        ("half", {}, False),
        ("alexnet", {}, False),
    ],
)
def test_torchvisions_names_are_for_what_torchvision_computes(
    recipe: str, changes: dict[str, Any], named: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = configs.load_recipe(f"{recipe}:imagenet2012")
    config.update_from_flattened_dict({f"model.{name}": value for name, value in changes.items()})
    network = builder.model(config, 1000)
    arrays = {name: np.broadcast_to(np.float32(0), s) for name, s in weights.shapes_of(network, 224).items()}
    kept: dict[str, Any] = {}
    monkeypatch.setattr(weight_files, "write", lambda *_, **options: kept.update(options))
    weights.write(tmp_path / "w.safetensors", arrays, {}, network)
    assert kept["torchvision_names"] == named


# ---------------------------------------------------------------- a run out and in again


def _run_with(config: ConfigDict, workdir: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """A run in `workdir` as if it had been trained, with random weights; returns them."""
    variables = _random(builder.model(config, len(classes)), config.data.crop_pixels)
    params, statistics = variables["params"], variables.get("batch_stats", {})
    optimizer, _ = builder.optimizer(config, images=1, steps=1)
    state = TrainState(jax.numpy.zeros((), "int32"), params, statistics, optimizer.init(params), {}, jax.random.key(0))
    workdir.mkdir()
    configs.save(config, classes, workdir)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(5, jax.device_put(state))
    checkpoints.close()
    return variables


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred images for evaluation: these tests compare runs and measure none."""
    whole = builder.open_split

    def some(config: ConfigDict, split: str) -> Any:
        found = whole(config, split)
        return dataclasses.replace(found, source=[found.source[i] for i in range(100)])

    monkeypatch.setattr(builder, "open_split", some)


@pytest.mark.usefixtures("few_digits")
def test_an_import_is_a_checkpoint_like_any_other(
    small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It evaluates to what its origin does, on one device and two, and a run resumes from it."""
    _run_with(small_config, tmp_path / "run", DIGITS)
    said = command.export_weights(tmp_path / "run", "5", tmp_path / "net.safetensors")
    assert "the factor of the dropout is folded into the weights (0.5 in fc7, 0.5 in fc8)" in said
    command.import_weights(tmp_path / "net.safetensors", small_config, tmp_path / "imported")
    command.export_weights(tmp_path / "imported", "latest", tmp_path / "again.safetensors")
    first, again = (weight_files.read(tmp_path / f"{name}.safetensors") for name in ("net", "again"))
    jax.tree.map(np.testing.assert_array_equal, first.arrays, again.arrays)
    assert (first.about["step"], again.about["step"]) == (5, 0)
    assert first.about | {"step": 0} == again.about
    there = jax.devices()
    entries = []
    for workdir, count in (("run", 1), ("imported", 2)):
        monkeypatch.setattr(jax, "devices", lambda *_, count=count: there[:count])
        entries.append(evaluation.evaluate_checkpoint(tmp_path / workdir, which="latest"))
    assert entries[0]["eval_loss"] == pytest.approx(entries[1]["eval_loss"], rel=1e-5)
    small_config.train.steps, small_config.eval.views = 2, "center"
    loop.train(small_config, tmp_path / "imported", command="", eval_command="")
    assert (tmp_path / "imported" / "checkpoints" / "2").is_dir()
    log = (tmp_path / "imported" / "train.log").read_text()
    assert "resumed after step 0" in log
    assert "probe" not in log, "it began with fresh weights"


def test_an_export_is_what_a_classifier_loads(small_config: ConfigDict, tmp_path: Path) -> None:
    _run_with(small_config, tmp_path / "run", DIGITS)
    command.export_weights(tmp_path / "run", "latest", tmp_path / "net.npz")
    file, run = alexnet.load(tmp_path / "net.npz"), alexnet.load(tmp_path / "run")
    np.testing.assert_array_equal(file.logits(_pictures()), run.logits(_pictures()))
    assert file.class_names == run.class_names == DIGITS


def test_weights_of_another_network_of_the_same_shapes_are_told(small_config: ConfigDict, tmp_path: Path) -> None:
    """The file knows what it was trained as; importing it as another recipe says in which fields that differs."""
    _run_with(small_config, tmp_path / "run", DIGITS)
    command.export_weights(tmp_path / "run", "latest", tmp_path / "w.npz")
    assert "warning" not in command.import_weights(tmp_path / "w.npz", small_config, tmp_path / "same")
    small_config.data.bgr = True
    assert "warning" not in command.import_weights(tmp_path / "w.npz", small_config, tmp_path / "turned")
    small_config.data.std = (2.0, 2.0, 2.0)
    small_config.model.conv1.post_ops = "relu norm pool"
    said = command.import_weights(tmp_path / "w.npz", small_config, tmp_path / "other")
    wanted = "warning: these weights were trained with other values of config.data.std, config.model.conv1.post_ops"
    assert said.endswith(wanted)


def test_fine_tuning_with_a_new_head(small_config: ConfigDict, tmp_path: Path) -> None:
    """init_from takes all layers but the last from a run with other classes, such as an imported one."""
    config = _small("alexnet", small_config)
    _classifier(config, ("cat", "dog")).save(tmp_path / "w.npz")
    command.import_weights(tmp_path / "w.npz", config, tmp_path / "run")
    config.init_from = str(tmp_path / "run")
    opened = builder.train_setup(config, tmp_path / "tuned")
    with Report(tmp_path, main=True) as report:
        checkpoints = Checkpoints(tmp_path / "tuned")
        state = start.first_state(opened, Resume(0, is_new=True), checkpoints, report)
    got = weights.to_arrays(opened.model, jax.device_get(state.variables))
    for name, array in weight_files.read(tmp_path / "w.npz").arrays.items():
        if name.startswith("fc8"):
            assert got[name].shape[0] == 10
        else:
            np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert "a new fc8 for 10 classes" in (tmp_path / "train.log").read_text()


def test_colors_and_classes_find_their_places(small_config: ConfigDict, tmp_path: Path) -> None:
    """A file with blue first and its classes in another order gives the same logits, by name."""
    network = builder.model(small_config, 10)
    arrays = weights.to_arrays(network, _random(network, 67))
    order = np.random.default_rng(1).permutation(10)
    theirs = arrays | {"conv1_w": arrays["conv1_w"][:, ::-1]} | {f"fc8_{p}": arrays[f"fc8_{p}"][order] for p in "wb"}
    np.savez(tmp_path / "caffe.npz", **theirs)
    (tmp_path / "classes.txt").write_text("".join(f"{k}\n" for k in order))
    said = command.import_weights(
        tmp_path / "caffe.npz", small_config, tmp_path / "run", classes=tmp_path / "classes.txt"
    )
    assert "BGR turned into RGB" in said
    assert "in the data set's order" in said
    command.export_weights(tmp_path / "run", "latest", tmp_path / "back.npz")
    back = weight_files.read(tmp_path / "back.npz")
    assert back.about["channels"] == "RGB"
    assert tuple(back.about["classes"]) == DIGITS
    for name, array in arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array, err_msg=name)


def test_a_failed_import_leaves_no_run(
    small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong, before the checkpoint is written or after, there is nothing that looks like a run."""
    _classifier(small_config).save(tmp_path / "w.npz")
    small_config.model.conv3.features = 6
    with pytest.raises(AlexNetError, match="does not fit"):
        command.import_weights(tmp_path / "w.npz", small_config, tmp_path / "run")
    small_config.model.conv3.features = 5

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(configs, "save", full)
    with pytest.raises(AlexNetError, match=r"run cannot be written: No space left on device: make room\."):
        command.import_weights(tmp_path / "w.npz", small_config, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


def test_an_import_overwrites_nothing(small_config: ConfigDict, tmp_path: Path) -> None:
    _classifier(small_config).save(tmp_path / "w.npz")
    (tmp_path / "empty").mkdir()
    command.import_weights(tmp_path / "w.npz", small_config, tmp_path / "empty")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for name, message in (("empty", "holds a run already"), ("mine", "not an empty"), ("w.npz", "not an empty")):
        with pytest.raises(AlexNetError, match=message):
            command.import_weights(tmp_path / "w.npz", small_config, tmp_path / name)


def test_an_import_must_know_its_classes(small_config: ConfigDict, tmp_path: Path) -> None:
    network = builder.model(small_config, 10)
    np.savez(tmp_path / "w.npz", **weights.to_arrays(network, _random(network, 67)))
    with pytest.raises(AlexNetError, match=r"w\.npz does not say which its 10 classes are.* in classes=FILE\."):
        command.import_weights(tmp_path / "w.npz", small_config, tmp_path / "run")
    np.savez(tmp_path / "other.npz", conv1_w=np.zeros((3, 3, 1, 1), np.float32))
    with pytest.raises(AlexNetError, match=r"other\.npz has no fc8_w, the last layer"):
        command.import_weights(tmp_path / "other.npz", small_config, tmp_path / "run")


# ---------------------------------------------------------------- the command line


def test_the_command_takes_overrides_like_the_others(
    small_config: ConfigDict, small_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run_with(small_config, tmp_path / "run", DIGITS)
    net, imported = tmp_path / "net.npz", tmp_path / "imported"
    command.main(["export", f"--workdir={tmp_path / 'run'}", f"--output={net}"])
    command.main([
        "import", f"--input={net}", "--config=alexnet:digits", f"--workdir={imported}", *small_flags,
        "--config.data.bgr=true",
    ])  # fmt: skip
    assert "RGB turned into BGR" in capsys.readouterr().out
    assert configs.load(imported).data.bgr
    command.main(["identify", f"--input={net}"])
    assert "alexnet with other values of config.model.conv1.features" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["exprot"], "invalid choice"),
        (["export"], "--workdir"),
        (["export", "--workdir=a", "--output=b.npz", "--stpe=3"], "unrecognized arguments: --stpe=3"),
        (["export", "--work=a", "--output=b.npz"], "--workdir"),
        (["identify", "--input=a", "--config.data.bgr=true"], "is an option of import"),
        (["import", "--input=a", "--config=alexnet", "--workdir=b", "--channels=grb"], "invalid choice: 'grb'"),
        (["import", "--input=a", "--config=alexnet", "--workdir=b", "--config.data.brg=true"], "no field 'brg'"),
        (["import", "--input=a", "--config=alexnett", "--workdir=b"], "There is no recipe 'alexnett'"),
    ],
)
def test_errors_of_the_command_line_are_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(AlexNetError) as raised:
        command.main(arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- which one it is


def _zeros(recipe: str, path: Path, changes: dict[str, tuple[int, ...]] | None = None) -> None:
    """A file of a recipe's shapes: zeros that a file system need not store."""
    shapes = weights.shapes_of(*catalog.build(recipe)) | (changes or {})
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        layer, part = name.rsplit("_", 1)
        start, end = end, end + 2 * int(np.prod(shape))
        named = {"w": "weight", "b": "bias"}.get(part, part)
        header[f"{layer}.{named}"] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("alexnet", ("conv2  256 filters of 48 x 5 x 5, 2 groups", "60,965,224 numbers", "alexnet, ", "caffenet")),
        (
            "torchvision",
            ("conv2  192 filters of 64 x 5 x 5\n", "61,100,840 numbers", "of: one_weird_trick, torchvision."),
        ),
        ("conv6", ("conv6  256 filters of 256 x 3 x 3\n", "shapes are those of: conv6.")),
    ],
)
def test_identify(recipe: str, wanted: tuple[str, ...], tmp_path: Path) -> None:
    _zeros(recipe, tmp_path / "w.safetensors")
    said = weights.identify(tmp_path / "w.safetensors")
    for part in wanted:
        assert part in said, said


def test_identify_names_what_differs(tmp_path: Path) -> None:
    _zeros("half", tmp_path / "w.safetensors", {"fc7_w": (100, 4096), "fc7_b": (100,), "fc8_w": (1000, 100)})
    assert "the nearest: half (other: fc7, fc8)" in weights.identify(tmp_path / "w.safetensors")


@pytest.mark.parametrize("recipe", ["alexnet", "caffe_alexnet", "tanh"])  # the same shapes
def test_identify_of_an_own_file_names_its_recipe(recipe: str, tmp_path: Path) -> None:
    config = configs.load_recipe(f"{recipe}:digits")
    arrays = {"conv1_w": np.zeros((96, 3, 11, 11), np.float32), "fc8_w": np.zeros((10, 4096), np.float32)}
    weight_files.write(tmp_path / "w.npz", arrays, _about(config) | {"step": 7})
    said = weights.identify(tmp_path / "w.npz")
    names = {"alexnet": "alexnet or alexnet_continued"}.get(recipe, recipe)  # one network, trained for longer
    assert said.endswith(f"The file says what it is: {names}.")
    assert f"{'BGR' if recipe == 'caffe_alexnet' else 'RGB'}, step 7" in said
    config.model.norm.k = 3.0
    weight_files.write(tmp_path / "w.npz", arrays, _about(config))
    assert weights.identify(tmp_path / "w.npz").endswith(f"{recipe} with other values of config.model.norm.k.")


def test_one_layer_names_no_network(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", conv1_w=np.zeros((96, 3, 11, 11), np.float32), conv1_b=np.zeros(96, np.float32))
    said = weights.identify(tmp_path / "w.npz")
    assert said.endswith("No recipe has these shapes or is near them.")
    np.savez(tmp_path / "none.npz", x=np.zeros(3, np.float32))
    with pytest.raises(AlexNetError, match=r"none\.npz has no weights of layers .*: it holds x\."):
        weights.identify(tmp_path / "none.npz")
