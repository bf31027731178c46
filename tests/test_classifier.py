"""The Python API: it predicts as evaluation does, shows every layer, and serves a Flax user."""

import functools
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, SMALL
from ml_collections import ConfigDict
from PIL import Image

import alexnet_jax as alexnet
from alexnet_jax import AlexNetError, builder, classifier, config as configs, ensembles
from alexnet_jax.classifier import Classifier
from alexnet_jax.cli import prepare
from alexnet_jax.data import datasets, sources
from alexnet_jax.data.feed import Split
from alexnet_jax.evaluate import evaluate_checkpoint
from alexnet_jax.model import alexnet as models, towers
from alexnet_jax.train import loop

PIXELS = SMALL["data.crop_pixels"]


def _recipe(folder: Path, name: str = "alexnet", **fields: Any) -> str:
    """The path of a recipe: a small copy of the one of that name, `fields` ("section__field") set in it."""
    fields = SMALL | {key.replace("__", "."): value for key, value in fields.items()}
    path = folder / f"{name}_{len(list(folder.iterdir()))}.py"
    module = configs.recipe_module(name).__name__
    path.write_text(
        f"from {module} import get_config as of_full_size\n"
        "def get_config(data_name='digits'):\n"
        "    config = of_full_size(data_name)\n"
        f"    for name, value in {fields!r}.items():\n"
        "        section, *_ = name.split('.')\n"
        "        if section != 'model' or name.split('.')[1] in config.model.layers:\n"
        "            config.update_from_flattened_dict({name: value})\n"
        "    return config\n"
    )
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module")
def net(folder: Path) -> Classifier:
    """Three classes, so that the last layer has a spare unit; five crops, mirrored: ten views."""
    recipe = _recipe(folder, data__resize_pixels=75, data__flip=True, data__mean=(120.0, 110.0, 100.0))
    return alexnet.build(recipe, classes=3, seed=1)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run of two steps on the digits, a checkpoint after each; ten views."""
    recipe = _recipe(folder, data__resize_pixels=75, data__flip=True)
    fields = ("train.steps=2", "checkpoint.every_steps=1", "eval.views=center")
    workdir = folder / "run"
    loop.train(configs.load_recipe(f"{recipe}:digits", fields), workdir, command="train", eval_command="evaluate")
    return workdir


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def _near(found: Any, expected: Any, **tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, **({"rtol": 2e-5, "atol": 2e-6} | tolerance))


# ---------------------------------------------------------------- it predicts as evaluation does


def test_classifier_of_a_run_equals_its_evaluation(run: Path) -> None:
    """Probabilities as an ensemble's member has them on a mesh of 2 x 2, and the errors of --mode=eval."""
    net = alexnet.load(run)
    digits = [np.repeat(record["image"], 3, axis=-1) for record in sources.open_split("digits", "test", "").source]
    member, labels, split = ensembles.member(run, "latest", None, ())
    assert len(member.center) == 299
    _near(net.probabilities(digits), member.center)
    _near(net.probabilities(digits, views="all"), member.views)
    assert np.abs(member.center - member.views).max() > 1e-4, "the views are all alike: nothing is tested"
    expected = evaluate_checkpoint(run, which="latest", overrides=("eval.views=all",))
    for kind, prefix in ((member.center, ""), (member.views, "views_")):
        averaged = ensembles.errors(ensembles.mixed([kind, kind], [1, 1]), labels)
        assert averaged == pytest.approx((100 - expected[f"eval_{prefix}top1"], 100 - expected[f"eval_{prefix}top5"]))
    with pytest.raises(AlexNetError, match=r"another split than the first workdir's another"):
        ensembles.member(run, "latest", Split(split.source, "another", split.class_names), ())
    found = net.evaluate("digits", views="all")
    assert {"eval_top1", "eval_views_top5", "eval_images", "eval_classes"} <= found.keys() <= expected.keys()
    for name, value in found.items():
        assert value == (pytest.approx(expected[name], rel=1e-5) if "loss" in name else expected[name]), name
    assert net.evaluate("digits").keys() == {name for name in found if "views" not in name}


