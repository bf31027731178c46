"""What a training step must send, by formula: from the network and the mesh alone, without compiling anything.

`least` is what the compiled step is held to (`compiled.py`), and what the times of hundreds of devices are
computed from (`forecast.py`).

Bytes are those that one device sends over its links in a step; it receives as many. They follow from the usual
algorithms, which are also the lower bounds for equal links (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce
algorithms): with n devices in a group, rings and pairwise exchanges send (n - 1)/n of the whole array in an all-gather,
a reduce-scatter or an all-to-all, and twice that in an all-reduce.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import Mesh

from alexnet_jax.model import alexnet as models, placement
from alexnet_jax.model.towers import DATA, TOWER

FORWARD, BACKWARD = "forward", "backward"
ALL_GATHER, REDUCE_SCATTER, ALL_REDUCE, ALL_TO_ALL = "all-gather", "reduce-scatter", "all-reduce", "all-to-all"
LOGITS, KEYS, GRADIENTS, METRICS = "logits", "keys", "gradients", "metrics"

FLOAT = "float32"  # parameters, gradients, statistics and metrics
BYTES = {FLOAT: 4, "bfloat16": 2}

_KEY_BYTES = 8  # of an example's random key, from which its dropout is drawn
_METRICS = 3  # loss, top-1 and top-5 of a step


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh `data` x `tower` and what is split over it; activations are exchanged in `exchange_dtype`."""

    data: int
    tower: int
    hybrid: bool = False
    exchange_dtype: str = FLOAT

    @classmethod
    def of(cls, model: models.AlexNet, mesh: Mesh) -> "Layout":
        """How the network lies on a mesh of devices."""
        return cls(mesh.shape[DATA], mesh.shape[TOWER], model.hybrid, model.exchange_dtype)

    @property
    def devices(self) -> int:
        """How many devices it has."""
        return self.data * self.tower


@dataclasses.dataclass(frozen=True)
class Sent:
    """A collective, or several in one: what it serves, and what one device sends for it in a step.

    `layers` are those that read what is exchanged ("conv3"; "logits" for the loss), a batch norm ("bn1"), or "keys"
    (of dropout), "gradients" and "metrics". `devices` is the size of a group, and `arrays` of `dtype` are in it.
    """

    layers: tuple[str, ...]
    direction: str
    axis: str
    kind: str
    devices: int
    dtype: str
    bytes: float
    arrays: int = 1

    @property
    def messages(self) -> int:
        """How many messages a device sends one after another."""
        return (2 if self.kind == ALL_REDUCE else 1) * (self.devices - 1)


def sent_bytes(kind: str, devices: int, whole: float) -> float:
    """The bytes one device sends in a collective over a `whole` array, in bytes.

    `whole` is the result of an all-gather, the operand of the others.
    """
    return (2 if kind == ALL_REDUCE else 1) * (devices - 1) / devices * whole


def least(model: models.AlexNet, pixels: int, layout: Layout, batch: float) -> list[Sent]:
    """What a training step on a global `batch` must send at the least, in the order of the network.

    `pixels` is the size of the images. The algorithm is taken as given: which layers read which towers, gradients
    summed over all examples. Nothing is sent on a single device.
    """
    rows: list[Sent] = []
    if layout.tower > 1:
        rows += _tower_exchanges(model, pixels, layout, batch / layout.data)
    if layout.hybrid and layout.data > 1:
        rows += _splits(model, pixels, layout, batch)
    if layout.data > 1:
        rows += _batch_norms(model, pixels, layout)
        parameters = _summed_parameters(model, pixels, layout)
        # XLA combines the sums into one collective, so they are one here: the same bytes, fewer messages.
        rows.append(_all_reduce((GRADIENTS, METRICS), BACKWARD, layout, parameters / layout.tower + _METRICS))
    return rows


def data_parallel(model: models.AlexNet, pixels: int, devices: int) -> float:
    """The bytes that one of `devices` sends in a step of plain data parallelism: its gradients' all-reduce."""
    return sent_bytes(ALL_REDUCE, devices, BYTES[FLOAT] * _parameters(model, pixels))


# ---------------------------------------------------------------- activations


def _tower_exchanges(model: models.AlexNet, pixels: int, layout: Layout, examples: float) -> list[Sent]:
    """Every exchange of the placement: each tower's own numbers to each other tower, and as many gradients back."""
    edges = {row.name for row in placement.table(model) if row.exchange == placement.EDGE}
    rows: list[Sent] = []
    for name, numbers in placement.traffic(model, pixels).items():
        layer = LOGITS if name == placement.LOGITS else name
        # An edge is needed by one neighbor only; the compiled step gathers both edges of every tower.
        needed = numbers / 2 if name in edges else numbers
        whole = layout.tower * needed * examples
        rows += _both_ways(layer, TOWER, (ALL_GATHER, REDUCE_SCATTER), layout, layout.tower, whole)
    return rows


