"""What the compiled step sends is what the formulas say, and the predictions are arithmetic on them."""

import re
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import builder, config as configs
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement
from alexnet_jax.model.towers import make_mesh
from tools.traffic import command, compiled, forecast as forecasts, formula as traffic
from tools.traffic.forecast import DATA_PARALLEL, HYBRID, LINKS, TOWERS, Forecast
from tools.traffic.formula import ALL_GATHER, ALL_REDUCE, BACKWARD, FORWARD, REDUCE_SCATTER, Layout, Sent

MESHES = [(1, 2), (2, 2), (4, 1)]


@pytest.fixture
def short_config(small_config: ConfigDict) -> ConfigDict:
    """Without the layers that exchange nothing, and so compiled in half of the time."""
    with small_config.unlocked():
        for layer in ("conv2", "conv4", "conv5"):
            del small_config.model[layer]
    small_config.model.layers = ("conv1", "conv3", "fc6", "fc7", "fc8")
    small_config.model.conv3.post_ops = "relu pool"
    return small_config


def _mesh(shape: tuple[int, int], towers: int = 2) -> Mesh:
    return make_mesh(towers=towers, tower=shape[1], devices=jax.devices()[: shape[0] * shape[1]])


def _sent(config: ConfigDict, shape: tuple[int, int], classes: int = 10) -> tuple[list[Sent], list[Sent]]:
    """(what the compiled step sends, the least that it must)."""
    model, mesh = builder.model(config, classes), _mesh(shape, config.model.towers)
    layout = Layout.of(model, mesh)
    least = traffic.least(model, config.data.crop_pixels, layout, config.train.batch_size)
    return compiled.sent(config, model, mesh), least


def _bytes(rows: list[Sent], *layers: str) -> float:
    return sum(row.bytes for row in rows if not layers or set(row.layers) & set(layers))


# ---------------------------------------------------------------- the compiled step


def test_two_towers_of_the_paper_send_31_megabytes() -> None:
    """The full network at batch 128 in float32: the numbers of the paper's layers, by hand, and by the formula."""
    config = configs.load_recipe("alexnet:imagenet2012")
    found, least = _sent(config, (1, 2), classes=1000)
    numbers = {"conv3": 13 * 13 * 128, "fc6": 6 * 6 * 128, "fc7": 2048, "fc8": 2048, "logits": 500}
    forward = [(name, FORWARD, ALL_GATHER, 4 * 128 * count) for name, count in numbers.items()]
    backward = [(name, BACKWARD, REDUCE_SCATTER, 4 * 128 * count) for name, count in reversed(numbers.items())]
    assert [(row.layers[0], row.direction, row.kind, row.bytes) for row in found] == [*forward, *backward]
    assert {row.axis for row in found} == {"tower"}
    assert command.differences(found, least) == []
    assert _bytes(found, "conv3", "fc6", "fc7", "fc8") == pytest.approx(31.06e6, rel=1e-3)
    assert traffic.data_parallel(builder.model(config, 1000), 224, 2) == 4 * 60_965_224


@pytest.mark.parametrize("shape", MESHES)
def test_compiled_step_equals_formula(shape: tuple[int, int], short_config: ConfigDict) -> None:
    """By the formula of the code, and by one written here from the widths of the layers."""
    found, least = _sent(short_config, shape)
    assert command.differences(found, least) == []
    c, (data, tower), batch = short_config.model, shape, short_config.train.batch_size
    exchanged = {
        "conv3": 7 * 7 * c.conv1.features, "fc6": 3 * 3 * c.conv3.features, "fc7": 16, "fc8": 16, "logits": 5,
    }  # fmt: skip
    for name, numbers in exchanged.items():
        assert _bytes(found, name) == (2 * 4 * numbers * batch / data if tower == 2 else 0), name
    network = builder.model(short_config, 10)
    parameters = models.count_parameters(network, placement.variables(network, 67)["params"])
    summed = 4 * (parameters / tower + 3)  # and three metrics
    assert _bytes(found, "gradients", "metrics") == pytest.approx(2 * (data - 1) / data * summed)
    axes = {(row.axis, row.kind) for row in found}
    assert axes == ({("tower", ALL_GATHER), ("tower", REDUCE_SCATTER)} if tower == 2 else set()) | (
        {("data", ALL_REDUCE)} if data > 1 else set()
    )