def test_load_of_any_checkpoint(run: Path) -> None:
    first, last = (alexnet.load(run, checkpoint=step) for step in (1, "2"))
    pictures = _noise(2, 80, 90)
    assert not np.allclose(first.logits(pictures), last.logits(pictures), rtol=1e-4)
    for which in ("latest", "best"):
        np.testing.assert_array_equal(alexnet.load(str(run), checkpoint=which).logits(pictures), last.logits(pictures))
    assert last.class_names == tuple("0123456789")
    np.testing.assert_array_equal(last.inputs.mean, np.float32([79.4, 79.4, 79.4]))


def test_evaluate_equals_predictions_of_the_files(folder: Path, tmp_path: Path) -> None:
    """`evaluate` on what `prepare folder` made of JPEGs, and the same counted by hand from the files themselves."""
    names, paths, labels = ("cat", "dog", "emu"), [], []
    for split, count in (("train", 1), ("val", 4)):
        for label, name in enumerate(names):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                path = tmp_path / split / name / f"{i}.jpg"
                size = (80, 90) if i else (300, 200)  # the larger ones are decoded at a quarter
                Image.fromarray(_noise(*size, seed=10 * label + i)).save(path)
                if split == "val":
                    paths.append(path)
                    labels.append(label)
    prepare.main(["folder", f"--from={tmp_path}", "--name=pets", f"--data_dir={tmp_path / 'data'}"])
    net = alexnet.build(_recipe(folder), classes=names)
    probabilities = net.probabilities(paths)
    found = net.evaluate("pets", data_dir=tmp_path / "data")
    assert found["eval_images"] == 12
    assert np.ptp(probabilities[:, 0]) > 1e-3, "all pictures are alike: nothing is tested"
    assert found["eval_top1"] == pytest.approx(100 * np.mean(probabilities.argmax(axis=1) == labels))
    assert found["eval_loss"] == pytest.approx(-np.log(probabilities[range(12), labels]).mean(), rel=1e-5)
    with pytest.raises(AlexNetError, match=r"Label 0 .* digits"):
        net.evaluate("digits")
    with pytest.raises(AlexNetError, match=r"Label 3 .*'fox'"):
        alexnet.build(_recipe(folder), classes=(*names, "fox")).evaluate("pets", data_dir=str(tmp_path / "data"))


def test_logits_do_not_depend_on_batches(net: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [_noise(70 + i, 90, seed=i) for i in range(9)]
    expected = np.stack([net.logits(picture) for picture in pictures])
    monkeypatch.setattr(classifier, "_BATCH", 4)
    for count in (1, 2, 3, 4, 5, 9):
        found = net.logits(iter(pictures[:count]))
        assert found.shape == (count, 3)
        _near(found, expected[:count])


@pytest.mark.parametrize(("devices", "tower"), [(2, 2), (3, 1)])
def test_logits_do_not_depend_on_the_mesh(devices: int, tower: int, net: Classifier, tmp_path: Path) -> None:
    """Logits and layers, loaded from a file onto the mesh; also by `apply`."""
    net.save(tmp_path / "net.safetensors")
    mesh = towers.make_mesh(towers=2, tower=tower, devices=jax.devices()[:devices])
    there = alexnet.load(tmp_path / "net.safetensors", mesh=mesh)
    assert len(there.variables["params"]["fc6"]["kernel"].sharding.device_set) == devices
    pictures = _noise(5, 70, 80)
    _near(there.logits(pictures), net.logits(pictures))
    for layer in ("conv2", "fc8"):
        _near(there.features(pictures, layer), net.features(pictures, layer))
    inside = _noise(2, PIXELS, PIXELS)
    _near(jax.jit(there.apply)(there.variables, inside), net.apply(net.variables, inside))


def test_mesh_of_other_axes_is_refused(folder: Path) -> None:
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("batch",))
    with pytest.raises(AlexNetError, match="batch 2"):
        alexnet.build(_recipe(folder), mesh=mesh)


# ---------------------------------------------------------------- what it says of pictures


