"""What a run says of its speed and memory, and what it keeps of what it compiled."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import steps
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.cli import devices
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import memory, speed


def test_flops_of_net_145() -> None:
    """724,406,816 multiply-adds forward; twice as many backward, less conv1's 105,415,200 to the image."""
    assert speed.flops_per_image(builder.model(get_config(), 1000), 224) == 2 * (3 * 724_406_816 - 105_415_200)


@dataclasses.dataclass(frozen=True)
class _Device:
    device_kind: str
    platform: str
    compute_capability: str | None = None


_AMPERE, _HOPPER, _BLACKWELL = "8.0", "9.0", "10.0"
# device_kind, a GPU's compute capability, and TFLOP/s of a network in bfloat16, and in float32 with what multiplies.
_PEAKS = [
    ("NVIDIA A100-SXM4-40GB", _AMPERE, 312.0, (156.0, "TF32")),
    ("NVIDIA A100 80GB PCIe", _AMPERE, 312.0, (156.0, "TF32")),
    ("NVIDIA L4", "8.9", 121.0, (60.0, "TF32")),
    ("NVIDIA L40S", "8.9", 362.05, (183.0, "TF32")),
    ("NVIDIA GeForce RTX 4090", "8.9", 165.2, (82.6, "TF32")),
    ("NVIDIA H100 80GB HBM3", _HOPPER, 989.4, (494.7, "TF32")),
    ("NVIDIA H100 PCIe", _HOPPER, 756.0, (378.0, "TF32")),
    ("NVIDIA H100 NVL", _HOPPER, 835.5, (417.5, "TF32")),
    ("NVIDIA H200", _HOPPER, 989.4, (494.7, "TF32")),
    ("NVIDIA B200", _BLACKWELL, 2250.0, (1125.0, "TF32")),
    ("NVIDIA GB200", _BLACKWELL, 2500.0, (1250.0, "TF32")),
    ("TPU v2", None, 23.0, (23.0, "bfloat16")),
    ("TPU v3", None, 61.5, (61.5, "bfloat16")),
    ("TPU v4", None, 275.0, (275.0, "bfloat16")),
    ("TPU v5 lite", None, 197.0, (197.0, "bfloat16")),
    ("TPU v5", None, 459.0, (459.0, "bfloat16")),
    ("TPU v6 lite", None, 918.0, (918.0, "bfloat16")),
    ("TPU7x", None, 1153.5, (1153.5, "bfloat16")),
]


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`on_device(kind, compute_capability)`: the devices here are of this kind; a measured rate is 1 TFLOP/s."""

    def use(kind: str, capability: str | None = None) -> None:
        device = _Device(kind, "gpu" if capability else "tpu", capability)
        monkeypatch.setattr(jax, "local_devices", lambda: [device])
        monkeypatch.setattr(speed, "matmul_teraflops", lambda *_, **__: 1.0)

    return use


@pytest.mark.parametrize(("kind", "capability", "bfloat16", "float32"), _PEAKS, ids=[row[0] for row in _PEAKS])
def test_peak_of_known_devices(
    kind: str, capability: str | None, bfloat16: float, float32: tuple[float, str], on_device: Callable[..., None]
) -> None:
    on_device(kind, capability)
    assert speed.peak("bfloat16") == speed.Peak(bfloat16, "bfloat16", "by its data sheet")
    assert speed.peak("float32") == speed.Peak(*float32, "by its data sheet")


def test_peak_of_gpus_before_ampere_is_that_of_float32(on_device: Callable[..., None]) -> None:
    on_device("Tesla V100-SXM2-16GB", "7.0")
    assert speed.peak("bfloat16") == speed.peak("float32") == speed.Peak(15.7, "float32", "by its data sheet")


def test_peak_follows_the_precision_of_products(on_device: Callable[..., None]) -> None:
    on_device("NVIDIA H100 80GB HBM3", _HOPPER)
    with jax.default_matmul_precision("highest"):
        assert speed.peak("float32") == speed.Peak(66.9, "float32", "by its data sheet")
        assert speed.peak("bfloat16").teraflops == 989.4
    on_device("TPU v4")
    with jax.default_matmul_precision("float32"):
        assert speed.peak("float32") == speed.Peak(1.0, "float32", "the fastest of its own matmuls just now")


@pytest.mark.parametrize("kind", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA L40", "NVIDIA L4 24GB"])
def test_peak_of_a_part_or_a_namesake_is_measured(kind: str, on_device: Callable[..., None]) -> None:
    on_device(kind, _AMPERE)
    assert speed.peak("bfloat16").teraflops == 1.0
    assert speed.peak("float32").numbers == "TF32"


def test_peak_of_other_devices_is_measured() -> None:
    found = speed.peak("float32")
    assert 0 < found.teraflops < 1000
    assert found.numbers == "float32"
    assert "its own matmuls" in found.source


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rate_of_a_chain_counts_its_products(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that ticks once a call: 1 s a chain, which multiplies `links` times and stays finite."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    chain = speed._chain

    def watched(a: jax.Array, links: int) -> jax.Array:
        product = chain(a, links)
        seen.append((np.asarray(a, np.float64), np.asarray(product, np.float64)))
        return product

    monkeypatch.setattr(speed, "_chain", watched)
    monkeypatch.setattr(speed.time, "perf_counter", itertools.count().__next__)
    assert speed.matmul_teraflops(dtype, size=32, links=5, seconds=3) == pytest.approx(2e-12 * 5 * 32**3)
    a, product = seen[-1]
    np.testing.assert_allclose(product, np.linalg.matrix_power(a, 6), atol=0.03 if dtype == "bfloat16" else 1e-5)
    assert 0.1 < np.abs(product).max() < 10


class _Compiled:
    """A step that takes `per_image` bytes for each of its images beside its arguments."""

    def __init__(self, batch_size: int, per_image: int) -> None:
        self.temp_size_in_bytes, self.argument_size_in_bytes = batch_size * per_image, 1000
        self.output_size_in_bytes = self.alias_size_in_bytes = 500

    def memory_analysis(self) -> Any:
        return self


def test_step_that_does_not_fit_names_a_batch_that_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_left", lambda: 4 * 10_000)  # four virtual devices share it
    assert "free" in memory.check_step(_Compiled(100, 100), batch_size=100, multiple=4)
    with pytest.raises(AlexNetError, match=r"config\.train\.batch_size=96 would fit"):
        memory.check_step(_Compiled(300, 100), batch_size=300, multiple=8)
    with pytest.raises(AlexNetError, match=r"config\.train\.accumulate=N"):
        memory.check_step(_Compiled(300, 10_000), batch_size=300, multiple=8)


def test_out_of_memory_is_a_sentence_and_other_errors_stay() -> None:
    with pytest.raises(AlexNetError, match=r"this run: use a smaller config\.train"), memory.shortage_named("this run"):
        raise MemoryError
    with pytest.raises(AlexNetError, match="not enough for it"), memory.shortage_named("it"):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory.shortage_named("it"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


Settled = Callable[..., dict[str, Any]]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Settled:
    """`settled(cache_home, argument)`: what `devices.settle` sets of JAX's config."""

    def settle(cache_home: Path, argument: str | None = None) -> dict[str, Any]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
        with monkeypatch.context() as patch:
            settings: dict[str, Any] = {}
            patch.setattr(jax.config, "update", settings.__setitem__)
            devices.settle(compilation_cache=argument)
        return settings

    return settle


