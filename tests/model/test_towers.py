"""The mesh, the verb that crosses it, and which process feeds what."""

import itertools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict
from tpu_slices import Device, devices_of

from alexnet_jax import builder
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import towers
from alexnet_jax.train import start
from benchmarks.deviceless import TOPOLOGIES

P = PartitionSpec


@pytest.mark.parametrize(
    ("network", "tower", "shapes"),
    [
        (2, 1, {1: (1, 1), 2: (2, 1), 3: (3, 1), 4: (4, 1)}),
        (2, 2, {2: (1, 2), 4: (2, 2)}),
        (2, 0, {1: (1, 1), 2: (1, 2), 3: (3, 1), 4: (2, 2)}),
        (1, 0, {1: (1, 1), 4: (4, 1)}),
        (4, 0, {2: (2, 1), 4: (1, 4)}),
    ],
)
def test_the_mesh(network: int, tower: int, shapes: dict[int, tuple[int, int]]) -> None:
    """Together, apart, or as the devices allow; neighboring devices hold the towers of one network."""
    for count, shape in shapes.items():
        mesh = towers.make_mesh(towers=network, tower=tower, devices=jax.devices()[:count])
        assert mesh.axis_names == ("data", "tower")
        assert mesh.devices.shape == shape
        assert mesh.devices.ravel().tolist() == jax.devices()[:count]
    assert towers.make_mesh(towers=network, tower=tower).size == len(jax.devices())


@pytest.mark.parametrize(
    ("network", "devices", "tower", "message"),
    [
        (2, 4, 3, r"mesh\.tower=3 does not suit a network of 2 tower\(s\): use 1 .* 2 .* or 0"),
        (1, 4, 2, r"mesh\.tower=2 does not suit a network of 1 tower\(s\)"),
        (2, 1, 2, r"mesh\.tower=2 needs a multiple of 2 devices, and there are 1:.*jax_num_cpu_devices=2"),
        (2, 3, 2, r"mesh\.tower=2 needs a multiple of 2 devices, and there are 3: use config\.mesh\.tower=1"),
    ],
)
def test_a_mesh_that_cannot_be_is_one_sentence(network: int, devices: int, tower: int, message: str) -> None:
    with pytest.raises(AlexNetError, match=message):
        towers.make_mesh(towers=network, tower=tower, devices=jax.devices()[:devices])


def test_gather_towers_puts_the_towers_in_order() -> None:
    """Every tower gets tower 0's channels, then tower 1's, and so on, whatever realizes the axis."""
    x = np.arange(3 * 2 * 5, dtype=np.float32).reshape(3, 2, 5)
    wanted = np.concatenate([x[0], x[1], x[2]], axis=-1)
    by_vmap = jax.vmap(lambda x: towers.gather_towers(x, "conv3"), axis_name="tower")(x)
    mesh = towers.make_mesh(towers=3, tower=3, devices=jax.devices()[:3])
    by_shard_map = jax.shard_map(
        lambda x: towers.gather_towers(x[0], "conv3")[None], mesh=mesh, in_specs=P("tower"), out_specs=P("tower")
    )(x)
    for t in range(3):
        np.testing.assert_array_equal(by_vmap[t], wanted)
        np.testing.assert_array_equal(by_shard_map[t], wanted)


def _program(params: dict[str, jax.Array], x: jax.Array, scale: jax.Array) -> jax.Array:
    """A network of one tower: a layer of its own, an exchange, a layer that sees both."""
    hidden = towers.gather_towers(jnp.sin(x @ params["first"]) * scale, "second")
    return towers.gather_towers(hidden @ params["second"], "logits")


