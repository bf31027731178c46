"""What other programs compute with an exported network: onnxruntime, JAX without this package, and NumPy."""

import datetime
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import SMALL
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_sample_images

import alexnet_jax as alexnet
from alexnet_jax import __main__ as program, builder, config as configs
from alexnet_jax.classifier import Classifier
from alexnet_jax.data import preprocess
from alexnet_jax.data.preprocess import Input
from alexnet_jax.errors import AlexNetError
from alexnet_jax.export import hub_folder, onnx_graph, stablehlo
from alexnet_jax.model import placement
from alexnet_jax.model.plain import to_arrays
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.metrics import METRICS
from alexnet_jax.weights import hub

ROOT = Path(__file__).resolve().parent.parent
Array = np.ndarray[Any, np.dtype[Any]]
PIXELS = 67


def _small(recipe: str, **changes: Any) -> ConfigDict:
    """A recipe at the width of `conftest.SMALL`, with its own operations; `changes` are of its model section."""
    config = configs.load_recipe(f"{recipe}:imagenet2012")
    with config.unlocked():
        config.data.crop_pixels = config.data.resize_pixels = PIXELS
        for name in config.model.layers:
            config.model[name].features = SMALL.get(f"model.{name}.features", 5 if name == "conv6" else 0)
        config.model.update_from_flattened_dict(changes)
    return config


def _classifier(config: ConfigDict, classes: int, mean: Array | None = None) -> Classifier:
    """A network of random weights: wide enough that every operation matters, and no norm that is 1 throughout."""
    network, rng = builder.model(config, classes), np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> Array:
        part = path[-1].key
        if part == "kernel":
            return rng.standard_normal(leaf.shape, np.float32) * np.float32(2 * np.prod(leaf.shape[1:-1]) ** -0.5)
        if part in ("scale", "var"):
            return rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)
        return 0.1 * rng.standard_normal(leaf.shape, np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, placement.variables(network, config.data.crop_pixels))
    c = config.data
    inputs = Input(c.crop_pixels, np.float32(c.mean or (122.1, 116.0, 103.9)) if mean is None else mean, c.std, c.bgr)
    return Classifier(config, tuple(f"class {i}" for i in range(classes)), variables, inputs=inputs)


def _arrays(net: Classifier) -> dict[str, Array]:
    """The weights without what rounds the classes up to equal shares."""
    return to_arrays(net.tower, jax.device_get(net.variables))


def _images(pixels: int, count: int = 3) -> Array:
    """uint8 [B, pixels, pixels, 3]: patches of different colors, and noise; noise alone would average out."""
    rng, patch = np.random.default_rng(1), pixels // 5 + 1
    patches = rng.integers(0, 128, (count, 5, 5, 3), np.uint8).repeat(patch, axis=1).repeat(patch, axis=2)
    return patches[:, :pixels, :pixels] + rng.integers(0, 128, (count, pixels, pixels, 3), np.uint8)


def _by_onnxruntime(content: bytes, images: Array) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found: Array = session.run(["logits"], {"images": images})[0]
    return found


def _assert_equal_in_onnx(net: Classifier, images: Array, pixels: str = "float32") -> None:
    found = _by_onnxruntime(onnx_graph.to_onnx(net, pixels=pixels).SerializeToString(), images.astype(pixels))
    wanted = np.asarray(jax.jit(net.apply)(net.variables, images))
    assert found.shape == wanted.shape == (len(images), len(net.class_names))
    assert np.abs(wanted).max() > 0.1
    assert np.ptp(wanted, axis=0).max() > 0.01 * np.abs(wanted).max(), "the images make no difference"
    assert onnx_graph.relative_difference(found, wanted) < 1e-5


# ---------------------------------------------------------------- ONNX


@pytest.mark.parametrize(
    "recipe", ["torchvision", "alexnet_bn", "alexnet_wn", "half", "no_communication", "tanh", "alexnet_paper_text"]
)
def test_onnx_gives_the_logits_of_a_recipe(recipe: str) -> None:
    """Seven classes on two towers: the last unit of fc8 is left out."""
    _assert_equal_in_onnx(_classifier(_small(recipe), 7), _images(PIXELS), "uint8")


