"""What a run says of its speed and memory, and what it keeps of what it compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
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


@pytest.mark.parametrize(
    ("kind", "dtype", "wanted"),
    [("NVIDIA A100-SXM4-40GB", "float32", 19.5), ("TPU v5 lite", "bfloat16", 197.0), ("TPU v5p", "bfloat16", 459.0)],
)
def test_peak_of_known_devices(kind: str, dtype: str, wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        device_kind = kind

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert speed.peak(dtype) == speed.Peak(wanted, "by its data sheet")


def test_peak_of_other_devices_is_measured() -> None:
    found = speed.peak("float32")
    assert 0 < found.teraflops < 1000
    assert "its own matmuls" in found.source


# ---------------------------------------------------------------- memory


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


# ---------------------------------------------------------------- the compilation cache


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
