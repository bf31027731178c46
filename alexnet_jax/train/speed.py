"""How fast a run is, against what its devices can do, and how much memory it uses."""

import contextlib
import dataclasses
import functools
import math
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.model import alexnet as models, placement

# TFLOP/s of one device in dense products, float32 and bfloat16, from the vendors' data sheets: NVIDIA's for A100, H100,
# H200, L4, V100 and T4 (float32 without TF32; V100 and T4 have no bfloat16), Google's system pages for TPU v4 to v6e,
# which compute float32 products from bfloat16 ones. The names are JAX's `device_kind`.
_KNOWN: dict[str, tuple[float, float]] = {
    "NVIDIA A100": (19.5, 312.0),
    "NVIDIA H100 80GB HBM3": (66.9, 989.4),
    "NVIDIA H200": (66.9, 989.4),
    "NVIDIA L4": (30.3, 121.0),
    "Tesla V100": (15.7, 15.7),
    "Tesla T4": (8.1, 8.1),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5": (459.0, 459.0),
    "TPU v6 lite": (918.0, 918.0),
}
_SIZE, _SECONDS = 2048, 0.5  # of the matmuls that are timed where the device is not known, and for how long


@dataclasses.dataclass(frozen=True)
class Peak:
    """The most that one device can do: `teraflops` per second, and the source of that number."""

    teraflops: float
    source: str


def native_dtype() -> str:
    """What the devices here are fastest in: "float32" or "bfloat16"."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return "bfloat16" if "amx_bf16" in _cpu_features() else "float32"
    # GPUs before NVIDIA's Ampere compute bfloat16 as float32.
    generation, dot, _ = str(getattr(device, "compute_capability", "")).partition(".")  # "7.5"; of AMD's "gfx942"
    return "float32" if dot and int(generation) < 8 else "bfloat16"


@functools.cache
def _cpu_features() -> frozenset[str]:
    """The flags that the kernel lists for this CPU; none where it lists none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def peak(dtype: str) -> Peak:
    """The peak of a device here in `dtype`, "float32" or "bfloat16": known, or measured on one of them."""
    device = jax.local_devices()[0]
    for kind, rates in _KNOWN.items():
        if device.device_kind.startswith(kind):
            return Peak(rates[dtype == "bfloat16"], "by its data sheet")
    return Peak(_measured(device, dtype), "the fastest of its own matmuls just now")


def _measured(device: Any, dtype: str) -> float:
    """TFLOP/s of the fastest of several square matmuls; all virtual devices of a CPU have it together."""
    a = jax.device_put(jnp.ones((_SIZE, _SIZE), dtype), device)
    matmul = jax.jit(lambda a: jax.lax.dot(a, a, preferred_element_type=jnp.float32))
    jax.block_until_ready(matmul(a))
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(matmul(a))
        best = min(best, time.perf_counter() - start)
    together = jax.local_device_count() if device.platform == "cpu" else 1
    return 2e-12 * _SIZE**3 / best / together


def flops_per_image(model: models.AlexNet, image_pixels: int) -> int:
    """FLOPs of a training step: forward, and backward to the weights and to the inputs, 2 for each multiply-add.

    The image needs no gradient. Only convolutions and matrix products count, which are all but a percent.
    """
    params, shapes = placement.variables(model, image_pixels)["params"], placement.shapes(model, image_pixels)
    macs = [
        math.prod(params[layer.name]["kernel"].shape) * math.prod(shapes[f"{layer.name}_out"][:-1])
        for layer in model.stack
    ]
    return 2 * (3 * sum(macs) - macs[0])


def memory_in_use() -> float:
    """GB, at most so far: of a device of this process, or of the process where the device is a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    return float(stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)) / 1e9


class Clock:
    """Seconds of training from a step on, without those of evaluations and saves, and how many waited for data."""

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, step: int) -> None:
        """Counts anew from `step`."""
        self._since, self._step, self._waited = time.perf_counter(), step, 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside is not counted."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What runs inside counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def share_waited(self) -> float:
        """The share of the time, 0 to 1, spent waiting for data."""
        return min(1.0, self._waited / (time.perf_counter() - self._since))

    def seconds_per_step(self, step: int) -> float:
        """The mean over the steps since `restart`."""
        return (time.perf_counter() - self._since) / max(1, step - self._step)