def test_compilation_cache_is_the_users_own(settled: Settled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "cache" / "alexnet_jax" / "xla"
    assert settled(tmp_path / "cache", "") == {}, "JAX_COMPILATION_CACHE_DIR of the tests comes first"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert settled(tmp_path / "cache") == {"jax_compilation_cache_dir": str(own)}
    assert own.stat().st_mode & 0o077 == 0, "others may not write programs that this user runs"
    assert settled(tmp_path / "cache", str(tmp_path / "mine")) == {"jax_compilation_cache_dir": str(tmp_path / "mine")}
    assert settled(tmp_path / "cache", "") == {"jax_enable_compilation_cache": False}


def test_compilation_cache_that_cannot_be_written_is_left_out(
    settled: Settled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").write_text("")
    assert settled(tmp_path / "file") == {}
    assert f"{tmp_path}/file/alexnet_jax/xla (Not a directory)" in capsys.readouterr().err


def test_step_from_the_compilation_cache_is_equal(small_config: ConfigDict, tmp_path: Path) -> None:
    """Cold, then warm: the same losses, and nothing is compiled anew. The first fills a cache of its own."""
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    found: list[tuple[list[dict[str, float]], set[str]]] = []
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        for _ in range(2):
            jax.clear_caches()
            compilation_cache.reset_cache()
            steps.forget()
            metrics, _ = steps.compiled(small_config, (1, 1)).run(2)
            found.append((metrics, {path.name for path in tmp_path.glob("*-cache")}))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()
        steps.forget()
    assert found[0] == found[1]
    assert found[0][1]
