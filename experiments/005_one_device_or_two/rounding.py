"""Trains the small network twice from one start, by default on one device and on two, and writes how the runs part.

python experiments/005_one_device_or_two/rounding.py VARIANT SEEDS STEPS [section.field=value ...]

It prints CSV, one row per seed and step:

    loss_a, loss_b   of the step, before its update
    apart            the distance of the parameters of the two runs after the step, relative to their norm
    own              the same after one step of both programs from run a's parameters: what one step adds by itself
    relus            ReLUs (unit, position, image) that are open for one run's parameters and closed for the other's, by
                     layer, in the step's batch; this and what follows comes from one program on one device
    pools            pooling windows whose maximum comes from other places, by layer, and after the slash how many of
                     them had equal maxima in one of the runs; without those that a ReLU closes anyway
    tied             the share of all such windows in which two places or more have the same maximum, to the bit
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
_FLAGS = os.environ.pop("XLA_FLAGS", "")
from absl import flags  # noqa: E402
from conftest import SMALL  # noqa: E402

from alexnet_jax import builder, config as configs  # noqa: E402
from alexnet_jax.data import feed, preprocess  # noqa: E402
from alexnet_jax.data.preprocess import fold_in_each  # noqa: E402
from alexnet_jax.model import layers, placement, towers  # noqa: E402
from alexnet_jax.train import step as steps  # noqa: E402

# tests/conftest.py compiles at a lower effort than a run does, and is strict, where float64 is promoted to here.
os.environ["XLA_FLAGS"] = _FLAGS
jax.config.update("jax_numpy_dtype_promotion", "standard")

_TANH = {
    "model.conv1.post_ops": "norm pool tanh",
    "model.conv2.post_ops": "tanh norm spatial_norm pool",
    "model.conv3.post_ops": "tanh",
    "model.conv4.post_ops": "tanh",
    "model.conv5.post_ops": "pool tanh",
    "model.fc6.post_ops": "tanh dropout",
    "model.fc7.post_ops": "tanh dropout",
}
_AVG = {"model.pool.kind": "avg"}
# What is changed in the config. "noise" changes the pictures, "float64" the arithmetic, "data2" puts both towers on
# each of two devices, and "ulp" runs b on one device as well, with one weight moved to the next float32.
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {}, "avg": _AVG, "tanh": _TANH, "smooth": _TANH | _AVG, "noise": {}, "float64": {}, "data2": {}, "ulp": {},
}  # fmt: skip


class Runs:
    """Both programs of a variant, compiled once, and the batches of a seed."""

    def __init__(self, variant: str, fields: list[str]) -> None:
        self.variant = variant
        self.fields = [f"{name}={value}" for name, value in (SMALL | VARIANTS[variant]).items()]
        self.fields += ["train.steps=1000", *fields]
        data, tower = {"ulp": (1, 1), "data2": (2, 1)}.get(variant, (1, 2))
        self.mesh_a = towers.make_mesh(towers=2, tower=1, devices=jax.devices()[:1])
        self.mesh_b = towers.make_mesh(towers=2, tower=tower, devices=jax.devices()[: data * tower])
        opened = self.opened(0)
        self.step_a, self.step_b = (self._step(opened, mesh) for mesh in (self.mesh_a, self.mesh_b))
        self.seen = jax.jit(functools.partial(self._seen, opened))

    def opened(self, seed: int) -> builder.TrainSetup:
        config = configs.load_recipe("alexnet:digits", [*self.fields, f"train.seed={seed}"])
        return builder.train_setup(config, Path())

    def _input(self, pixels: jax.Array, inputs: Any, **_: Any) -> jax.Array:
        """What the recipe for the digits does, which has no augmentation."""
        images: jax.Array = inputs(pixels).astype(jnp.float64 if self.variant == "float64" else jnp.float32)
        return images

    def _step(self, opened: builder.TrainSetup, mesh: Any) -> Callable[..., Any]:
        return steps.make_train_step(
            opened.model, opened.optimizer, mesh, self.shapes(opened), batch_size=opened.plan.batch_size,
            inputs=opened.inputs, augmentation=self._input,
        )  # fmt: skip

    def shapes(self, opened: builder.TrainSetup) -> Any:
        with jax.enable_x64(False):
            return opened.shapes()

    def _seen(self, opened: builder.TrainSetup, state: Any, batch: feed.Batch) -> dict[str, jax.Array]:
        """{operation: its result, [T, B, ...]} in training, on one device."""
        step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        keys_B = fold_in_each(step_key, batch["place"])

        def program(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
            return dict(
                opened.model.apply(variables, images, keys_B, True, mutable=["intermediates"])[1]["intermediates"]
            )

        return towers.over_towers(program, out_axes=0)(state.variables, self._input(batch["image"], opened.inputs))

    def start(self, opened: builder.TrainSetup) -> Any:
        with jax.enable_x64(False):  # the same weights in every variant
            state = _host(jax.jit(opened.new_state)())
        if self.variant == "float64":
            params, velocity = (_wide(tree) for tree in (state.params, state.opt_state.velocity))
            state = state.replace(params=params, opt_state=state.opt_state._replace(velocity=velocity))
        return state

    def batches(self, opened: builder.TrainSetup, seed: int) -> Iterator[feed.Batch]:
        images, noise = preprocess.Crop(67, 67), np.random.default_rng(seed)
        reading = feed.Feed(1, 0, 4, 0, print)
        for batch in feed.train_batches(
            opened.split, images, reading, batch_size=opened.plan.batch_size, seed=seed, step=0, share=(0, 1)
        ):
            if self.variant == "noise":
                noisy = batch["image"] + noise.integers(-8, 9, batch["image"].shape)
                yield batch | {"image": np.clip(noisy, 0, 255).astype(np.uint8)}
            else:
                yield batch

    def take(self, which: str, opened: builder.TrainSetup, state: Any, batch: feed.Batch) -> tuple[Any, float]:
        """One step of program a or b from a state on the host: (the state after it, on the host; the loss)."""
        mesh, step = (self.mesh_a, self.step_a) if which == "a" else (self.mesh_b, self.step_b)
        state = state.replace(key=jax.random.wrap_key_data(state.key))
        state = jax.device_put(state, placement.shardings(opened.model, state, mesh))
        new, metrics = step(state, towers.to_devices(batch, mesh))
        return _host(new), float(metrics["loss"])

    def kinks(self, opened: builder.TrainSetup, a: Any, b: Any, batch: feed.Batch) -> tuple[str, str, float]:
        """The columns relus, pools and tied."""
        left, right = (jax.device_get(self.seen(state, batch)) for state in (a, b))
        relus, pools, tied = [], [], []
        for layer in opened.model.stack:
            at = f"{layer.name}_out"
            for word in layer.post_ops:
                name = f"{word}{layer.name[-1]}"
                if word == "relu" and (count := int(((left[name] > 0) != (right[name] > 0)).sum())):
                    relus.append(f"{name}:{count}")
                if word == "pool" and opened.model.pool.kind == "max":
                    ours, theirs = (_places(seen[at], opened.model.pool) for seen in (left, right))
                    counts = left[name] > 0 if "relu" in layer.post_ops else np.ones(left[name].shape, bool)
                    other = (ours != theirs).any(axis=0) & counts
                    equal = (ours.sum(axis=0) > 1) | (theirs.sum(axis=0) > 1)
                    pools += [f"{name}:{other.sum()}/{(other & equal).sum()}"] if other.any() else []
                    tied.append((ours.sum(axis=0) > 1)[counts])
                at = name
        return " ".join(relus), " ".join(pools), float(np.concatenate(tied).mean()) if tied else 0.0


def _places(x: np.ndarray, pool: Any) -> np.ndarray:
    """[window's places, T, B, H', W', C]: which of them have the window's maximum; x is [T, B, H, W, C]."""
    lengths = [layers.pooled_length(n, pool.size, pool.stride, pool.ceil) for n in x.shape[2:4]]
    beyond = [max(0, (n - 1) * pool.stride + pool.size - m) for n, m in zip(lengths, x.shape[2:4], strict=True)]
    x = np.pad(x, ((0, 0), (0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)), constant_values=-np.inf)
    places = np.stack([
        x[:, :, i :: pool.stride, j :: pool.stride][:, :, : lengths[0], : lengths[1]]
        for i in range(pool.size)
        for j in range(pool.size)
    ])  # fmt: skip
    return places == places.max(axis=0)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(np.float64), tree)


def _host(state: Any) -> Any:
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def _distance(left: Any, right: Any) -> float:
    """|left - right| / |left| of two trees of parameters."""
    pairs = list(zip(jax.tree.leaves(_wide(left)), jax.tree.leaves(_wide(right)), strict=True))
    apart, size = (
        sum(np.square(part).sum() for part in parts) for parts in ([a - b for a, b in pairs], [a for a, _ in pairs])
    )
    return float(np.sqrt(apart / size))


def _nudged(state: Any) -> Any:
    """The state with one weight of conv1 moved to the next float32."""
    params = jax.tree.map(np.array, state.params)
    kernel = params["conv1"]["kernel"]
    kernel[0, 5, 5, 0, 0] = np.nextafter(kernel[0, 5, 5, 0, 0], np.float32(np.inf))
    return state.replace(params=params)


def main(variant: str, seeds: str, count: str, *fields: str) -> None:
    """Prints the rows of a variant."""
    jax.config.update("jax_enable_x64", variant == "float64")
    flags.FLAGS.mark_as_parsed()
    runs = Runs(variant, list(fields))
    print("variant,seed,step,loss_a,loss_b,apart,own,relus,pools,tied")
    for seed in map(int, seeds.split(",")):
        opened = runs.opened(seed)
        a = runs.start(opened)
        b = _nudged(a) if variant == "ulp" else a
        for number, batch in zip(range(1, int(count) + 1), runs.batches(opened, seed), strict=False):
            relus, pools, tied = runs.kinks(opened, a, b, batch)
            same, _ = runs.take("b", opened, a, batch)
            a, loss_a = runs.take("a", opened, a, batch)
            b, loss_b = runs.take("b", opened, b, batch)
            apart, own = _distance(a.params, b.params), _distance(a.params, same.params)
            print(f"{variant},{seed},{number},{loss_a!r},{loss_b!r},{apart:.3e},{own:.3e},{relus},{pools},{tied:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
