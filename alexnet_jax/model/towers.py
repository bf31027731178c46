"""The axis between the towers: the mesh, the one exchange that crosses it, and how the program of a tower runs on it.

The network is written for *one tower*. `gather_towers` is the only thing that tower ever says to
the other one. How the axis is realized is decided here and nowhere else; every `vmap` over towers
and every `shard_map` of the project is in this file:

* both towers on one device: `jax.vmap` with the axis name `tower`;
* one tower on each of two devices: the mesh axis `tower` under `jax.shard_map`, inside one jitted step.

In the hybrid placement of 2014 the other axis, `data`, carries activations too: the functions for that stand beside
`gather_towers`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alexnet_jax.errors import AlexNetError

DATA, TOWER = "data", "tower"

# The whole sharding of the project. Every parameter has a leading tower axis of size T; the batch
# is split over `data`, and every tower sees its whole share of it.
# In the hybrid placement the last axis, the units, of a fully connected layer is split over `data`.
TOWER_SHARDED, BATCH_SHARDED, REPLICATED = PartitionSpec(TOWER), PartitionSpec(DATA), PartitionSpec()


# ---------------------------------------------------------------- what crosses the towers


def gather_towers(x: jax.Array, layer: str, dtype: str = "float32") -> jax.Array:
    """[..., C] of this tower -> [..., T * C], the channels of all towers in order.

    The exchange of the 2012 network at conv3, fc6, fc7 and fc8 (paper, section 3.2). `layer` is the one it serves: the
    compiled program names the exchange `exchange_conv3`. `dtype` is what crosses, there and as a gradient back: the
    2012 source tried half precision (layer-params-170-quant.cfg: quantF, quantB): 40.52 % against 40.53 % top-1 error
    with ten crops, 42.57 % against 42.34 % with one. It rounds the same where towers share a
    device, and nothing where there is one tower.
    """
    with jax.named_scope(f"exchange_{layer}"):
        return _gather(x, TOWER, x.ndim - 1, "float32" if jax.lax.axis_size(TOWER) == 1 else dtype)


def with_neighbors(x: jax.Array, before: int, after: int, gather: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """[..., C] -> [..., before + C + after]: the last channels of the tower before, the first of the one after.

    Zeros where there is no such tower. Raises AlexNetError where a tower has fewer channels than that.
    """
    channels = x.shape[-1]
    if channels < max(before, after):
        raise AlexNetError(
            f"A response norm across towers reaches over {max(before, after)} channels to each side, but a tower has "
            f"{channels}: use a smaller config.model.norm.size, or more features."
        )
    first, last = x[..., :after], x[..., channels - before :]
    edges = gather(jnp.concatenate([first, last], axis=-1))
    edges = edges.reshape(*x.shape[:-1], -1, first.shape[-1] + last.shape[-1])  # [..., T, first and last]
    tower, none = jax.lax.axis_index(TOWER), ((0, 0),) * (x.ndim - 1)
    edges = jnp.pad(edges, (*none, (1, 1), (0, 0)))
    left = jax.lax.dynamic_index_in_dim(edges, tower, x.ndim - 1, keepdims=False)[..., first.shape[-1] :]
    right = jax.lax.dynamic_index_in_dim(edges, tower + 2, x.ndim - 1, keepdims=False)[..., : first.shape[-1]]
    return jnp.concatenate([left, x, right], axis=-1)


def _gather(x: jax.Array, axis_name: str, axis: int, dtype: str) -> jax.Array:
    """`all_gather` along `axis`, which carries `dtype` there and back; x and the result are of one type."""
    if dtype == "float32":
        return jax.lax.all_gather(x, axis_name, axis=axis, tiled=True)
    mesh, size = jax.sharding.get_abstract_mesh(), jax.lax.axis_size(axis_name)
    if axis_name in mesh.manual_axes and mesh.shape[axis_name] == size:
        gathered: jax.Array = _GATHER.bind(x, axis_name=axis_name, axis=axis, dtype=dtype, size=size)
        return gathered
    # The axis of a vmap: nothing travels, and what would is rounded. A copy for each, so that each gradient is, too.
    copies = _round(jnp.stack([x.astype(jnp.float32)] * size), dtype).astype(x.dtype)
    return jnp.concatenate(list(jax.lax.all_to_all(copies, axis_name, split_axis=0, concat_axis=0)), axis=axis)


def _all_to_all(x: jax.Array, axis_name: str, *, split: int, concat: int, dtype: str) -> jax.Array:
    """`all_to_all` over a mesh axis, which carries `dtype` there and back; x and the result are of one type."""
    if dtype == "float32":
        return jax.lax.all_to_all(x, axis_name, split_axis=split, concat_axis=concat, tiled=True)
    size = jax.lax.axis_size(axis_name)
    swapped: jax.Array = _ALL_TO_ALL.bind(x, axis_name=axis_name, split=split, concat=concat, dtype=dtype, size=size)
    return swapped


# As bfloat16 XLA:CPU would carry float32, so its bits travel, as integers. Those have no derivatives in JAX; the two
# primitives around them have, linear as they are, and every other transformation.


def _gather_bits(x: jax.Array, *, axis_name: str, axis: int, dtype: str, size: int) -> jax.Array:
    return _from_bits(jax.lax.all_gather(_to_bits(x, dtype), axis_name, axis=axis, tiled=True), dtype, x.dtype)


def _gather_transpose(g: jax.Array, _: Any, *, axis_name: str, axis: int, dtype: str, size: int) -> list[jax.Array]:
    """What a reduce-scatter sends, but summed in float32, in the same order everywhere."""
    from_each = _all_to_all(jnp.stack(jnp.split(g, size, axis)), axis_name, split=0, concat=0, dtype=dtype)
    return [from_each.astype(jnp.float32).sum(axis=0).astype(g.dtype)]


def _all_to_all_bits(x: jax.Array, *, axis_name: str, split: int, concat: int, dtype: str, size: int) -> jax.Array:
    bits = jax.lax.all_to_all(_to_bits(x, dtype), axis_name, split_axis=split, concat_axis=concat, tiled=True)
    return _from_bits(bits, dtype, x.dtype)


def _all_to_all_transpose(g: jax.Array, _: Any, *, split: int, concat: int, **options: Any) -> list[jax.Array]:
    return [_ALL_TO_ALL.bind(g, split=concat, concat=split, **options)]


def _primitive(run: Callable[..., jax.Array], transpose: Callable[..., list[jax.Array]], axes: tuple[str, ...]) -> Any:
    """`run`, a linear collective of one array along the `axes` among its options, as a primitive."""
    primitive = Primitive(run.__name__.strip("_"))

    def abstract(x: Any, *, size: int, **options: Any) -> Any:
        shape = list(x.shape)
        if "split" in axes:
            shape[options["split"]] //= size
        shape[options[axes[-1]]] *= size
        return x.update(shape=tuple(shape))

    def batched(operands: Any, dims: Any, **options: Any) -> Any:
        further = options | {axis: options[axis] + 1 for axis in axes}
        return primitive.bind(jnp.moveaxis(operands[0], dims[0], 0), **further), 0

    primitive.def_impl(run)
    primitive.def_abstract_eval(abstract)
    ad.deflinear2(primitive, transpose)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))
    return primitive


_GATHER = _primitive(_gather_bits, _gather_transpose, ("axis",))
_ALL_TO_ALL = _primitive(_all_to_all_bits, _all_to_all_transpose, ("split", "concat"))


def _round(x: jax.Array, dtype: str) -> jax.Array:
    """x rounded to `dtype`, and so its gradient. XLA may drop a conversion there and back, but not this."""
    bits = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, bits.nexp, bits.nmant)


def _to_bits(x: jax.Array, dtype: str) -> jax.Array:
    return jax.lax.bitcast_convert_type(_round(x, dtype).astype(dtype), jnp.uint16)


def _from_bits(bits: jax.Array, dtype: str, wanted: Any) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, dtype).astype(wanted)


# ---------------------------------------------------------------- what crosses the replicas, in the hybrid placement
#
# Over the N devices of `data`, x is one of: [b, C], own examples and all units; [N * b, C], all of both;
# [N * b, C / N], all examples and own units, as a layer gives that is split by units.


def gather_examples(x: jax.Array, layer: str, dtype: str = "float32") -> jax.Array:
    """[b, ...] of each device -> [N * b, ...] on all of them, for a split layer after a whole one.

    `layer` and `dtype` are as in `gather_towers`; the compiled program names it `split_fc6`, as the next two.
    """
    with jax.named_scope(f"split_{layer}"):
        return _gather(x, DATA, 0, dtype)


def gather_units(x: jax.Array, layer: str, dtype: str = "float32") -> jax.Array:
    """[N * b, u] of each device -> [N * b, N * u] on all of them, for a split layer after another one."""
    with jax.named_scope(f"split_{layer}"):
        return _gather(x, DATA, 1, dtype)


def units_to_examples(x: jax.Array, layer: str, dtype: str = "float32") -> jax.Array:
    """[N * b, u] -> [b, N * u], for a whole layer, or the loss, after a split layer."""
    with jax.named_scope(f"split_{layer}"):
        return _all_to_all(x, DATA, split=0, concat=1, dtype=dtype)


def own_units(x: jax.Array, split_over: int) -> jax.Array:
    """[..., N * u] -> [..., u], this device's of N = `split_over`."""
    if split_over == 1:
        return x
    units = x.shape[-1] // split_over
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(DATA) * units, units, axis=x.ndim - 1)


