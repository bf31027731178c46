"""The training step's speed on this machine beside PyTorch's, and both beside what the machine can do.

    python benchmarks/step.py [--torch=PYTHON] [--batch=128] [--turns=5] [--json=FILE]

Images per second of net 145 with 1000 classes: forward, backward and update, on data that is already in memory.
`--torch` names a Python that has PyTorch; its eager mode, channels_last and torch.compile are measured, each in float32
and in bfloat16 (autocast). All run in turn, each in a process of its own, and so do the machine's own matmul and copy,
so that a ratio is one of neighbors in time on a machine whose speed drifts. A turn's rate is the median of its steps
but the first two. Then a table of the layers, each alone. The first turn starts with an empty compilation cache; the
others find what it left there.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DTYPES = ("float32", "bfloat16")
OURS = tuple(f"jax {dtype}" for dtype in DTYPES)
TORCH = tuple(f"torch {mode} {dtype}" for dtype in DTYPES for mode in ("eager", "channels_last", "compiled"))
CLASSES, PIXELS = 1000, 224


def jax_step(batch: int, dtype: str) -> Callable[[], float]:
    """One training step of this project, on the devices that are there; returns the loss."""
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

    def once() -> float:
        nonlocal state
        state, metrics = step(state, there)
        return float(metrics["loss"])

    return once


def torch_step(batch: int, mode: str, dtype: str) -> Callable[[], float]:
    """One training step of the same network in PyTorch: its own layers, autodiff and SGD."""
    import torch
    from torch import nn
    from torch.nn import functional

    def channel_norm(x: "torch.Tensor") -> "torch.Tensor":  # two towers of half the channels
        towers = x.reshape(2 * x.shape[0], -1, *x.shape[2:])
        return functional.local_response_norm(towers, 5, 1e-4, 0.75, 2.0).reshape(x.shape)

    def spatial_norm(x: "torch.Tensor") -> "torch.Tensor":
        return x * (1 + 0.001 * functional.avg_pool2d(x * x, 5, 1, 2)) ** -0.75

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 96, 11, 4), nn.Conv2d(96, 256, 5, 1, 2, groups=2)
            self.conv3, self.conv4 = nn.Conv2d(256, 384, 3, 1, 1), nn.Conv2d(384, 384, 3, 1, 1, groups=2)
            self.conv5 = nn.Conv2d(384, 256, 3, 1, 1, groups=2)
            self.fc6, self.fc7, self.fc8 = nn.Linear(9216, 4096), nn.Linear(4096, 4096), nn.Linear(4096, CLASSES)

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            relu, pool = functional.relu, functional.max_pool2d
            x = relu(pool(channel_norm(self.conv1(functional.pad(x, (0, 3, 0, 3)))), 3, 2))
            x = pool(spatial_norm(channel_norm(relu(self.conv2(x)))), 3, 2)
            x = relu(pool(self.conv5(relu(self.conv4(relu(self.conv3(x))))), 3, 2))
            x = functional.dropout(relu(self.fc6(x.flatten(1))))
            return self.fc8(functional.dropout(relu(self.fc7(x))))

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, as XLA's default
        torch.backends.cudnn.allow_tf32 = True
    layout = torch.channels_last if mode != "eager" else torch.contiguous_format
    net = Net().to(device, memory_format=layout)
    run = torch.compile(net) if mode == "compiled" else net
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=0.0005)
    images = torch.randn(batch, 3, PIXELS, PIXELS, device=device).to(memory_format=layout)
    labels = torch.randint(0, CLASSES, (batch,), device=device)

    def once() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = functional.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return once


def ceilings() -> dict[str, float]:
    """GFLOP/s of the best of three square matmuls in each type, and GB/s of a copy, on one device."""
    import jax
    import jax.numpy as jnp

    def best(run: Callable[..., Any], *given: Any) -> float:
        jax.block_until_ready(run(*given))
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready(run(*given))
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    found = {}
    for dtype in DTYPES:
        rates = []
        for size in (1024, 2048, 4096):
            a = jax.random.normal(jax.random.key(0), (size, size), dtype)
            matmul = jax.jit(lambda a, b: jax.lax.dot(a, b, preferred_element_type=jnp.float32))
            rates.append(2e-9 * size**3 / best(matmul, a, a))
        found[f"matmul {dtype}"] = max(rates)
    numbers = jnp.ones(64_000_000, jnp.float32)
    found["copy"] = 2e-9 * numbers.nbytes / best(jax.jit(lambda a: a + 1), numbers)
    return found


def layer_times(batch: int, dtype: str) -> dict[str, dict[str, float]]:
    """{layer: {GFLOP, forward and backward seconds}} of the layers' products alone, both towers on one device."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax import builder, config as configs, summary
    from alexnet_jax.model import layers, placement
    from alexnet_jax.model.alexnet import ConvLayer

    config = configs.load_recipe("alexnet:imagenet2012", [f"precision={dtype}"])
    network = builder.model(config, CLASSES)
    params = placement.variables(network, PIXELS)["params"]
    rows = {row.name: row for row in summary.layer_rows(network, PIXELS)}
    found = {}
    for layer in network.stack:
        kernel = jax.random.normal(jax.random.key(0), params[layer.name]["kernel"].shape)
        shared = layer.name in network.exchange or layer is network.stack[0]
        inputs = rows[layer.name].input
        shape = (batch, *inputs) if isinstance(layer, ConvLayer) else (batch, kernel.shape[1])
        x = jax.random.normal(jax.random.key(1), shape if shared else (2, *shape), dtype)

        def product(x: jax.Array, kernel: jax.Array, layer: Any = layer, shared: bool = shared) -> jax.Array:
            def of_tower(x: jax.Array, kernel: jax.Array) -> jax.Array:
                if isinstance(layer, ConvLayer):
                    return layers.tower_conv(x, kernel, stride=layer.stride, padding=layer.padding).astype(dtype)
                return layers.tower_matmul(x, kernel).astype(dtype)

            return jax.vmap(of_tower, in_axes=(None if shared else 0, 0))(x, kernel)

        first = layer is network.stack[0]  # the image needs no gradient

        def gradients(
            x: jax.Array, kernel: jax.Array, g: jax.Array, product: Any = product, first: bool = first
        ) -> Any:
            if first:
                return jax.vjp(lambda kernel: product(x, kernel), kernel)[1](g)
            return jax.vjp(product, x, kernel)[1](g)

        g = jnp.ones(jax.eval_shape(product, x, kernel).shape, dtype)
        found[layer.name] = {
            "gflop": 2e-9 * batch * rows[layer.name].macs,
            "backward_gflop": (2e-9 if first else 4e-9) * batch * rows[layer.name].macs,
            "forward": _median_seconds(jax.jit(product), x, kernel),
            "backward": _median_seconds(jax.jit(gradients), x, kernel, g),
        }
    return found


