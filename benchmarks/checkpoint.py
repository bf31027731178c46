"""What a checkpoint of the full network costs, with its sums and without, and on which meshes it is restored.

    python benchmarks/checkpoint.py [--turns=5] [--folder=FOLDER] [--seconds_per_step=S]

Net 145 with 1000 classes in float32, parameters and momentum of random values (zeros would be compressed away), on
virtual CPU devices. Saves with and without sums take turns, so that the ratio holds on a machine whose speed drifts;
likewise restores. Medians, and the range. `--seconds_per_step` gives the share of 500 steps that one save takes.
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

from absl import logging  # noqa: E402

from alexnet_jax import builder, config as configs  # noqa: E402
from alexnet_jax.model import placement, towers  # noqa: E402
from alexnet_jax.train import checksums  # noqa: E402
from alexnet_jax.train.checkpoint import Checkpoints  # noqa: E402
from alexnet_jax.train.step import make_state  # noqa: E402

CONFIG = configs.load_recipe("alexnet:imagenet2012")
NETWORK = builder.model(CONFIG, 1000)
MESHES = {"1x1": (1, 1), "1x2": (2, 2), "4x2": (8, 2)}  # data x tower: (devices, size of tower)


def mesh_of(name: str) -> jax.sharding.Mesh:
    devices, tower = MESHES[name]
    return towers.make_mesh(towers=2, tower=tower, devices=jax.devices()[:devices])


def make() -> Any:
    """The state of step 0, and momentum as if it were later."""
    optimizer, _ = builder.optimizer(CONFIG, images=1_281_167, steps=910_000)
    state = make_state(NETWORK, optimizer, seed=0, image_pixels=224)
    leaves, tree = jax.tree.flatten(state.opt_state)
    noise = [
        leaf + 0.01 * jax.random.normal(jax.random.key(i), leaf.shape) if leaf.ndim else leaf
        for i, leaf in enumerate(leaves)
    ]
    return state.replace(opt_state=jax.tree.unflatten(tree, noise))


SHAPES = jax.eval_shape(make)


def state_on(mesh: jax.sharding.Mesh) -> Any:
    return jax.block_until_ready(jax.jit(make, out_shardings=placement.shardings(NETWORK, SHAPES, mesh))())


def saved(state: Any, folder: Path) -> tuple[float, float]:
    """(seconds that the save blocks, seconds until it is finished) of one checkpoint, into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints = Checkpoints(folder)
    start = time.perf_counter()
    checkpoints.save(1, state)
    blocked = time.perf_counter() - start
    checkpoints.close()
    return blocked, time.perf_counter() - start


def restored(folder: Path, mesh: jax.sharding.Mesh) -> float:
    """Seconds of one restore."""
    target = placement.on_mesh(NETWORK, SHAPES, mesh)
    start = time.perf_counter()
    jax.block_until_ready(Checkpoints(folder, read_only=True).restore(1, target))
    return time.perf_counter() - start


def row(what: str, seconds: list[float]) -> None:
    print(f"{what:52} {statistics.median(seconds):6.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})", flush=True)


def without_sums() -> Any:
    return mock.patch.multiple(checksums, write=lambda *_, **__: None, damage=lambda *_, **__: None)


def in_turns(turns: int, measure: Callable[[], Any]) -> tuple[list[Any], list[Any]]:
    """What is measured with sums, and without; the first turn warms up."""
    with_sums, without = [], []
    for _ in range(turns + 1):
        with without_sums():
            without.append(measure())
        with_sums.append(measure())
    return with_sums[1:], without[1:]


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to save, on the disk that is measured")
    parser.add_argument("--seconds_per_step", type=float, help="of training, for the share of 500 steps")
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        runs = {name: Path(folder) / name for name in MESHES}
        print(f"{processor()}; jax {jax.__version__}; median of {args.turns} turns, and the range")
        state = state_on(mesh_of("1x1"))
        with_sums, without = in_turns(args.turns, lambda: saved(state, runs["1x1"]))
        held = sum(path.stat().st_size for path in runs["1x1"].rglob("*") if path.is_file())
        parameters = sum(leaf.size for leaf in jax.tree.leaves(SHAPES.params))
        print(f"{parameters:,} parameters and their momentum: {held / 1e6:.0f} MB on the disk")
        row("save, with sums: it blocks", [blocked for blocked, _ in with_sums])
        row("save, without: it blocks", [blocked for blocked, _ in without])
        row("save, with sums: until it is finished", [done for _, done in with_sums])
        row("save, without: until it is finished", [done for _, done in without])
        if args.seconds_per_step:
            share = statistics.median(done for _, done in with_sums) / (500 * args.seconds_per_step)
            print(f"one save in 500 steps, if nothing of it ran beside them: {100 * share:.2f} % of the time")
        checkpoint = runs["1x1"] / "checkpoints" / "1"
        row("to verify it", [_seconds(lambda: checksums.damage(checkpoint)) for _ in range(args.turns)])
        with_sums, without = in_turns(args.turns, lambda: restored(runs["1x1"], mesh_of("1x1")))
        row("restore on the same device, with sums", with_sums)
        row("restore on the same device, without", without)
        for name in ("1x2", "4x2"):
            saved(state_on(mesh_of(name)), runs[name])
        for source, target in (("1x2", "1x1"), ("4x2", "1x1"), ("1x1", "1x2"), ("1x1", "4x2"), ("4x2", "1x2")):
            seconds = [restored(runs[source], mesh_of(target)) for _ in range(args.turns)]
            row(f"saved on {source}, restored on {target} (data x tower)", seconds)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    assert call() is None
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
