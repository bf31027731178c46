"""What one process of `benchmarks/step.py` measures, printed as one line of JSON: python benchmarks/measure.py NAME

NAME: "machine", "ceilings DTYPE", "jax DTYPE", "torch MODE DTYPE", "layers DTYPE", "profile DTYPE", "device" or "feed".
The code measured is this checkout's, installed or not. A failure is a line as well: {"failed": its first sentence}. The
process ends when the one that started it does.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import io
import itertools
import json
import os
import platform
import resource
import runpy
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START = time.perf_counter()
ROOT = Path(__file__).resolve().parent.parent
CLASSES, PIXELS = 1000, 224
MEASURED_SECONDS, MOST_STEPS = 2.0, 1000  # of the steps between two syncs

Step = Callable[[], Any]  # starts a training step; float() of what it returns waits for its loss


def jax_step(batch: int, dtype: str) -> Step:
    """One training step of this project, on the devices that are there."""
    import jax
    import numpy as np

    from alexnet_jax import builder, config as configs
    from alexnet_jax.model import placement, towers
    from alexnet_jax.train.step import make_state, make_train_step

    config = configs.load_recipe("alexnet:imagenet2012", [f"precision={dtype}"])
    mesh = builder.mesh(config)
    network = builder.model(config, CLASSES)
    optimizer, _ = builder.optimizer(config, images=1_281_167, steps=910_000)

    def new_state() -> Any:
        return make_state(network, optimizer, seed=0, image_pixels=PIXELS)

    shapes = jax.eval_shape(new_state)
    state = jax.jit(new_state, out_shardings=placement.shardings(network, shapes, mesh))()
    step = make_train_step(
        network, optimizer, mesh, shapes, batch_size=batch, inputs=builder.inputs(config),
        augmentation=builder.augmentation(config, images=1_281_167),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    data = {
        "image": rng.integers(0, 256, (batch, PIXELS, PIXELS, 3), np.uint8),
        "label": rng.integers(0, CLASSES, batch, np.int32),
        "place": np.arange(batch, dtype=np.int32),
    }
    there = towers.to_devices(data, mesh)

    def once() -> Any:
        nonlocal state
        state, metrics = step(state, there)
        return metrics["loss"]

    return once


def torch_step(batch: int, mode: str, dtype: str) -> Step:
    """One training step of the same network in PyTorch: its own layers, autodiff and fused SGD, in TF32 for float32.

    From the same uint8 images, with the same mean, flips and color noise. The response norm is plain adds, which
    torch.compile fuses. `mode`: "eager", "channels_last", "compiled", or "max-autotune", which also takes CUDA graphs.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    layout = torch.channels_last if mode != "eager" else torch.contiguous_format
    mean = torch.tensor([127.3, 119.7, 104.9], device=device).view(1, 3, 1, 1)
    colors = torch.randn(3, 3, device=device)  # the principal components: what they are takes no time

    def augmented(pixels: "torch.Tensor") -> "torch.Tensor":
        x = pixels.permute(0, 3, 1, 2).float() - mean
        x = torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.5, x.flip(3), x)
        noise = torch.randn(batch, 3, device=device) @ colors
        return ((x + noise.view(batch, 3, 1, 1)) / 1.1).contiguous(memory_format=layout)

    def channel_norm(x: "torch.Tensor") -> "torch.Tensor":  # two towers of half the channels
        towers = x.float().square().unflatten(1, (2, -1))
        wide = functional.pad(towers, (0, 0, 0, 0, 2, 2))
        window = sum(wide[:, :, i : i + towers.shape[2]] for i in range(5)).flatten(1, 2)
        return (x * (2 + 1e-4 / 5 * window) ** -0.75).to(x.dtype)

    def spatial_norm(x: "torch.Tensor") -> "torch.Tensor":
        return (x * (1 + 0.001 * functional.avg_pool2d(x.float().square(), 5, 1, 2)) ** -0.75).to(x.dtype)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 96, 11, 4), nn.Conv2d(96, 256, 5, 1, 2, groups=2)
            self.conv3, self.conv4 = nn.Conv2d(256, 384, 3, 1, 1), nn.Conv2d(384, 384, 3, 1, 1, groups=2)
            self.conv5 = nn.Conv2d(384, 256, 3, 1, 1, groups=2)
            self.fc6, self.fc7, self.fc8 = nn.Linear(9216, 4096), nn.Linear(4096, 4096), nn.Linear(4096, CLASSES)

        def forward(self, pixels: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
            relu, pool = functional.relu, functional.max_pool2d
            x = functional.pad(augmented(pixels), (0, 3, 0, 3))
            x = relu(pool(channel_norm(self.conv1(x)), 3, 2))
            x = pool(spatial_norm(channel_norm(relu(self.conv2(x)))), 3, 2)
            x = relu(pool(self.conv5(relu(self.conv4(relu(self.conv3(x))))), 3, 2))
            x = functional.dropout(relu(self.fc6(x.flatten(1))))
            logits = self.fc8(functional.dropout(relu(self.fc7(x))))
            return functional.cross_entropy(logits.float(), labels)

    net = Net().to(device, memory_format=layout)
    compiled = {"compiled": "default", "max-autotune": "max-autotune"}
    run = torch.compile(net, mode=compiled[mode]) if mode in compiled else net
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=0.0005, fused=True)
    pixels = torch.randint(0, 256, (batch, PIXELS, PIXELS, 3), device=device, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (batch,), device=device)

    def once() -> "torch.Tensor":
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = run(pixels, labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return once


def step_rates(args: argparse.Namespace) -> dict[str, Any]:
    """Images/s of many steps between two syncs and of steps with a sync each; seconds to the first; memory in GB."""
    kind, *options = args.name.split(" ")
    batch, steps = args.batch, args.steps
    step = torch_step(batch, *options) if kind == "torch" else jax_step(batch, *options)
    float(step())
    first, synced = time.perf_counter() - START, []
    for _ in range(steps + 2):
        since = time.perf_counter()
        float(step())
        synced.append(time.perf_counter() - since)
    median = statistics.median(synced[2:])
    many = min(MOST_STEPS, max(steps, int(MEASURED_SECONDS / median)))
    since = time.perf_counter()
    for _ in range(many):
        loss = step()
    float(loss)
    return {
        "rate": batch * many / (time.perf_counter() - since), "synced_rate": batch / median, "steps": many,
        "first_step": first, "memory": _memory(kind), "numbers": _numbers(kind, options[-1]),
    }  # fmt: skip


def _memory(kind: str) -> float:
    """The most memory so far in GB: the device's, of a CPU the process's."""
    if kind == "torch":
        import torch

        if torch.cuda.is_available():
            return float(torch.cuda.max_memory_allocated() / 1e9)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    from alexnet_jax.train import speed

    return speed.memory_in_use()


def _numbers(kind: str, dtype: str) -> str:
    """What is multiplied where a network computes in `dtype`: float32 may be TF32."""
    if kind == "torch":
        import torch

        tf32 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
        return "TF32" if tf32 and dtype == "float32" else dtype
    import jax

    from alexnet_jax.train import speed

    return speed.numbers_of_products(jax.local_devices()[0], dtype)


def ceilings(args: argparse.Namespace) -> dict[str, Any]:
    """TFLOP/s of the best of three chains of square matmuls, and GB/s of a copy, on one device."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax.train import speed

    dtype, cpu = args.name.split(" ")[1], jax.local_devices()[0].platform == "cpu"
    sizes, links = ((1024, 2048, 4096), 1) if cpu else ((4096, 8192, 16384), 8)
    rates = [speed.matmul_teraflops(dtype, size=size, links=links, seconds=0.5) for size in sizes]
    x = jnp.ones(64_000_000 if cpu else 256_000_000, jnp.float32)
    copy = 2e-9 * x.nbytes / _seconds(lambda x: 1 - x, x)
    return {"matmul": max(rates), "copy": copy, "numbers": _numbers("jax", dtype)}


def layer_times(args: argparse.Namespace) -> dict[str, Any]:
    """{layer: {GFLOP, forward and backward seconds}} of the layers' products alone, both towers on one device."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax import builder, config as configs, summary
    from alexnet_jax.model import layers, placement
    from alexnet_jax.model.alexnet import ConvLayer

    dtype, batch = args.name.split(" ")[1], args.batch
    config = configs.load_recipe("alexnet:imagenet2012", [f"precision={dtype}"])
    network = builder.model(config, CLASSES)
    params = placement.variables(network, PIXELS)["params"]
    rows = {row.name: row for row in summary.layer_rows(network, PIXELS)}
    found = {}
    for layer in network.stack:
        kernel = jax.random.normal(jax.random.key(0), params[layer.name]["kernel"].shape)
        first = layer is network.stack[0]  # the image needs no gradient
        shared = layer.name in network.exchange or first
        inputs = rows[layer.name].input
        shape = (batch, *inputs) if isinstance(layer, ConvLayer) else (batch, kernel.shape[1])
        x = jax.random.normal(jax.random.key(1), shape if shared else (2, *shape), dtype)

        def product(x: jax.Array, kernel: jax.Array, layer: Any = layer, shared: bool = shared) -> jax.Array:
            def of_tower(x: jax.Array, kernel: jax.Array) -> jax.Array:
                if isinstance(layer, ConvLayer):
                    return layers.tower_conv(x, kernel, stride=layer.stride, padding=layer.padding).astype(dtype)
                return layers.tower_matmul(x, kernel).astype(dtype)

            return jax.vmap(of_tower, in_axes=(None if shared else 0, 0))(x, kernel)

        def gradients(
            x: jax.Array, kernel: jax.Array, g: jax.Array, product: Any = product, first: bool = first
        ) -> Any:
            if first:
                return jax.vjp(lambda kernel: product(x, kernel), kernel)[1](g)
            return jax.vjp(product, x, kernel)[1](g)

        g = jnp.ones(jax.eval_shape(product, x, kernel).shape, dtype)
        gflop = 2e-9 * batch * rows[layer.name].macs
        found[layer.name] = {
            "gflop": gflop, "forward": _seconds(product, x, kernel),
            "backward_gflop": gflop * (1 if first else 2), "backward": _seconds(gradients, x, kernel, g),
        }  # fmt: skip
    return {"layers": found, "numbers": _numbers("jax", dtype)}


def _seconds(run: Callable[..., Any], *given: Any) -> float:
    """Seconds of `run(*given)`, the least of three: of a loop inside one program, so that no launch and no sync counts.

    On a CPU of a call, whose launch is nothing, while the convolutions of a loop are slower.
    """
    import jax

    turns = 1 if jax.local_devices()[0].platform == "cpu" else 50
    program, times = jax.jit(run) if turns == 1 else looped(run, turns), []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(program(*given))
        times.append(time.perf_counter() - start)
    return min(times[1:]) / turns


def looped(run: Callable[..., Any], turns: int) -> Any:
    """A jitted loop over `run`, of which nothing is made in advance or left out.

    A number of each turn's result is added to its arguments, in place, and the whole result is the loop's.
    """
    import jax
    import jax.numpy as jnp

    def turn(_: int, loop: tuple[Any, Any]) -> tuple[Any, Any]:
        given, result = loop[0], run(*loop[0])
        number = 1e-6 * jax.tree.leaves(result)[0].ravel()[0].astype("float32")
        firsts = [x[(slice(1),) * x.ndim] + number.astype(x.dtype) for x in given]
        moved = [jax.lax.dynamic_update_slice(x, one, (0,) * x.ndim) for x, one in zip(given, firsts, strict=True)]
        return tuple(moved), result

    @jax.jit
    def program(*given: jax.Array) -> Any:
        result = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run, *given))
        return jax.lax.fori_loop(0, turns, turn, (given, result))

    return program