@pytest.mark.parametrize(
    "changes",
    [
        {
            "norm.across_towers": True, "norm.alpha": 0.3, "norm.k": 0.7, "norm.beta": 0.6,
            "spatial_norm.alpha": 2.0, "spatial_norm.beta": 0.6, "spatial_norm.k": 0.7,
        },
        {
            "norm.alpha": 0.3, "norm.alpha_over_size": False, "norm.size": 4,
            "spatial_norm.alpha": 2.0, "spatial_norm.size": 4,
        },
        {"pool.size": 2, "pool.stride": 2, "pool.ceil": True, "pool.kind": "avg"},
        {"pool.size": 3, "pool.stride": 2, "pool.ceil": False, "pool.kind": "avg"},
        # 16, 8 and 4 pixels: the last window of each pool is cut off.
        {"conv1.padding": (2, 5), "conv2.post_ops": "relu avg_pool", "conv5.post_ops": "relu avg_pool"},
        {"conv1.padding": (2, 5), "conv2.stride": 2, "conv2.padding": (0, 3), "conv3.padding": (2, 2)},
    ],
    ids=str,
)  # fmt: skip
def test_onnx_gives_the_logits_of_other_settings(changes: dict[str, Any]) -> None:
    """Windows cut off at every edge, asymmetric padding, norms that matter much."""
    _assert_equal_in_onnx(_classifier(_small("alexnet", **changes), 7), _images(PIXELS))


def test_onnx_of_one_class_on_two_towers() -> None:
    """The second tower has no class: nothing is left of its fc8."""
    _assert_equal_in_onnx(_classifier(_small("alexnet", exchange=()), 1), _images(PIXELS))


def test_onnx_has_mean_image_std_and_bgr() -> None:
    config = _small("caffe_alexnet")
    config.data.std = (50.0, 60.0, 70.0)
    mean = np.random.default_rng(2).uniform(80, 160, (PIXELS, PIXELS, 3)).astype(np.float32)
    _assert_equal_in_onnx(_classifier(config, 10, mean), _images(PIXELS))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "classes"), [("alexnet", 1000), ("caffe_alexnet", 999)])
def test_onnx_gives_the_logits_of_photographs_at_full_size(recipe: str, classes: int) -> None:
    config = configs.load_recipe(f"{recipe}:imagenet2012")
    side = config.data.crop_pixels
    images = np.stack([preprocess.crop_resized(image, 256, side) for image in load_sample_images().images])
    _assert_equal_in_onnx(_classifier(config, classes), images, "uint8")


def test_onnx_file_names_inputs_classes_and_layers() -> None:
    """Each result of a layer's name is that layer's, NCHW, of all towers."""
    import onnx
    import onnxruntime
    from onnx import helper

    net, images = _classifier(_small("alexnet"), 7), _images(PIXELS)
    model = onnx_graph.to_onnx(net, pixels="uint8")
    props = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert tuple(props["classes"]) == net.class_names
    assert props["about"]["crop_pixels"] == PIXELS
    assert [(i.domain, i.version) for i in model.opset_import] == [("", 17)]
    (given,), (logits,) = model.graph.input, model.graph.output
    dims = given.type.tensor_type.shape.dim
    assert (given.name, dims[0].dim_param, [d.dim_value for d in dims[1:]]) == ("images", "batch", [67, 67, 3])
    assert (logits.name, logits.type.tensor_type.shape.dim[1].dim_value) == ("logits", 7)
    results = {name for node in model.graph.node for name in node.output}
    names = [name for name in net.layers if name in results]
    assert len(names) == 20
    assert {"conv1_out", "norm1", "pool1", "relu1", "spatial_norm2", "relu7"} <= set(names)
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    see = jax.jit(lambda x: net.module.apply(net.variables, x, mutable=["intermediates"])[1]["intermediates"])
    seen = see(net.inputs(images))
    for name, result in zip(names, session.run(names, {"images": images}), strict=True):
        wanted = np.concatenate(np.asarray(seen[name]), axis=-1)  # [T, B, ..., C]
        found = result.transpose(0, 2, 3, 1) if result.ndim == 4 else result
        assert onnx_graph.relative_difference(found, wanted) < 1e-5, name


def test_onnx_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "_add_spatial_norm", lambda graph, name, shape: graph.then("Identity", name))
    net = _classifier(_small("alexnet", **{"spatial_norm.alpha": 2.0}), 10)
    with pytest.raises(AlexNetError, match="nothing was written"):
        onnx_graph.write(net, tmp_path / "net.onnx", pixels="uint8")
    assert not list(tmp_path.iterdir())


