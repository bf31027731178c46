"""TPU slices as fake devices: what `mesh_utils` and `make_mesh` read of those that JAX has on real ones.

Coordinates, processes and their order follow one rule in libtpu 0.0.42.1 (jax 0.10.2) and 0.0.50.1 (jax 0.12.0.1), with
one device a chip on v4 ("megacore"); tests/tools/test_deviceless.py compares it with the libtpu that is installed.
"""

import dataclasses
import itertools

KINDS = {  # what JAX calls them, and devices a chip
    "v2": ("TPU v2", 2), "v3": ("TPU v3", 2), "v4": ("TPU v4", 1), "v5e": ("TPU v5 lite", 1), "v5p": ("TPU v5", 1),
    "v6e": ("TPU v6 lite", 1), "tpu7x": ("TPU7x", 2),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Device:
    """What the mesh depends on."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "gpu"
    device_kind: str = "none"
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0


def devices_of(topology: str, slices: int = 1) -> list[Device]:
    """The devices of "v5e:4x4" and the like in JAX's order.

    A host has 2 x 2 chips; hosts, chips and cores are numbered with x fastest, then y, then z.
    """
    kind, cores = KINDS[topology.partition(":")[0]]
    x, y, z = (*map(int, topology.partition(":")[2].split("x")), 1)[:3]
    hosts = [*itertools.product(range(slices), range(z), range(0, y, 2), range(0, x, 2))]
    chips = [
        (process, where, (left + dx, top + dy, plane))
        for process, (where, plane, top, left) in enumerate(hosts) for dy in range(2) for dx in range(2)
    ]  # fmt: skip
    return [
        Device(number, process, where, "tpu", kind, coords, core)
        for number, ((process, where, coords), core) in enumerate(itertools.product(chips, range(cores)))
    ]
