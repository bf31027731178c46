"""The networks that our recipes build, held to the numbers of the files they come from (`tables.py`).

No test reads a recipe's text. `built` and its helpers are the only place that knows our library; the other side is
computed from the tables alone.
"""

import dataclasses
import fnmatch
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import tables
from tables import DEPARTURES, NETS, WITHOUT, Layer, Net

IMAGES = 1_281_167  # ILSVRC-2012's training images

# ---------------------------------------------------------------- our side: all that is known of the library


@dataclasses.dataclass(frozen=True)
class Built:
    """What a recipe builds: `facts` by field, and `rate(layer, "kernel" or "bias", fraction of the run)`."""

    facts: dict[str, Any]
    rate: Any


def recipe_names() -> set[str]:
    from alexnet_jax import config as configs

    return set(configs.recipe_names())


@functools.cache
def built(name: str) -> Built:
    from alexnet_jax import builder, config as configs, summary
    from alexnet_jax.model import alexnet as models

    data_name, classes, images = NETS[name].data
    config = configs.recipe_module(name).get_config(data_name)
    model, pixels = builder.model(config, classes), config.data.crop_pixels
    shapes = jax.eval_shape(functools.partial(models.init_variables, model, image_pixels=pixels), jax.random.key(0))
    facts: dict[str, Any] = {"layers": tuple(layer.name for layer in model.stack), "pixels": pixels}
    for number, layer in enumerate(model.stack):
        kernel = shapes["params"][layer.name]["kernel"].shape  # [T, k, k, C, features] or [T, C, features]
        conv = isinstance(layer, models.ConvLayer)
        reads = "both" if layer.name in model.exchange else "own"
        wide = layer.features * model.towers
        facts |= {
            f"{layer.name}.features": min(wide, classes) if layer is model.stack[-1] else wide,
            f"{layer.name}.size": layer.kernel_size if conv else 0,
            f"{layer.name}.stride": layer.stride if conv else 0,
            f"{layer.name}.padding": tuple(layer.padding) if conv else (0, 0),
            f"{layer.name}.channels": kernel[-2],
            f"{layer.name}.reads": "image" if number == 0 else "all" if model.towers == 1 else reads,
            f"{layer.name}.std": config.model[layer.name].init_std,
            f"{layer.name}.bias": config.model[layer.name].init_bias,
            f"{layer.name}.post_ops": " ".join(layer.post_ops),
        }
    across = "all" if model.norm.across_towers else "tower"
    assert model.norm.alpha_over_size, "the tables are of sources that divide"
    facts |= {
        "towers": model.towers,
        "init": {"normal": "normal", "fan_in": "torch.nn's default"}[config.model.init],
        **{f"pool.{field}": getattr(model.pool, field) for field in ("kind", "size", "stride")},
        "pool.rounds": "ceil" if model.pool.ceil else "floor",
        "pool.ties": _ties(model.pool),
        "norm.size": model.norm.size,
        "norm.scale": model.norm.alpha,
        "norm.power": model.norm.beta,
        "norm.k": model.norm.k,
        "norm.over": across,
        "spatial_norm.size": model.spatial_norm.size,
        "spatial_norm.scale": model.spatial_norm.alpha,
        "spatial_norm.power": model.spatial_norm.beta,
        "spatial_norm.k": model.spatial_norm.k,
        "spatial_norm.over": "space",
        "dropout": _dropout(model),
        "batch_norm.momentum": model.batch_norm.momentum,
        "batch_norm.epsilon": model.batch_norm.epsilon,
        "batch_norm.learned": True,
        "batch_norm.of the input": False,
        "batch": config.train.batch_size,
        "color_noise": config.data.color_noise,
        "crop_chunk": config.data.crop_chunk,
        "blue_first": config.data.bgr,
        "mean": "center of the mean image" if config.data.mean_image else _mean(config),
    }
    rows = summary.layer_rows(model, pixels)
    facts |= {"parameters": sum(row.parameters for row in rows), "macs": sum(row.macs for row in rows)}
    rates, rate = _rates(config, model, images)
    return Built(facts | rates, rate)