def profile(args: argparse.Namespace) -> dict[str, Any]:
    """A trace of three steps, beside the rows."""
    import jax

    step = jax_step(args.batch, args.name.split(" ")[1])
    for _ in range(3):
        float(step())
    folder = args.out / f"profile-{args.name.split(' ')[1]}-{args.batch}"
    with jax.profiler.trace(folder):
        for _ in range(3):
            loss = step()
        float(loss)
    return {"text": f"three steps in {folder.name}: xprof --logdir={folder}"}


def script(args: argparse.Namespace) -> dict[str, Any]:
    """What another program of this checkout prints."""
    run, where, *options = {
        "device": (runpy.run_path, str(ROOT / "benchmarks" / "device.py"), f"--batch={min(args.batch, 32)}"),
        "feed": (runpy.run_module, "tools.bench_input", "--config=alexnet:synthetic",
                 f"--config.train.batch_size={args.batch}"),
    }[args.name]  # fmt: skip
    sys.argv = [where, *options]
    said, why = io.StringIO(), {}
    try:
        with contextlib.redirect_stdout(said):
            run(where, run_name="__main__")
    except SystemExit as ended:
        why = {"failed": str(ended.code)} if ended.code else {}
    return why | {"text": said.getvalue()}


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """The processor, the accelerator and its driver, and GFLOP of a training step for an image."""
    from alexnet_jax import builder, config as configs
    from alexnet_jax.train import speed

    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    units = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
    network = builder.model(configs.load_recipe("alexnet:imagenet2012"), CLASSES)
    return {
        "processor": f"{model or platform.processor()}, {os.cpu_count()} cores, {' '.join(units)}",
        "driver": _said(query), "gflop": 1e-9 * speed.flops_per_image(network, PIXELS),
    }  # fmt: skip