def test_predict_is_probabilities_in_order(net: Classifier) -> None:
    """The most probable first, names with probabilities that are `probabilities`; one picture or several."""
    pictures = _noise(2, 90, 80)
    probabilities = net.probabilities(pictures)
    assert probabilities.shape == (2, 3)
    assert probabilities.dtype == np.float32
    _near(probabilities.sum(axis=1), 1.0)
    _near(probabilities, jax.nn.softmax(net.logits(pictures)))
    one, other = net.predict(pictures, top=2)
    assert [name for name, _ in one] == [f"class {i}" for i in np.argsort(-probabilities[0])[:2]]
    assert [value for _, value in other] == sorted(map(float, probabilities[1]), reverse=True)[:2]
    (alone,) = net.predict([pictures[0]], top=np.int64(2))  # a batch of one may be rounded otherwise
    assert [name for name, _ in alone] == [name for name, _ in one]
    _near(np.array([value for _, value in alone]), np.array([value for _, value in one]))
    assert len(net.predict(pictures[1], top=1000)) == 3
    _near([p for _, p in net.predict(pictures[0], top=2)], [p for _, p in one])


def test_predict_keeps_the_order_of_equal_classes(net: Classifier) -> None:
    names = tuple(f"class {i}" for i in range(40))
    last = {"kernel": jnp.zeros((2, 32, 20)), "bias": jnp.arange(40.0).reshape(2, 20) % 2}
    equal = Classifier(net.config, names, {"params": net.variables["params"] | {"fc8": last}}, inputs=net.inputs)
    assert [name for name, _ in equal.predict(_noise(70, 70), top=40)] == [*names[1::2], *names[::2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top": 0}, "top=0"),
        ({"top": True}, "top=True"),
        ({"top": "5"}, "top='5'"),
        ({"views": "ten"}, "views='ten'"),
        ({"images": []}, "images is empty"),
        ({"images": iter(())}, "images is empty"),
        ({"images": "cat.jpg"}, "cat.jpg"),
    ],
)
def test_predict_refuses_wrong_arguments(arguments: dict[str, Any], message: str, net: Classifier) -> None:
    with pytest.raises(AlexNetError, match=message):
        net.predict(**{"images": _noise(70, 70)} | arguments)


# ---------------------------------------------------------------- layers


def test_features_by_hand(net: Classifier) -> None:
    """conv1 and fc6 to fc8 in NumPy, from the variables: the towers' channels side by side, tower 0 first."""
    picture = _noise(PIXELS + 8, PIXELS + 8)
    params = jax.tree.map(np.asarray, net.variables["params"])
    x = np.float32(picture[4:-4, 4:-4]) - np.float32([120, 110, 100])
    x = np.pad(x, ((0, 3), (0, 3), (0, 0)))  # below and on the right, as in the source
    windows = np.lib.stride_tricks.sliding_window_view(x, (11, 11), axis=(0, 1))[::4, ::4]
    conv1 = [np.einsum("hwcij,ijcm->hwm", windows, params["conv1"]["kernel"][t]) for t in (0, 1)]
    _near(net.features(picture, "conv1_out"), np.concatenate(conv1, axis=-1), atol=1e-3)
    x = net.features(picture, "relu5").reshape(-1)
    for layer, number in (("fc6", "6"), ("fc7", "7"), ("fc8", "8")):
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        out = np.concatenate([x @ kernel[t] + bias[t] for t in (0, 1)])
        if layer == "fc8":
            _near(net.features(picture, "fc8"), out[:3])
            _near(net.logits(picture), out[:3])
            continue
        _near(net.features(picture, f"{layer}_out"), out)
        _near(net.features(picture, layer), np.maximum(out, 0))  # after its ReLU, before its dropout
        x = net.features(picture, f"dropout{number}")
        _near(x, 0.5 * np.maximum(out, 0))  # in evaluation the dropout of 2012 halves


