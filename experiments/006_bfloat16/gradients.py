"""Gradients of the full network in bfloat16, against float64, beside PyTorch's on the same weights and pictures.

    python experiments/006_bfloat16/gradients.py --torch=PYTHON [--data=NAME] [--batches 32 64 128]

Net 145 with the classes of NAME, its initial weights (seed 0), no dropout, pictures from all over the training split,
labels at random. The reference is PyTorch in float64. An error is the length of the difference as a share of the length
of the gradient, for the kernel of each layer. Prints a table for each batch.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
OURS, THEIRS = ("float32", "bfloat16"), ("float64", "float32", "bfloat16")
Arrays = dict[str, np.ndarray]


def ours(data: str, batch: int, folder: Path) -> None:
    """Writes `inputs.npz` (weights, images, labels, in PyTorch's layout) and the gradients of each precision."""
    import jax
    import jax.numpy as jnp
    import optax

    from alexnet_jax import builder, config as configs
    from alexnet_jax.data import feed, preprocess
    from alexnet_jax.model import alexnet as models, towers

    config = configs.load_recipe(f"alexnet:{data}")
    split = builder.open_split(config, config.data.train_split)
    config = builder.with_statistics(config, split.folder)
    images = preprocess.Crop(config.data.resize_pixels, config.data.crop_pixels)
    pixels = feed.some_images(split, images, batch)
    labels = np.random.default_rng(0).integers(0, len(split.class_names), len(pixels)).astype(np.int32)
    x = builder.inputs(config, folder=split.folder)(jnp.asarray(pixels))
    arrays: Arrays = {}
    for dtype in OURS:
        network = builder.model(configs.load_recipe(f"alexnet:{data}", [f"precision={dtype}"]), len(split.class_names))
        key = jax.random.key(0)
        params = jax.jit(lambda network=network, key=key: models.init_variables(network, key, 224))()["params"]
        run = towers.over_towers(models.logits_fn(network))

        def loss(params: Any, run: Any = run) -> Any:
            logits = run({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).mean()

        gradients = jax.device_get(jax.jit(jax.grad(loss))(params))
        for layer in LAYERS:
            arrays[f"{dtype} {layer}"] = as_torch(gradients[layer]["kernel"], layer)
    given = {f"{layer} kernel": as_torch(np.asarray(params[layer]["kernel"]), layer) for layer in LAYERS}
    given |= {f"{layer} bias": np.asarray(params[layer]["bias"]).reshape(-1) for layer in LAYERS}
    np.savez(folder / "inputs.npz", images=np.asarray(x).transpose(0, 3, 1, 2), labels=labels, **given)
    np.savez(folder / "ours.npz", **arrays)


def as_torch(kernel: np.ndarray, layer: str) -> np.ndarray:
    """[T, k, k, C, M] -> [T * M, C, k, k]; [T, inputs, units] -> [T * units, inputs], fc6's by channels first."""
    if kernel.ndim == 5:
        return np.concatenate([tower.transpose(3, 2, 0, 1) for tower in kernel])
    if layer == "fc6":
        kernel = kernel.reshape(kernel.shape[0], 6, 6, -1, kernel.shape[-1]).transpose(0, 3, 1, 2, 4)
        kernel = kernel.reshape(kernel.shape[0], -1, kernel.shape[-1])
    return np.concatenate([tower.T for tower in kernel])


def theirs(folder: Path) -> None:
    """Writes PyTorch's gradients of each precision, bfloat16 by autocast."""
    import torch
    from torch.nn import functional

    given = np.load(folder / "inputs.npz")
    arrays: Arrays = {}
    for dtype in THEIRS:
        wide = torch.float64 if dtype == "float64" else torch.float32
        p = {name: torch.tensor(given[name], dtype=wide, requires_grad=True) for name in given.files if " " in name}
        images, labels = torch.tensor(given["images"], dtype=wide), torch.tensor(given["labels"], dtype=torch.int64)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            functional.cross_entropy(forward(p, images), labels).backward()
        for layer in LAYERS:
            arrays[f"{dtype} {layer}"] = p[f"{layer} kernel"].grad.float().numpy()
    np.savez(folder / "theirs.npz", **arrays)


def forward(p: dict[str, Any], x: Any) -> Any:
    """Net 145 in plain PyTorch, dropout as in the test of 2012."""
    from torch.nn import functional

    def conv(x: Any, layer: str, stride: int, padding: int, groups: int) -> Any:
        return functional.conv2d(x, p[f"{layer} kernel"], p[f"{layer} bias"], stride, padding, groups=groups)

    def norm(x: Any) -> Any:  # two towers of half the channels
        halves = x.reshape(2 * x.shape[0], -1, *x.shape[2:])
        return functional.local_response_norm(halves, 5, 1e-4, 0.75, 2.0).reshape(x.shape)

    def spatial(x: Any) -> Any:
        return x * (1 + 0.001 * functional.avg_pool2d(x * x, 5, 1, 2)) ** -0.75

    relu, pool = functional.relu, functional.max_pool2d
    x = relu(pool(norm(conv(functional.pad(x, (0, 3, 0, 3)), "conv1", 4, 0, 1)), 3, 2))
    x = pool(spatial(norm(relu(conv(x, "conv2", 1, 2, 2)))), 3, 2)
    x = relu(conv(relu(conv(x, "conv3", 1, 1, 1)), "conv4", 1, 1, 2))
    x = relu(pool(conv(x, "conv5", 1, 1, 2), 3, 2)).flatten(1)
    for layer in ("fc6", "fc7"):
        x = 0.5 * relu(functional.linear(x, p[f"{layer} kernel"], p[f"{layer} bias"]))
    return functional.linear(x, p["fc8 kernel"], p["fc8 bias"])


def table(folder: Path) -> str:
    """Markdown: the error of each layer's kernel gradient."""
    mine, peer = np.load(folder / "ours.npz"), np.load(folder / "theirs.npz")

    def error(found: Any, layer: str) -> float:
        wanted = peer[f"float64 {layer}"].astype(np.float64)
        return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))

    lines = ["| layer | float32 | PyTorch | bfloat16 | PyTorch, autocast |", "| --- | --- | --- | --- | --- |"]
    for layer in LAYERS:
        cells = [error(source[f"{d} {layer}"], layer) for d in ("float32", "bfloat16") for source in (mine, peer)]
        lines.append(f"| {layer} | {cells[0]:.1e} | {cells[1]:.1e} | {cells[2]:.3f} | {cells[3]:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Runs both sides, batch by batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="a prepared data set (%(default)s)")
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--only-torch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_torch:
        theirs(args.only_torch)
        return
    if not args.torch:
        parser.error("--torch is missing: a Python that has PyTorch")
    for batch in args.batches:
        with tempfile.TemporaryDirectory() as name:
            ours(args.data, batch, Path(name))
            subprocess.run([args.torch, __file__, f"--only-torch={name}"], check=True)
            print(f"\nbatch {batch}, {args.data}\n\n{table(Path(name))}", flush=True)


if __name__ == "__main__":
    main()
