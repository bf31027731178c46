"""The training step's speed on this machine, and a plain PyTorch version of the same network beside it.

    python benchmarks/step.py --batch=128 [--torch=PYTHON]

Images per second of net 145 with 1000 classes in float32: forward, backward and update, on data that
is already in memory. `--torch` names a Python that has PyTorch; the two run in turn, several times, so
that the ratio holds on a machine whose speed drifts. Median, and the range, of all steps but the first
two of each turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def jax_step(batch: int) -> Callable[[], float]:
    """One training step of this project, on the devices that are there; returns the loss."""
    sys.path.insert(0, str(ROOT))
    import jax
    import numpy as np

    from alexnet_jax import config as configs, parts
    from alexnet_jax.network import placement, towers
    from alexnet_jax.training import plan as plans
    from alexnet_jax.training.step import make_state, make_train_step

    config = configs.load_recipe("alexnet:imagenet2012")
    mesh = towers.make_mesh(towers=2, tower=0)
    network = parts.network(config, 1000)
    optimizer, _ = plans.build_optimizer(config, images=1_281_167, steps=910_000)
    shapes = jax.eval_shape(lambda: make_state(network, optimizer, seed=0, image_pixels=224))
    state = jax.jit(
        lambda: make_state(network, optimizer, seed=0, image_pixels=224),
        out_shardings=placement.shardings(network, shapes, mesh),
    )()
    step = make_train_step(
        network, optimizer, mesh, shapes, batch_size=batch,
        inputs=parts.inputs(config),
        augmentation=plans.build_augmentation(config, images=1_281_167),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    data = {
        "image": rng.integers(0, 256, (batch, 224, 224, 3), np.uint8),
        "label": rng.integers(0, 1000, batch, np.int32),
        "place": np.arange(batch, dtype=np.int32),
    }

    def once() -> float:
        nonlocal state
        state, metrics = step(state, towers.to_devices(data, mesh))
        return float(metrics["loss"])

    return once


def torch_step(batch: int) -> Callable[[], float]:
    """One training step of the same network in plain PyTorch: its own layers, autodiff and SGD."""
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
            self.fc6, self.fc7, self.fc8 = nn.Linear(9216, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000)

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            relu, pool = functional.relu, functional.max_pool2d
            x = relu(pool(channel_norm(self.conv1(functional.pad(x, (0, 3, 0, 3)))), 3, 2))
            x = pool(spatial_norm(channel_norm(relu(self.conv2(x)))), 3, 2)
            x = relu(pool(self.conv5(relu(self.conv4(relu(self.conv3(x))))), 3, 2))
            x = functional.dropout(relu(self.fc6(x.flatten(1))))
            return self.fc8(functional.dropout(relu(self.fc7(x))))

    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=0.0005)
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(0, 1000, (batch,))

    def once() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return once


def measure(step: Callable[[], float], batch: int, steps: int) -> list[float]:
    """Images per second of each step but the first two, which compile and warm up."""
    rates = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        step()
        rates.append(batch / (time.perf_counter() - start))
    return rates[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5, help="counted steps a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--only", choices=["jax", "torch"], help="measure here and print JSON")
    args = parser.parse_args()
    if args.only:
        step = {"jax": jax_step, "torch": torch_step}[args.only](args.batch)
        print(json.dumps(measure(step, args.batch, args.steps)))
        return
    pythons = {"jax": sys.executable} | ({"torch": args.torch} if args.torch else {})
    rates: dict[str, list[float]] = {name: [] for name in pythons}
    for turn in range(args.turns):
        for name, python in pythons.items():
            options = [f"--only={name}", f"--batch={args.batch}", f"--steps={args.steps}"]
            out = subprocess.run([python, __file__, *options], stdout=subprocess.PIPE, text=True, check=True).stdout
            rates[name] += json.loads(out.splitlines()[-1])
            print(f"turn {turn + 1}: {name} {statistics.median(rates[name][-args.steps :]):.1f} images/s", flush=True)
    for name, seen in rates.items():
        print(f"{name}: median {statistics.median(seen):.1f} images/s ({min(seen):.1f} to {max(seen):.1f})")
    if "torch" in rates:
        print(f"ratio jax / torch: {statistics.median(rates['jax']) / statistics.median(rates['torch']):.2f}")


if __name__ == "__main__":
    main()
