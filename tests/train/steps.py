"""Steps of a small network on any mesh; each program is compiled once for all tests of a process."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax import builder
from alexnet_jax.data.preprocess import Augmentation, Input
from alexnet_jax.model import alexnet as models, placement, towers
from alexnet_jax.train.step import TrainState, make_state, make_train_step

CLASSES = 8


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled step of a config on a mesh, with flips on."""

    model: models.AlexNet
    mesh: Mesh
    step: Any
    first: TrainState
    config: ConfigDict

    def state(self, scale: float = 1.0) -> TrainState:
        """A new state, its parameters times `scale`; a step consumes it."""
        state = jax.tree.map(jnp.copy, self.first)
        state = state.replace(params=jax.tree.map(lambda leaf: leaf * scale, state.params))
        return jax.device_put(state, placement.shardings(self.model, state, self.mesh))

    def run(self, steps: int, scale: float = 1.0) -> tuple[list[dict[str, float]], list[TrainState]]:
        """The metrics of so many steps from a new state, and the states from the new one on, on the host."""
        state, seen = self.state(scale), list[dict[str, float]]()
        states = [_on_host(state)]
        for number in range(steps):
            batch = make_batch(self.config.train.batch_size, self.config.data.crop_pixels, self.model.classes, number)
            state, metrics = self.step(state, towers.to_devices(batch, self.mesh))
            seen.append({name: float(value) for name, value in metrics.items()})
            states.append(_on_host(state))
        return seen, states


def _on_host(state: TrainState) -> TrainState:
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def make_mesh(shape: tuple[int, int]) -> Mesh:
    """`shape` is (data, tower)."""
    return towers.make_mesh(towers=2, tower=shape[1], devices=jax.devices()[: shape[0] * shape[1]])


def make_batch(batch_size: int, pixels: int, classes: int, seed: int) -> dict[str, np.ndarray]:
    """Blobs of another brightness and place for each class: something a network can learn."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, batch_size).astype(np.int32)
    image = rng.integers(0, 60, (batch_size, pixels, pixels, 3))
    for i, k in enumerate(label):
        image[i, k * pixels // (2 * classes) :, :, k % 3] += 100 + 90 * k // classes
    return {"image": image.astype(np.uint8), "label": label, "place": np.arange(batch_size, dtype=np.int32)}


def compiled(config: ConfigDict, shape: tuple[int, int], classes: int = CLASSES) -> Program:
    """The program of the config on a mesh of `shape`, (data, tower)."""
    return _compiled(FrozenConfigDict(config), shape, classes)


@functools.cache
def _compiled(frozen: FrozenConfigDict, shape: tuple[int, int], classes: int) -> Program:
    config, mesh = ConfigDict(frozen), make_mesh(shape)
    network, pixels = builder.model(config, classes), config.data.crop_pixels
    rule, _ = builder.optimizer(config, images=1000, steps=100)
    averaged = config.train.ema_decay > 0
    first = jax.jit(lambda: make_state(network, rule, seed=1, image_pixels=pixels, averaged=averaged))()
    shapes = jax.eval_shape(lambda: first)
    step = make_train_step(
        network, rule, mesh, shapes,
        batch_size=config.train.batch_size,
        inputs=Input(pixels, np.asarray(config.data.mean)),
        augmentation=Augmentation(flip=True),
        settings=builder.step_settings(config),
    )  # fmt: skip
    batch = towers.to_devices(make_batch(config.train.batch_size, pixels, classes, 0), mesh)
    lowered = step.lower(placement.on_mesh(network, shapes, mesh), batch)  # type: ignore[attr-defined]
    return Program(network, mesh, lowered.compile(), first, config)


forget = _compiled.cache_clear