def test_compiled_step_equals_formula_with_batch_norms(short_config: ConfigDict) -> None:
    """A mean and a mean of squares per channel and pass; XLA sums conv1's with some of the gradients."""
    for layer in ("conv1", "fc6"):
        short_config.model[layer].post_ops = "batch_norm relu pool" if layer == "conv1" else "batch_norm relu"
    found, least = _sent(short_config, (2, 2))
    assert _bytes([row for row in found if row.direction == FORWARD], "bn6") == 4 * 2 * 16
    assert command.differences(found, least) == []


@pytest.mark.parametrize(("devices", "classes"), [(2, 10), (4, 16)])
def test_compiled_hybrid_step_equals_formula(devices: int, classes: int, short_config: ConfigDict) -> None:
    """By hand: fc6 to fc8 read 90, 32 and 32 numbers; fc8 is split where a tower has 8 units of it, and not where 5."""
    short_config.mesh.hybrid = True
    found, least = _sent(short_config, (devices, 1), classes)
    assert command.differences(found, least) == []
    share, batch, whole = (devices - 1) / devices, short_config.train.batch_size, classes == 10
    numbers = {"fc6": 90, "fc7": 32, "fc8": 32 / devices if whole else 32, "logits": 0 if whole else 16 / devices}
    for name, count in numbers.items():
        assert _bytes(found, name) == 2 * 4 * share * batch * count, name
    assert _bytes(found, "keys") == share * batch * 8
    everywhere = ["conv1", "conv3"] + (["fc8"] if whole else [])
    params = placement.variables(builder.model(short_config, classes), short_config.data.crop_pixels)["params"]
    summed = 3 + sum(leaf.size for name in everywhere for leaf in jax.tree.leaves(params[name]))
    assert _bytes(found, "gradients", "metrics") == 2 * share * 4 * summed
    assert {row.axis for row in found} == {"data"}


@pytest.mark.parametrize(("shape", "hybrid"), [((1, 2), False), ((2, 1), True)])
def test_bfloat16_halves_the_exchanges(shape: tuple[int, int], hybrid: bool, short_config: ConfigDict) -> None:
    """There and back; the logits, the keys and the sums stay as they are."""
    short_config.mesh.hybrid = hybrid
    short_config.mesh.exchange_dtype = "bfloat16"
    found, least = _sent(short_config, shape, classes=16)
    assert command.differences(found, least) == []
    whole = traffic.least(builder.model(short_config, 16), 67, Layout(*shape, hybrid), short_config.train.batch_size)
    for name in ("fc6", "fc7", "fc8"):
        assert _bytes(found, name) == _bytes(whole, name) / 2 > 0, name
    for name in ("logits", "keys", "gradients"):
        assert _bytes(found, name) == _bytes(whole, name), name


def test_norms_across_towers_gather_one_edge_too_many(short_config: ConfigDict) -> None:
    """Each tower gives both its edges where the other needs one: twice the least, and it is printed."""
    short_config.model.norm.across_towers = True
    found, least = _sent(short_config, (1, 2))
    assert _bytes(found, "norm1") == 2 * _bytes(least, "norm1") == 2 * 4 * 8 * 15 * 15 * 4
    assert command.differences(found, least) == [
        f"norm1 {way}: 28,800 bytes compiled, 14,400 by formula" for way in (FORWARD, BACKWARD)
    ]


def test_differences_name_missing_and_extra_collectives(short_config: ConfigDict) -> None:
    least = traffic.least(builder.model(short_config, 10), 67, Layout(1, 2), 8)
    lost = [row for row in least if row.layers != ("fc6",) or row.direction == FORWARD]
    assert command.differences(lost, least) == ["fc6 backward: 0 bytes compiled, 1,440 by formula"]
    more = [*least, Sent(("?",), FORWARD, "tower", ALL_REDUCE, 2, "float32", 40.0)]
    assert command.differences(more, least) == ["? forward: 40 bytes compiled, 0 by formula"]


# ---------------------------------------------------------------- the text of a compiled program

_NAMED = 'metadata={op_name="jit(step)/shard_map/transpose(jvp(vmap(AlexNet)))/exchange_fc6/reduce_scatter"}'


