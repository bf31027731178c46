"""Layer files written here, in cuda-convnet's format, from the numbers in sources/tables.py: which recipe each is.

The tables are taken from the released files and not from our recipes, so that both sides come from elsewhere.
"""

import dataclasses
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from sources import tables

from alexnet_jax import builder, config as configs, summary
from alexnet_jax.errors import AlexNetError
from tools.layer_files import command, network as networks
from tools.layer_files.nearest import Nearest, nearest
from tools.layer_files.rates import end_of, read_rates
from tools.layer_files.reading import merged, read

# ---------------------------------------------------------------- files

_NEURONS = {"relu": "relu", "tanh": "tanh[1,1]"}


def _section(name: str, **fields: object) -> str:
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in fields.items()) + "\n"


def _write(net: tables.Net, folder: Path) -> tuple[Path, Path]:
    """The net's two files: its layers and their parameters."""
    layers = [
        "# written by a test\n\n"
        + _section("data", type="data", dataIdx=0)
        + _section("labels", type="data", dataIdx=1)
    ]
    params = list[str]()
    if net.more_channels:  # the blurred image of nets up to 137
        layers += [_section("blur0", type="blur", inputs="data", stdev=4, filterSize=9, channels=3, gpu=0)]
        layers += [_section("nails0", type="nailbed", inputs="blur0", stride=4, channels=3)]
    below = ["data"] * net.towers
    for layer in net.layers:
        towers = "ab"[: net.towers] if layer is not net.layers[-1] and net.towers == 2 else " "
        below = [_tower(net, layer, tower.strip(), below, below[t], layers, params) for t, tower in enumerate(towers)]
    layers += [_section("probs", type="softmax", inputs=below[0])]
    layers += [_section("logprob", type="cost.logreg", inputs="labels,probs", gpu=0)]
    params += [_section("logprob", coeff=1, topk=5)]
    paths = folder / "layers.cfg", folder / "layer-params.cfg"
    for path, text in zip(paths, (layers, params), strict=True):
        path.write_text("".join(text))
    return paths


def _tower(
    net: tables.Net,
    layer: tables.Layer,
    tower: str,
    all_below: list[str],
    own: str,
    layers: list[str],
    params: list[str],
) -> str:
    """Adds a layer in one tower and what follows it; the name of the last."""
    inputs = [
        *(["nails0"] if layer.name in net.more_channels else []),
        *(all_below if layer.reads == "both" else [own]),
    ]
    many = len(inputs)

    def each(value: object) -> str:
        return ",".join([str(value)] * many)

    fields: dict[str, object] = {"inputs": ",".join(inputs), "initW": each(layer.std), "initB": layer.bias}
    if layer.size:
        padding, stride = each(layer.padding), each(layer.stride)
        if layer.name in net.more_channels:
            padding, stride = f"0,{layer.padding}", f"2,{layer.stride}"
        fields |= {"type": "conv", "filters": each(layer.features), "padding": padding, "stride": stride}
        fields |= {"filterSize": each(layer.size), "channels": ",".join(map(str, layer.channels)), "partialSum": 1}
    else:
        fields |= {"type": "fc", "outputs": layer.features}
    sections = [(f"{layer.name}{tower}", fields)]
    rates: dict[str, object] = {"epsW": each(layer.eps_w), "epsB": layer.eps_b, "momB": net.training.momentum}
    if "weights" in net.schedule:
        for key, base, (factor, steps) in (
            ("epsW", layer.eps_w, net.schedule["weights"]),
            ("epsB", layer.eps_b, net.schedule["biases"]),
        ):
            rates[key] = f"dexp[base={base};tgtFactor={factor:g};numSteps={steps}]"
    decay = net.training.decay if layer.decay is None else layer.decay
    params.append(_section(sections[0][0], **rates, momW=each(net.training.momentum), wc=each(decay)))
    for word in layer.post_ops.split():
        if word in _NEURONS:
            sections[-1][1]["neuron"] = _NEURONS[word]
            continue
        name = f"{layer.name}-{word}{tower}"
        fields, constants = _operation(net, word, layer.features)
        sections.append((name, {"inputs": sections[-1][0], **fields}))
        params += [_section(name, **constants)] if constants else []
    layers += [_section(name, **fields) for name, fields in sections]
    return sections[-1][0]