def gather_keys(keys_B: jax.Array) -> jax.Array:
    """[b] keys of each device -> [N * b] on all of them."""
    with jax.named_scope("split_keys"):
        data = jax.lax.all_gather(jax.random.key_data(keys_B), DATA, axis=0, tiled=True)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys_B))


# ---------------------------------------------------------------- the mesh, and how a program runs on it


def make_mesh(*, towers: int, tower: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh `data` x `tower` over `devices` (all of them when None).

    `towers` is how many towers the network has; `tower` over how many devices they are spread:
    1 keeps them together, `towers` gives each its own, 0 spreads them wherever the number of devices
    is a multiple of `towers`. The devices with the towers of one network have the fastest links to each other: one
    process or host, neighbors on a TPU. The rows of a process follow each other, as `feed_share` needs them.

    Raises AlexNetError when the devices cannot be laid out that way.
    """
    devices = jax.devices() if devices is None else devices
    if tower == 0:
        tower = towers if len(devices) % towers == 0 else 1
    if tower not in (1, towers):
        raise AlexNetError(
            f"config.mesh.tower={tower} does not suit a network of {towers} tower(s): "
            f"use 1 (together), {towers} (one device each) or 0 (choose)."
        )
    if len(devices) % tower:
        raise AlexNetError(
            f"config.mesh.tower={tower} needs a multiple of {tower} devices, and there are {len(devices)}: "
            f"use config.mesh.tower=1, or virtual devices on a CPU (jax_num_cpu_devices={tower})."
        )
    grid = _grid(devices, tower)
    crossing = sum(len({device.process_index for device in row}) > 1 for row in grid)
    if 0 < crossing < len(grid):
        raise AlexNetError(
            f"The towers of {crossing} of {len(grid)} replicas would be in different processes and those of the others "
            "in one: start each process with the same number of devices, a multiple of config.mesh.tower or a divisor "
            "of it."
        )
    return Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Auto, AxisType.Auto))


def _grid(devices: Sequence[Any], tower: int) -> np.ndarray:
    """The devices as `data` x `tower`, in the order of slices (of a GPU cluster: hosts) and processes.

    On a TPU each row is as `mesh_utils` has it, but the rows of a process, which its torus scatters, are together.
    """
    slices = Counter(_slice(device) for device in devices)
    devices = sorted(devices, key=lambda device: (_slice(device), device.process_index))  # else as they were given
    plain = np.asarray(devices).reshape(-1, tower)
    if devices[0].platform != "tpu" and len(slices) == 1:
        return plain
    each = len(devices) // len(slices)
    if set(slices.values()) != {each} or each % tower:
        return plain  # towers cross slices whatever one does
    try:
        if len(slices) > 1:
            torus = mesh_utils.create_hybrid_device_mesh(
                (each // tower, tower), (len(slices), 1), devices, allow_split_physical_axes=True
            )
        else:
            torus = mesh_utils.create_device_mesh(plain.shape, devices, allow_split_physical_axes=True)
    except (AssertionError, NotImplementedError, ValueError):
        return plain  # a part of a TPU that is not a box
    owners = [row[0].process_index for row in torus]
    return torus[np.argsort([owners.index(owner) for owner in owners], stable=True)]


def _slice(device: Any) -> int:
    """Devices of one slice have fast links to each other; those of a single process have no such number on a CPU."""
    return int(getattr(device, "slice_index", 0) or 0)


def check_mesh(mesh: Mesh, *, towers: int) -> None:
    """Raises AlexNetError for a mesh that is not `data` x `tower`, or cannot hold so many towers."""
    if tuple(mesh.axis_names) != (DATA, TOWER) or mesh.shape[TOWER] not in (1, towers):
        shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
        raise AlexNetError(
            f"mesh has the axes {shape}, but a network of {towers} tower(s) needs data x tower with 1 or {towers} "
            f"towers: use model.towers.make_mesh(towers={towers}, tower=1)."
        )


def over_towers(program: Callable[..., Any], *, mesh: Mesh | None = None, out_axes: Any = None) -> Callable[..., Any]:
    """`program(variables, *inputs)` of one tower, as a function of the variables that this device holds.

    Their leading axis has size T where the towers live together (or `mesh` is None), and size 1
    where each has a device of its own; then the call must be inside `sharded` over `mesh`.
    `out_axes` is as for `jax.vmap`: None for a result that is the same on every tower, as anything
    that went through `gather_towers` is, and 0 for one that each tower has for itself.
    """

    def run(variables: Any, *inputs: Any) -> Any:
        axes = (0,) + (None,) * len(inputs)
        if mesh is None or mesh.shape[TOWER] == 1:
            return jax.vmap(program, in_axes=axes, out_axes=out_axes, axis_name=TOWER)(variables, *inputs)

        # A vmap of size 1, not variables[0]: the operations in layers.py that say how they run for
        # several towers then take one path everywhere, and their gradients with them.
        def same_or_own(axis: int | None, result: Any) -> Any:
            return result if axis == 0 else jax.tree.map(lambda leaf: leaf[0], result)

        results = jax.vmap(program, in_axes=axes)(variables, *inputs)
        return jax.tree.map(same_or_own, out_axes, results, is_leaf=lambda axis: axis is None)

    return run


def sharded(
    function: Callable[..., Any], *, mesh: Mesh, in_specs: Any, out_specs: Any, donate_argnums: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """`function`, written for one device of `mesh`, as one jitted program over all of them.

    `check_vma` is off, in evaluation too, where JAX 0.10.2 with it refuses every mesh, that of one device as well. What
    comes of parameters varies over `tower`, and a gather over the axis of a vmap, of towers that share a device, leaves
    it so; over that of the mesh, `to="invarying"` would do, but its transpose is not the sum that training needs. It
    also wants every sum over `data` written out, even over one device, where XLA:CPU copies all gradients for it.
    """
    program = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    # A GPU stores float32 where XLA drops a rounding to bfloat16 and back.
    options = {"xla_allow_excess_precision": False} if mesh.devices.flat[0].platform == "gpu" else None
    return jax.jit(program, donate_argnums=donate_argnums, compiler_options=options)


def sum_over_data(tree: Any, mesh: Mesh, what: str, specs: Any = REPLICATED) -> Any:
    """The sum of each leaf over the mesh axis `data`, inside `sharded` over `mesh`.

    `what` is summed: the compiled program names it `sum_gradients` for "gradients". A leaf that `specs`, a prefix of
    the tree, splits over `data` stays as it is: its device alone has it, for the whole batch.
    """
    if mesh.shape[DATA] == 1:
        return tree  # XLA:CPU does not see that a sum over one device is a no-op, and copies every gradient through it
    with jax.named_scope(f"sum_{what}"):
        return jax.tree.map(lambda spec, part: part if DATA in spec else jax.lax.psum(part, DATA), specs, tree)


def feed_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process feeds part `index` of `count` equal parts of every global batch.

    Processes whose devices hold different towers of the same images feed the same part.
    """
    owners = np.asarray([device.process_index for device in mesh.devices.flat]).reshape(mesh.devices.shape)
    rows_of = {int(owner): np.flatnonzero((owners == owner).any(axis=1)) for owner in np.unique(owners)}
    # Every process checks all of them, so that all stop together where one cannot be fed.
    for rows in rows_of.values():
        size = len(rows)
        aligned = len(owners) % size == 0 and rows[0] % size == 0 and rows[-1] == rows[0] + size - 1
        if not aligned or size != len(rows_of[0]):
            raise AlexNetError(
                f"The mesh data {mesh.shape[DATA]} x tower {mesh.shape[TOWER]} cuts across processes: "
                "start each with the same number of devices, a multiple of config.mesh.tower or a divisor of it."
            )
    mine = rows_of[jax.process_index()]
    return int(mine[0]) // len(mine), len(owners) // len(mine)


def on_every_device(tree: Any, mesh: Mesh) -> Any:
    """Small arrays that every process has alike, as arrays of the whole mesh."""
    sharding = NamedSharding(mesh, REPLICATED)

    def spread(leaf: Any) -> jax.Array:
        here = np.asarray(leaf)
        return jax.make_array_from_callback(here.shape, sharding, lambda _: here)

    return jax.tree.map(spread, tree)


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch [b, ...] -> global arrays [B, ...] split over `data`."""
    count = mesh.shape[DATA] // mesh.local_mesh.shape[DATA]  # of `feed_share`, which has checked the mesh
    sharding = NamedSharding(mesh, BATCH_SHARDED)
    return {
        name: jax.make_array_from_process_local_data(sharding, part, (part.shape[0] * count, *part.shape[1:]))
        for name, part in batch.items()
    }