def _said(command: list[str]) -> str:
    """What a program prints; "" where there is none."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _about(kind: str) -> dict[str, str]:
    """The device, the versions, the commit (the file COMMIT says it where there is no Git) and the date."""
    if kind == "torch":
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    else:
        import jax

        device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    kept = ROOT / "COMMIT"
    commit = kept.read_text().strip() if kept.exists() else _said(["git", "rev-parse", "--short", "HEAD"]) or "unknown"
    library = "torch" if kind == "torch" else "jax"
    return {
        "device": device, "commit": commit, "date": str(datetime.date.today()),
        "versions": f"Python {platform.python_version()}, {library} {importlib.metadata.version(library)}",
    }  # fmt: skip


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "jax": step_rates, "torch": step_rates, "ceilings": ceilings, "layers": layer_times, "profile": profile,
    "device": script, "feed": script, "machine": machine,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3, help="steps with a sync each; at least so many without")
    parser.add_argument("--out", type=Path, default=Path(), help="where a profile is kept")
    args = parser.parse_args()
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    kind = args.name.split(" ")[0]
    sys.path[0] = str(ROOT)  # in place of benchmarks/, whose input.py, device.py, ... are no modules
    try:
        if kind != "torch":
            import alexnet_jax

            alexnet_jax.__path__.append(str(ROOT))  # alexnet_jax.configs, where the package is not installed
        row = MEASURES[kind](args) | _about(kind)
    except Exception as error:
        row = {"failed": f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"}
    print(f"\n{json.dumps(row)}", flush=True)
    os._exit(0)  # a library's threads may not want to end


def _follow(parent: int) -> None:
    """Ends this process after its parent: killed, it leaves nobody on the device."""
    for _ in itertools.count():
        if os.getppid() != parent:
            os._exit(1)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