def _operation(net: tables.Net, word: str, channels: int) -> tuple[dict[str, object], dict[str, object]]:
    if word in ("pool", "avg_pool"):
        return {
            "type": "pool",
            "pool": "max" if word == "pool" else "avg",
            "sizeX": net.pool.size,
            "stride": net.pool.stride,
            "channels": channels,
        }, {}
    if word == "dropout":
        assert net.dropout
        kind = "dropout" if net.dropout.inverted else "dropout2" if net.file.startswith("CC2") else "hs"
        return {"type": kind, "keep": 1 - net.dropout.rate}, {"enable": "true"}
    norm = net.norm if word == "norm" else net.spatial_norm or tables.Norm(5, 0.001, 0.75, 1.0, "space", "")
    assert norm
    kind = {"norm": "cmrnorm", "spatial_norm": "rnorm", "contrast_norm": "cnorm"}[word]
    constants: dict[str, object] = {"scale": norm.scale, "pow": norm.power}
    return {"type": kind, "channels": channels, "size": norm.size}, constants | (
        {"minDiv": norm.k} if norm.k != 1 else {}
    )


def _read(paths: tuple[Path, Path]) -> tuple[networks.Network, Nearest]:
    layers, params = map(read, paths)
    network = networks.read_network(layers, params)
    return network, nearest(network, read_rates(network.layers, params, network.missing))


# ---------------------------------------------------------------- the nets


EXACT = {
    "alexnet": tables.ALEXNET,
    "no_lrn": tables.NO_LRN,
    "no_communication": tables.NO_COMMUNICATION,
    "one_weird_trick": tables.ONE_WEIRD_TRICK,
}


