"""What the compiled training step sends: its collectives, read from the program that XLA made of it."""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.data.preprocess import Augmentation, Input
from alexnet_jax.model import alexnet as models, placement
from alexnet_jax.model.towers import BATCH_SHARDED, DATA, TOWER
from alexnet_jax.train.step import make_state, make_train_step
from tools.traffic.formula import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    BACKWARD,
    FLOAT,
    FORWARD,
    GRADIENTS,
    REDUCE_SCATTER,
    Sent,
    sent_bytes,
)


def compiled_step(config: ConfigDict, model: models.AlexNet, mesh: Mesh) -> str:
    """The training step of the config for `mesh`, compiled and not run, as the text of its HLO.

    It reads no data: mean, colors and schedules change numbers in the step and no collective.
    """
    pixels, batch_size = config.data.crop_pixels, config.train.batch_size
    optimizer, _ = builder.optimizer(config, images=100 * batch_size, steps=100)

    def new_state() -> Any:
        return make_state(model, optimizer, seed=0, image_pixels=pixels)

    shapes = jax.eval_shape(new_state)
    step: Any = make_train_step(
        model, optimizer, mesh, shapes, batch_size=batch_size,
        inputs=Input(pixels, np.zeros(3, np.float32)), augmentation=Augmentation(flip=config.data.flip),
    )  # fmt: skip
    parts_of_batch = {"image": ((pixels, pixels, 3), "uint8"), "label": ((), "int32"), "place": ((), "int32")}
    batch = {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=NamedSharding(mesh, BATCH_SHARDED))
        for name, (shape, dtype) in parts_of_batch.items()
    }
    lowered = step.lower(placement.on_mesh(model, shapes, mesh), batch)
    # A program from the compilation cache may be that of an older version, which named its collectives otherwise.
    cached = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return str(lowered.compile().as_text())
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)


def sent(config: ConfigDict, model: models.AlexNet, mesh: Mesh) -> list[Sent]:
    """What the compiled training step of the config sends on `mesh`, in the order of the program."""
    return collectives(compiled_step(config, model, mesh), mesh)


# ---------------------------------------------------------------- the text of the compiled program

UNNAMED = "?"  # a collective of the compiler's own, without a name of the program's
_KINDS = (ALL_GATHER, REDUCE_SCATTER, ALL_REDUCE, ALL_TO_ALL)
# The others are not expected. They are listed all the same, so that nothing is sent unseen.
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_KINDS)}|collective-\w+|ragged-all-to-all)(-start)?\(")


def collectives(hlo: str, mesh: Mesh) -> list[Sent]:
    """The collectives of a compiled program for `mesh`, in its order; those within one device left out."""
    return [sent for line in hlo.splitlines() if (sent := _collective(line, mesh)) and sent.devices > 1]


def _collective(line: str, mesh: Mesh) -> Sent | None:
    match = _COLLECTIVE.search(line)
    if not match:
        return None
    shapes, kind, starts = match.groups()
    groups = _groups(line, mesh)
    devices = len(groups[0])
    arrays = list(_arrays(shapes, with_context=not starts))
    result = sum(size for _, size in arrays)
    if starts and kind != ALL_REDUCE:  # its shape is the pair (operands, results)
        result = {ALL_GATHER: result * devices // (devices + 1), REDUCE_SCATTER: result // (devices + 1)}.get(
            kind, result // 2
        )
        arrays = arrays[: len(arrays) // 2]
    whole = result * devices if kind == REDUCE_SCATTER else result
    names = re.search(r'op_name="([^"]*)"', line)
    path = names[1] if names else ""
    layers = tuple(dict.fromkeys(re.findall(r"\b(?:exchange|split|sum)_(\w+)/", path)))
    # JAX marks what the chain rule makes; the gradients' own sum comes after it.
    backward = "transpose(" in path or GRADIENTS in layers
    return Sent(
        layers or (UNNAMED,),
        BACKWARD if backward else FORWARD,
        _axis(groups, mesh),
        kind,
        devices,
        ", ".join(dict.fromkeys(dtype for dtype, _ in arrays)),
        sent_bytes(kind, devices, whole),
        1 if kind == ALL_TO_ALL else len(arrays),  # which may be a tuple with a part for each device
    )


def _arrays(shapes: str, *, with_context: bool) -> Iterator[tuple[str, int]]:
    """(dtype, bytes) of each array in "f32[1,128]{1,0}" or a tuple; u32[] is the context of an asynchronous one."""
    for kind, bits, dims in re.findall(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]", shapes):
        if with_context or (kind, dims) != ("u", ""):
            dtype = {"f32": FLOAT, "bf16": "bfloat16"}.get(kind + bits, kind + bits)
            yield dtype, math.prod(int(n) for n in dims.split(",") if n) * int(bits or 8) // 8  # pred has no bits


def _groups(line: str, mesh: Mesh) -> list[tuple[int, ...]]:
    """The replica groups of a collective, in any of XLA's notations, as positions in the mesh."""
    everyone = np.arange(mesh.devices.size)
    if match := re.search(r"replica_groups=mesh\[.*?\] \{(.*?)\}", line):
        axes = [name for name in mesh.axis_names if f"'{name}'" in match[1]]
        return _along(axes, mesh)
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        shape, dims, order = ([int(n) for n in (part or "").split(",") if n] for part in match.groups())
        grid = everyone.reshape(dims)
        return [tuple(row) for row in (grid.transpose(order) if order else grid).reshape(shape).tolist()]
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}", line):
        return [tuple(int(n) for n in group.split(",")) for group in re.findall(r"\{([\d, ]+)\}", match[1])]
    return [tuple(everyone.tolist())]


def _along(axes: list[str], mesh: Mesh) -> list[tuple[int, ...]]:
    """The groups of a collective over these axes of the mesh."""
    places = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    size = math.prod(mesh.shape[axis] for axis in axes)
    last = [mesh.axis_names.index(axis) for axis in axes]
    return [tuple(row) for row in np.moveaxis(places, last, range(-len(axes), 0)).reshape(-1, size).tolist()]


def _axis(groups: list[tuple[int, ...]], mesh: Mesh) -> str:
    """The axis of the mesh that these are the groups of."""
    found = {frozenset(group) for group in groups}
    for axes in ([DATA], [TOWER], [DATA, TOWER]):
        if found == {frozenset(group) for group in _along(axes, mesh)}:
            return " x ".join(axes)
    return "?"
