"""What a run was made with: command, versions, commit, devices."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from alexnet_jax import files
from alexnet_jax.train import metrics

STARTS = "starts.jsonl"
_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "array-record", "numpy",
    "opencv-python-headless", "scikit-learn", "ml-collections", "absl-py", "tensorboardX",
)  # fmt: skip


def add_start(workdir: Path, *, step: int, command: str) -> None:
    """Notes a start of the run at `step`, by `command`, and what it is made with. Raises AlexNetError."""
    start = {
        "step": step,
        "command": command,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "packages": packages(),
        "commit": commit(),
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
    }
    files.append_line(workdir / STARTS, json.dumps(start))


def starts(workdir: Path) -> list[dict[str, Any]]:
    """The starts of a run, in order; [] for weights that were imported. Lines that are not whole are left out."""
    found = metrics.entries(workdir, STARTS)
    return [start for start in found if isinstance(start.get("command"), str) and "commit" in start]


def packages() -> dict[str, str]:
    """The versions of what computes, reads and writes."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def commit(*, leaving_out: Sequence[str] = ()) -> str | None:
    """The git commit of this code, with "+changes" where files differ from it; None outside of git.

    `leaving_out` are patterns of files, from the top of the checkout, that may differ. Not by `git describe --dirty`,
    which writes the index of the checkout, and leaves its lock where it is killed.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    but = [f":(top,exclude,glob){pattern}" for pattern in leaving_out]
    status = ["status", "--porcelain", "--untracked-files=no", "--", ":(top)", *but]
    try:
        found, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True, env=environment).stdout.strip()
            for words in (["rev-parse", "HEAD"], status)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found + ("+changes" if changed else "")
