"""Whether this machine's devices compute what they should: one step of the full network against a CPU's and float64.

    python benchmarks/device.py [--batch=32]

Convolutions and their gradients on the default device against float64 on its host, in float32 and bfloat16; then a
whole training step on the device against the same step on the host, both in float32; then the step in bfloat16; then,
where there are two devices or more, two towers on two of them, and data parallelism, against one device. Prints a row
for each and ends with status 1 where a bound is broken. Only the devices are at issue: `make test` has the oracles.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import builder, config as configs
from alexnet_jax.model import layers, placement, towers
from alexnet_jax.train.step import make_state, make_train_step

jax.config.update("jax_default_matmul_precision", "highest")  # products of float32, not of TF32 or bfloat16
HOST = jax.devices("cpu")[0]


def apart(got: Any, wanted: Any) -> float:
    """The length of the difference as a share of the length of what is wanted."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def convolutions(dtype: str, batch: int) -> float:
    """The largest error of a convolution of the network, of its value and its two gradients, against float64."""
    network, worst = builder.model(configs.load_recipe("alexnet:imagenet2012"), 1000), 0.0
    for number, layer in enumerate(layer for layer in network.stack if layer.name.startswith("conv")):
        rng = np.random.default_rng(number)
        pixels, channels = ((224, 3), (27, 48), (13, 256), (13, 192), (13, 192))[number]
        x = jnp.asarray(rng.normal(size=(batch, pixels, pixels, channels)), dtype)
        kernel = rng.normal(size=(layer.kernel_size, layer.kernel_size, channels, layer.features)).astype(np.float32)
        kernel = np.asarray(jnp.asarray(kernel, dtype), np.float32)
        conv = functools.partial(layers.tower_conv, stride=layer.stride, padding=layer.padding)
        value, pullback = jax.vjp(jax.vmap(conv), x[None], jnp.asarray(kernel)[None])
        g = jnp.ones_like(value)
        got = [value[0], *(part[0] for part in pullback(g))]
        with jax.enable_x64(True), jax.default_device(HOST):

            def plain(x: Any, kernel: Any, layer: Any = layer) -> Any:
                window = ((layer.stride,) * 2, (layer.padding,) * 2)
                return jax.lax.conv_general_dilated(x, kernel, *window, dimension_numbers=("NHWC", "HWIO", "NHWC"))

            wide = (np.asarray(x, np.float64), kernel.astype(np.float64))
            wanted, wide_pullback = jax.vjp(plain, *map(jnp.asarray, wide))
            wanted = [wanted, *wide_pullback(jnp.ones_like(wanted))]
        worst = max(worst, *(apart(a, b) for a, b in zip(got, wanted, strict=True)))
    return worst


def step_on(devices: list[Any], *, tower: int, dtype: str, batch: int) -> dict[str, Any]:
    """{loss, and the change of each kernel} after one step of the full network on these devices."""
    config = configs.load_recipe("alexnet:imagenet2012", [f"precision={dtype}"])
    mesh = towers.make_mesh(towers=2, tower=tower, devices=devices)
    network = builder.model(config, 1000)
    optimizer, _ = builder.optimizer(config, images=1_281_167, steps=910_000)

    def new_state() -> Any:
        return make_state(network, optimizer, seed=0, image_pixels=224)

    shapes = jax.eval_shape(new_state)
    with jax.default_device(HOST):
        begin = jax.jit(new_state)()  # the same weights everywhere
    state = jax.device_put(begin, placement.shardings(network, shapes, mesh))
    step = make_train_step(
        network, optimizer, mesh, shapes, batch_size=batch, inputs=builder.inputs(config),
        augmentation=builder.augmentation(config, images=1_281_167),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    data = {
        "image": rng.integers(0, 256, (batch, 224, 224, 3), np.uint8),
        "label": rng.integers(0, 1000, batch, np.int32),
        "place": np.arange(batch, dtype=np.int32),
    }
    state, metrics = step(state, towers.to_devices(data, mesh))
    velocity = jax.device_get(state.opt_state.velocity)
    return {"loss": np.asarray(metrics["loss"])} | {name: part["kernel"] for name, part in velocity.items()}


def differ(got: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The largest difference of a loss or a layer."""
    return max(apart(got[name], wanted[name]) for name in wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    batch = parser.parse_args().batch
    devices = jax.devices()
    print(f"{len(devices)} x {devices[0].device_kind}, batch {batch}\n\n| check | apart | bound |\n| --- | --- | --- |")
    broken = []

    def row(name: str, found: float, bound: float) -> None:
        print(f"| {name} | {found:.1e} | {bound:.0e} |", flush=True)
        if not found <= bound:
            broken.append(name)

    for dtype, bound in (("float32", 1e-4), ("bfloat16", 1e-2)):
        row(f"convolutions in {dtype}, against float64", convolutions(dtype, min(batch, 8)), bound)
    on: Callable[..., dict[str, Any]] = functools.partial(step_on, batch=batch)
    one = on(devices[:1], tower=1, dtype="float32")
    row("a step in float32, against the host's", differ(one, on([HOST], tower=1, dtype="float32")), 2e-2)
    row("a step in bfloat16, against float32", differ(on(devices[:1], tower=1, dtype="bfloat16"), one), 0.5)
    if len(devices) > 1:
        row("two towers on two devices, against one", differ(on(devices[:2], tower=2, dtype="float32"), one), 2e-2)
        row("data parallel on two devices, against one", differ(on(devices[:2], tower=1, dtype="float32"), one), 2e-2)
    if broken:
        sys.exit(f"error: {', '.join(broken)}: the difference is larger than its bound.")


if __name__ == "__main__":
    main()
