"""Where the network lies: for every layer the mesh axis of its parameters, and what is exchanged before it.

`table` is the one statement of it. Sharding, the summary and the first lines of a run read it.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.model import alexnet as models, towers
from alexnet_jax.model.towers import DATA, REPLICATED, TOWER

ALL, EDGE, NONE = "all channels", "edge channels", ""
LOGITS = "the logits"
_RESHARDING = {
    towers.gather_examples: "all examples",
    towers.gather_units: "all units",
    towers.units_to_examples: "own examples",
}


@dataclasses.dataclass(frozen=True)
class LayerSharding:
    """One row: a layer or operation that has parameters or exchanges something.

    `axis` is the mesh axis over which the leading axis of its parameters is sharded, None where it has none, and
    `units` the one over which their last axis is: DATA for a layer of the hybrid placement that is split.
    `exchange` is what a tower gets from the others first: ALL channels of the maps before it, the EDGE channels that
    a norm's window reaches over, or NONE. `resharding` is what a device gets from the others over `data` before that:
    "all examples", "all units", "own examples" or NONE.
    """

    name: str
    axis: str | None
    exchange: str
    units: str | None = None
    resharding: str = NONE


def for_mesh(model: models.AlexNet, mesh: Mesh) -> models.AlexNet:
    """The network as one device of `mesh` runs it.

    With `model.hybrid`, and all towers on each device, the fully connected layers are split over all the devices by
    units, as in "One weird trick" (Krizhevsky 2014, arXiv 1404.5997, section 4), by its scheme (a): each device first
    gathers the last maps of all the examples, and one large batch goes through the fully connected layers at once. A
    layer whose units per tower are not divisible by the number of devices stays whole, and each has its own examples.
    """
    rows = mesh.shape[DATA]
    split_over = rows if model.hybrid and mesh.shape[TOWER] == 1 else 1
    return model.clone(data_axis=DATA if rows > 1 else None, split_over=split_over)


def table(model: models.AlexNet) -> tuple[LayerSharding, ...]:
    """The rows in the order of the network, the gathered logits last; for the hybrid placement of one `for_mesh`."""
    rows: list[LayerSharding] = []
    resharding = {name: _RESHARDING[reshard] for name, reshard in models.resharding(model).items()}
    for layer in model.stack:
        exchange, units = ALL if layer.name in model.exchange else NONE, DATA if model.splits(layer) else None
        rows.append(LayerSharding(layer.name, TOWER, exchange, units, resharding.get(layer.name, NONE)))
        if "batch_norm" in layer.post_ops:
            rows.append(LayerSharding(models.operation_name("bn", layer.name), TOWER, NONE, units))
        if "norm" in layer.post_ops and model.norm.across_towers and model.towers > 1:
            rows.append(LayerSharding(models.operation_name("norm", layer.name), None, EDGE))
    return (*rows, LayerSharding(LOGITS, None, ALL, resharding=resharding.get(models.LOGITS, NONE)))


def specs(model: models.AlexNet, tree: Any, mesh: Mesh) -> Any:
    """Partition specs on `mesh` of a tree whose paths hold layers' names, such as a train state.

    Scalars and keys are everywhere.
    """
    rows = {row.name: row for row in table(for_mesh(model, mesh))}

    def spec(path: Any, leaf: Any) -> PartitionSpec:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        row = next((rows[name] for name in names if name in rows), None)
        if row is None or not leaf.ndim:
            return REPLICATED
        return PartitionSpec(row.axis, *[None] * (leaf.ndim - 2), row.units) if row.units else PartitionSpec(row.axis)

    return jax.tree_util.tree_map_with_path(spec, tree)


def shardings(model: models.AlexNet, tree: Any, mesh: Mesh) -> Any:
    """`specs`, as shardings on `mesh`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(model, tree, mesh))


def on_mesh(model: models.AlexNet, shapes: Any, mesh: Mesh) -> Any:
    """A tree of shapes with their shardings on `mesh`: what a checkpoint is restored to."""
    return jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), shapes, shardings(model, shapes, mesh))


@functools.cache
def shapes(model: models.AlexNet, image_pixels: int) -> dict[str, tuple[int, ...]]:
    """{operation: the shape of its result}, of one tower and one image; the layers are conv1_out, fc6_out, ..."""
    images = jax.ShapeDtypeStruct((1, image_pixels, image_pixels, 3), "float32")
    program = towers.over_towers(models.apply_with_intermediates(model), out_axes=0)
    seen = jax.eval_shape(program, variables(model, image_pixels), images)
    return {name: leaf.shape[2:] for name, leaf in seen.items()}


@functools.cache
def variables(model: models.AlexNet, image_pixels: int) -> Any:
    """The shapes of the variables of all towers."""
    return jax.eval_shape(lambda: models.init_variables(model, jax.random.key(0), image_pixels))


def traffic(model: models.AlexNet, image_pixels: int) -> dict[str, int]:
    """{row: how many numbers per image a tower gives to each other tower}, in order; {} for a single tower.

    Each comes back once more as a gradient.
    """
    if model.towers == 1:
        return {}
    x: tuple[int, ...] = (image_pixels, image_pixels, 3)
    reads, results = dict[str, tuple[int, ...]](), shapes(model, image_pixels)
    for layer in model.stack:
        operations = [models.operation_name(word, layer.name) for word in layer.post_ops]
        for name, result in ((layer.name, f"{layer.name}_out"), *zip(operations, operations, strict=True)):
            reads[name], x = x, results[result]
    found: dict[str, int] = {}
    for row in table(model):
        if row.exchange:
            *space, channels = reads.get(row.name, x)  # the logits are the last result
            found[row.name] = math.prod(space) * (channels if row.exchange == ALL else model.norm.size - 1)
    return found
