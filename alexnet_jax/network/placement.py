"""Where the network lies: for every layer the mesh axis of its parameters, and what is exchanged before it.

`table` is the one statement of it. Sharding, `--mode=summary` and the first lines of a run read it.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.network import model as models, towers
from alexnet_jax.network.towers import EVERYWHERE, TOWER

ALL, EDGE, NONE = "all channels", "edge channels", ""
LOGITS = "the logits"


@dataclasses.dataclass(frozen=True)
class Place:
    """One row: a layer or operation that has parameters or exchanges something.

    `axis` is the mesh axis over which the leading axis of its parameters is sharded, None where it has none.
    `exchange` is what a tower gets from the others first: ALL channels of the maps before it, the EDGE channels that
    a norm's window reaches over, or NONE.
    """

    name: str
    axis: str | None
    exchange: str


def table(model: models.AlexNet) -> tuple[Place, ...]:
    """The rows in the order of the network, the gathered logits last."""
    rows: list[Place] = []
    for layer in model.stack:
        rows.append(Place(layer.name, TOWER, ALL if layer.name in model.exchange else NONE))
        if "batch_norm" in layer.post_ops:
            rows.append(Place(models.operation_name("bn", layer.name), TOWER, NONE))
        if "norm" in layer.post_ops and model.norm.across_towers and model.towers > 1:
            rows.append(Place(models.operation_name("norm", layer.name), None, EDGE))
    return (*rows, Place(LOGITS, None, ALL))


def specs(model: models.AlexNet, tree: Any) -> Any:
    """Partition specs of a tree whose paths hold layers' names, such as a train state: scalars and keys everywhere."""
    axes = {row.name: row.axis for row in table(model)}

    def spec(path: Any, leaf: Any) -> PartitionSpec:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        layer = next((name for name in names if name in axes), None)
        return PartitionSpec(axes[layer]) if layer and leaf.ndim else EVERYWHERE

    return jax.tree_util.tree_map_with_path(spec, tree)


def shardings(model: models.AlexNet, tree: Any, mesh: Mesh) -> Any:
    """`specs`, as shardings on `mesh`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(model, tree))


def on_mesh(model: models.AlexNet, shapes: Any, mesh: Mesh) -> Any:
    """A tree of shapes with their shardings on `mesh`: what a checkpoint is restored to."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(model, shapes, mesh),
    )


# ---------------------------------------------------------------- what it costs


@functools.cache
def shapes(model: models.AlexNet, image_pixels: int) -> dict[str, tuple[int, ...]]:
    """{operation: the shape of its result}, of one tower and one image; the layers are conv1_out, fc6_out, ..."""
    images = jax.ShapeDtypeStruct((1, image_pixels, image_pixels, 3), "float32")
    program = towers.over_towers(models.seeing_program(model), out_axes=0)
    seen = jax.eval_shape(program, variables(model, image_pixels), images)
    return {name: leaf.shape[2:] for name, leaf in seen.items()}


def variables(model: models.AlexNet, image_pixels: int) -> Any:
    """The shapes of the variables of all towers."""
    return jax.eval_shape(lambda: models.init_variables(model, jax.random.key(0), image_pixels))


def traffic(model: models.AlexNet, image_pixels: int) -> dict[str, int]:
    """{row: how many numbers per image a tower gives to each other tower}, in order; {} for a single tower.

    Each comes back once more as a gradient.
    """
    if model.towers == 1:
        return {}
    rows = {row.name: row for row in table(model)}
    found: dict[str, int] = {}

    def count(name: str, x: tuple[int, ...]) -> None:
        if (row := rows.get(name)) and row.exchange:
            found[name] = math.prod(x) if row.exchange == ALL else math.prod(x[:-1]) * (model.norm.size - 1)

    x: tuple[int, ...] = (image_pixels, image_pixels, 3)
    results = shapes(model, image_pixels)
    for layer in model.stack:
        count(layer.name, x)
        x = results[f"{layer.name}_out"]
        for word in layer.post_ops:
            name = models.operation_name(word, layer.name)
            count(name, x)
            x = results[name]
    count(LOGITS, x)
    return found


def describe(model: models.AlexNet, image_pixels: int) -> str:
    """How the network lies on two devices, in a sentence or two."""
    if model.towers == 1:
        return "Placement: one tower, so there is nothing to put on a second device; more devices share the batch."
    given = traffic(model, image_pixels)
    parts = ", ".join(f"{name} {numbers:,}" for name, numbers in given.items())
    return (
        f"Placement: one tower on each of {model.towers} devices. Each sends every other one {sum(given.values()):,} "
        f"numbers per image ({parts}), and gets as many gradients back."
    )


def in_a_line(model: models.AlexNet, mesh: Mesh) -> str:
    """Where the towers are and where they meet, for the first lines of a run."""
    meet = ", ".join(row.name for row in table(model) if row.exchange and model.towers > 1)
    if model.towers == 1:
        return "one tower on each device"
    if mesh.shape[TOWER] == 1:
        return f"all towers together on each device; they meet at {meet}"
    return f"one tower on each device; they exchange at {meet}"
