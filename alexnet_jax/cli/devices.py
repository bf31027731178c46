"""The devices of a command, settled before anything computes, and what was compiled for them before."""

import os
import sys
from pathlib import Path

import jax

from alexnet_jax.errors import AlexNetError


def settle(*, cpu_devices: int | None = None, compilation_cache: str | None = None) -> None:
    """Chooses the devices and starts JAX on them. Raises AlexNetError where it cannot.

    Programs that take more than a second to compile are kept in the folder `compilation_cache`: of this user's own by
    default, none where it is "". JAX_COMPILATION_CACHE_DIR in the environment comes before both.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_programs(str(_users_own()) if compilation_cache is None else compilation_cache)
    if cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    try:
        jax.devices()
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS")
        cure = f"JAX_PLATFORMS is {asked!r}: unset it, or use cpu, cuda or tpu" if asked else "check the drivers"
        why = str(error).strip().partition("\n")[0].partition(" (set JAX_PLATFORMS")[0].rstrip(".")[:200]
        raise AlexNetError(f"JAX finds no device to run on{f' ({why})' if why else ''}; {cure}.") from error


def _users_own() -> Path:
    """Where this user's programs keep what they can do without."""
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or usual) / "alexnet_jax" / "xla"


def _keep_programs(folder: str) -> None:
    if not folder:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)  # whoever writes there decides what is run
        if not os.access(folder, os.W_OK):
            raise PermissionError
    except OSError as error:
        why = error.strerror or "it cannot be written"
        print(f"compiled programs are not kept in {folder} ({why}): each start compiles anew", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", folder)