def _rates(config: Any, model: Any, images: int) -> tuple[dict[str, Any], Any]:
    """The update rule is asked, and not its config: a gradient of 1 moves a weight of 0 by minus its rate."""
    from alexnet_jax import builder

    steps = config.train.epochs * images // config.train.batch_size
    optimizer, _ = builder.optimizer(config, images=images, steps=steps)
    zeros = {layer.name: {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)} for layer in model.stack}
    ones = jax.tree.map(jnp.ones_like, zeros)
    begin = optimizer.init(zeros)

    @functools.cache
    def moved(fraction: float) -> Any:
        state = begin._replace(updates=jnp.asarray(int(fraction * steps), jnp.int32))
        return jax.tree.map(lambda update: -update.item(), optimizer.update(ones, state, zeros)[0])

    decays = optimizer.update(zeros, begin, ones)[0]
    first, state = optimizer.update(ones, begin, zeros)
    second, _ = optimizer.update(zeros, state, zeros)
    layer = model.stack[-1].name
    start = moved(0.0)
    facts: dict[str, Any] = {}
    for one in zeros:
        facts |= {f"{one}.rate": start[one]["kernel"], f"{one}.bias_rate": start[one]["bias"]}
        facts |= {f"{one}.decay": -decays[one]["kernel"].item() / start[one]["kernel"]}
    facts |= {
        "momentum": (second[layer]["kernel"] / first[layer]["kernel"]).item(),
        "decay_b": -decays[layer]["bias"].item() / start[layer]["bias"],
    }
    return facts, lambda layer, part, fraction: moved(fraction)[layer][part]


def _ties(pool: Any) -> str:
    """How the pool's gradient falls on equal maxima: a window of equal values."""
    from alexnet_jax.model import layers

    options = dataclasses.asdict(pool)
    x = jnp.ones((1, pool.size, pool.size, 1))
    g = jax.grad(lambda x: layers.pool(x, **options).sum())(x)
    if bool((g == 1.0).all()):
        return "each"
    return "first" if float(g.max()) == 1.0 else "shared"


def _dropout(model: Any) -> Any:
    if not any("dropout" in layer.post_ops for layer in model.stack):
        return "none"
    return model.dropout.rate, "inverted" if model.dropout.inverted else "scaled in the test"


def _mean(config: Any) -> Any:
    plain = tuple(config.data.std) == (1.0, 1.0, 1.0)
    return tuple(config.data.mean) if plain else (tuple(config.data.mean), tuple(config.data.std))


# ---------------------------------------------------------------- the source's side: from a table alone


def stated(net: Net) -> dict[str, Any]:
    """What a table says of a net, under the names of `Built.facts`; what its files do not say is left out."""
    facts: dict[str, Any] = {"layers": tuple(layer.name for layer in net.layers), "towers": net.towers}
    facts |= {"pixels": net.pixels, "init": net.init}
    pixels, channels, parameters, macs = net.pixels, 3, 0, 0  # channels: of all towers
    for layer in net.layers:
        total, seen = _features(net, layer), _seen(net, layer, channels)
        if layer.size:
            outputs, padding = _conv_outputs(net, layer, pixels)
            assert not layer.channels or sum(layer.channels) == seen, (net.file, layer.name)
            weights = layer.size**2 * seen
        else:
            outputs, padding, weights = 1, (0, 0), pixels**2 * seen
            assert not layer.channels or sum(layer.channels) == weights, (net.file, layer.name)
        parameters += (weights + 1) * total
        macs += weights * total * outputs**2
        facts |= {
            f"{layer.name}.features": total,
            f"{layer.name}.size": layer.size,
            f"{layer.name}.stride": layer.stride,
            f"{layer.name}.padding": padding,
            f"{layer.name}.channels": seen if layer.size else weights,
            f"{layer.name}.reads": layer.reads,
            f"{layer.name}.std": layer.std,
            f"{layer.name}.bias": layer.bias,
            f"{layer.name}.post_ops": layer.post_ops,
            f"{layer.name}.rate": net.training.start_w,
            f"{layer.name}.decay": net.training.decay if layer.decay is None else layer.decay,
        }
        bias_rate = layer.eps_b * net.training.unit
        if net.training.start_b is not None and bias_rate >= net.training.start_b * 0.999:  # never lowered
            facts[f"{layer.name}.bias_rate"] = bias_rate
        pixels, channels = _pooled(net, outputs) if "pool" in layer.post_ops else outputs, total
    facts |= {"parameters": parameters, "macs": macs}
    for name in ("pool", "norm", "spatial_norm"):
        if getattr(net, name) is not None:
            facts |= {f"{name}.{field}": value for field, value in dataclasses.asdict(getattr(net, name)).items()}
    facts |= {f"batch_norm.{field}": value for field, value in net.batch_norm.items()}
    t = net.training
    facts |= {"momentum": t.momentum, "decay_b": t.decay_b, "batch": t.batch, "mean": t.mean}
    facts |= {"color_noise": t.color_noise, "crop_chunk": t.crop_chunk, "blue_first": t.blue_first}
    if net.dropout is None:
        facts["dropout"] = "none"
    else:
        facts["dropout"] = (net.dropout.rate, "inverted" if net.dropout.inverted else "scaled in the test")
    silent = {"std", "bias", "color_noise"}  # where None is "the files do not say"
    spoken = {k: v for k, v in facts.items() if v is not None or k.rpartition(".")[2] not in silent}
    return {k: v for k, v in spoken.items() if not k.endswith(".at")}


