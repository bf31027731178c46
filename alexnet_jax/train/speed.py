"""How fast a run is, against what its devices can do, and how much memory it uses."""

import contextlib
import dataclasses
import functools
import math
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.model import alexnet as models, placement

# TFLOP/s of one device in dense products of bfloat16, TF32 and float32, without sparsity, by JAX's `device_kind`.
# NVIDIA's are those of its data sheets; V100 and T4 compute bfloat16 as float32. Google's are those of its pages on the
# system architecture, for v2 of Jouppi et al. 2020 (doi 10.1145/3360307): half a chip is a device of v2, v3 and TPU7x.
_TYPES = ("bfloat16", "TF32", "float32")
_KNOWN: dict[str, tuple[float, ...]] = {
    "NVIDIA GB200": (2500.0, 1250.0, 80.0),
    "NVIDIA B200": (2250.0, 1125.0, 75.0),
    "NVIDIA (H100 80GB HBM3|H200|GH200 480GB)": (989.4, 494.7, 66.9),
    "NVIDIA (H100|H200) NVL": (835.5, 417.5, 60.0),
    "NVIDIA H100 PCIe": (756.0, 378.0, 51.2),
    r"NVIDIA A100(-(SXM4?|PCIE)-\d+GB| 80GB PCIe)": (312.0, 156.0, 19.5),
    "NVIDIA A10": (125.0, 62.5, 31.2),
    "NVIDIA L40S": (362.05, 183.0, 91.6),
    "NVIDIA L4": (121.0, 60.0, 30.3),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6, 82.6),
    r"Tesla V100-SXM\d-\d+GB": (0.0, 0.0, 15.7),
    "Tesla T4": (0.0, 0.0, 8.1),
    "TPU7x": (2307.0 / 2,),
    "TPU v6 lite": (918.0,),
    "TPU v5p?": (459.0,),
    "TPU v5 lite": (197.0,),
    "TPU v4": (275.0,),
    "TPU v3": (123.0 / 2,),
    "TPU v2": (46.0 / 2,),
}
_SIZE, _SECONDS = 2048, 0.5  # of the matmuls that are timed where the device is not known, and for how long


@dataclasses.dataclass(frozen=True)
class Peak:
    """The most that one device can do: `teraflops` per second in products of `numbers`, and the source of that rate."""

    teraflops: float
    numbers: str  # "bfloat16", "TF32" or "float32"
    source: str


def native_dtype() -> str:
    """What the devices here are fastest in: "float32" or "bfloat16"."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return "bfloat16" if "amx_bf16" in _cpu_features() else "float32"
    return "float32" if _before_ampere(device) else "bfloat16"


def _before_ampere(device: Any) -> bool:
    """Whether it is an NVIDIA GPU that has no TF32 and computes bfloat16 as float32."""
    generation, dot, _ = str(getattr(device, "compute_capability", "")).partition(".")  # "7.5"; of AMD's "gfx942"
    return bool(dot) and int(generation) < 8


@functools.cache
def _cpu_features() -> frozenset[str]:
    """The flags that the kernel lists for this CPU; none where it lists none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def peak(dtype: str) -> Peak:
    """The peak of a device here for a network in `dtype`, "float32" or "bfloat16": known, or measured on one."""
    device = jax.local_devices()[0]
    numbers = numbers_of_products(device, dtype)
    for kinds, rates in _KNOWN.items():
        known = dict(zip(_TYPES, rates, strict=False))
        if re.fullmatch(kinds, device.device_kind) and numbers in known:
            return Peak(known[numbers], numbers, "by its data sheet")
    cpu = device.platform == "cpu"
    rate = matmul_teraflops(dtype, size=_SIZE if cpu else 4 * _SIZE, links=1 if cpu else 8, seconds=_SECONDS)
    together = jax.local_device_count() if cpu else 1  # the virtual devices of a CPU have it together
    return Peak(rate / together, numbers, "the fastest of its own matmuls just now")


def numbers_of_products(device: Any, dtype: str) -> str:
    """What `device` multiplies where a network computes in `dtype`: "float32", "TF32" or "bfloat16".

    By `jax.lax.Precision`, products of float32 arrays are TF32 from Ampere on, and bfloat16 on a TPU, unless
    `jax_default_matmul_precision` asks for more.
    """
    precision = str(jax.config.jax_default_matmul_precision or "default").lower()  # type: ignore[attr-defined]
    if dtype == "bfloat16":
        return "float32" if _before_ampere(device) else dtype
    if device.platform == "tpu":
        return "bfloat16" if precision in ("default", "fastest", "bfloat16") else dtype
    nvidia = "." in str(getattr(device, "compute_capability", ""))
    full = _before_ampere(device) or precision in ("highest", "float32")
    return "TF32" if nvidia and not full else dtype


def matmul_teraflops(dtype: str, *, size: int, links: int, seconds: float) -> float:
    """TFLOP/s of the fastest of the chains of `links` square matmuls that fit in `seconds`, on the first device here.

    One program computes a chain, so that a GPU's launch of it counts little; each product feeds the next.
    """
    a = (jax.random.normal(jax.random.key(0), (size, size)) / math.sqrt(size)).astype(dtype)  # products stay finite
    a = jax.device_put(a, jax.local_devices()[0])
    jax.block_until_ready(_chain(a, links))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(_chain(a, links))
        best = min(best, time.perf_counter() - start)
    return 2e-12 * links * size**3 / best


@functools.partial(jax.jit, static_argnames="links")
def _chain(a: jax.Array, links: int) -> jax.Array:
    """`a` to the power of `links` + 1, in float32, of products that are rounded to the type of `a`."""

    def product(left: jax.Array) -> jax.Array:
        return jax.lax.dot(left, a, preferred_element_type=jnp.float32)

    return product(jax.lax.fori_loop(1, links, lambda _, left: product(left).astype(a.dtype), a))


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
