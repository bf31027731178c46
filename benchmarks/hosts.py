"""What a host does in a training step besides decoding, in ms: python benchmarks/hosts.py

Whose rows are whose on meshes of stand-ins for 8 to 1,024 devices, and on eight virtual CPU devices the way of a batch
to them and the start of a program with the arrays of the default network's step. Medians of 40, and the range.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from alexnet_jax import builder, config as configs
from alexnet_jax.model import placement, towers
from alexnet_jax.train.step import make_state


def timed(name: str, run: Callable[[], Any]) -> None:
    times = []
    for _ in range(42):
        start = time.perf_counter()
        result = run()
        times.append(1e3 * (time.perf_counter() - start))
        jax.block_until_ready(result)
    print(f"{name}: {statistics.median(times[2:]):.2f} ({min(times[2:]):.2f} to {max(times[2:]):.2f}) ms", flush=True)


def main() -> None:
    for of_process in (8, 4, 1):
        for count in (8, 64, 256, 1024):
            devices = [SimpleNamespace(process_index=i // of_process) for i in range(count)]
            shape = {towers.DATA: count // 2, towers.TOWER: 2}
            mesh: Any = SimpleNamespace(devices=np.asarray(devices).reshape(-1, 2), shape=shape)
            timed(f"{count} devices, {of_process} a process: feed_share", lambda mesh=mesh: towers.feed_share(mesh))

    config = configs.load_recipe("alexnet:imagenet2012", ["precision=float32"])
    mesh, network = builder.mesh(config), builder.model(config, 1000)
    optimizer, _ = builder.optimizer(config, images=1_281_167, steps=910_000)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 224, 224, 3), np.uint8), "label": np.zeros(8, np.int32)}
    timed("8 images to 8 virtual devices", lambda: towers.to_devices(batch, mesh))

    def new_state() -> Any:
        return make_state(network, optimizer, seed=0, image_pixels=224)

    shapes = jax.eval_shape(new_state)
    state = jax.jit(new_state, out_shardings=placement.shardings(network, shapes, mesh))()
    there = towers.to_devices(batch, mesh)
    start = jax.jit(lambda state, batch: state.replace(step=state.step + 1), donate_argnums=0)

    def once() -> Any:
        nonlocal state
        state = start(state, there)
        return state

    timed(f"the start of a program with {len(jax.tree.leaves(state))} arrays on 8 devices", once)


if __name__ == "__main__":
    main()