def _median_seconds(run: Callable[..., Any], *given: Any) -> float:
    import jax

    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(run(*given))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measure(name: str, batch: int, steps: int) -> dict[str, Any]:
    """What one process finds: images/s of a turn, seconds to the end of the first step, the most memory in GB."""
    start = time.perf_counter()
    kind, *options = name.split(" ")
    step = torch_step(batch, *options) if kind == "torch" else jax_step(batch, *options)
    step()
    first, rates = time.perf_counter() - start, []
    for _ in range(steps + 1):
        since = time.perf_counter()
        step()
        rates.append(batch / (time.perf_counter() - since))
    return {"rate": statistics.median(rates[1:]), "first_step": first, "memory": _memory(kind)}


def _memory(kind: str) -> float:
    """The most memory so far in GB: the device's, of a CPU the process's."""
    if kind == "torch":
        import torch

        if torch.cuda.is_available():
            return float(torch.cuda.max_memory_allocated() / 1e9)
    else:
        import jax

        stats = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            return float(stats["peak_bytes_in_use"] / 1e9)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def in_process(python: str, name: str, args: argparse.Namespace, cache: str) -> Any:
    """What `--only=name` prints in a process of its own."""
    command = [python, __file__, f"--only={name}", f"--batch={args.batch}", f"--steps={args.steps}"]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"error: {name} failed under {python}: {(done.stderr.splitlines() or ['without a word'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(args: argparse.Namespace, cache: str) -> tuple[dict[str, list[Any]], list[dict[str, float]]]:
    """({variant: what it found in each turn}, the ceilings of each turn)."""
    pythons = dict.fromkeys(OURS, sys.executable) | (dict.fromkeys(TORCH, args.torch) if args.torch else {})
    pythons = {name: python for name, python in pythons.items() if not args.variants or name in args.variants}
    found: dict[str, list[Any]] = {name: [] for name in pythons}
    tops = []
    for turn in range(args.turns):
        for name, python in pythons.items():
            found[name].append(in_process(python, name, args, cache))
        tops.append(in_process(sys.executable, "ceilings", args, cache))
        said = ", ".join(f"{name} {rows[-1]['rate']:.1f}" for name, rows in found.items())
        print(f"turn {turn + 1}: {said} images/s; {_tops_in_words(tops[-1])}", flush=True)
    return found, tops


