"""Weights in and out: nothing is lost or exchanged on the way, and a file is a plain network that anyone can run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from numpy_forward import logits_of
from safetensors import numpy as safetensors

import alexnet_jax as alexnet
from alexnet_jax import builder, config as configs, summary, weight_file
from alexnet_jax.classifier import Classifier
from alexnet_jax.cli.weights import export_weights
from alexnet_jax.data.preprocess import Input
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, plain, towers
from alexnet_jax.train import loop, start
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.weights import checkpoint, formats, load
from alexnet_jax.weights.formats import CAFFE, TORCH, WeightFile
from alexnet_jax.weights.identify import identify

Array = np.ndarray[Any, np.dtype[Any]]
DIGITS = tuple("0123456789")
PICTURES = np.random.default_rng(5).integers(0, 256, (3, 67, 67, 3), np.uint8)


def _random(network: models.AlexNet, pixels: int = 67) -> dict[str, Any]:
    """Random variables of all towers; what rounds the classes up is 0, as no gradient ever reaches it."""
    rng = np.random.default_rng(0)
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
    """A recipe at the width of the small config."""
    config = configs.load_recipe(f"{recipe}:digits")
    with config.unlocked():
        config.data.crop_pixels = config.data.resize_pixels = pixels
        for name in config.model.layers:
            config.model[name].features = small_config.model[name].features
    return config


def _classifier(config: ConfigDict, classes: tuple[str, ...] = DIGITS, inputs: Input | None = None) -> Classifier:
    variables = _random(builder.model(config, len(classes)), config.data.crop_pixels)
    return Classifier(config, classes, variables, inputs=inputs or builder.inputs(config))


def _zeros(recipe: str, changes: dict[str, tuple[int, ...]] | None = None) -> WeightFile:
    """A file of a recipe's shapes; no array takes memory."""
    shapes = plain.shapes_of(*summary.recipe_network(recipe)) | (changes or {})
    return WeightFile(Path("w.npz"), {name: np.broadcast_to(np.float32(0), s) for name, s in shapes.items()}, {}, TORCH)