# The operations that are shown as conv1, conv2 and fc7.
RECIPES = {
    "alexnet_bn": ("relu1", "relu2", "relu7"),
    "tanh": ("conv1_out", "tanh2", "tanh7"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_layers_list_what_features_gives(name: str, folder: Path) -> None:
    """Each name once, with the shape that the network's own collection has; values for some of each kind."""
    net = alexnet.build(_recipe(folder, name), classes=5)
    image = _noise(PIXELS, PIXELS)
    see = jax.jit(lambda variables, x: net.module.apply(variables, x, mutable=["intermediates"])[1]["intermediates"])
    by_tower = see(net.variables, net.inputs(image[None]))
    seen = {key: np.concatenate(list(value[:, 0]), axis=-1) for key, value in by_tower.items()}
    seen["fc8_out"] = seen["fc8_out"][:5]  # without the spare unit
    shown = dict(zip(("conv1", "conv2", "fc7"), RECIPES[name], strict=True)) | {"fc8": "fc8_out"}
    assert net.layers.keys() == seen.keys() | {layer.name for layer in net.tower.stack}
    for key, shape in net.layers.items():
        same = shown.get(key) or (key if key in seen else f"{key}_out")  # a ReLU keeps the shape
        assert shape == seen[same].shape, key
    for key in ("conv1", "fc7"):
        found = net.features(image, key)
        _near(found, seen[shown[key]], atol=1e-5)
    assert ("batch_norm7" in net.layers) == (name == "alexnet_bn")


def test_features_of_a_layer_come_after_any_pointwise_operation(
    small_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that somebody adds, too: `conv3` is never the values before its nonlinearity."""
    for word in ("relu", "tanh", "softplus"):
        monkeypatch.setitem(models.POINTWISE, word, jax.nn.softplus)
        monkeypatch.setattr(models, "BY_UNIT", models.BY_UNIT | {word})
        small_config.model.conv3.post_ops = f"{word} norm"
        tower = builder.model(small_config, 10)
        assert classifier._operations(tower, 67)["conv3"][0] == f"{word}3"


@pytest.mark.parametrize("layer", ["fc9", "logits", None, ["fc7"]])
def test_features_of_an_unknown_layer_are_refused(layer: Any, net: Classifier) -> None:
    names = "conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8"
    with pytest.raises(AlexNetError, match=rf"^layer={re.escape(repr(layer))} .*{names}"):
        net.features(_noise(70, 70), layer)


# ---------------------------------------------------------------- built, saved, loaded


def test_build_is_the_start_of_training(folder: Path, tmp_path: Path) -> None:
    """Its weights are those of the state at step 0 with the same seed, to the bit."""
    config = configs.load_recipe(f"{_recipe(folder)}:digits", ("train.seed=3",))
    state = jax.jit(builder.train_setup(config, tmp_path).new_state)()
    net = alexnet.build(_recipe(folder), classes=10, seed=3)
    jax.tree.map(np.testing.assert_array_equal, net.variables["params"], state.params)


def test_build_has_the_means_of_its_data(folder: Path) -> None:
    """ImageNet's means unless a data set with means of its own is named."""
    imagenet = np.float32(datasets.facts("imagenet2012")["mean"])
    for data, mean in ((":my_pictures", imagenet), (":digits", np.float32([79.4] * 3))):
        net = alexnet.build(_recipe(folder) + data, classes=("cat", "dog"))
        np.testing.assert_array_equal(net.inputs.mean, mean)
        assert net.class_names == ("cat", "dog")
    assert repr(net) == "<AlexNet: 2 towers, 5,760 parameters, 2 classes, 67 x 67 pixels>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "alexnot"}, "'alexnot'"),
        ({"recipe": None}, "'None'"),
        ({"classes": 0}, "classes=0"),
        ({"classes": True}, "classes=True"),
        ({"classes": "cat"}, "classes='cat'"),
        ({"classes": []}, "classes must"),
        ({"classes": ["cat", "cat"]}, "classes must"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**40}, "seed=1099511627776"),
    ],
)
def test_build_refuses_wrong_arguments(arguments: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(AlexNetError, match=message):
        alexnet.build(**{"recipe": _recipe(folder)} | arguments)


def test_load_and_save_refuse_wrong_arguments(run: Path, tmp_path: Path, net: Classifier) -> None:
    net.save(tmp_path / "net.npz")
    (tmp_path / "text.npz").write_text("nothing")
    for path, arguments, message in (
        (tmp_path / "none", {}, "none"),
        (None, {}, "path=None"),
        (tmp_path, {}, "config.json"),
        (run, {"checkpoint": 7}, "checkpoint=7 .* 1, 2"),
        (run, {"classes": ("a", "b")}, r"classes=\('a', 'b'\)"),
        (run, {"recipe": "alexnet"}, "recipe='alexnet'"),
        (tmp_path / "net.npz", {"checkpoint": "best"}, "checkpoint='best'"),
        (tmp_path / "text.npz", {}, "text.npz"),
    ):
        with pytest.raises(AlexNetError, match=message):
            alexnet.load(path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(AlexNetError, match=r"net\.pth"):
        net.save(tmp_path / "net.pth")


# ---------------------------------------------------------------- for a Flax user


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return _noise(3, PIXELS, PIXELS)


def test_module_and_apply_give_the_logits(net: Classifier, images: np.ndarray) -> None:
    """What is typed first works: the module with `inputs`, `apply` on uint8 and floats, one image, jit and vmap."""
    variables, x = net.variables, net.inputs(images)

    @jax.jit
    def all_ways(variables: Any, images: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), variables)
        return (
            net.module.apply({"params": variables["params"]}, x),
            net.apply(variables, images),
            net.apply(variables, images.astype(jnp.float32)),
            jnp.stack([net.apply(variables, image) for image in images]),
            jax.vmap(net.apply, in_axes=(None, 0))(variables, images),
            jax.vmap(net.apply, in_axes=(0, None))(two, images)[1],
        )

    expected, *ways = all_ways(variables, images, x)
    assert expected.shape == (3, 3)
    for found in (*ways, net.apply(variables, images)):
        _near(found, expected)


def test_classifier_computes_in_float32(folder: Path, images: np.ndarray) -> None:
    narrow, wide = (alexnet.build(_recipe(folder, precision=dtype), classes=3) for dtype in ("bfloat16", "float32"))
    np.testing.assert_array_equal(narrow.logits(images), wide.logits(images))
    module = wide.module.clone(compute_dtype="bfloat16", exchange_dtype="bfloat16")
    logits, wanted = (jax.jit(m.apply)(wide.variables, wide.inputs(images)) for m in (module, wide.module))
    assert 0.0 < np.abs(logits - wanted).max() <= 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["alexnet", "torchvision", "alexnet_wn"])
