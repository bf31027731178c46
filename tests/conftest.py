"""Four virtual CPU devices, strict promotion, and a network small enough to train in seconds."""

import contextlib
import importlib.metadata
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Most of the time of the tests is compilation, of which this leaves a third. Before jax is imported.
os.environ["XLA_FLAGS"] = " ".join([
    os.environ.get("XLA_FLAGS", ""),
    "--xla_backend_optimization_level=0",
    # jaxlib 0.12 has no such flag any more, and ends at an unknown one.
    "--xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib") < "0.12" else "",
])  # fmt: skip

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict

from alexnet_jax import config as configs, exits
from alexnet_jax.train import speed

ROOT = Path(__file__).resolve().parent.parent


# A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
# Many tests compile the same small network: once is enough, for pytest-xdist's workers and whatever they start, too.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="alexnet-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # grain and orbax read absl flags, which only app.run parses


# Every layer of the network, a few maps wide, on images just large enough for it.
SMALL = {
    "precision": "float32",  # on every machine: figures and tolerances are of it
    "data.resize_pixels": 67,
    "data.crop_pixels": 67,
    "model.conv1.features": 3,
    "model.conv2.features": 4,
    "model.conv3.features": 5,
    "model.conv4.features": 5,
    "model.conv5.features": 4,
    "model.fc6.features": 16,
    "model.fc7.features": 16,
    # With so few inputs the paper's deviations would let the images fade before conv3.
    "model.conv2.init_std": 0.15,
    "model.conv3.init_std": 0.15,
    "model.conv4.init_std": 0.15,
    "model.conv5.init_std": 0.15,
    "model.fc6.init_std": 0.2,
    "model.fc7.init_std": 0.2,
    "model.fc8.init_std": 0.2,
    "train.batch_size": 8,
    "eval.batch_size": 64,
    "train.learning_rate": 0.003,
}


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C and the hooks for exceptions stay pytest's where a command is run inside a test."""
    monkeypatch.setattr(exits, "guard", contextlib.nullcontext)
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))


def without_speed(entry: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl without what differs from run to run."""
    return {k: v for k, v in entry.items() if not any(part in k for part in ("second", "wait", "peak", "memory"))}


@pytest.fixture(autouse=True, scope="session")
def plain_cpu() -> Iterator[None]:
    """config.precision=auto is float32, whatever CPU this is, and its peak is measured in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "_cpu_features", frozenset)
        patch.setattr(speed, "_SIZE", 64)
        patch.setattr(speed, "_SECONDS", 0.01)
        yield


@pytest.fixture(params=["cpu", "cuda", "tpu"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Operations take the form of this platform, which a CPU can run too."""

    def chosen(*operands: Any, default: Any, **forms: Any) -> Any:
        return forms.get(request.param, default)(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
    return str(request.param)


@pytest.fixture
def small_config() -> ConfigDict:
    config = configs.load_recipe("alexnet")
    config.unlock()
    config.update_from_flattened_dict(SMALL)
    config.lock()
    return config


@pytest.fixture
def small_flags() -> list[str]:
    return [f"--config.{name}={value}" for name, value in SMALL.items()]
