"""What a run says of its speed and memory, and what it keeps of what it compiled."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import loop, memory, speed

ROOT = Path(__file__).resolve().parent.parent.parent


def test_flops_of_net_145() -> None:
    """724,406,816 multiply-adds forward; twice as many backward, less conv1's 105,415,200 to the image."""
    assert speed.flops_per_image(builder.model(get_config(), 1000), 224) == 2 * (3 * 724_406_816 - 105_415_200)


@pytest.mark.parametrize(
    ("kind", "dtype", "wanted"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA A100-SXM4-40GB", "float32", 19.5),
        ("TPU v5 lite", "bfloat16", 197.0),
        ("TPU v5p", "bfloat16", 459.0),
    ],
)
def test_peak_of_known_devices(kind: str, dtype: str, wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        device_kind = kind

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert speed.peak(dtype) == speed.Peak(wanted, "by its data sheet")


def test_peak_of_other_devices_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SIZE", 64)
    monkeypatch.setattr(speed, "_SECONDS", 0.01)
    found = speed.peak("float32")
    assert 0 < found.teraflops < 1000
    assert "its own matmuls" in found.source


def test_training_line_has_speed_and_memory(small_config: ConfigDict, tmp_path: Path) -> None:
    small_config.train.steps = 2
    small_config.log.every_steps = 1
    loop.train(small_config, tmp_path, command="", eval_command="")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    entry = next(line for line in lines if line["step"] == 2 and "loss" in line)
    flops = speed.flops_per_image(builder.model(small_config, 10), 67)
    assert entry["teraflops_per_second"] == pytest.approx(entry["images_per_second"] * flops / 1e12)
    assert entry["share_of_peak"] > 0
    assert 0.05 < entry["device_memory_gb"] < 100
    log = (tmp_path / "train.log").read_text()
    assert " TFLOP/s, " in log
    assert " GB for a step, " in log


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


_LIMITED = """
    import resource, sys
    from pathlib import Path

    from alexnet_jax.cli import devices, train
    from alexnet_jax.errors import AlexNetError

    devices.settle()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3_000_000_000,) * 2)
    try:
        train.main(sys.argv[1:])
    except AlexNetError as error:
        sys.exit(f"error: {error}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this limit")
def test_memory_limit_of_the_process_ends_before_the_first_step(small_flags: list[str], tmp_path: Path) -> None:
    options = [flag for flag in small_flags if "batch_size" not in flag]
    more = ["--config.train.batch_size=8000", "--config.data.prefetch_batches=1", "--config.data.threads=1"]
    command = [sys.executable, "-c", textwrap.dedent(_LIMITED), "--config=alexnet:digits", f"--workdir={tmp_path}"]
    done = subprocess.run([*command, *options, *more], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("error: A step on 8000 images takes "), done.stderr
    assert "config.train.batch_size=" in sentence
    assert "Traceback" not in done.stderr
    assert "step 1" not in done.stdout


# ---------------------------------------------------------------- the compilation cache


def _settled(environment: dict[str, str], *, argument: str = "") -> list[str]:
    """[the folder, whether the cache is on] after `devices.settle(argument)` in a process of its own; and stderr."""
    code = (
        "import jax; from alexnet_jax.cli import devices; "
        f"devices.settle({argument}); print(jax.config.jax_compilation_cache_dir); "
        "print(jax.config.jax_enable_compilation_cache)"
    )
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=kept | environment)
    assert done.returncode == 0, done.stderr
    return [*done.stdout.split(), done.stderr.strip()]


def test_compilation_cache_is_the_users_own(tmp_path: Path) -> None:
    home = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    folder, on, said = _settled(home)
    assert (folder, on, said) == (str(tmp_path / "cache" / "alexnet_jax" / "xla"), "True", "")
    assert Path(folder).stat().st_mode & 0o077 == 0, "others may not write programs that this user runs"
    assert _settled(home, argument=f"compilation_cache={str(tmp_path / 'own')!r}")[0] == str(tmp_path / "own")
    assert _settled(home, argument="compilation_cache=''")[1] == "False"
    assert _settled(home | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "theirs")})[0] == str(tmp_path / "theirs")


def test_compilation_cache_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder, _, said = _settled({"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert folder == "None"
    assert f"{tmp_path}/file/alexnet_jax/xla (Not a directory)" in said


def test_run_from_the_compilation_cache_is_equal(small_config: ConfigDict, tmp_path: Path) -> None:
    """Cold, then warm: the same losses. The first run fills a cache of its own."""
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    small_config.train.steps = 2
    small_config.log.every_steps = 1
    found = []
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()
        for name in ("cold", "warm"):
            jax.clear_caches()
            loop.train(small_config, tmp_path / name, command="", eval_command="")
            lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
            found.append([line.get("loss", line.get("eval_loss")) for line in lines])
            if name == "cold":
                kept = {path.name for path in (tmp_path / "cache").iterdir() if path.name.endswith("-cache")}
        assert {path.name for path in (tmp_path / "cache").iterdir() if path.name.endswith("-cache")} == kept != set()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        compilation_cache.reset_cache()
        jax.clear_caches()
    assert found[0] == found[1]
    assert len(found[0]) == 3