@pytest.mark.parametrize(
    ("groups", "axis", "devices"),
    [
        ("replica_groups={{0,1},{2,3}}", "tower", 2),
        ("replica_groups={{0,2},{1,3}}", "data", 2),
        ("replica_groups={{3,1},{2,0}}", "data", 2),
        ("replica_groups={{0,1,2,3}}", "data x tower", 4),
        ("replica_groups={}", "data x tower", 4),
        ("replica_groups={{0,3},{1,2}}", "?", 2),
        ("replica_groups=[2,2]<=[4]", "tower", 2),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", "data", 2),
        ("replica_groups=[1,4]<=[4]", "data x tower", 4),
        ("replica_groups=mesh['data'=2,'tower'=2] {'data'}", "data", 2),
        ("replica_groups=mesh['data'=2,'tower'=2] {'tower'}", "tower", 2),
        ("replica_groups=mesh['data'=2,'tower'=2] {'data','tower'}", "data x tower", 4),
    ],
)
def test_replica_groups_are_read_in_every_notation(groups: str, axis: str, devices: int) -> None:
    line = f"  %all-reduce.1 = f32[100]{{0}} all-reduce(%x), channel_id=1, {groups}, to_apply=%add, {_NAMED}"
    (row,) = compiled.collectives(line, _mesh((2, 2)))
    assert (row.axis, row.devices, row.bytes) == (axis, devices, 2 * (devices - 1) / devices * 400)


@pytest.mark.parametrize(
    ("text", "kind", "dtype", "sent", "arrays"),
    [
        ("f32[1,8,16]{1,0,2} all-gather(%x)", "all-gather", "float32", 256, 1),
        ("bf16[1,8,16]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%x)", "all-gather", "bfloat16", 128, 1),
        ("(f32[8,8]{1,0}, f32[8,16]{1,0}) all-gather-start(%x)", "all-gather", "float32", 256, 1),
        ("f32[8,8]{1,0} reduce-scatter(%x)", "reduce-scatter", "float32", 256, 1),
        ("((f32[8,16]{1,0}), f32[8,8]{1,0}, u32[]) reduce-scatter-start(%x)", "reduce-scatter", "float32", 256, 1),
        ("(f32[8]{0}, f32[2,4]{1,0}, /*index=2*/f32[]) all-reduce(%x, %y)", "all-reduce", "float32", 68, 3),
        ("(f32[8]{0}, bf16[8]{0}) all-reduce-start(%x, %y)", "all-reduce", "float32, bfloat16", 48, 2),
        ("(f32[4]{0}, f32[4]{0}) all-to-all(%x, %y)", "all-to-all", "float32", 16, 1),
        ("f32[2,4]{1,0} all-to-all(%x)", "all-to-all", "float32", 16, 1),
        ("pred[16]{0} all-gather(%x)", "all-gather", "pred", 8, 1),
    ],
)
def test_sent_bytes_follow_from_the_shapes(text: str, kind: str, dtype: str, sent: float, arrays: int) -> None:
    """Synchronous or not (then the shape is a pair of operands and results), alone or combined."""
    line = f"  %c.1 = {text}, replica_groups={{{{0,1}}}}, {_NAMED}"
    assert compiled.collectives(line, _mesh((1, 2))) == [
        Sent(("fc6",), BACKWARD, "tower", kind, 2, dtype, sent, arrays)
    ]


def test_collectives_have_the_names_of_their_layers() -> None:
    lines = """
  %a = f32[4]{0} all-reduce(%x), replica_groups={{0,1}}, metadata={op_name="jit(step)/(sum_gradients/psum:sum_metrics/psum)"}
  %b = f32[4]{0} all-gather(%x), replica_groups={{0,1}}, metadata={op_name="jit(step)/jvp(vmap(AlexNet))/split_fc7/all_gather"}
  %c = f32[4]{0} all-reduce(%x), replica_groups={{0,1}}
  %d = f32[4]{0} all-reduce-done(%c)
  %e = f32[4]{0} all-reduce(%x), replica_groups={{0},{1}}
  %f = f32[4]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
"""  # noqa: E501
    rows = compiled.collectives(lines, _mesh((2, 1)))
    assert [(row.layers, row.direction) for row in rows] == [
        (("gradients", "metrics"), BACKWARD), (("fc7",), FORWARD), (("?",), FORWARD), (("?",), FORWARD)
    ]  # fmt: skip


# ---------------------------------------------------------------- predictions