@pytest.mark.parametrize(
    ("devices", "tower"), [(None, 1), (1, 1), (2, 2)], ids=["no-mesh", "together", "a-device-each"]
)
def test_over_towers_is_a_loop_over_towers(devices: int | None, tower: int) -> None:
    """The same numbers, and one result and not one a tower, however the towers are placed."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 8, 5))
    x, scale = rng.normal(size=(6, 3)), np.float64(0.7)
    hidden = np.concatenate([np.sin(x @ first[t]) * scale for t in range(2)], axis=-1)
    wanted = np.concatenate([hidden @ second[t] for t in range(2)], axis=-1)

    args = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), ({"first": first, "second": second}, x, scale))
    if devices is None:
        got = towers.over_towers(_program)(*args)
    else:
        mesh = towers.make_mesh(towers=2, tower=tower, devices=jax.devices()[:devices])
        got = jax.jit(
            jax.shard_map(
                towers.over_towers(_program, mesh=mesh),
                mesh=mesh,
                in_specs=(towers.TOWER_SHARDED, towers.BATCH_SHARDED, towers.REPLICATED),
                out_specs=towers.BATCH_SHARDED,
                check_vma=False,
            )
        )(*args)
    assert got.shape == (6, 10)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def _rounded(x: np.ndarray) -> np.ndarray:
    return np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("tower", [1, 3], ids=["together", "a-device-each"])
def test_a_gather_in_bfloat16_rounds_once_each_way(tower: int) -> None:
    """By hand: what arrives is rounded; the gradients that come back are rounded each, and summed in float32."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(3, 2, 5)).astype(np.float32), rng.normal(size=(3, 2, 15)).astype(np.float32)
    mesh = towers.make_mesh(towers=3, tower=tower, devices=jax.devices()[:tower])

    def program(own: dict[str, jax.Array]) -> jax.Array:
        return towers.gather_towers(own["x"], "conv3", "bfloat16") * own["weights"]

    def both(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        run = towers.over_towers(program, mesh=mesh, out_axes=0)
        return run({"x": x, "weights": weights}), jax.grad(lambda x: run({"x": x, "weights": weights}).sum())(x)

    specs = (towers.TOWER_SHARDED, towers.TOWER_SHARDED)
    there, back = jax.jit(jax.shard_map(both, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False))(x, weights)
    np.testing.assert_array_equal(there, np.concatenate(_rounded(x), axis=-1)[None] * weights)
    asked = _rounded(weights).reshape(3, 2, 3, 5)  # [who asks, example, of whom, channel]
    np.testing.assert_allclose(back, asked.sum(axis=0).transpose(1, 0, 2), rtol=1e-6)
    assert np.abs(np.asarray(back) - weights.reshape(3, 2, 3, 5).sum(axis=0).transpose(1, 0, 2)).max() > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_verbs_between_replicas(dtype: str) -> None:
    """Four devices: own examples to all, own units to all, and own units to own examples, with their gradients."""
    mesh = towers.make_mesh(towers=1, tower=1)
    own_examples, own_units, everywhere = P("data"), P(None, "data"), P()
    x = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    wanted = x if dtype == "float32" else _rounded(x)
    for verb, before, after in (
        (towers.gather_examples, own_examples, everywhere),
        (towers.gather_units, own_units, everywhere),
        (towers.units_to_examples, own_units, own_examples),
    ):

        def both(x: jax.Array, g: jax.Array, verb: Any = verb) -> tuple[jax.Array, jax.Array]:
            y, back = jax.vjp(lambda x: verb(x, "fc6", dtype), x)
            return y, back(g)[0]

        there, back = jax.jit(
            jax.shard_map(both, mesh=mesh, in_specs=(before, after), out_specs=(after, before), check_vma=False)
        )(x, x)
        np.testing.assert_array_equal(there, wanted)
        # Each of the four asks for x where all of them have it.
        np.testing.assert_allclose(back, (4 if after == everywhere else 1) * wanted, rtol=1e-6)


def test_a_share_of_the_units() -> None:
    mesh = towers.make_mesh(towers=1, tower=1)
    x = np.arange(24.0, dtype=np.float32).reshape(2, 12)
    share = jax.shard_map(
        lambda x: towers.own_units(x, 4), mesh=mesh, in_specs=P(), out_specs=P(None, "data"), check_vma=False
    )
    np.testing.assert_array_equal(share(x), x)


def _grid(owners: list[tuple[int, int]], tower: int) -> list[list[int]]:
    """The ids on the mesh of devices given as (slice, process) of each."""
    devices = [Device(number, process, where) for number, (where, process) in enumerate(owners)]
    mesh = towers.make_mesh(towers=2, tower=tower, devices=devices)
    return [[device.id for device in row] for row in mesh.devices]


def test_towers_of_a_replica_stay_in_one_process_and_one_host() -> None:
    """However the devices are ordered, and crossing only where a process, or a host, has a single one."""
    assert _grid([(0, 0), (0, 1), (0, 0), (0, 1)], 2) == [[0, 2], [1, 3]]
    assert _grid([(0, 0), (0, 1), (0, 2), (0, 3)], 2) == [[0, 1], [2, 3]]  # a process per device
    assert _grid([(0, 0), (1, 1), (0, 2), (1, 3)], 2) == [[0, 2], [1, 3]]  # ... in turn on two hosts
    assert _grid([(0, 0), (0, 0), (1, 1), (1, 1)], 2) == [[0, 1], [2, 3]]
    assert _grid([(0, 0), (1, 1)], 2) == [[0, 1]]
    assert _grid([(0, 0), (0, 1), (0, 0), (0, 1)], 1) == [[0], [2], [1], [3]]


def test_a_part_of_a_tpu_that_is_no_box() -> None:
    assert towers.make_mesh(towers=2, tower=1, devices=devices_of("v4:2x2x2")[:3]).devices.shape == (3, 1)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_tpu_slice_can_be_fed(topology: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and two of them: the shares of the processes are a partition, towers at most one link apart."""
    for slices, tower in itertools.product((1, 2), (1, 2)):
        devices = devices_of(topology, slices)
        mesh = towers.make_mesh(towers=2, tower=tower, devices=devices)
        assert mesh.devices.shape == (len(devices) // tower, tower)
        assert {device.id for device in mesh.devices.flat} == set(range(len(devices)))
        for row in mesh.devices:
            assert len({(device.process_index, device.slice_index) for device in row}) == 1
            assert np.abs(np.subtract(row[0].coords, row[-1].coords)).sum() <= 1
        owners = [device.process_index for device in mesh.devices[:, 0]]
        neighbors = [owner for owner, _ in itertools.groupby(owners)]
        assert sorted(neighbors) == sorted(set(owners))
        some = len(neighbors) // 64 + 1  # of the largest slices: a call reads the whole mesh
        for share, process in [*enumerate(neighbors)][::some]:
            monkeypatch.setattr(jax, "process_index", lambda process=process: process)
            assert towers.feed_share(mesh) == (share, len(neighbors))


@pytest.mark.parametrize("owners", [[(0, 0), (0, 0), (0, 0), (0, 1)], [(0, 0), (0, 1), (0, 1), (0, 1)]])
def test_a_replica_that_crosses_where_others_do_not_is_refused(owners: list[tuple[int, int]]) -> None:
    with pytest.raises(AlexNetError, match="towers of 1 of 2 replicas would be in different processes"):
        _grid(owners, 2)


@pytest.mark.parametrize(("owners", "crossing"), [([0, 0, 1, 1], False), ([0, 1], True)])
def test_a_run_says_where_exchanges_cross_processes(
    owners: list[int], crossing: bool, small_config: ConfigDict
) -> None:
    mesh = towers.make_mesh(towers=2, tower=2, devices=[Device(n, owner) for n, owner in enumerate(owners)])
    said = start._describe_placement(builder.model(small_config, 10), mesh)
    assert "they exchange at conv3, fc6, fc7, fc8" in said
    assert ("between processes" in said) == crossing


def _mesh_of_processes(owners: list[int], tower: int) -> Any:
    """What `feed_share` reads of a mesh whose devices belong to these processes, in order."""
    devices = np.array([SimpleNamespace(process_index=owner) for owner in owners]).reshape(-1, tower)
    return SimpleNamespace(devices=devices, shape={"data": devices.shape[0], "tower": tower})


@pytest.mark.parametrize(
    ("owners", "tower", "shares"),
    [
        ([0, 0, 0, 0], 1, [(0, 1)]),
        ([0, 0, 0, 0], 2, [(0, 1)]),
        ([0, 1], 1, [(0, 2), (1, 2)]),
        ([0, 1], 2, [(0, 1), (0, 1)]),  # the towers of one network: both need all images
        ([0, 0, 1, 1], 1, [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], 2, [(0, 2), (1, 2)]),
        ([0, 1, 2, 3], 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], 2, [(0, 3), (1, 3), (2, 3)]),
    ],
)
def test_the_share_of_each_process(
    owners: list[int], tower: int, shares: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that hold other images feed other parts; those that hold other towers of them the same part."""
    for process, wanted in enumerate(shares):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert towers.feed_share(_mesh_of_processes(owners, tower)) == wanted


@pytest.mark.parametrize(
    ("owners", "tower"),
    [([0, 1, 0, 1], 1), ([0, 1, 1, 0], 1), ([0, 1, 1], 1), ([0, 0, 1], 1), ([0, 0, 0, 1], 2), ([0, 0, 0, 1, 1, 1], 2)],
)
def test_uneven_processes_all_stop_with_the_same_sentence(
    owners: list[int], tower: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that went on alone would wait for the others for ever."""
    for process in set(owners):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with pytest.raises(AlexNetError, match="same number of devices"):
            towers.feed_share(_mesh_of_processes(owners, tower))


@pytest.mark.parametrize("tower", [1, 2])
def test_to_devices_splits_the_examples(tower: int) -> None:
    """Each row of the mesh gets its part of the batch, in order, and all towers of a row the same part."""
    mesh = towers.make_mesh(towers=2, tower=tower)
    images = np.arange(8 * 2 * 2 * 3, dtype=np.uint8).reshape(8, 2, 2, 3)
    batch = {"image": images, "label": np.arange(8, dtype=np.int32)}
    arrays = towers.to_devices(batch, mesh)
    rows, each = 4 // tower, 8 * tower // 4
    for name, part in batch.items():
        assert arrays[name].shape == part.shape
        assert arrays[name].dtype == part.dtype
        assert arrays[name].sharding.spec == P("data")
        on_device = {shard.device: shard.data for shard in arrays[name].addressable_shards}
        assert len(on_device) == 4
        for row in range(rows):
            for device in mesh.devices[row]:
                np.testing.assert_array_equal(on_device[device], part[row * each : (row + 1) * each])
