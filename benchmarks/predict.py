"""Inference on this machine's CPU: this project's networks beside other programs that compute the same ones.

    python benchmarks/predict.py [--torch=PYTHON] [--photographs=FOLDER] [--turns=5] [--json=FILE]

Pictures a second from uint8 pixels to logits, of torchvision's network and of the default one at batch 1, 32 and 256:
`net.logits` by JAX in float32 and bfloat16 and with the engine onnxruntime; onnxruntime and OpenCV by themselves, on
our export; with `--torch`, a Python that has PyTorch, its eager mode, channels_last and torch.compile, on the layers of
torchvision's models/alexnet.py and those of the default network. All run in turn, each in a process of its own on the
same cores, so that a ratio is one of neighbors in time. With `--photographs` also
`net.predict` of files and `alexnet features` of the folder, beside reading alone and computing alone, and a table of
where the time goes.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = ("jax", "jax bfloat16", "engine onnxruntime")
EXPORT = ("onnxruntime", "opencv")
TORCH = ("torch eager", "torch channels_last", "torch compiled")
NETWORKS = "torchvision", "alexnet"
SECONDS = 0.7  # that a measurement lasts at least


def ours(recipe: str, name: str = "jax") -> Any:
    import alexnet_jax

    engine = alexnet_jax.onnxruntime if name == "engine onnxruntime" else None
    return alexnet_jax.build(recipe).using(engine=engine, precision="bfloat16" if name == "jax bfloat16" else "float32")


def by_export(recipe: str, name: str) -> Callable[[Any], Any]:
    """Logits of uint8 [B, 224, 224, 3] by another program that reads our ONNX."""
    from alexnet_jax.export import onnx_graph

    if name == "onnxruntime":
        import onnxruntime

        content = onnx_graph.to_onnx(ours(recipe), pixels="uint8").SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda images: session.run(["logits"], {"images": images})[0]
    import cv2
    import numpy as np

    content = onnx_graph.to_onnx(ours(recipe), pixels="float32").SerializeToString()
    cv2.setNumThreads(len(os.sched_getaffinity(0)))
    net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))

    def run(images: Any) -> Any:
        net.setInput(images.astype(np.float32))
        return net.forward()

    return run


def by_torch(recipe: str, mode: str) -> Callable[[Any], Any]:
    """Logits of uint8 [B, 224, 224, 3] by PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    def channel_norm(x: "torch.Tensor") -> "torch.Tensor":  # two towers of half the channels
        towers = x.reshape(2 * x.shape[0], -1, *x.shape[2:])
        return functional.local_response_norm(towers, 5, 1e-4, 0.75, 2.0).reshape(x.shape)

    def spatial_norm(x: "torch.Tensor") -> "torch.Tensor":
        return x * (1 + 0.001 * functional.avg_pool2d(x * x, 5, 1, 2)) ** -0.75

    class Of(nn.Module):
        def __init__(self, function: Callable[..., Any]) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            return self.function(x)

    def pool() -> Any:
        return nn.MaxPool2d(3, 2)

    def conv(*args: int, **kwargs: int) -> list[Any]:
        return [nn.Conv2d(*args, **kwargs), nn.ReLU()]

    def dense(inputs: int, units: int) -> list[Any]:
        return [nn.Linear(inputs, units), nn.ReLU()]

    if recipe == "torchvision":
        layers = [*conv(3, 64, 11, 4, 2), pool(), *conv(64, 192, 5, 1, 2), pool(), *conv(192, 384, 3, 1, 1)]
        layers += [*conv(384, 256, 3, 1, 1), *conv(256, 256, 3, 1, 1), pool(), nn.Flatten()]
    else:
        layers = [nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 96, 11, 4), Of(channel_norm), pool(), nn.ReLU()]
        layers += [*conv(96, 256, 5, 1, 2, groups=2), Of(channel_norm), Of(spatial_norm), pool()]
        layers += [*conv(256, 384, 3, 1, 1), *conv(384, 384, 3, 1, 1, groups=2)]
        layers += [nn.Conv2d(384, 256, 3, 1, 1, groups=2), pool(), nn.ReLU(), nn.Flatten()]
    layers += [*dense(9216, 4096), *dense(4096, 4096), nn.Linear(4096, 1000)]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = torch.contiguous_format if mode == "eager" else torch.channels_last
    net = nn.Sequential(*layers).eval().to(memory_format=layout)
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)))

    def whole(images: "torch.Tensor") -> "torch.Tensor":
        return net(((images.permute(0, 3, 1, 2) - mean) / std).contiguous(memory_format=layout))

    run = torch.compile(whole) if mode == "compiled" else whole

    def logits(images: Any) -> Any:
        with torch.inference_mode():
            return run(torch.from_numpy(images)).numpy()

    return logits


def seconds(run: Callable[[], Any], least: float = SECONDS) -> float:
    """The median of as many runs as `least` seconds take, one at least, after one that does not count."""
    run()
    found: list[float] = []
    while sum(found) < least:
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measure(name: str, batches: list[int]) -> dict[str, float]:
    """{"RECIPE BATCH": seconds} of one variant."""
    import numpy as np

    found = {}
    for recipe in NETWORKS:
        side = 256 if name in OURS else 224  # ours take the center of the squares that files give
        kind, _, mode = name.partition(" ")
        run = ours(recipe, name).logits if name in OURS else (
            by_torch(recipe, mode) if kind == "torch" else by_export(recipe, name)
        )  # fmt: skip
        for batch in batches:
            images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
            found[f"{recipe} {batch}"] = seconds(lambda run=run, images=images: run(images))
    return found