def _assert_equal(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


# ---------------------------------------------------------------- arrays and files

VARIANTS: dict[str, dict[str, Any]] = {
    "two towers": {},
    "one tower": {"model.towers": 1, "model.exchange": ()},
    "no exchange": {"model.exchange": ("fc8",)},
    "weight norm": {"model.weight_norm": True},
    "batch norm": {"model.conv1.post_ops": "batch_norm relu pool", "model.fc6.post_ops": "batch_norm relu"},
    "inverted": {"model.dropout.inverted": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_arrays_and_files_round_trip_to_the_bit(variant: str, small_config: ConfigDict, tmp_path: Path) -> None:
    """Towers to one network, into a file and back; seven classes leave the second tower a spare unit."""
    small_config.update_from_flattened_dict(VARIANTS[variant])
    network = builder.model(small_config, 7)
    variables = _random(network)
    arrays = plain.to_arrays(network, variables)
    assert {name: array.shape for name, array in arrays.items()} == plain.shapes_of(network, 67)
    assert len(arrays["fc8_b"]) == 7
    for ending, layout in ((".npz", CAFFE), (".safetensors", TORCH)):
        weight_file.write(tmp_path / f"w{ending}", arrays, {"model": [1, "ü"]})
        file = formats.read(tmp_path / f"w{ending}")
        _assert_equal(file.arrays, arrays)
        assert (file.about, file.layout) == ({"model": [1, "ü"]}, layout)
    jax.tree.map(np.testing.assert_array_equal, plain.from_arrays(network, arrays, 67), variables)


def test_dropout_factor_is_folded_into_the_next_layer(small_config: ConfigDict) -> None:
    """fc7 and fc8 are halved, with weight norm their scales; biases and an inverted dropout take no factor."""
    for weight_norm, folded in ((False, ("fc7_w", "fc8_w")), (True, ("fc7_scale", "fc8_scale"))):
        small_config.model.weight_norm, small_config.model.dropout.inverted = weight_norm, False
        network = builder.model(small_config, 10)
        variables = _random(network)
        small_config.model.dropout.inverted = True
        inverted = plain.to_arrays(builder.model(small_config, 10), variables)
        halved = {name: array * np.float32(0.5 if name in folded else 1.0) for name, array in inverted.items()}
        _assert_equal(plain.to_arrays(network, variables), halved)


@pytest.mark.parametrize(
    ("post_ops", "factors"),
    [
        ({"fc6": "relu dropout", "fc7": "tanh dropout"}, {"fc7": 0.75, "fc8": 0.75}),
        ({"conv5": "relu dropout pool", "fc6": "dropout relu dropout", "fc7": ""}, {"fc6": 0.75, "fc7": 0.75**2}),
        ({"conv2": "dropout avg_pool relu", "fc6": "relu", "fc7": "relu"}, {"conv3": 0.75}),
    ],
)
def test_dropout_factors_of_layers(
    post_ops: dict[str, str], factors: dict[str, float], small_config: ConfigDict
) -> None:
    small_config.model.dropout.rate = 0.25
    for name, words in post_ops.items():
        small_config.model[name].post_ops = words
    assert plain.factors(builder.model(small_config, 10)) == factors


def test_dropout_factor_cannot_pass_an_operation(small_config: ConfigDict) -> None:
    for word in ("tanh", "norm", "spatial_norm", "batch_norm"):
        small_config.model.conv5.post_ops = f"relu dropout {word} pool"
        with pytest.raises(AlexNetError, match=rf"config\.model\.conv5\.post_ops.* {word} .* fc6"):
            plain.factors(builder.model(small_config, 10))
    small_config.model.dropout.inverted = True
    assert plain.factors(builder.model(small_config, 10)) == {}


@pytest.mark.parametrize(
    ("recipe", "changes", "same"),
    [
        ("torchvision", {"dropout.inverted": False, "conv5.post_ops": "relu pool", "fc6.post_ops": "relu"}, True),
        ("torchvision", {"conv1.padding": (3, 1)}, False),
        ("torchvision", {"conv1.post_ops": "pool"}, False),
        ("torchvision", {"pool.ceil": True}, False),
        ("torchvision", {"weight_norm": True}, False),
        ("torchvision", {"fc7.features": 100}, False),
        ("alexnet", {}, False),
    ],
)
def test_torchvision_names_only_for_what_torchvision_computes(recipe: str, changes: dict[str, Any], same: bool) -> None:
    config = configs.load_recipe(f"{recipe}:imagenet2012")
    config.update_from_flattened_dict({f"model.{name}": value for name, value in changes.items()})
    assert weight_file._computes_torchvision(builder.model(config, 1000), 224) == same


# ---------------------------------------------------------------- a plain program that knows nothing of this project


def _read_plainly(path: Path) -> dict[str, Array]:
    """The arrays of a file as conv1.weight, ..., without this project."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            found = {name: file[name].astype(np.float64) for name in file.files if name != "about"}
        return {f"{name[:-2]}.{'weight' if name.endswith('w') else 'bias'}": array for name, array in found.items()}
    numbered = [f"features.{i}" for i in (0, 3, 6, 8, 10)] + [f"classifier.{i}" for i in (1, 4, 6)]
    layers = dict(zip(numbered, ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), strict=True))
    dotted = [(*name.rsplit(".", 1), array) for name, array in safetensors.load_file(path).items()]
    return {f"{layers.get(layer, layer)}.{part}": array.astype(np.float64) for layer, part, array in dotted}


@pytest.mark.parametrize("recipe", ["alexnet", "caffe_alexnet", "torchvision"])
def test_plain_program_on_saved_weights_gives_the_logits(recipe: str, small_config: ConfigDict, tmp_path: Path) -> None:
    """Of 131 pixels fc6 reads 3 x 3 features: the order of its inputs matters."""
    config = _small(recipe, small_config, 131)
    net, images = _classifier(config), np.random.default_rng(0).normal(0, 70, (3, 131, 131, 3)).astype(np.float32)
    logits_fn = jax.jit(towers.over_towers(models.logits_fn(net.tower)))
    got = np.asarray(logits_fn(net.variables, images))
    for path in (tmp_path / "w.npz", tmp_path / "w.safetensors"):
        net.save(path)
        weights = _read_plainly(path)
        wanted = np.stack([logits_of(image, config.model.to_dict(), weights) for image in images.astype(np.float64)])
        assert np.ptp(wanted, axis=0).max() > 0.05 * np.abs(wanted).max(), "the images must tell"
        assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


# ---------------------------------------------------------------- a classifier out and in again


@pytest.mark.parametrize(
    ("recipe", "ending"),
    [("caffe_alexnet", ".npz"), ("half", ".npz"), ("torchvision", ".safetensors"), ("alexnet_wn", ".safetensors")],
)
def test_saved_classifier_loads_as_it_was(recipe: str, ending: str, small_config: ConfigDict, tmp_path: Path) -> None:
    """Its weights to the bit, whole names of its classes, and what its config says of network and images."""
    config = _small(recipe, small_config)
    net = _classifier(config, ("evening dress", *DIGITS[1:]))
    net.save(tmp_path / f"net{ending}")
    back = alexnet.load(tmp_path / f"net{ending}")
    assert back.class_names == net.class_names
    assert not configs.differences(back.config.model, config.model)
    for field in ("name", "mean", "std", "bgr", "crop_pixels", "resize_pixels", "flip"):
        assert back.config.data[field] == config.data[field], field
    jax.tree.map(np.testing.assert_array_equal, back.variables, net.variables)
    np.testing.assert_array_equal(back.inputs(PICTURES), net.inputs(PICTURES))
    back.save(tmp_path / f"again{ending}")
    assert (tmp_path / f"again{ending}").read_bytes() == (tmp_path / f"net{ending}").read_bytes()


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_mean_image_is_saved_and_loaded(ending: str, small_config: ConfigDict, tmp_path: Path) -> None:
    image = np.random.default_rng(6).uniform(0, 255, (67, 67, 3)).astype(np.float32)
    net = _classifier(small_config, inputs=Input(67, image))
    net.save(tmp_path / f"net{ending}")
    np.testing.assert_array_equal(alexnet.load(tmp_path / f"net{ending}").inputs.mean, image)
    file = formats.read(tmp_path / f"net{ending}")
    weight_file.write(tmp_path / f"bad{ending}", file.arrays, file.about, mean_image=image[:60])
    with pytest.raises(AlexNetError, match=r"bad\..*mean_image is \(60, 67, 3\)"):
        alexnet.load(tmp_path / f"bad{ending}")


def test_file_of_version_0_1_is_read(small_config: ConfigDict, tmp_path: Path) -> None:
    """With its names of fields, and without the factor of dropout in its weights."""
    net, path = _classifier(small_config), tmp_path / "old.npz"
    arrays = plain.to_arrays(net.tower, jax.device_get(net.variables))
    model = small_config.model.to_dict()
    for name in small_config.model.layers:
        layer, is_conv = model[name], "kernel_size" in model[name]
        former = {"post_ops": "then", "features": "maps" if is_conv else "units", "kernel_size": "kernel"}
        model[name] = {former.get(field, field): value for field, value in layer.items()}
    c = small_config.data
    about = {
        "model": model, "channels": "RGB", "mean": c.mean, "deviation": c.std, "crop_pixels": 67, "classes": DIGITS,
        "step": 5,
    }  # fmt: skip
    weight_file.write(path, arrays | {"fc7_w": 2 * arrays["fc7_w"], "fc8_w": 2 * arrays["fc8_w"]}, about)
    back = alexnet.load(path)
    jax.tree.map(np.testing.assert_array_equal, back.variables, net.variables)
    assert back.class_names == DIGITS
    assert not configs.differences(back.config.model, small_config.model)
    np.testing.assert_array_equal(back.inputs(PICTURES), net.inputs(PICTURES))
    _assert_equal(load.open_file(path).arrays, arrays)  # the plain network, for any other recipe


# ---------------------------------------------------------------- what a file does not say, or says wrongly


def test_foreign_file_needs_a_recipe() -> None:
    file = _zeros("torchvision")
    for recipe, message in ((None, r"recipe='NAME', .* one_weird_trick, torchvision\.$"), ("alexnett", "alexnett")):
        with pytest.raises(AlexNetError, match=message):
            load._config_of(file, recipe)
    assert load._config_of(file, "torchvision").data.name == "imagenet2012"
    assert load._config_of(file, "torchvision:digits").data.name == "digits"


def test_own_file_knows_its_recipe(small_config: ConfigDict, tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    _classifier(small_config).save(path)
    for wrong in ({"recipe": "caffe_alexnet"}, {"channels": "grb"}):
        with pytest.raises(AlexNetError, match="='".join(*wrong.items())):
            alexnet.load(path, **wrong)
    assert alexnet.load(path, classes=[f"digit {name}" for name in DIGITS]).class_names[3] == "digit 3"


@pytest.mark.parametrize(
    ("layout", "channels", "turned"),
    [(CAFFE, None, True), (TORCH, None, False), (CAFFE, "rgb", False), (TORCH, "bgr", True), (TORCH, "BGR", True)],
)
def test_first_layer_is_turned_to_the_recipes_channels(
    layout: str, channels: str | None, turned: bool, small_config: ConfigDict
) -> None:
    network = builder.model(small_config, 10)
    arrays = plain.to_arrays(network, _random(network))
    file = WeightFile(Path("w"), arrays, {}, layout)
    found = plain.to_arrays(network, load.variables_of(file, small_config, DIGITS, channels=channels))
    _assert_equal(found, arrays | ({"conv1_w": arrays["conv1_w"][:, ::-1]} if turned else {}))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("\ufeffevening dress\r\nmaillot, tank suit\r\n\r\ncrane", ("evening dress", "maillot, tank suit", "crane")),
        ("n02119789 1 kit_fox\nn02100735 2 English_setter\nn02110185\t3\n", ("n02119789", "n02100735", "n02110185")),
        ("n02119789 fox\nsetter\nn02110185 husky\n", ("n02119789 fox", "setter", "n02110185 husky")),
    ],
)
def test_class_names_are_whole_lines_or_the_devkits_ids(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(text.encode())
    assert load.classes_of(WeightFile(Path("w.npz"), {}, {}, CAFFE), str(tmp_path / "names.txt"), 3) == names


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "b"], "classes has 2 names"),
        (["a", "b", "a"], "classes has 'a' twice"),
        (["a", "b", 3], "classes must"),
        (3, "classes must"),
        ({"a", "b", "c"}, "classes must"),
        ("nowhere.txt", r"nowhere\.txt"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(classes: Any, message: str) -> None:
    for about, given in (({}, classes), ({"classes": classes}, None)):
        if about == {} or isinstance(classes, list):
            with pytest.raises(AlexNetError, match=message if about == {} else r"w\.npz (has|must)"):
                load.classes_of(WeightFile(Path("w.npz"), {}, about, CAFFE), given, 3)


def test_thousand_outputs_are_the_sorted_wnids() -> None:
    names = load.classes_of(WeightFile(Path("w.npz"), {}, {}, CAFFE), None, 1000)
    assert names is not None
    assert (len(names), list(names), names[0]) == (1000, sorted(names), "n01440764")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"model": 5}, "AttributeError"),
        ({"model": {}}, "field"),
        ({"channels": "GRB"}, "KeyError"),
        ({"crop_pixels": "67"}, "TypeError"),
        ({"crop_pixels": -67}, "config.data.crop_pixels=-67"),
        ({"mean": [1, 2]}, "config.data.mean=(1, 2)"),
        ({"std": [0, 0, 0]}, "config.data.std"),
        ({"data": 5}, "AttributeError"),
    ],
)
def test_metadata_of_a_file_is_checked(
    said: dict[str, Any], reason: str, small_config: ConfigDict, tmp_path: Path
) -> None:
    network, path = builder.model(small_config, 10), tmp_path / "odd.npz"
    about = weight_file.metadata(small_config, DIGITS, builder.inputs(small_config)) | said
    weight_file.write(path, plain.to_arrays(network, _random(network)), about)
    with pytest.raises(AlexNetError) as raised:
        alexnet.load(path)
    assert str(path) in str(raised.value)
    assert reason in str(raised.value)


# ---------------------------------------------------------------- a run out and in again


def test_imported_weights_are_a_checkpoint_like_any_other(small_config: ConfigDict, tmp_path: Path) -> None:
    """An export of the import has the weights of the first one to the bit, and training resumes from it."""
    net, run = _classifier(small_config), tmp_path / "imported"
    net.save(tmp_path / "net.safetensors")
    checkpoint.to_run(tmp_path / "net.safetensors", small_config, run)
    assert "0.5 in fc7, 0.5 in fc8" in export_weights(run, "latest", tmp_path / "again.safetensors")
    first, again = (formats.read(tmp_path / f"{name}.safetensors") for name in ("net", "again"))
    _assert_equal(again.arrays, first.arrays)
    assert again.about == first.about | {"step": 0}
    assert alexnet.load(run).class_names == DIGITS
    small_config.train.steps, small_config.eval.views = 1, "center"
    loop.train(small_config, run, command="", eval_command="")
    assert (run / "checkpoints" / "1").is_dir()


def test_fine_tuning_takes_all_layers_but_the_last(small_config: ConfigDict, tmp_path: Path) -> None:
    """init_from a run with other classes, such as an imported one."""
    _classifier(small_config, ("cat", "dog")).save(tmp_path / "w.npz")
    checkpoint.to_run(tmp_path / "w.npz", small_config, tmp_path / "run")
    small_config.init_from = str(tmp_path / "run")
    setup = builder.train_setup(small_config)
    messages: list[str] = []
    state = start.first_state(setup, Checkpoints(tmp_path / "tuned"), None, messages.append)
    got = plain.to_arrays(setup.model, jax.device_get(state.variables))
    assert len(got["fc8_w"]) == 10
    kept = {name: array for name, array in formats.read(tmp_path / "w.npz").arrays.items() if "fc8" not in name}
    _assert_equal({name: got[name] for name in kept}, kept)
    assert any("fc8" in message for message in messages)


def test_import_warns_of_other_fields(small_config: ConfigDict, tmp_path: Path) -> None:
    """The file knows what it was trained as; another order of channels is turned."""
    _classifier(small_config).save(tmp_path / "w.npz")
    small_config.data.bgr = True
    assert "warning" not in checkpoint.to_run(tmp_path / "w.npz", small_config, tmp_path / "turned")
    small_config.data.std = (2.0, 2.0, 2.0)
    small_config.model.conv1.post_ops = "relu norm pool"
    said = checkpoint.to_run(tmp_path / "w.npz", small_config, tmp_path / "other")
    assert said.endswith("config.data.std, config.model.conv1.post_ops")


def test_import_turns_colors_and_reorders_classes(small_config: ConfigDict, tmp_path: Path) -> None:
    network = builder.model(small_config, 10)
    arrays = plain.to_arrays(network, _random(network))
    order = np.random.default_rng(1).permutation(10)
    theirs = arrays | {"conv1_w": arrays["conv1_w"][:, ::-1]} | {f"fc8_{p}": arrays[f"fc8_{p}"][order] for p in "wb"}
    np.savez(tmp_path / "caffe.npz", **theirs)
    (tmp_path / "classes.txt").write_text("".join(f"{k}\n" for k in order))
    checkpoint.to_run(tmp_path / "caffe.npz", small_config, tmp_path / "run", classes=tmp_path / "classes.txt")
    net = alexnet.load(tmp_path / "run")
    _assert_equal(plain.to_arrays(net.tower, jax.device_get(net.variables)), arrays)
    assert net.class_names == DIGITS


def test_failed_import_leaves_no_run(small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the checkpoint is written or after; and nothing is overwritten."""
    _classifier(small_config).save(tmp_path / "w.npz")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    before = sorted(tmp_path.rglob("*"))
    for name in ("mine", "w.npz"):
        with pytest.raises(AlexNetError, match=f"workdir=.*{name}"):
            checkpoint.to_run(tmp_path / "w.npz", small_config, tmp_path / name)
    small_config.model.conv3.features = 6
    with pytest.raises(AlexNetError, match="conv3"):
        checkpoint.to_run(tmp_path / "w.npz", small_config, tmp_path / "run")
    small_config.model.conv3.features = 5

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(configs, "save", full)
    with pytest.raises(AlexNetError, match="run cannot be written: No space left on device"):
        checkpoint.to_run(tmp_path / "w.npz", small_config, tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


def test_import_must_know_its_classes(small_config: ConfigDict, tmp_path: Path) -> None:
    network = builder.model(small_config, 10)
    np.savez(tmp_path / "w.npz", **plain.to_arrays(network, _random(network)))
    np.savez(tmp_path / "other.npz", conv1_w=np.zeros((3, 3, 1, 1), np.float32))
    for name, message in (("w", "classes=FILE"), ("other", "fc8_w")):
        with pytest.raises(AlexNetError, match=rf"{name}\.npz .*{message}"):
            checkpoint.to_run(tmp_path / f"{name}.npz", small_config, tmp_path / "run")


# ---------------------------------------------------------------- which one it is


@pytest.mark.parametrize(
    ("recipe", "changes", "wanted"),
    [
        ("alexnet", {}, ("conv2  256 filters of 48 x 5 x 5, 2 groups", "60,965,224 numbers", "alexnet, ", "caffenet")),
        ("torchvision", {}, ("conv2  192 filters of 64 x 5 x 5\n", ": one_weird_trick, torchvision.")),
        ("conv6", {}, ("conv6  256 filters of 256 x 3 x 3\n", ": conv6.")),
        ("half", {"fc7_w": (100, 4096), "fc7_b": (100,), "fc8_w": (1000, 100)}, ("half (other: fc7, fc8)",)),
    ],
)
def test_identify_by_shapes(recipe: str, changes: dict[str, tuple[int, ...]], wanted: tuple[str, ...]) -> None:
    said = identify(_zeros(recipe, changes))
    for part in wanted:
        assert part in said, said


@pytest.mark.parametrize("recipe", ["alexnet", "caffe_alexnet", "tanh"])  # the same shapes
def test_identify_of_an_own_file_names_its_recipe(recipe: str) -> None:
    config = configs.load_recipe(f"{recipe}:digits")
    about = weight_file.metadata(config, DIGITS, builder.inputs(config), 7)
    file = dataclasses.replace(_zeros(recipe), about=json.loads(json.dumps(about)))
    said = identify(file)
    names = {"alexnet": "alexnet or alexnet_continued"}.get(recipe, recipe)  # one network, trained for longer
    assert said.endswith(f" {names}.")
    assert f"{'BGR' if recipe == 'caffe_alexnet' else 'RGB'}, step 7" in said
    file.about["model"]["norm"]["k"] = 3.0
    assert identify(file).endswith("config.model.norm.k.")


def test_identify_of_one_layer_names_no_recipe() -> None:
    one = {"fc8_w": np.zeros((1000, 11), np.float32)}
    assert "No recipe" in identify(WeightFile(Path("w.npz"), one, {}, CAFFE))
    with pytest.raises(AlexNetError, match=r"none\.npz .*: it holds x\."):
        identify(WeightFile(Path("none.npz"), {"x": np.zeros(3, np.float32)}, {}, CAFFE))
