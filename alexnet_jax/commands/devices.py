"""The devices of a command, settled before anything computes."""

import os

import jax

from alexnet_jax.errors import AlexNetError


def settle(*, cpu_devices: int | None = None) -> None:
    """Chooses the devices and starts JAX on them. Raises AlexNetError where it cannot."""
    if cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    try:
        jax.devices()
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS")
        cure = f"JAX_PLATFORMS is {asked!r}: unset it, or use cpu, cuda or tpu" if asked else "check the drivers"
        why = _first_line(error).partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        raise AlexNetError(f"JAX finds no device to run on{f' ({why})' if why else ''}; {cure}.") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")[:200]
