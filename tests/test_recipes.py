"""Every recipe against an oracle, a few lines of float64 NumPy per network, and its exact numbers and placement."""

import functools
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_images

from alexnet_jax import builder, config as configs, summary
from alexnet_jax.data import preprocess
from alexnet_jax.model import alexnet as models, placement, towers
from alexnet_jax.model.towers import REPLICATED, TOWER_SHARDED

ROOT = Path(__file__).resolve().parent.parent
Array = np.ndarray[Any, np.dtype[Any]]
Weights = dict[str, Array]

# ---------------------------------------------------------------- the oracle's operations: [B, C, H, W], float64


class Net:
    """Computes a network as it is written down: each call replaces `x`."""

    def __init__(self, x: Array, weights: Weights) -> None:
        self.x, self.weights = x, weights

    def conv(self, name: str, stride: int, before: int, after: int, groups: int = 1) -> "Net":
        w, b = (self.weights[f"{name}_{part}"].astype(np.float64) for part in "wb")
        x = np.pad(self.x, ((0, 0), (0, 0), (before, after), (before, after)))
        outs = []
        for xg, wg in zip(np.split(x, groups, 1), np.split(w, groups, 0), strict=True):
            windows = sliding_window_view(xg, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
            outs.append(np.tensordot(windows, wg, ([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2))
        self.x = np.concatenate(outs, 1) + b[:, None, None]
        return self

    def fc(self, name: str, groups: int = 1) -> "Net":
        """Each tower's weights [inputs, units] read all features, or with groups its own."""
        w, b = self.weights[f"{name}_w"], self.weights[f"{name}_b"]
        inputs = [np.moveaxis(x, 1, -1).reshape(len(x), -1) for x in np.split(self.x, groups, 1)]
        if groups == 1:
            inputs *= len(w)
        outs = [np.einsum("bi,iu->bu", x, tower) for x, tower in zip(inputs, w, strict=True)]
        self.x = np.concatenate(outs, 1) + b
        return self

    def relu(self) -> "Net":
        self.x = np.maximum(self.x, 0)
        return self

    def tanh(self) -> "Net":
        self.x = np.tanh(self.x)
        return self

    def times(self, factor: float) -> "Net":
        self.x = self.x * factor
        return self

    def lrn(self, k: float, alpha: float, groups: int) -> "Net":
        """(k + alpha * sum of five squares) ** 0.75, the windows within each of the groups of channels."""
        outs = []
        for x in np.split(self.x, groups, 1):
            squares = np.pad(x**2, ((0, 0), (2, 2), (0, 0), (0, 0)))
            total = sum(squares[:, i : i + x.shape[1]] for i in range(5))
            outs.append(x / (k + alpha * total) ** 0.75)
        self.x = np.concatenate(outs, 1)
        return self

    def spatial(self, size: int = 5, scale: float = 0.001) -> "Net":
        """(1 + scale / size^2 * sum of size x size squares) ** 0.75 in each channel."""
        edge = size // 2
        squares = np.pad(self.x**2, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
        sums = sliding_window_view(squares, (size, size), (2, 3)).sum((4, 5))
        self.x = self.x / (1 + scale / size**2 * sums) ** 0.75
        return self

    def pool(self, size: int = 3, reduce: Callable[..., Array] = np.nanmax) -> "Net":
        """Stride 2, rounded up; pixels beyond the image are ignored."""
        beyond = (self.x.shape[2] - size) % 2
        x = np.pad(self.x, ((0, 0), (0, 0), (0, beyond), (0, beyond)), constant_values=np.nan)
        self.x = reduce(sliding_window_view(x, (size, size), (2, 3))[:, :, ::2, ::2], axis=(4, 5))
        return self

    def batch_norm(self, name: str, epsilon: float = 1e-5) -> "Net":
        scale, bias, mean, var = (self.weights[f"{name}_{part}"] for part in ("scale", "bias", "mean", "var"))
        wide = (slice(None),) + (None,) * (self.x.ndim - 2)
        self.x = (self.x - mean[wide]) / np.sqrt(var[wide] + epsilon) * scale[wide] + bias[wide]
        return self


# ---------------------------------------------------------------- the recipes, written down again


def _bottom(n: Net, groups: int = 2, *, spatial: bool = True) -> Net:
    n.conv("conv1", 4, 0, 3).lrn(2, 2e-5, groups).pool().relu()
    n.conv("conv2", 1, 2, 2, groups).relu().lrn(2, 2e-5, groups)
    return (n.spatial() if spatial else n).pool()


def _conv2(n: Net) -> Net:
    return n.conv("conv2", 1, 2, 2, groups=2)


def _conv3(n: Net, groups: int = 1) -> Net:
    return n.conv("conv3", 1, 1, 1, groups).relu()


def _conv4(n: Net, groups: int = 2) -> Net:
    return n.conv("conv4", 1, 1, 1, groups).relu()


def _conv5(n: Net, groups: int = 2) -> Net:
    return n.conv("conv5", 1, 1, 1, groups).relu().pool()


def _top(n: Net) -> Net:
    return _conv5(_conv4(_conv3(n)))


def _dense(n: Net, kept: float = 0.5) -> Net:
    return n.fc("fc6").relu().times(kept).fc("fc7").relu().times(kept).fc("fc8")


def _weight_norm(n: Net) -> Net:
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        v = n.weights[f"{name}_w"]
        squares = np.einsum("oihw,oihw->o" if v.ndim == 4 else "tio,tio->to", v, v, dtype=np.float64)
        factor = n.weights[f"{name}_scale"].reshape(squares.shape) / np.sqrt(squares)
        n.weights[f"{name}_w"] = v * (factor[:, None, None, None] if v.ndim == 4 else factor[:, None])
    return n


def _no_lrn(n: Net) -> Net:
    return _dense(_top(_conv2(n.conv("conv1", 4, 0, 3).relu().pool()).relu().pool()))


ORACLES: dict[str, Callable[[Net], Net]] = {
    "alexnet": lambda n: _dense(_top(_bottom(n))),
    "alexnet_paper_text": lambda n: _dense(_top(
        _conv2(n.conv("conv1", 4, 0, 3).relu().lrn(2, 1e-4, groups=2).pool()).relu().lrn(2, 1e-4, groups=2).pool())),
    "alexnet_pool_lrn_relu": lambda n: _dense(_top(
        _conv2(n.conv("conv1", 4, 0, 3).pool().lrn(2, 2e-5, groups=2).relu()).pool().lrn(2, 2e-5, groups=2).relu())),
    "alexnet_modern": lambda n: _dense(_top(_bottom(n)), kept=1),
    "alexnet_bn": lambda n: _conv2(n.conv("conv1", 4, 0, 3).batch_norm("bn1").relu().pool())
        .batch_norm("bn2").relu().pool().conv("conv3", 1, 1, 1).batch_norm("bn3").relu()
        .conv("conv4", 1, 1, 1, groups=2).batch_norm("bn4").relu()
        .conv("conv5", 1, 1, 1, groups=2).batch_norm("bn5").relu().pool()
        .fc("fc6").batch_norm("bn6").relu().times(0.5).fc("fc7").batch_norm("bn7").relu().times(0.5).fc("fc8"),
    "alexnet_bn_large": lambda n: _dense(_conv5(_conv4(_conv3(
        _conv2(n.conv("conv1", 4, 0, 0).relu().pool().batch_norm("bn1", 1e-4)).relu().pool().batch_norm("bn2", 1e-4)
        ).batch_norm("bn3", 1e-4)).batch_norm("bn4", 1e-4)), kept=1),
    "alexnet_wn": lambda n: _no_lrn(_weight_norm(n)),
    "caffe_alexnet": lambda n: _dense(_top(
        _conv2(n.conv("conv1", 4, 0, 0).relu().lrn(1, 2e-5, 1).pool()).relu().lrn(1, 2e-5, 1).pool()), kept=1),
    "caffenet": lambda n: _dense(_top(
        _conv2(n.conv("conv1", 4, 0, 0).relu().pool().lrn(1, 2e-5, 1)).relu().pool().lrn(1, 2e-5, 1)), kept=1),
    "cuda_convnet_18pct": lambda n: n.conv("conv1", 1, 2, 2).pool().relu().spatial(3, 5e-5)
        .conv("conv2", 1, 2, 2).relu().pool(3, np.nanmean).spatial(3, 5e-5)
        .conv("conv3", 1, 2, 2).relu().pool(3, np.nanmean).fc("fc4"),
    "cuda_convnet_26pct": lambda n: n.conv("conv1", 1, 2, 2).pool().relu()
        .conv("conv2", 1, 2, 2).relu().pool(3, np.nanmean)
        .conv("conv3", 1, 2, 2).relu().pool(3, np.nanmean).fc("fc4").relu().fc("fc5"),
    "one_weird_trick": lambda n: _dense(_conv5(_conv4(_conv3(_bottom(n, 1, spatial=False)), 1), 1)),
    "torchvision": lambda n: _dense(_conv5(_conv4(_conv3(
        n.conv("conv1", 4, 2, 2).relu().pool().conv("conv2", 1, 2, 2).relu().pool()), 1), 1), kept=1),
    "half": lambda n: _dense(_conv5(_conv4(_conv3(_bottom(n, 1)), 1), 1)),
    "no_lrn": _no_lrn,
    "no_spatial_norm": lambda n: _dense(_top(_bottom(n, spatial=False))),
    "no_norm2": lambda n: _dense(_top(
        _conv2(n.conv("conv1", 4, 0, 3).lrn(2, 2e-5, groups=2).relu().pool()).relu().pool())),
    "nonoverlap": lambda n: _dense(_conv4(_conv3(
        n.conv("conv1", 4, 0, 3).lrn(2, 2e-5, groups=2).pool(2).relu()
        .conv("conv2", 1, 1, 1, groups=2).relu().lrn(2, 2e-5, groups=2).spatial().pool(2)
        )).conv("conv5", 1, 0, 0, groups=2).pool(2).relu()),
    "avg_pool": lambda n: _dense(_conv4(_conv3(
        _conv2(n.conv("conv1", 4, 0, 3).lrn(2, 2e-5, groups=2).pool(3, np.nanmean).relu())
        .relu().lrn(2, 2e-5, groups=2).spatial().pool(3, np.nanmean)
        )).conv("conv5", 1, 1, 1, groups=2).pool(3, np.nanmean).relu()),
    "no_communication": lambda n: _conv5(_conv4(_conv3(_bottom(n), groups=2)))
        .fc("fc6", groups=2).relu().times(0.5).fc("fc7", groups=2).relu().times(0.5).fc("fc8"),
    "communicate_at_conv4": lambda n: _dense(_conv5(_conv4(_conv3(_bottom(n), groups=2), groups=1))),
    "conv6": lambda n: _top(_bottom(n)).conv("conv6", 1, 1, 1).relu()
        .fc("fc7").relu().times(0.5).fc("fc8").relu().times(0.5).fc("fc9"),
    "tanh": lambda n: _conv2(n.conv("conv1", 4, 0, 3).lrn(2, 2e-5, groups=2).pool().tanh())
        .tanh().lrn(2, 2e-5, groups=2).spatial().pool()
        .conv("conv3", 1, 1, 1).tanh().conv("conv4", 1, 1, 1, groups=2).tanh()
        .conv("conv5", 1, 1, 1, groups=2).tanh().pool()
        .fc("fc6").tanh().times(0.5).fc("fc7").tanh().times(0.5).fc("fc8"),
    "no_dropout": lambda n: _dense(_top(_bottom(n)), kept=1),
    "no_conv2": lambda n: _dense(_conv5(_conv4(
        _conv3(n.conv("conv1", 4, 0, 3).lrn(2, 2e-5, groups=2).pool().relu()).pool()))),
    "no_conv3": lambda n: _dense(_conv5(_conv4(_bottom(n), groups=1))),
    "no_conv4": lambda n: _dense(_conv5(_conv3(_bottom(n)))),
    "no_conv5": lambda n: _dense(_conv4(_conv3(_bottom(n))).pool()),
}  # fmt: skip
# Recipes that differ from another one in how they are trained.
SAME_NETWORK = {"alexnet_continued": "alexnet", "alexnet_bn_32k": "alexnet_bn_large"}
ONE_TOWER = ("one_weird_trick", "torchvision", "half", "cuda_convnet_18pct", "cuda_convnet_26pct")


def test_every_recipe_has_its_oracle() -> None:
    assert configs.recipe_names() == sorted(ORACLES | SAME_NETWORK)


@pytest.mark.parametrize("name", SAME_NETWORK)
def test_recipe_has_the_network_of_another_one(name: str) -> None:
    one, other = (configs.load_recipe(f"{recipe}:imagenet2012") for recipe in (name, SAME_NETWORK[name]))
    assert builder.model(one, 1000) == builder.model(other, 1000)
    assert repr(builder.inputs(one)) == repr(builder.inputs(other))


# ---------------------------------------------------------------- their numbers

# Parameters, multiply-adds per image, and for each convolution and pooling the width of its output and its channels
# per tower.
_TOP = "55x48 27x48 27x128 13x128"
_ALEXNET, _ONE_TOWER = f"{_TOP} 13x192 13x192 13x128 6x128", "55x64 27x64 27x192 13x192 13x384 13x256 13x256 6x256"
NUMBERS = dict.fromkeys(ORACLES, (60_965_224, 724_406_816, _ALEXNET)) | {
    "alexnet_bn": (60_984_360, 724_406_816, _ALEXNET),  # + 2 x 9,568 channels and units
    "alexnet_bn_large": (60_967_464, 724_406_816, _ALEXNET),  # + 2 x 1,120 channels
    "alexnet_wn": (60_975_792, 724_406_816, _ALEXNET),  # + 10,568 channels and units
    "communicate_at_conv4": (61_186_408, 761_786_912, _ALEXNET),
    "conv6": (61_555_304, 745_640_480, f"{_TOP} 13x192 13x192 13x128 6x128 6x128"),
    "cuda_convnet_18pct": (1_104_328, 13_312_000, "32x32 16x32 16x32 8x32 8x64 4x64"),
    "cuda_convnet_26pct": (209_928, 12_417_536, "32x32 16x32 16x32 8x32 8x64 4x64"),
    "half": (59_798_312, 391_514_384, f"{_TOP} 13x192 13x192 13x256 6x256"),
    "no_communication": (60_714_408, 724_323_872, "55x48 27x48 27x160 13x160 13x192 13x192 13x128 6x128"),
    "no_conv2": (60_104_808, 592_802_336, "55x48 27x48 27x192 13x192 13x192 13x128 6x128"),
    "no_conv3": (60_301_288, 612_266_528, f"{_TOP} 13x192 13x128 6x128"),
    "no_conv4": (60_301_288, 612_266_528, f"{_TOP} 13x192 13x128 6x128"),
    "no_conv5": (79_396_968, 668_520_992, f"{_TOP} 13x192 13x192 6x192"),
    "nonoverlap": (60_965_224, 686_891_552, "55x48 28x48 26x128 13x128 13x192 13x192 11x128 6x128"),
    "one_weird_trick": (61_100_840, 714_188_480, _ONE_TOWER),
    "torchvision": (61_100_840, 714_188_480, _ONE_TOWER),
}
# How many numbers per image a tower sends to the other one.
_USUAL = "conv3 21632, fc6 4608, fc7 2048, fc8 2048, the logits 500"
EXCHANGES = dict.fromkeys(ORACLES, _USUAL) | {
    "caffe_alexnet": f"norm1 12100, norm2 2916, {_USUAL}",
    "caffenet": f"norm1 2916, norm2 676, {_USUAL}",
    "communicate_at_conv4": _USUAL.replace("conv3 21632", "conv4 32448"),
    "conv6": "conv3 21632, conv6 4608, fc7 4608, fc8 2048, fc9 2048, the logits 500",
    "no_communication": "fc8 2048, the logits 500",
    "no_conv2": _USUAL.replace("21632", "34992"),
    "no_conv3": _USUAL.replace("conv3", "conv4"),
    "no_conv5": _USUAL.replace("4608", "6912"),
    **dict.fromkeys(ONE_TOWER, ""),
}


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_parameters_table_and_placement(name: str) -> None:
    model, pixels = summary.recipe_network(name)
    rows = summary.layer_rows(model, pixels)
    shapes = [f"{r.output[0]}x{r.output[-1]}" for r in rows if r.name.startswith(("conv", "pool", "avg_pool"))]
    assert (sum(r.parameters for r in rows), sum(r.macs for r in rows), " ".join(shapes)) == NUMBERS[name]
    params = jax.eval_shape(lambda: models.init_variables(model, jax.random.key(0), pixels))["params"]
    assert models.count_parameters(model, params) == NUMBERS[name][0]
    given = placement.traffic(model, pixels)
    assert ", ".join(f"{where} {numbers}" for where, numbers in given.items()) == EXCHANGES[name]
    sentence = summary.placement_sentence(model, pixels)
    assert ("one tower, so there is nothing to put on a second device" in sentence) == (name in ONE_TOWER)
    assert f"{sum(given.values()):,} numbers per image" in sentence or name in ONE_TOWER


@pytest.mark.parametrize("data_name", ["digits", "imagenet2012", "my_pictures_pack256"])
def test_every_recipe_is_possible_for_every_data_set(data_name: str) -> None:
    for name in configs.recipe_names():
        configs.load_recipe(f"{name}:{data_name}")


def test_every_recipe_says_what_it_is_and_where_from() -> None:
    """The source and the command. Whether it was run to its end here is a column of the table, and not repeated."""
    for name in configs.recipe_names():
        text = configs.recipe_module(name).__doc__
        assert len(summary.title(name)) > 20
        folder = "ablations/" if "ablations" in configs.recipe_module(name).__name__ else ""
        data_name = "cifar10" if name.startswith("cuda_convnet") else "imagenet2012"
        assert f"python main.py --config=configs/{folder}{name}.py:{data_name}" in text, name
        assert "\nSource: " in text, name
        assert "\nDiffers" in text, name
        assert "to its end" not in text, name


def test_the_docs_have_the_table_of_the_recipes() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert summary.markdown(summary.recipes()) in page, "alexnet recipes --markdown prints it"


def test_the_list_fits_a_terminal() -> None:
    lines = repr(summary.recipes()).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:] if line[0] != " "] == configs.recipe_names()
    assert "half                  59,798,312 parameters 391,514,384 multiply-adds  1 tower" in lines


# ---------------------------------------------------------------- the model against them


# The order of the channels, their mean and std, where they are not those of alexnet.
PIXELS: dict[str, tuple[int, Any, Any]] = {
    "caffe_alexnet": (-1, (104, 117, 123), 1),
    "caffenet": (-1, (104, 117, 123), 1),
    "alexnet_bn_large": (-1, (104, 117, 123), 256),
    "torchvision": (1, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
# A recipe for each way in which towers exchange, and those with parameters of other kinds.
_A_RECIPE_EACH = {text: name for name, text in reversed(EXCHANGES.items()) if text}
ON_TWO_DEVICES = {*_A_RECIPE_EACH.values(), "alexnet_bn", "alexnet_bn_large", "alexnet_wn"}


@functools.cache
def _photographs() -> Array:
    """Two squares of 256 x 256 pixels, RGB, of the photographs that come with scikit-learn."""
    return np.stack([preprocess.crop_resized(image, 256, 256) for image in load_sample_images().images])


def _random_variables(network: models.AlexNet, pixels: int) -> dict[str, Any]:
    """Every leaf random, biases and statistics too, at a scale that carries the images through ten layers."""

    def draw(path: Any, leaf: Any) -> jax.Array:
        layer, name = path[-2].key, path[-1].key
        rng = np.random.default_rng(zlib.crc32(f"{layer} {name}".encode()))
        numbers = rng.standard_normal(leaf.shape, np.float32)
        if name in ("scale", "var"):
            numbers = 1 + np.abs(numbers)
        factor = (2 / math.prod(leaf.shape[1:-1])) ** 0.5 if name == "kernel" else 1.0
        return jnp.asarray(numbers * np.float32(3000.0 if (layer, name) == ("bn1", "var") else factor))

    drawn: dict[str, Any] = jax.tree_util.tree_map_with_path(draw, placement.variables(network, pixels))
    return drawn


def _as_one_network(variables: dict[str, Any]) -> Weights:
    """The weights of one network: convolutions [channels, channels of a group, k, k], dense ones unchanged."""
    weights: Weights = {}
    for name, leaves in variables["params"].items():
        for leaf, value in leaves.items():
            if leaf != "kernel":
                part = "b" if leaf == "bias" and not name.startswith("bn") else leaf
                weights[f"{name}_{part}"] = np.asarray(value).reshape(-1)
        if name.startswith("bn"):
            stats = variables["batch_stats"][name]
            weights |= {f"{name}_{part}": np.asarray(stats[part]).reshape(-1) for part in ("mean", "var")}
            continue
        kernel = np.asarray(leaves["kernel"])
        if kernel.ndim == 5:
            kernel = np.concatenate([tower.transpose(3, 2, 0, 1) for tower in kernel])
        weights[f"{name}_w"] = kernel
    return weights


def _compiled(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Run once only, so it is compiled without optimization."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_the_model_agrees_with_the_oracle(name: str) -> None:
    """The logits of two photographs, within 1e-5 of the largest; also with one tower on each of two devices.

    With 32 units in the hidden dense layers of each tower; how many there are in truth, NUMBERS holds.
    """
    config = configs.load_recipe(f"{name}:imagenet2012")
    hidden = [layer for layer in config.model.layers[:-1] if layer.startswith("fc")]
    config = configs.load_recipe(f"{name}:imagenet2012", {f"model.{layer}.features": 32 for layer in hidden})
    network = builder.model(config, 1000)
    pixels = config.data.crop_pixels
    variables = _random_variables(network, pixels)
    if name == "alexnet_bn_large":  # whose pixels are small: the biases would be all that is seen
        variables["params"]["conv1"]["kernel"] *= 256.0
    edge = (256 - pixels) // 2
    images = _photographs()[:, edge : edge + pixels, edge : edge + pixels]
    inputs, program = builder.inputs(config), models.logits_fn(network)

    def logits_of(run_towers: Callable[..., jax.Array]) -> Any:
        return lambda variables, images: run_towers(variables, inputs.finished(inputs.centered(images)))

    order, mean, std = PIXELS.get(name, (1, (127.3, 119.7, 104.9), 1))
    x = (images[..., ::order].astype(np.float64) - mean) / std
    wanted = ORACLES[name](Net(x.transpose(0, 3, 1, 2), _as_one_network(variables))).x
    assert np.ptp(wanted, axis=0).max() > 0.01 * np.abs(wanted).max(), "the two images look alike: nothing is tested"

    got = _compiled(logits_of(towers.over_towers(program)))(variables, images)
    assert got.shape == (2, 1000)
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()
    if name not in ON_TWO_DEVICES:
        return
    mesh = towers.make_mesh(towers=2, tower=2, devices=jax.devices()[:2])
    on_two = jax.shard_map(
        logits_of(towers.over_towers(program, mesh=mesh)),
        mesh=mesh, in_specs=(TOWER_SHARDED, REPLICATED), out_specs=REPLICATED, check_vma=False,
    )  # fmt: skip
    assert np.abs(_compiled(on_two)(variables, images) - wanted).max() < 1e-5 * np.abs(wanted).max()