def test_onnx_without_onnxruntime_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = onnx_graph.write(_classifier(_small("alexnet"), 10), tmp_path / "net.onnx", pixels="uint8")
    assert "not compared" in said
    assert (tmp_path / "net.onnx").is_file()


def test_code_of_the_docs_preprocesses_as_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/export.md, on photographs that are not square: the same pixels but for the interpolation."""
    config = _small("alexnet")
    with config.unlocked():
        config.data.resize_pixels = 76
    net, paths = _classifier(config, 10), [tmp_path / "cat.jpg", tmp_path / "dog.jpg"]
    (tmp_path / "net.onnx").write_bytes(onnx_graph.to_onnx(net, pixels="float32").SerializeToString())
    for path, photograph in zip(paths, load_sample_images().images, strict=True):
        Image.fromarray(photograph).save(path, quality=95)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(import json\n.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    page: dict[str, Any] = {}
    exec(code, page)
    assert capsys.readouterr().out == f"class {net.logits(paths[0]).argmax()}\n"
    for path in paths:
        seen = preprocess.Crop(76, PIXELS)(path.read_bytes())
        assert np.abs(page["pixels"](path)[0] - seen).mean() < 6  # gray levels; squeezed it is 30


# ---------------------------------------------------------------- onnxruntime as the engine of a network


def test_engine_gives_what_jax_gives(tmp_path: Path) -> None:
    """Probabilities of all views, logits and layers of pictures that are not square, a few or more than a batch."""
    config = _small("alexnet", **{"norm.alpha": 0.3, "spatial_norm.alpha": 2.0})
    with config.unlocked():
        config.data.resize_pixels, config.data.flip = 76, True
    net = _classifier(config, 7)
    fast, pictures = net.using(engine=alexnet.onnxruntime), list(_images(90, 35)[:, :80])
    assert np.ptp(net.probabilities(pictures, views="all"), axis=0).max() > 0.01, "the pictures make no difference"
    for few in (pictures, pictures[:3], pictures[0]):
        for views in ("center", "all"):
            found, wanted = (n.probabilities(few, views=views) for n in (fast, net))
            assert onnx_graph.relative_difference(found, wanted) < 1e-5
        for layer in ("conv1", "norm1", "conv5_out", "pool5", "fc7", "fc8"):
            found, wanted = fast.features(few, layer), net.features(few, layer)
            assert found.shape == wanted.shape
            assert onnx_graph.relative_difference(found, wanted) < 1e-5, layer
        assert onnx_graph.relative_difference(fast.logits(few), net.logits(few)) < 1e-5
    assert fast.predict(pictures[0], top=2)[0][0] == net.predict(pictures[0], top=2)[0][0]
    with pytest.raises(AlexNetError, match="dropout6"):
        fast.features(pictures[0], "dropout6")


def test_engine_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fast = _classifier(_small("half"), 7).using(engine=alexnet.onnxruntime)
    with pytest.raises(AlexNetError, match=r"alexnet_jax\[export\]"):
        fast.logits(_images(PIXELS))


# ---------------------------------------------------------------- StableHLO

_RELOADED = """
import sys
import numpy as np
from jax import export

net = export.deserialize(open(sys.argv[1], "rb").read())
images = np.load(sys.argv[2])
for rows in (images, images[:1]):
    np.save(f"{sys.argv[2]}.{len(rows)}.npy", net.call(rows))