@pytest.mark.parametrize("recipe", EXACT)
def test_released_net_is_its_recipe_to_the_number(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = _write(EXACT[recipe], tmp_path)
    network, found = _read(paths)
    assert network.missing == []
    assert found == Nearest(recipe, [], [], [])
    assert network.classes == 1000
    command.main([str(path) for path in paths])
    printed = capsys.readouterr().out
    assert f"nothing: it is {recipe}, to the number" in printed
    assert ("with the very rates of the file" in printed.replace("\n", " ")) == (recipe != "one_weird_trick")


CIFAR = {"cuda_convnet_18pct": tables.CUDA_CONVNET_18PCT, "cuda_convnet_26pct": tables.CUDA_CONVNET_26PCT}


@pytest.mark.parametrize("recipe", CIFAR)
def test_cifar_10_net_is_its_recipe_at_its_first_rates(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Maxima beside averages, a decay for each layer; the file was never edited, so it holds the first rates."""
    paths = _write(CIFAR[recipe], tmp_path)
    network, found = _read(paths)
    assert (network.missing, network.classes, network.towers) == ([], 10, 1)
    assert (found.recipe, found.model, found.train) == (recipe, [], [])
    fall = 100 if recipe == "cuda_convnet_18pct" else 10
    for _, first, last in found.ends:
        assert last == pytest.approx((first[0] / fall, first[1] / fall))
    assert len(found.ends) == len(network.layers)
    command.main([str(path) for path in paths])
    assert f"nothing: it is {recipe}, to the number" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", [*EXACT, *CIFAR])
def test_file_states_every_field_of_the_network(recipe: str, tmp_path: Path) -> None:
    """What a network reads of its config, but for what it does not use, is among what the file says."""
    network, _ = _read(_write((EXACT | CIFAR)[recipe], tmp_path))
    config = configs.load_recipe(f"{recipe}:imagenet2012")
    used = {word for layer in config.model.layers for word in config.model[layer].post_ops.split()}
    sections = {"norm", "spatial_norm", "batch_norm", "dropout", "pool"} - used
    fields = {f"model.{field}" for field, _ in configs.flat(config.model) if field.split(".")[0] not in sections}
    fields -= {"model.norm.across_towers"} if config.model.towers == 1 else set()
    assert set(network.stated) == fields


def test_net_133_differs_from_its_recipe_by_what_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = _write(tables.COMMUNICATE_AT_CONV4, tmp_path)
    network, found = _read(paths)
    assert found.recipe == "communicate_at_conv4"
    assert [(d.field, d.ours, d.theirs) for d in found.model] == [
        ("model.conv1.features", 32, 48),
        ("model.conv2.post_ops", "relu norm pool", "relu norm spatial_norm pool"),
        ("model.norm.k", 1.0, 2.0),
    ]
    assert found.train == []
    assert found.ends[0] == ("conv1", (0.0001, 0.02), (0.0, 0.0))  # it was not frozen when the run was stopped
    assert len(found.ends) == 8
    assert {missing.word for missing in merged(network.missing)} == {
        "type=blur",
        "type=nailbed",
        "type=cnorm",
        "inputs=nails0,conv1-poola",
        "inputs=nails0,conv1-poolb",
    }
    text = paths[0].read_text().splitlines()
    for missing in network.missing:
        assert text[int(missing.where.split(":")[1]) - 1] == missing.word
    command.main([str(path) for path in paths])
    printed = capsys.readouterr().out
    assert re.search(r"layers\.cfg:\d+, \d+  type=cnorm: a contrast norm", printed)
    assert "--config.model.conv1.features=32   (48 in communicate_at_conv4)" in printed
    assert "conv1: weights 0.0001, biases 0.02" in printed


def test_net_145_with_exchange_of_net_133_is_communicate_at_conv4(tmp_path: Path) -> None:
    """conv3 reads its own tower, conv4 both."""
    changed = {
        "conv3": {"reads": "own", "channels": (128,)},
        "conv4": {"reads": "both", "channels": (192, 192)},
    }
    layers = tuple(dataclasses.replace(layer, **changed.get(layer.name, {})) for layer in tables.ALEXNET.layers)
    network, found = _read(_write(dataclasses.replace(tables.ALEXNET, layers=layers), tmp_path))
    assert network.missing == []
    assert found == Nearest("communicate_at_conv4", [], [], [])


def test_padding_is_what_rounding_up_leaves(tmp_path: Path) -> None:
    network, _ = _read(_write(tables.ALEXNET, tmp_path))
    assert [network.stated[f"model.{layer}.padding"] for layer in ("conv1", "conv2", "conv3")] == [
        (0, 3),
        (2, 2),
        (1, 1),
    ]


@pytest.mark.parametrize("net", ["HALF", "NONOVERLAP", "NO_NORM2"])
def test_other_released_nets_have_the_network_of_their_recipe(net: str, tmp_path: Path) -> None:
    network, found = _read(_write(getattr(tables, net), tmp_path))
    assert (found.recipe, found.model, network.missing) == (net.lower(), [], [])


@pytest.mark.parametrize(
    "recipe", ["alexnet", "one_weird_trick", "alexnet_paper_text", "half", "alexnet_continued", "cuda_convnet_18pct"]
)
def test_end_of_schedule_equals_update_rule(recipe: str) -> None:
    """Asked as in tests/sources: with a gradient of 1 a weight of 0 moves by minus its rate."""
    images, config = 10_000, configs.load_recipe(f"{recipe}:imagenet2012")
    steps = int(config.train.epochs * images // config.train.batch_size)
    optimizer, _ = builder.optimizer(config, images=images, steps=steps)
    zeros = {layer: {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)} for layer in config.model.layers}
    state = optimizer.init(zeros)._replace(updates=jnp.asarray(steps - 1, jnp.int32))
    moved = jax.tree.map(
        lambda update: -update.item(), optimizer.update(jax.tree.map(jnp.ones_like, zeros), state, zeros)[0]
    )
    ends = end_of(config)
    if config.train.schedule == "plateau":
        assert ends == {}
        return
    for layer, (weights, biases) in ends.items():
        assert moved[layer]["kernel"] == pytest.approx(weights, rel=1e-5), layer
        assert moved[layer]["bias"] == pytest.approx(biases, rel=1e-5), layer


# ---------------------------------------------------------------- the recipe file, and the flags


def test_recipe_file_and_flags_make_that_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """cuda-convnet2's two-GPU net: net 145 with the other dropout and a schedule."""
    paths = _write(tables.CC2_TWO_GPUS, tmp_path)
    output = tmp_path / "two.py"
    command.main([*map(str, paths), f"--output={output}"])
    printed = capsys.readouterr().out
    config = configs.load_recipe(f"{output}:imagenet2012")
    network, found = _read(paths)
    assert found.recipe == "alexnet"
    flat = dict(configs.flat(config))
    assert {field: flat[field] for field in network.stated} == network.stated
    c = config.train
    assert (c.learning_rate, c.bias_rate, c.schedule) == (0.02, 2.0, "dexp")
    assert (c.dexp.factor, c.dexp.pieces, c.dexp.bias_factor, c.dexp.bias_pieces) == (250.0, 4, 25.0, 2)
    assert c.freeze_epochs.conv1 > c.epochs  # a schedule by itself freezes nothing
    flags = [shlex.split(line)[0] for line in printed.splitlines() if line.startswith("  --config.")]
    assert len(flags) == 5
    by_flags = configs.load_recipe("alexnet:imagenet2012", [flag.removeprefix("--config.") for flag in flags])
    assert by_flags.to_dict() == config.to_dict()
    assert configs.load_recipe(f"{output}:digits").train.learning_rate == 0.001  # the rates are ImageNet's


def test_recipe_file_adds_a_layer(tmp_path: Path) -> None:
    layers = list(tables.ALEXNET.layers)
    more = tables.Layer("conv4x", "", 64, 3, 1, 1, (192,), "own", 0.02, 0.5, "tanh", "", 0.1, 0.1)
    conv5 = dataclasses.replace(layers[4], channels=(64,))
    paths = _write(dataclasses.replace(tables.ALEXNET, layers=(*layers[:4], more, conv5, *layers[5:])), tmp_path)
    output = tmp_path / "odd.py"
    command.main([*map(str, paths), f"--output={output}"])
    config = configs.load_recipe(f"{output}:imagenet2012")
    assert config.model.layers == ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc7", "fc8", "fc9")
    assert config.model.conv5.to_dict() == {
        "features": 64, "kernel_size": 3, "stride": 1, "padding": (1, 1), "post_ops": "tanh", "init_std": 0.02,
        "init_bias": 0.5,
    }  # fmt: skip
    rows = {row.name: row for row in summary.layer_rows(builder.model(config, 1000), 224)}
    assert rows["conv5"].parameters == 2 * (3 * 3 * 192 * 64 + 64)


def test_recipe_file_drops_fields_of_missing_layers(tmp_path: Path) -> None:
    """The 18 % net without conv3: fc3 is its last layer, and has the decay that fc4 has in the recipe."""
    net = tables.CUDA_CONVNET_18PCT
    paths = _write(dataclasses.replace(net, layers=(*net.layers[:2], net.layers[3])), tmp_path)
    output = tmp_path / "two.py"
    command.main([*map(str, paths), f"--output={output}"])
    _, found = _read(paths)
    assert found.recipe == "cuda_convnet_18pct"
    assert [(d.field, d.ours) for d in found.train] == [("train.decays.fc3", 1.0)]
    config = configs.load_recipe(f"{output}:imagenet2012")
    assert config.model.layers == ("conv1", "conv2", "fc3")
    assert config.train.decays.to_dict() == {"fc3": 1.0}


# ---------------------------------------------------------------- words


def _changed(tmp_path: Path, *edits: tuple[str, str], params: bool = False) -> tuple[Path, Path]:
    """Net 145 with patterns replaced in one of its files."""
    paths = _write(tables.ALEXNET, tmp_path)
    text = paths[params].read_text()
    for old, new in edits:
        assert re.search(old, text), old
        text = re.sub(old, new, text)
    paths[params].write_text(text)
    return paths


@pytest.mark.parametrize(
    ("old", "new", "field", "value"),
    [
        ("pool=max", "pool=avg", "model.pool.kind", "avg"),
        ("keep=0.5", "keep=0.8", "model.dropout.rate", 0.2),
        (r"neuron=relu", "NEURON = tanh[1.0,1.0]", "model.fc6.post_ops", "tanh dropout"),
        (r"size=5\n\n(\[conv1-pool)", r"size=5\nneuron=relu\n\n\1", "model.conv1.post_ops", "norm relu pool relu"),
        ("filterSize=11", "filterSize=10 ; here", "model.conv1.padding", (0, 2)),
    ],
)
def test_changed_word_changes_its_field(tmp_path: Path, old: str, new: str, field: str, value: object) -> None:
    network, found = _read(_changed(tmp_path, (old, new)))
    assert (network.missing, network.stated[field]) == ([], value)
    differs = {d.field: d.ours for d in found.model}
    assert differs.get(field, value) == value  # nothing differs from tanh and avg_pool, which are recipes


def test_average_pool_beside_max_pools_is_avg_pool(tmp_path: Path) -> None:
    one = r"(\[conv5-pool[ab]\]\n.*\n.*\n)pool=max"
    network, _ = _read(_changed(tmp_path, (one, r"\1pool=avg")))
    assert network.missing == []
    assert network.stated["model.pool.kind"] == "max"
    assert network.stated["model.conv2.post_ops"] == "relu norm spatial_norm pool"
    assert network.stated["model.conv5.post_ops"] == "avg_pool relu"


@pytest.mark.parametrize(("new", "decay"), [("wc=1,1", 1.0), ("", 0.0)])
def test_decay_of_one_layer_is_a_field(tmp_path: Path, new: str, decay: float) -> None:
    one = r"(\[fc8\]\n(?:.+\n)*)wc=.*"
    network, found = _read(_changed(tmp_path, (one, r"\1" + new), params=True))
    assert (network.missing, found.recipe, found.model) == ([], "alexnet", [])
    assert [(d.field, d.ours, d.theirs) for d in found.train] == [("train.decays.fc8", decay, None)]


def test_concat_joins_towers(tmp_path: Path) -> None:
    both = "conv5-poola,conv5-poolb"
    join = _section("both", type="concat", inputs=both)
    own = (f"inputs={both}\ninitW=0.01,0.01", "inputs=both\ninitW=0.01")
    paths = _changed(tmp_path, (r"\[fc6a\]", join + "[fc6a]"), own)
    text = paths[1].read_text()
    for section in re.findall(r"\[fc6[ab]\]\n(?:.+\n)+", text):
        text = text.replace(section, re.sub(",.*", "", section))  # one input, so one value
    paths[1].write_text(text)
    network, found = _read(paths)
    assert (network.missing, found.recipe, found.model) == ([], "alexnet", [])


@pytest.mark.parametrize(
    ("old", "new", "in_params", "word"),
    [
        ("pool=max", "pool=rand", False, "pool=rand"),
        ("neuron=relu", "neuron=softrelu", False, "neuron=softrelu"),
        ("filters=48", "filters=24\ngroups=2", False, "groups=2"),
        ("partialSum=1", "partialSum=1\nsharedBiases=0", False, "sharedbiases=0"),
        ("partialSum=1", "partialSum=1\ninitWFunc=initw.makew(x)", False, "initwfunc"),
        ("sizeX=3", "sizeX=3\nstart=-1", False, "start=-1"),
        ("size=5", "size=5\nblocked=1", False, "blocked=1"),
        ("partialSum=1", "partialSum=1\ncolour=red", False, "colour=red"),
        (r"(\[fc7-dropout[ab]\]\n.*\n.*\n)keep=0.5", r"\1keep=0.7", False, "[fc7-dropouta]"),
        ("momB=0.9", "momB=0.5", True, "momb=0.5"),
        ("coeff=1", "coeff=2", True, "coeff=2"),
        ("enable=true", "enable=false", True, "enable=false"),
        ("epsB=0.02", "epsB=0.02\nschedW=jdexp[250,0,4]", True, "schedw=jdexp[250,0,4]"),
        (r"(\[fc6.\]\n.*\n)epsB=0.02", r"\1epsB=0.02\nschedW=dexp[250,4]", True, "epsw"),
    ],
)
def test_word_without_a_field_is_named_and_writes_no_recipe(
    tmp_path: Path, old: str, new: str, in_params: bool, word: str
) -> None:
    paths = _changed(tmp_path, (old, new), params=in_params)
    network, _ = _read(paths)
    assert word in {missing.word for missing in network.missing}
    with pytest.raises(AlexNetError, match=r"^output=.*no\.py"):
        command.main([*map(str, paths), f"--output={tmp_path / 'no.py'}"])
    assert not (tmp_path / "no.py").exists()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("epsW=0.01\nepsB=0.02\nschedW=dexp[1000,4]\nschedB=dexp[10,2]", "net 167"),
        ("epsW=0.01\nepsB=0.02\nschedW=dexp[1000,0,4]\nschedB=dexp[10,0,2]", "net 170"),
        (
            "epsW=0.01\nepsB=0.02\nschedW=dexp[tgtFactor=1000,noiseStdev=0,numSteps=4]\nschedB=dexp[tgtFactor=10,noiseStdev=0,"
            "numSteps=2]",
            "net 183",
        ),
        (
            "epsW=dexp[base=0.01;tgtFactor=1000;numSteps=4]\nepsB=dexp[base=0.02;tgtFactor=10;numSteps=2]",
            "cuda-convnet2",
        ),
    ],
    ids=lambda value: value[:20],
)
def test_schedule_is_read_in_each_of_its_four_forms(tmp_path: Path, text: str, kind: str) -> None:
    """A layer at rate 0 was frozen by hand: its rate does not become part of the recipe."""
    paths = _changed(
        tmp_path, (r"(?s)(\[(?:conv[2-5]|fc\d)[ab]?\]\n)epsW=[^\n]*\nepsB=[^\n]*", r"\1" + text), params=True
    )
    frozen = re.sub("0[.]0[12](?=[;\n])", "0.0", text)
    text_now = re.sub(r"(\[conv1[ab]\]\n)epsW=.*\nepsB=.*", r"\1" + frozen, paths[1].read_text())
    paths[1].write_text(text_now)
    network, found = _read(paths)
    assert network.missing == []
    assert [(d.field, d.ours) for d in found.train] == [("train.schedule", "dexp"), ("train.dexp.factor", 1000.0)]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("type=softmax", "type=cost.sum2", "type=cost.sum2"),
        ("type=rnorm", "type=local", "type=local"),
        ("type=rnorm", "type=rnom", "type=rnom"),
        ("type=cost.logreg", "type=softmax", "type=cost.logreg"),
        ("inputs=conv1a", "inputs=conv1c", "'conv1c'"),
        ("inputs=conv1a", "inputs=conv2a", "[conv2a]"),
        ("inputs=conv1b", "inputs=conv1a", "conv1"),
        ("(conv1b(.*\n)*?)filters=48", r"\1filters=64", "[conv1b]"),
        ("filters=128", "filters=many", "filters=many"),
        ("filters=192,192", "filters=192,192,192", "filters=192,192,192"),
        ("filters=48", "filters=48.5", "filters=48.5"),
        ("stride=4", "stride=0", "stride=0"),
        ("channels=48\npartial", "channels=64\npartial", "channels=64"),
        ("filterSize=11", "filterSize=300", "filters of 300"),
        ("sizeX=3", "sizeX=60", "sizex=60"),
        ("outputs=2048", "output=2048", "outputs"),
        (r"\[conv2a\]", "[conv1a]", "[conv1a]"),
        ("dataIdx=0", "dataIdx=0\nDataIdx=1", "dataidx"),
        ("dataIdx=0", "dataIdx 0", "'dataIdx 0'"),
        ("dataIdx=0", " dataIdx=0", "indented"),
        ("# written", "type=data\n# written", "type"),
        ("dataIdx=0", "dataIdx=%(x)s", "dataidx=%(x)s"),
        (r"(\[fc7a\]\ninputs=)fc6-dropouta,fc6-dropoutb", r"\1fc6-dropouta,fc6-dropouta", "[fc7a]"),
    ],
)
def test_wrong_file_is_an_error_with_its_line(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(AlexNetError, match=r"^layers\.cfg(:\d+: | has )") as error:
        _read(_changed(tmp_path, (old, new)))
    assert named in str(error.value)


def test_missing_parameters_are_an_error_of_both_files(tmp_path: Path) -> None:
    with pytest.raises(AlexNetError, match=r"^layer-params\.cfg has no \[conv3a\], which layers\.cfg:\d+ needs"):
        _read(_changed(tmp_path, (r"\[conv3a\]", "[conv3]"), params=True))