# ---------------------------------------------------------------- files


def of_files(name: str, folder: str) -> dict[str, float]:
    """Pictures a second: read alone, computed alone, both as predict and features have them."""
    from alexnet_jax import features
    from alexnet_jax.data import pictures

    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    paths = (paths * (256 // len(paths) + 1))[:256]
    net = ours("torchvision", name)
    squares = next(pictures.batches(paths, 256, len(paths))[0])
    with tempfile.TemporaryDirectory() as scratch:
        runs = {
            "read": lambda: list(pictures.batches(paths, 256, 32)[0]),
            "computed": lambda: net.logits(squares),
            "predict": lambda: net.predict(paths),
            "features": lambda: features.write(
                net, features.of_files(paths, net), "fc7", Path(scratch) / "f.npz", say=lambda _: None
            ),
        }
        return {what: len(paths) / seconds(run) for what, run in runs.items()}


def shares(name: str, folder: str) -> dict[str, float]:
    """Milliseconds for each of 32 pictures: to read and resize them on one thread, and to the end of each layer."""
    from alexnet_jax.data import pictures, preprocess

    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:32]
    read = [pictures.read(path, at_least=256) for path in paths]
    squares = [preprocess.crop_resized(picture, 256, 256) for picture in read]
    net = ours("torchvision", name)
    found = {
        "decode": seconds(lambda: [pictures.read(path, at_least=256) for path in paths]),
        "resize": seconds(lambda: [preprocess.crop_resized(picture, 256, 256) for picture in read]),
    }
    for layer in net.tower.stack:
        found[layer.name] = seconds(lambda layer=layer: net.features(squares, layer.name))
    return {what: 1e3 * value / len(paths) for what, value in found.items()}


# ---------------------------------------------------------------- in turn


def in_process(python: str, what: str, name: str, args: argparse.Namespace, cache: str) -> Any:
    """What `--only=what` finds in a process of its own."""
    command = [python, __file__, f"--only={what}", f"--variant={name}", f"--threads={args.threads}", "--batches"]
    command += map(str, args.batches)
    command += [f"--photographs={args.photographs}"] if args.photographs else []
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"error: {name} failed under {python}: {(done.stderr.splitlines() or ['without a word'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, str]:
    cpu = Path("/proc/cpuinfo")
    names = {line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "onnxruntime")]
    processor = " ".join(names) or platform.processor()
    return {
        "processor": f"{processor}, {os.cpu_count()} cores", "versions": ", ".join(versions), "commit": commit.strip(),
        "date": str(datetime.date.today()),
    }  # fmt: skip


def middle(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(turns: list[dict[str, dict[str, float]]], recipe: str, batches: list[int]) -> str:
    """Markdown: pictures a second, and the ratio to the strongest peer of the same turn."""
    heads = [f"batch {batch} | against the best peer" for batch in batches]
    lines = [f"| {recipe} | {' | '.join(heads)} |", "| --- " * (1 + 2 * len(batches)) + "|"]
    for name in turns[0]:
        cells = []
        for batch in batches:
            key = f"{recipe} {batch}"
            best = [min(row[key] for peer, row in turn.items() if peer not in OURS) for turn in turns]
            cells.append(middle([batch / turn[name][key] for turn in turns]))
            cells.append(middle([b / turn[name][key] for b, turn in zip(best, turns, strict=True)], 2))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plain_table(found: dict[str, list[dict[str, float]]], digits: int) -> str:
    """Markdown: one row a variant."""
    heads = list(next(iter(found.values()))[0])
    lines = [f"| | {' | '.join(heads)} |", "| --- " * (1 + len(heads)) + "|"]
    for name, rows in found.items():
        lines.append(f"| {name} | {' | '.join(middle([row[head] for row in rows], digits) for head in heads)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="cores for each of them (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--photographs", help="a folder of JPEGs")
    parser.add_argument("--json", type=Path, help="where the rows are kept")
    parser.add_argument("--only", choices=["rates", "files", "shares"], help="measure --variant here and print JSON")
    parser.add_argument("--variant")
    args = parser.parse_args()
    if args.only:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        if args.only == "rates":
            found = measure(args.variant, args.batches)
        else:
            found = (of_files if args.only == "files" else shares)(args.variant, args.photographs)
        print(json.dumps(found))
        return
    said = machine()
    print(", ".join(said.values()), flush=True)
    pythons = dict.fromkeys((*OURS, *EXPORT), sys.executable) | dict.fromkeys(TORCH if args.torch else (), args.torch)
    turns, files, parts = [], {name: [] for name in OURS}, {name: [] for name in OURS}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(args.turns):
            turns.append({name: in_process(python, "rates", name, args, cache) for name, python in pythons.items()})
            for name in OURS if args.photographs else ():
                files[name].append(in_process(sys.executable, "files", name, args, cache))
            print(
                json.dumps({name: [round(s, 4) for s in row.values()] for name, row in turns[-1].items()}), flush=True
            )
        for name in OURS if args.photographs else ():
            parts[name].append(in_process(sys.executable, "shares", name, args, cache))
    for recipe in NETWORKS:
        print(f"\npictures/s on {args.threads} threads:\n\n{table(turns, recipe, args.batches)}")
    if args.photographs:
        print(f"\nfiles, pictures/s:\n\n{plain_table(files, 0)}")
        print(f"\nms a picture, 32 at a time, to the end of each layer:\n\n{plain_table(parts, 2)}")
    if args.json:
        args.json.write_text(json.dumps({"machine": said, "turns": turns, "files": files, "parts": parts}, indent=1))


if __name__ == "__main__":
    main()