assert net.platforms == ("cpu", "cuda", "tpu")
assert not any(name.split(".")[0] in ("alexnet_jax", "flax") for name in sys.modules)
"""


def test_stablehlo_runs_in_a_process_with_jax_alone(tmp_path: Path) -> None:
    net, images = _classifier(_small("alexnet"), 7), _images(PIXELS)
    said = stablehlo.write(net, tmp_path / "net.stablehlo", pixels="uint8", today=datetime.date(2026, 8, 31))
    assert "until 2027-02-28 at the latest" in said
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", _RELOADED, str(tmp_path / "net.stablehlo"), str(tmp_path / "images.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = np.asarray(jax.jit(net.apply)(net.variables, images))
    for rows in (3, 1):
        found = np.load(tmp_path / f"images.npy.{rows}.npy")
        assert found.shape == (rows, 7)
        assert onnx_graph.relative_difference(found, wanted[:rows]) < 1e-5


# ---------------------------------------------------------------- a folder for the Hub


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small network at step 3, evaluated then and earlier, started twice by the same command."""
    from alexnet_jax.configs.alexnet import get_config

    config = get_config()
    config.update_from_flattened_dict(SMALL)
    config.train.steps = 3
    workdir = tmp_path_factory.mktemp("run")
    opened = builder.train_setup(ConfigDict(config.to_dict()).lock(), workdir)
    configs.save(opened.config, opened.split.class_names, workdir)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(3, jax.jit(opened.new_state)())
    checkpoints.close()
    entry = {"eval_top5": 90.0, "eval_loss": 0.7, "eval_images": 299, "eval_classes": {"0": 50.0}}
    views = {"eval_views": 10, "eval_views_top1": 67.5, "eval_views_top5": 91.0, "eval_views_loss": 0.625}
    lines = [
        {"step": 2, "eval_top1": 11.0, **entry},
        {"step": 3, "loss": 1.0},
        {"step": 3, "eval_top1": 65.25, **entry, **views},
    ]
    (workdir / METRICS).write_text("".join(json.dumps(line | {"eval_split": "digits test"}) + "\n" for line in lines))
    command = (
        f"alexnet train '--workdir={workdir}' --config=alexnet:digits --config.data.data_dir '/home/me too' "
        "'--config.train.drop_epochs=(1,2)'"
    )
    starts = [{"step": step, "command": command, "commit": "c0ffee"} for step in (0, 2)]
    starts.append({"step": 7, "command": "alexnet train --later", "commit": "c0ffee"})
    (workdir / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in starts) + '{"step": 8, "comm')
    return workdir


def _front_matter(card: str) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load(card.split("---\n", 2)[1])
    return found


def test_model_card_tells_of_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.main(["export", "--format=hf", f"--workdir={run}", f"--output={tmp_path / 'folder'}", "--license=mit"])
    assert f"hf upload OWNER/NAME {tmp_path / 'folder'}" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    card = (tmp_path / "folder" / "README.md").read_text()
    front = _front_matter(card)
    assert (front["library_name"], front["license"]) == ("alexnet_jax", "mit")
    assert {"alexnet", "jax"} <= set(front["tags"])
    assert "| center crop | 65.25 % | 90.00 % | 0.7000 |\n| 10 views | 67.50 % | 91.00 % | 0.6250 |" in card
    assert "299 images of `digits test`" in card
    assert "after step 3" in card
    assert card.count("alexnet train --config=alexnet:digits '--config.train.drop_epochs=(1,2)'\n") == 1
    assert "`c0ffee`" in card
    for private in (str(run), "/home/me", "--later", "11.00"):
        assert private not in card


def test_model_card_of_a_file_says_what_is_not_known(tmp_path: Path) -> None:
    net = _classifier(_small("half"), 10)
    hub_folder.write(net, tmp_path / "folder", license="apache-2.0")
    card = (tmp_path / "folder" / "README.md").read_text()
    assert card.count("Not known: ") == 2
    assert _front_matter(card)["license"] == "apache-2.0"


