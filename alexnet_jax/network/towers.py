"""The axis between the towers: the mesh, the one verb that crosses it, and how a tower program runs on it.

The network is written for *one tower*. `gather_towers` is the only thing that tower ever says to
the other one. How the axis is realized is decided here and nowhere else; every `vmap` over towers
and every `shard_map` of the project is in this file:

* both towers on one device: `jax.vmap` with the axis name `tower`;
* one tower on each of two devices: the mesh axis `tower` under `jax.shard_map`, inside one jitted step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alexnet_jax.errors import AlexNetError

DATA, TOWER = "data", "tower"

# The whole sharding of the project. Every parameter has a leading tower axis of size T; the batch
# is split over `data`, and every tower sees its whole share of it.
PER_TOWER, PER_EXAMPLE, EVERYWHERE = PartitionSpec(TOWER), PartitionSpec(DATA), PartitionSpec()


def gather_towers(x: jax.Array, layer: str) -> jax.Array:
    """[..., C] of this tower -> [..., T * C], the channels of all towers in order.

    The exchange of the 2012 network at conv3, fc6, fc7 and fc8 (paper, section 3.2). `layer` is the one it serves: the
    compiled program names the exchange `exchange_conv3`.
    """
    with jax.named_scope(f"exchange_{layer}"):
        return jax.lax.all_gather(x, TOWER, axis=x.ndim - 1, tiled=True)


def make_mesh(*, towers: int, tower: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh `data` x `tower` over `devices` (all of them when None).

    `towers` is how many towers the network has; `tower` over how many devices they are spread:
    1 keeps them together, `towers` gives each its own, 0 spreads them wherever the number of devices
    is a multiple of `towers`. Neighboring devices hold the towers of one network.

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
    grid = np.asarray(devices).reshape(-1, tower)
    return Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Auto, AxisType.Auto))


def check_mesh(mesh: Mesh, *, towers: int) -> None:
    """Raises AlexNetError for a mesh that is not `data` x `tower`, or cannot hold so many towers."""
    if tuple(mesh.axis_names) != (DATA, TOWER) or mesh.shape[TOWER] not in (1, towers):
        shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
        raise AlexNetError(
            f"mesh has the axes {shape}, but a network of {towers} tower(s) needs data x tower with 1 or {towers} "
            f"towers: use network.towers.make_mesh(towers={towers}, tower=1)."
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
    """`function`, written for one device of `mesh`, as one jitted program over all of them."""
    program = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return jax.jit(program, donate_argnums=donate_argnums)


def sum_over_data(tree: Any, mesh: Mesh, what: str) -> Any:
    """The sum of each leaf over the mesh axis `data`, inside `sharded` over `mesh`.

    `what` is summed: the compiled program names it `sum_gradients` for "gradients".
    """
    if mesh.shape[DATA] == 1:
        return tree  # XLA:CPU does not see that a sum over one device is a no-op, and copies every gradient through it
    with jax.named_scope(f"sum_{what}"):
        return jax.lax.psum(tree, DATA)


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


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch [b, ...] -> global arrays [B, ...] split over `data`."""
    _, count = feed_share(mesh)
    sharding = NamedSharding(mesh, PER_EXAMPLE)
    return {
        name: jax.make_array_from_process_local_data(sharding, part, (part.shape[0] * count, *part.shape[1:]))
        for name, part in batch.items()
    }