def split_layers(model: models.AlexNet, devices: int) -> tuple[str, ...]:
    """The fully connected layers that a hybrid placement on so many devices splits by units."""
    placed = model.clone(split_over=devices)
    return tuple(layer.name for layer in model.stack if placed.splits(layer))


def _splits(model: models.AlexNet, pixels: int, layout: Layout, batch: float) -> list[Sent]:
    """The hybrid's: all examples to a split layer, all units to the next one, own examples to a layer that is whole.

    Krizhevsky 2014, One weird trick, section 4, scheme (a): the fully connected layers see all examples at once.
    """
    split, rows, before_is_split = split_layers(model, layout.data), list[Sent](), False
    numbers = _inputs(model, pixels)
    if any(layer.name in split and "dropout" in layer.post_ops for layer in model.stack):
        whole = batch * _KEY_BYTES
        sent = sent_bytes(ALL_GATHER, layout.data, whole)
        rows.append(Sent((KEYS,), FORWARD, DATA, ALL_GATHER, layout.data, "u32", sent))
    for name in (*(layer.name for layer in model.stack), LOGITS):
        whole = batch * numbers[name]
        if name in split:
            rows += _both_ways(name, DATA, (ALL_GATHER, REDUCE_SCATTER), layout, layout.data, whole)
        elif before_is_split:
            rows += _both_ways(name, DATA, (ALL_TO_ALL, ALL_TO_ALL), layout, layout.data, whole / layout.data)
        before_is_split = name in split
    return rows


def _inputs(model: models.AlexNet, pixels: int) -> dict[str, int]:
    """{layer: how many numbers per image all towers give it}, and those of the last one as "logits"."""
    shapes = placement.shapes(model, pixels)
    found, x = dict[str, int](), pixels * pixels * 3
    for layer in model.stack:
        found[layer.name] = x
        last = models.operation_name(layer.post_ops[-1], layer.name) if layer.post_ops else f"{layer.name}_out"
        x = model.towers * math.prod(shapes[last])
    return found | {LOGITS: x}


def _both_ways(
    name: str, axis: str, kinds: tuple[str, str], layout: Layout, devices: int, numbers: float
) -> list[Sent]:
    """Activations forward, and their gradients, which are as many, backward."""
    dtype = FLOAT if name == LOGITS else layout.exchange_dtype
    return [
        Sent((name,), direction, axis, kind, devices, dtype, sent_bytes(kind, devices, BYTES[dtype] * numbers))
        for direction, kind in zip((FORWARD, BACKWARD), kinds, strict=True)
    ]


# ---------------------------------------------------------------- sums over the batch


def _batch_norms(model: models.AlexNet, pixels: int, layout: Layout) -> list[Sent]:
    """Each sums a mean and a mean of squares per channel of a device's towers, and as many gradients."""
    shapes, rows = placement.shapes(model, pixels), []
    split = split_layers(model, layout.data) if layout.hybrid else ()
    for layer in model.stack:
        if "batch_norm" in layer.post_ops and layer.name not in split:
            name = models.operation_name("bn", layer.name)
            channels = shapes[f"{layer.name}_out"][-1] * model.towers // layout.tower
            rows += [_all_reduce((name,), direction, layout, 2 * channels) for direction in (FORWARD, BACKWARD)]
    return rows


def _all_reduce(layers: tuple[str, ...], direction: str, layout: Layout, numbers: float) -> Sent:
    sent = sent_bytes(ALL_REDUCE, layout.data, BYTES[FLOAT] * numbers)
    return Sent(layers, direction, DATA, ALL_REDUCE, layout.data, FLOAT, sent)


def _parameters(model: models.AlexNet, pixels: int) -> int:
    return sum(_of_layers(model, pixels).values())


def _summed_parameters(model: models.AlexNet, pixels: int, layout: Layout) -> int:
    """Those of which every replica has a copy, so that their gradients are summed."""
    split = split_layers(model, layout.data) if layout.hybrid else ()
    own = {*split, *(models.operation_name("bn", name) for name in split)}
    return sum(size for name, size in _of_layers(model, pixels).items() if name not in own)


@functools.cache
def _of_layers(model: models.AlexNet, pixels: int) -> dict[str, int]:
    """{layer: the size of its parameters, of all towers, spare units for the classes included}."""
    params: dict[str, Any] = placement.variables(model, pixels)["params"]
    return {name: sum(leaf.size for leaf in jax.tree.leaves(leaves)) for name, leaves in params.items()}
