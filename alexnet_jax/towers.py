"""The named axis: the mesh, the one verb that crosses it, and how a tower program runs on it.

The network is written for *one tower*. `gather_towers` is the only thing that tower ever says to
the other one. How the axis is realised is decided here and nowhere else:

* both towers on one device: `jax.vmap` with the axis name `tower`;
* a tower on each of two devices: the mesh axis `tower` under `jax.shard_map`, inside one jitted step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alexnet_jax import AlexNetError

DATA, TOWER = "data", "tower"

# The whole sharding of the project. Every parameter has a leading tower axis of size T; the batch
# is split over `data`, and every tower sees its whole share of it.
PER_TOWER, PER_EXAMPLE, EVERYWHERE = PartitionSpec(TOWER), PartitionSpec(DATA), PartitionSpec()


def gather_towers(x: jax.Array) -> jax.Array:
    """[..., C] of this tower -> [..., T * C], the channels of all towers in order.

    The exchange of the 2012 network at conv3, fc6, fc7 and fc8 (paper, section 3.2).
    """
    return jax.lax.all_gather(x, TOWER, axis=x.ndim - 1, tiled=True)


def make_mesh(*, towers: int, tower: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh `data` x `tower` over `devices` (all of them when None).

    `towers` is how many towers the network has; `tower` over how many devices they are spread:
    1 keeps them together, `towers` gives each its own, 0 spreads them wherever the devices come
    in a multiple of `towers`. Neighbouring devices hold the towers of one network.

    Raises AlexNetError when the devices cannot be laid out that way.
    """
    devices = jax.devices() if devices is None else devices
    if tower == 0:
        tower = towers if len(devices) % towers == 0 else 1
    if tower not in (1, towers):
        raise AlexNetError(
            f"mesh.tower={tower} is not possible for a network of {towers} tower(s): "
            f"use 1 (together), {towers} (a device each) or 0 (choose)."
        )
    if len(devices) % tower:
        raise AlexNetError(
            f"mesh.tower={tower} does not divide the {len(devices)} device(s) of this run: "
            f"use mesh.tower=1, or a number of devices that is a multiple of {tower} "
            f"(--cpu_devices={tower} makes virtual ones on a CPU)."
        )
    grid = np.asarray(devices).reshape(-1, tower)
    return Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Auto, AxisType.Auto))


def over_towers(program: Callable[..., jax.Array], *, mesh: Mesh | None = None) -> Callable[..., jax.Array]:
    """`program(params, *inputs)` of one tower, as a function of the parameters this device holds.

    Their leading axis has size T where the towers live together (or `mesh` is None), and size 1
    where each has a device of its own; then the call must stand under `shard_map` over `mesh`.
    The result must be the same on every tower, as anything that went through `gather_towers` is.
    """

    def run(params: Any, *inputs: Any) -> jax.Array:
        axes = (0,) + (None,) * len(inputs)
        if mesh is None or mesh.shape[TOWER] == 1:
            return jax.vmap(program, in_axes=axes, out_axes=None, axis_name=TOWER)(params, *inputs)
        # A vmap of size 1, not params[0]: the operations in layers.py that say how they run for
        # several towers then take one path everywhere, and their gradients with them.
        return jax.vmap(program, in_axes=axes)(params, *inputs)[0]

    return run


def sum_over_data(tree: Any, mesh: Mesh) -> Any:
    """The sum of each leaf over the mesh axis `data`, under `shard_map` over `mesh`."""
    # XLA:CPU does not see that a sum over one device is none, and copies every gradient through it.
    return jax.lax.psum(tree, DATA) if mesh.shape[DATA] > 1 else tree


def spec_of(tree: Any) -> Any:
    """Partition specs of a train state: scalars and keys everywhere, all else by its tower axis."""
    return jax.tree.map(lambda leaf: PER_TOWER if leaf.ndim else EVERYWHERE, tree)


def sharding_of(tree: Any, mesh: Mesh) -> Any:
    """`spec_of`, as shardings on `mesh`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), spec_of(tree))


def on_mesh(shapes: Any, mesh: Mesh) -> Any:
    """A tree of shapes, with the shardings they have on `mesh`: what a checkpoint is restored to."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        sharding_of(shapes, mesh),
    )


def feed_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process feeds part `index` of `count` equal parts of every global batch.

    Processes whose devices hold different towers of the same images feed the same part.
    """
    mine = [d.process_index == jax.process_index() for d in mesh.devices.flat]
    rows = np.flatnonzero(np.asarray(mine).reshape(mesh.devices.shape).any(axis=1))
    count = mesh.shape[DATA] // len(rows)
    index = int(rows[0]) // len(rows)
    if not np.array_equal(rows, np.arange(len(rows)) + index * len(rows)):
        raise AlexNetError(
            "The devices of this process are not neighbours on the mesh axis data: "
            "start every process with the same number of devices."
        )
    return index, count


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch [b, ...] -> global arrays [B, ...] split over `data`."""
    _, count = feed_share(mesh)
    sharding = NamedSharding(mesh, PER_EXAMPLE)
    return {
        name: jax.make_array_from_process_local_data(sharding, part, (part.shape[0] * count, *part.shape[1:]))
        for name, part in batch.items()
    }