def test_bfloat16_is_an_option_that_agrees(name: str, folder: Path, images: np.ndarray) -> None:
    """With one picture and three; its logits are float32, and exactly those of the module in bfloat16."""
    wide = alexnet.build(_recipe(folder, name), classes=3)
    narrow = wide.using(precision="bfloat16")
    logits, wanted = narrow.logits(images), wide.logits(images)
    assert logits.dtype == np.float32
    assert 0.0 < np.abs(logits - wanted).max() <= 0.02 * np.abs(wanted).max()
    assert np.abs(narrow.logits(images[0]) - wanted[0]).max() <= 0.02 * np.abs(wanted).max()
    np.testing.assert_array_equal(narrow.using(precision="float32").logits(images), wanted)
    with pytest.raises(AlexNetError, match="precision='float16'"):
        wide.using(precision="float16")


def test_logits_are_those_of_the_variables_it_has_now(folder: Path, images: np.ndarray) -> None:
    """After all of them are replaced, and after one layer is, as fine-tuning does."""
    net, other = (alexnet.build(_recipe(folder), classes=3, seed=seed) for seed in (0, 1))
    first, wanted = net.logits(images), other.logits(images)
    assert np.abs(first - wanted).max() > 1e-3
    last = net.variables["params"]["fc8"]
    net.variables = {"params": dict(other.variables["params"])}
    np.testing.assert_array_equal(net.logits(images), wanted)
    net.variables["params"]["fc8"] = last
    assert np.abs(net.logits(images) - wanted).max() > 1e-3