def _hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    """The Hub as a function; what it is asked for."""
    import huggingface_hub

    asked: list[tuple[Any, ...]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_exported_folder_and_hub_give_the_network_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mean = np.random.default_rng(2).uniform(80, 160, (PIXELS, PIXELS, 3)).astype(np.float32)
    net = _classifier(_small("alexnet"), 7, mean)
    hub_folder.write(net, tmp_path / "folder", license="apache-2.0")
    asked = _hub(monkeypatch, tmp_path / "folder")
    for where in (tmp_path / "folder", "hf://owner/name", "hf://owner/name@refs/pr/1", Path("hf://owner/name@v1")):
        loaded = alexnet.load(where)
        assert loaded.class_names == net.class_names
        np.testing.assert_array_equal(loaded.inputs.mean, mean)
        jax.tree.map(np.testing.assert_array_equal, _arrays(loaded), _arrays(net))
    assert asked == [("owner/name", None), ("owner/name", "refs/pr/1"), ("owner/name", "v1")]


def test_workdir_with_an_exported_file_in_it_is_still_a_run(run: Path) -> None:
    _classifier(_small("half"), 3).save(run / hub.MODEL)
    assert len(alexnet.load(run).class_names) == 10


def _not_found(kind: str) -> Exception:
    import httpx2
    from huggingface_hub import errors

    response = httpx2.Response(404, request=httpx2.Request("GET", "https://example.com"))
    found: Exception = getattr(errors, kind)("many\nlines", response=response)
    return found


def test_network_that_the_hub_does_not_have_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, named in (
        (_not_found("RepositoryNotFoundError"), "owner/name"),
        (_not_found("RevisionNotFoundError"), "'v2'"),
        (ConnectionError("no route\nto host"), r"hf://owner/name .*no route\)"),
        (tmp_path, r"owner/name .*model\.safetensors"),
    ):
        _hub(monkeypatch, answer)
        with pytest.raises(AlexNetError, match=named) as raised:
            alexnet.load("hf://owner/name@v2")
        assert "\n" not in str(raised.value)
    for address in ("hf://owner", "hf://owner/name/more", "hf://", "hf://owner/name@"):
        with pytest.raises(AlexNetError, match="hf://OWNER/NAME@REVISION"):
            alexnet.load(address)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(AlexNetError, match=r"alexnet_jax\[hub\]"):
        alexnet.load("hf://owner/name")


def test_numpy_alone_computes_an_exported_folder(tmp_path: Path) -> None:
    """With the lines of the model card, and nothing else of this project; seven classes, and blue first."""
    config = _small("alexnet", **{"norm.alpha": 0.3, "spatial_norm.alpha": 2.0})
    config.data.bgr = True
    net, images = _classifier(config, 7), _images(PIXELS, 2)
    hub_folder.write(net, tmp_path / "folder", license="apache-2.0")
    np.save(tmp_path / "folder" / "images.npy", images)
    card = (tmp_path / "folder" / "README.md").read_text()
    (reading,) = (block for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "safetensors" in block)
    (tmp_path / "reading.py").write_text(reading)
    command = [sys.executable, str(ROOT / "tests" / "numpy_forward.py"), str(tmp_path / "reading.py")]
    done = subprocess.run(command, cwd=tmp_path / "folder", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "folder" / "logits.npy")
    assert onnx_graph.relative_difference(found, net.logits(images)) < 1e-5


# ---------------------------------------------------------------- the command


def test_export_command_writes_each_format(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, net = _images(PIXELS), alexnet.load(run)
    wanted = np.asarray(jax.jit(net.apply)(net.variables, images))
    for form in ("onnx", "stablehlo", "npz"):
        output = tmp_path / "new" / f"net.{form}"
        pixels = [] if form == "npz" else ["--pixels=uint8"]
        program.main(["export", f"--format={form}", f"--workdir={run}", f"--output={output}", *pixels])
        said = capsys.readouterr().out
        assert str(output) in said
        if form == "onnx":
            assert re.search(r"onnxruntime [\d.]+ differs by \d\.\de-\d\d of the largest logit on 2 random", said)
            found = _by_onnxruntime(output.read_bytes(), images)
        elif form == "stablehlo":
            found = np.asarray(jax.export.deserialize(output.read_bytes()).call(images))
        else:
            found = np.asarray(jax.jit(net.apply)(alexnet.load(output).variables, images))
        assert onnx_graph.relative_difference(found, wanted) < 1e-5


def test_export_command_reads_a_foreign_file(tmp_path: Path) -> None:
    """Of which the options say the recipe, the classes and the channels."""
    (tmp_path / "small.py").write_text(
        "from alexnet_jax.configs import alexnet\n"
        "def get_config(data_name='imagenet2012'):\n    config = alexnet.get_config(data_name)\n"
        f"    config.update_from_flattened_dict({SMALL!r})\n    return config\n"
    )
    recipe = str(tmp_path / "small.py")
    net = alexnet.build(recipe, classes=("a", "b", "c"))
    np.savez(tmp_path / "net.npz", **_arrays(net))
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    options = [f"--recipe={recipe}", f"--classes={tmp_path}/classes.txt", "--channels=rgb"]
    output = tmp_path / "out.safetensors"
    program.main(["export", "--format=safetensors", f"--input={tmp_path}/net.npz", *options, f"--output={output}"])
    found = alexnet.load(output)
    assert found.class_names == net.class_names
    jax.tree.map(np.testing.assert_array_equal, _arrays(found), _arrays(net))


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnx"), ("stablehlo", "flatbuffers")])
def test_export_without_its_package_says_what_to_install(
    form: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as stop:
        program.main(["export", f"--format={form}", "--workdir=any", f"--output={tmp_path}/net.{form}"])
    assert f"needs the package {package}: pip install 'alexnet_jax[export]'" in str(stop.value.code)