def _features(net: Net, layer: Layer) -> int:
    last = layer is net.layers[-1]
    return layer.features * (net.towers if net.per_tower and not last else 1)


def _seen(net: Net, layer: Layer, channels: int) -> int:
    """The channels that one unit of the layer sees."""
    own = channels // net.towers if layer.reads == "own" else channels
    return own + net.more_channels.get(layer.name, 0)


def _conv_outputs(net: Net, layer: Layer, pixels: int) -> tuple[int, tuple[int, int]]:
    """(the width of the result, the padding before and after): with ceil, zeros as far as the last window reaches."""
    span = (2 * layer.padding + pixels - layer.size) / layer.stride
    outputs = 1 + (math.ceil(span) if net.conv_rounds == "ceil" else math.floor(span))
    reach = (outputs - 1) * layer.stride + layer.size - pixels - layer.padding
    return outputs, (layer.padding, reach if net.conv_rounds == "ceil" else layer.padding)


def _pooled(net: Net, pixels: int) -> int:
    span = (pixels - net.pool.size) / net.pool.stride
    return 1 + (math.ceil(span) if net.pool.rounds == "ceil" else math.floor(span))


def differences(source: dict[str, Any], ours: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{field: (the source's, ours)} of the fields that the source speaks of."""
    return {field: (value, ours.get(field)) for field, value in source.items() if not _equal(value, ours.get(field))}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-12)
    return bool(a == b)


# ---------------------------------------------------------------- tests


def test_every_recipe_has_a_table_or_a_reason() -> None:
    assert not NETS.keys() & WITHOUT.keys()
    assert NETS.keys() | WITHOUT.keys() == recipe_names()
    assert DEPARTURES.keys() == NETS.keys()


@pytest.mark.parametrize("name", NETS)
def test_recipe_builds_the_net_of_its_source(name: str) -> None:
    differ = differences(stated(NETS[name]), built(name).facts)
    known = [pattern for pattern in DEPARTURES[name] if pattern != "schedule"]
    new = {f: pair for f, pair in differ.items() if not any(fnmatch.fnmatchcase(f, pattern) for pattern in known)}
    assert not new, f"{name}: (source, ours) {new}"
    idle = [pattern for pattern in known if not fnmatch.filter(differ, pattern)]
    assert not idle, f"{name}: no departure any more: {idle}"


def test_parameters_are_those_that_a_source_states() -> None:
    """Those of each table are those of the network, by the test above."""
    said = {name: net.says["parameters"][0] for name, net in NETS.items() if "parameters" in net.says}
    assert said
    assert said == {name: stated(NETS[name])["parameters"] for name in said}


def test_no_communication_has_four_chains_of_its_own() -> None:
    """Net 150: per tower an own first fully connected layer of 4096 and an own second one of 2048."""
    facts = stated(NETS["no_communication"])
    assert [facts[f"{layer}.reads"] for layer in facts["layers"]] == ["image"] + ["own"] * 6 + ["both"]
    assert [facts[f"{layer}.features"] for layer in ("conv2", "fc6", "fc7", "fc8")] == [320, 8192, 4096, 1000]
    assert [facts[f"{layer}.channels"] for layer in ("conv3", "fc6", "fc7", "fc8")] == [160, 4608, 4096, 4096]


def test_net_145_is_what_its_author_released_in_2014() -> None:
    """CC2's two-GPU net is net 145 with other rates and with the inverted form of dropout."""
    differ = differences(stated(tables.ALEXNET), stated(tables.CC2_TWO_GPUS))
    fields = {field.rpartition(".")[2] for field in differ}
    assert fields == {"rate", "bias_rate", "dropout", "color_noise", "crop_chunk"}
    assert differ["dropout"] == ((0.5, "scaled in the test"), (0.5, "inverted"))


def test_net_133_moves_the_meeting_of_net_131() -> None:
    differ = differences(stated(tables.NET_131), stated(tables.COMMUNICATE_AT_CONV4))
    rates = {field for field in differ if field.endswith("rate")}
    assert differ.keys() - rates == {f"conv{n}.{f}" for n in (3, 4) for f in ("reads", "channels")} | {
        "parameters",
        "macs",
    }
    assert differ["conv3.reads"] == ("both", "own")
    assert differ["conv4.reads"] == ("own", "both")


def _expected_rates(net: Net, fraction: float) -> tuple[float, float]:
    """The rates (of weights, of biases) of a table whose schedule is a formula."""
    t, s = net.training, net.schedule
    assert t.start_b is not None
    if s["kind"] == "dexp":  # equal pieces, from the start's rate to a factor below it
        drops = [factor ** -(min(int(fraction * n), n - 1) / (n - 1)) for factor, n in (s["weights"], s["biases"])]
    elif s["kind"] == "step":
        drops = [s["gamma"] ** (fraction * s["total"] // s["images"])] * 2
    elif s["kind"] == "step epochs":
        drops = [s["gamma"] ** (fraction * s["total"] // s["every"])] * 2
    else:
        assert s["kind"] == "poly"
        drops = [(1 - fraction) ** s["power"]] * 2
    return t.start_w * drops[0], t.start_b * drops[1]


BY_FORMULA = [n for n, net in NETS.items() if net.schedule["kind"] != "by hand" and "schedule" not in DEPARTURES[n]]


@pytest.mark.parametrize("name", BY_FORMULA)
@pytest.mark.parametrize("fraction", [0.06, 0.2, 0.3, 0.4, 0.55, 0.7, 0.8, 0.95])
def test_rates_fall_as_in_the_source(name: str, fraction: float) -> None:
    net = NETS[name]
    weights, biases = _expected_rates(net, fraction)
    for layer in net.layers:
        assert built(name).rate(layer.name, "kernel", fraction) == pytest.approx(weights, rel=1e-3)
        assert built(name).rate(layer.name, "bias", fraction) == pytest.approx(biases, rel=1e-3)


_OF_145 = [12, 22, 28, 40, 49, 53, 60, 65, 69, 74, 77, 81, 89]
_OWN_EPOCHS = {
    "alexnet": _OF_145,
    "alexnet_continued": [*_OF_145, 93, 105, 109, 122, 126, 133],
    "cuda_convnet_18pct": [3, 60, 118, 122, 128, 132, 138],
    "cuda_convnet_26pct": [1, 4, 6, 9.5],
}


@pytest.mark.parametrize(("name", "epoch"), [(name, epoch) for name, epochs in _OWN_EPOCHS.items() for epoch in epochs])
def test_rates_are_set_when_the_authors_set_them(name: str, epoch: float) -> None:
    """At epochs away from any change: whether the first pass is 0 or 1 the comments do not say."""
    net = NETS[name]
    last, _ = net.schedule["stop"]
    for layer in net.layers:
        rate = start = net.training.start_w
        for begins, which, value, _line in net.schedule["drops"]:
            own = "conv1" if layer.name == "conv1" else "others"
            rate = value if epoch >= begins and which in ("all", own) else rate
        bias = net.training.start_b * (rate / start if "biases too" in net.schedule else rate > 0)
        assert built(name).rate(layer.name, "kernel", epoch / last) == pytest.approx(rate, rel=1e-3)
        assert built(name).rate(layer.name, "bias", epoch / last) == pytest.approx(bias, rel=1e-3)


@pytest.mark.parametrize("name", ["alexnet", "alexnet_continued"])
def test_color_noise_is_on_when_the_authors_had_it_on(name: str) -> None:
    from alexnet_jax import builder, config as configs

    config = configs.recipe_module(name).get_config("imagenet2012")
    augmentation = builder.augmentation(config, images=IMAGES)
    epochs = [round(step * config.train.batch_size / IMAGES) for span in augmentation.color_steps for step in span]
    keys = ("color noise off", "color noise on", "color noise off again")
    assert epochs == [0, *(NETS[name].schedule[key][0] for key in keys if key in NETS[name].schedule)]
    assert config.train.epochs == NETS[name].schedule["stop"][0]


def test_total_of_passes() -> None:
    """Epochs, where a file counts images: 450,000 and 320,000 batches of 256."""
    assert round(NETS["caffe_alexnet"].schedule["total"] / IMAGES) == 90
    assert round(NETS["alexnet_bn"].schedule["total"] / IMAGES) == 64
    assert round(NETS["alexnet_bn_large"].schedule["total"] / IMAGES) == 100
    assert round(NETS["alexnet_bn_32k"].schedule["total"] / IMAGES) == 102