_POOL = """
import multiprocessing, os, sys
import numpy as np
import alexnet_jax
from alexnet_jax import AlexNetError

def keep(given):
    global net
    net = given

def logits(pictures):
    return net.logits(pictures)

if __name__ == "__main__":
    network, pictures = alexnet_jax.load(sys.argv[1]), np.load(sys.argv[2])
    wanted = network.logits(pictures)
    with multiprocessing.get_context("spawn").Pool(1, keep, (network,)) as pool:
        np.testing.assert_array_equal(pool.apply(logits, (pictures,)), wanted)
    if not os.fork():
        try:
            network.logits(pictures)
        except AlexNetError as error:
            os._exit(7 if "spawn" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
"""


def test_pool_of_processes_uses_one_network(net: Classifier, tmp_path: Path) -> None:
    """Pickled to a process that was spawned, with equal logits; where it was forked it is refused in one sentence."""
    net.save(tmp_path / "net.safetensors")
    np.save(tmp_path / "pictures.npy", _noise(3, 80, 90))
    (tmp_path / "pool.py").write_text(_POOL)
    command = [sys.executable, tmp_path / "pool.py", tmp_path / "net.safetensors", tmp_path / "pictures.npy"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def test_pickled_network_is_the_same(net: Classifier) -> None:
    """Precision, step and preprocessing with it, whatever mesh it was on."""
    mesh = towers.make_mesh(towers=2, tower=2, devices=jax.devices()[:2])
    there = Classifier(net.config, net.class_names, net.variables, inputs=net.inputs, mesh=mesh, step=3)
    found = pickle.loads(pickle.dumps(there))
    assert (repr(found), found.step, found.class_names) == (repr(net), 3, net.class_names)
    np.testing.assert_array_equal(found.logits(_noise(70, 80)), net.logits(_noise(70, 80)))
    narrow = pickle.loads(pickle.dumps(net.using(precision="bfloat16")))
    np.testing.assert_array_equal(narrow.logits(_noise(70, 80)), net.using(precision="bfloat16").logits(_noise(70, 80)))


def test_classifier_works_without_implicit_transfers_and_in_float64_mode(
    net: Classifier, folder: Path, tmp_path: Path
) -> None:
    """In float64 mode its variables and logits are float32."""
    with jax.transfer_guard("disallow"):
        fresh = alexnet.build(_recipe(folder), classes=3)
        assert len(fresh.predict(_noise(2, 70, 80), top=2, views="all")) == 2
        assert fresh.features(_noise(70, 80), "fc7").shape == (32,)
        net.save(tmp_path / "net.npz")
        assert alexnet.load(tmp_path / "net.npz").logits(_noise(70, 80)).shape == (3,)
    with jax.enable_x64(True):
        there = alexnet.load(tmp_path / "net.npz")
        assert {leaf.dtype for leaf in jax.tree.leaves(there.variables)} == {np.dtype("float32")}
        found = there.logits(_noise(70, 80))
    assert found.dtype == np.float32
    _near(found, net.logits(_noise(70, 80)))


def test_gradients_of_apply(net: Classifier, images: np.ndarray) -> None:
    """By the variables and by float images, against finite differences."""
    floats = jnp.asarray(images, jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def loss(differentiated: bool, variables: Any, images: jax.Array) -> Any:
        value = lambda v, x: net.apply(v, x)[..., 0].sum()  # noqa: E731
        return jax.grad(value, (0, 1))(variables, images) if differentiated else value(variables, images)

    by_variables, by_images = loss(True, net.variables, floats)
    assert by_images.shape == images.shape
    direction = jnp.zeros_like(floats).at[1].set(by_images[1])
    up, down = (
        loss(False, net.variables, floats + step * direction / jnp.abs(direction).max()) for step in (0.1, -0.1)
    )
    slope = jnp.vdot(by_images[1], direction[1]) / jnp.abs(direction).max()
    assert (up - down) / 0.2 == pytest.approx(float(slope), rel=0.02)
    _near(by_variables["params"]["fc8"]["bias"], [[3, 0], [0, 0]])  # 3 images, class 0


def test_module_initializes_and_trains(net: Classifier, images: np.ndarray) -> None:
    """`init` gives variables for any batch, `tabulate` a table, and `train` with one key per image turns dropout on."""
    x = net.inputs(images)
    fresh = jax.jit(net.module.init)(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, net.variables)
    apply = jax.jit(net.module.apply, static_argnames="train")
    assert apply(fresh, x[:1]).shape == (1, 3)
    assert "conv5" in net.module.tabulate(jax.random.key(0), x)
    keys = jax.random.split(jax.random.key(1), 3)
    trained = apply(net.variables, x, keys, train=True)
    assert not np.allclose(trained, apply(net.variables, x))
    with pytest.raises(AlexNetError, match=r"keys_B has the shape \(\).*jax.random.split\(key, 3\)"):
        net.module.apply(net.variables, x, jax.random.key(1), train=True)
    with pytest.raises(AlexNetError, match="train=True needs keys_B"):
        net.module.apply(net.variables, x, train=True)
    with pytest.raises(AlexNetError, match="keys_B are for training"):
        net.module.apply(net.variables, x, keys)
    capture = jax.jit(lambda v: net.module.apply(v, x, mutable=["intermediates"], capture_intermediates=True)[1])
    seen = capture(net.variables)
    assert seen["intermediates"]["conv2"]["__call__"][0].shape[:2] == (2, 3)


def test_module_updates_batch_statistics(folder: Path, images: np.ndarray) -> None:
    """They use the running statistics, and in training the batch, whose statistics come back."""
    net = alexnet.build(_recipe(folder, "alexnet_bn"), classes=3)
    x = net.inputs(images)
    train = jax.jit(lambda v, keys: net.module.apply(v, x, keys, train=True, mutable=["batch_stats"]))
    logits, new = train(net.variables, jax.random.split(jax.random.key(0), 3))
    assert not np.allclose(logits, net.logits(images))
    assert jax.tree.map(jnp.shape, new["batch_stats"]) == jax.tree.map(jnp.shape, net.variables["batch_stats"])


def test_module_and_apply_refuse_wrong_arguments(net: Classifier, images: np.ndarray) -> None:
    x = net.inputs(images)
    module, apply, variables = net.module.apply, net.apply, net.variables
    for call, message in (
        (lambda: module(variables, images), r"images are uint8 \[3, 67, 67, 3\], .* net.inputs\(images\)"),
        (lambda: module(variables, x[0]), r"images are float32 \[67, 67, 3\]"),
        (lambda: module(variables, x.transpose(0, 3, 1, 2)), r"images are float32 \[3, 3, 67, 67\]"),
        (lambda: net.module.init(jax.random.key(0), images), "images are uint8"),
        (lambda: net.tower.apply(variables, x), "one tower and needs the axis 'tower': use net.module or net.apply"),
        (lambda: apply(variables, images[:, :60]), r"shape \(3, 60, 67, 3\): apply takes \[B, 67, 67, 3\] or"),
        (lambda: apply(variables, "cat.jpg"), "net.logits takes pictures"),
        (lambda: apply(images, variables), "shape .*: apply takes"),
        (lambda: apply(variables["params"], images), "variables must be such as net.variables"),
        (lambda: jax.jit(net.logits)(images), "inside jit, grad and vmap use net.apply"),
    ):
        with pytest.raises(AlexNetError, match=message):
            call()


# ---------------------------------------------------------------- as a whole


def test_load_of_a_run_is_silent(run: Path) -> None:
    """Nothing has parsed the flags of absl there, which Orbax reads; and nothing is said on stderr."""
    code = f"import alexnet_jax; print(alexnet_jax.load({str(run)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("<AlexNet: 2 towers, ")
    assert done.stderr == ""


@pytest.fixture
def beside_a_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(run, tmp_path / "runs" / "first")
    Image.fromarray(_noise(90, 80)).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_example_in_python_runs(beside_a_run: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    found = [block for block in blocks if "import alexnet_jax as alexnet" in block]
    if not found:
        pytest.skip("README has no example in Python yet")
    exec(compile(found[0], "README.md", "exec"), {})
    assert alexnet.load(beside_a_run / "net.safetensors").class_names[0] == "class 0"