def _forecast(**changes: Any) -> Forecast:
    fields = {"per_device": 128, "images_per_second": 1000.0, "exchange_dtype": "float32"} | changes
    return Forecast(builder.model(get_config(), 1000), 224, **fields)


def test_two_towers_pay_below_a_batch_of_a_thousand() -> None:
    """988.5 = 60,965,224 gradients / (2 x 30,836 numbers per image), for each pair of any number of devices."""
    for devices in forecasts.DEVICES:
        per_pair = _forecast().pays_below(TOWERS, devices) / (devices / 2)
        assert per_pair == pytest.approx(60_965_224 / (2 * 30_836), rel=1e-3)
    half = _forecast(exchange_dtype="bfloat16").pays_below(TOWERS, 2)
    assert half == pytest.approx(60_965_224 / (30_336 + 2 * 500), rel=1e-3)  # the logits stay in float32


def test_hybrid_pays_below_a_batch_of_four_thousand() -> None:
    """On 1,024 devices, where only fc6 and fc7 are split and fc8 gets its inputs back for its own examples."""
    fc6, fc7 = 4096 * 9216 + 4096, 4096 * 4096 + 4096
    per_image = 9216 + 4096 + 4096 / 1024 + 1  # and a key of 8 bytes, forward alone
    assert _forecast().pays_below(HYBRID, 1024) == pytest.approx((fc6 + fc7) / per_image, rel=1e-6)
    assert traffic.split_layers(_forecast().model, 1024) == ("fc6", "fc7")
    assert traffic.split_layers(_forecast().model, 4) == ("fc6", "fc7", "fc8")


def test_predicted_time_equals_one_by_hand() -> None:
    """Computing, bytes over bandwidth, latency times messages."""
    ethernet = next(link for link in LINKS if link.name == "10 Gb Ethernet")
    parameters = 4 * (60_965_224 + 3)
    by_hand = 0.128 + 2 * 7 / 8 * parameters / 1.25e9 + 2 * 7 * 14e-6
    assert _forecast().seconds(DATA_PARALLEL, 8, ethernet) == pytest.approx(by_hand)
    exchanged = 2 * 30_836 * 4 * 256  # a pair has 256 images, and each tower sees all of them
    by_hand = 0.128 + (exchanged + 2 * 3 / 4 * (parameters / 2 + 6)) / 1.25e9 + (2 * 5 + 2 * 3) * 14e-6
    assert _forecast().seconds(TOWERS, 8, ethernet) == pytest.approx(by_hand)


def test_one_tower_has_two_placements() -> None:
    model = builder.model(configs.load_recipe("half:imagenet2012"), 1000)
    forecast = Forecast(model, 224, 128, 1000.0, "float32")
    assert forecast.placements() == (DATA_PARALLEL, HYBRID)
    assert forecasts.table(forecast)[4].split() == ["devices", "data", "parallel", "hybrid"]


# ---------------------------------------------------------------- the command


def test_command_prints_tables_and_draws_a_plot(
    small_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "traffic.png"
    command.main(["--config=alexnet:digits", *small_flags, f"--output={plot}", "--images_per_second=500"])
    printed = capsys.readouterr().out
    assert printed.startswith("10 classes; 4 cpu device(s), data 2 x tower 2;\n")
    assert "by formula: they agree." in printed
    assert "XLA combined 19 arrays (gradients, metrics) into one collective." in printed
    assert "8 images per device: 16.0 ms of computing (500 images/s per device)" in printed
    rows = [line.split() for line in printed.splitlines() if re.match(" *(2|1024) ", line)]
    assert len(rows) == 2 * (len(LINKS) + 1)
    assert rows[-1] == ["1024", *rows[-1][1:3], "-", "-"]  # no layer has so many units: the hybrid is data parallel
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert printed.endswith(f"wrote {plot}\n")


def test_one_device_sends_nothing(small_config: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "mesh", lambda _: _mesh((1, 1)))
    assert command.traffic_of(small_config).splitlines()[2].startswith("One device sends nothing")


@pytest.mark.parametrize("rate", ["0", "-3", "nan", "many", "1e10"])
def test_impossible_rate_is_an_error(rate: str) -> None:
    with pytest.raises(AlexNetError, match="--images_per_second"):
        command.main(["--config=half", f"--images_per_second={rate}"])
