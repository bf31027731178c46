"""How fast a run is, against what its devices can do, and how much memory it uses."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.model import alexnet as models, table

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
    """What one device can do at most: `teraflops` per second, and where the number is from, in words."""

    teraflops: float
    source: str


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
    """Of a training step: forward, and backward to the weights and to the inputs, 2 for each multiply-add.

    The image needs no gradient. Products alone count, which are all but a percent, and none of them twice.
    """
    macs = [row.macs for row in table.rows(model, image_pixels) if row.macs]
    return 2 * (3 * sum(macs) - macs[0])


def memory_in_use() -> float:
    """GB, at most so far: a device's of this process, of a CPU what the process has in memory now."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return float(stats["peak_bytes_in_use"]) / 1e9
    return resident_bytes() / 1e9


def resident_bytes() -> int:
    """What this process has in memory, 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next((line for line in status.read_text().splitlines() if line.startswith("VmRSS")), "VmRSS: 0 kB")
    return int(line.split()[1]) * 1024