def _tops_in_words(tops: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.0f} {'GB/s' if name == 'copy' else 'GFLOP/s'}" for name, value in tops.items())


def _middle(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(found: dict[str, list[Any]], tops: list[dict[str, float]], gflop: float) -> str:
    """Markdown: medians over the turns with their range; a ratio is one of the rates of the same turn."""
    best = {
        dtype: max((n for n in found if n.startswith("torch") and n.endswith(dtype)), key=lambda n: _rate(found[n]),
                   default=None)
        for dtype in DTYPES
    }  # fmt: skip
    lines = [
        "| | images/s | TFLOP/s | share of the ceiling | against the best PyTorch | memory, GB | first step, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in found.items():
        dtype, rates = name.split(" ")[-1], [row["rate"] for row in rows]
        shares = [rate * gflop / top[f"matmul {dtype}"] for rate, top in zip(rates, tops, strict=True)]
        peer, against = best[dtype], ""
        if name in OURS and peer:
            against = _middle([ours / row["rate"] for ours, row in zip(rates, found[peer], strict=True)], 2)
        first = f"{rows[0]['first_step']:.1f} cold" + (
            f", {statistics.median(row['first_step'] for row in rows[1:]):.1f} warm" if rows[1:] else ""
        )
        memory = statistics.median(row["memory"] for row in rows)
        cells = (_middle(rates), f"{statistics.median(rates) * gflop / 1e3:.3g}", _middle(shares, 2), against)
        lines.append(f"| {name} | {' | '.join(cells)} | {memory:.1f} | {first} |")
    return "\n".join(lines)


def _rate(rows: list[Any]) -> float:
    return statistics.median(row["rate"] for row in rows)


def layers_table(times: dict[str, dict[str, float]], top: float) -> str:
    """Markdown: each layer's products alone, with their share of the ceiling."""
    lines = ["| layer | forward, ms | share | backward, ms | share |", "| --- | --- | --- | --- | --- |"]
    for name, row in times.items():
        forward, backward = row["gflop"] / row["forward"] / top, row["backward_gflop"] / row["backward"] / top
        lines.append(
            f"| {name} | {1e3 * row['forward']:.0f} | {forward:.2f} | {1e3 * row['backward']:.0f} | {backward:.2f} |"
        )
    return "\n".join(lines)


def gflop_per_image() -> float:
    from alexnet_jax import builder, config as configs
    from alexnet_jax.train import speed

    return 1e-9 * speed.flops_per_image(builder.model(configs.load_recipe("alexnet:imagenet2012"), CLASSES), PIXELS)


def describe_machine() -> dict[str, str]:
    """The processor, the accelerator if there is one, the versions, the commit and the date."""
    import jax

    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    units = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return {
        "processor": f"{model or platform.processor()}, {os.cpu_count()} cores, {' '.join(units)}",
        "device": jax.devices()[0].device_kind,
        "versions": f"Python {platform.python_version()}, jax {importlib.metadata.version('jax')}",
        "commit": commit.strip(),
        "date": str(datetime.date.today()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3, help="counted steps a turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--variants", nargs="*", choices=[*OURS, *TORCH], help="those alone")
    parser.add_argument("--json", type=Path, help="where the rows are kept")
    parser.add_argument("--only", help="measure here and print JSON: a variant, ceilings, or layers DTYPE")
    args = parser.parse_args()
    if args.only:
        if args.only == "ceilings":
            print(json.dumps(ceilings()))
        elif args.only.startswith("layers"):
            print(json.dumps(layer_times(args.batch, args.only.split(" ")[1])))
        else:
            print(json.dumps(measure(args.only, args.batch, args.steps)))
        return
    machine, gflop = describe_machine(), gflop_per_image()
    print(", ".join(machine.values()), flush=True)
    with tempfile.TemporaryDirectory() as cache:
        found, tops = compare(args, cache)
        print(f"\nbatch {args.batch}, {gflop:.2f} GFLOP an image, {args.turns} turns of {args.steps} steps:\n")
        print(table(found, tops, gflop))
        times = {dtype: in_process(sys.executable, f"layers {dtype}", args, cache) for dtype in DTYPES}
    for dtype, rows in times.items():
        top = statistics.median(top[f"matmul {dtype}"] for top in tops)
        print(f"\nlayers alone, {dtype}, ceiling {top:,.0f} GFLOP/s:\n\n{layers_table(rows, top)}")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "turns": found, "tops": tops, "layers": times}, indent=1))


if __name__ == "__main__":
    main()
