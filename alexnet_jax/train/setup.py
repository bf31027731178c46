"""What a run consists of, made from its config."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import parts
from alexnet_jax.allowed import check_batches
from alexnet_jax.data import feed
from alexnet_jax.model import alexnet as models, towers
from alexnet_jax.model.preprocess import Input
from alexnet_jax.train import plan as plans
from alexnet_jax.train.plan import Plan
from alexnet_jax.train.step import TrainState, make_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run consists of, made from its config by `open_parts`."""

    config: ConfigDict  # with the data set's own statistics filled in
    mesh: Mesh
    split: feed.Split
    eval_split: feed.Split
    plan: Plan
    model: models.AlexNet
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    inputs: Input

    def new_state(self) -> TrainState:
        """The state at step 0, to be run under jit."""
        c = self.config
        return make_state(
            self.model, self.optimizer, seed=c.train.seed, image_pixels=c.data.crop_pixels,
            averaged=c.train.ema_decay > 0,
        )  # fmt: skip

    def shapes(self) -> Any:
        """The shapes of the state."""
        return jax.eval_shape(self.new_state)

    def train_step(self) -> Any:
        """The jitted step, not compiled yet."""
        return make_train_step(
            self.model, self.optimizer, self.mesh, self.shapes(), batch_size=self.plan.batch_size, inputs=self.inputs,
            augmentation=plans.build_augmentation(self.config, images=self.plan.images),
            rule=plans.learning_rule(self.config),
        )  # fmt: skip

    def batches(self, number: int, reader: feed.Feed) -> Iterator[feed.Batch]:
        """The batches of training from `number` on, on the host, as `reader` computes them."""
        c = self.config.data
        return feed.train_batches(
            self.split,
            feed.Images(c.resize_pixels, c.crop_pixels, c.center_square, c.crop_chunk, c.random_crop),
            reader,
            batch_size=self.plan.batch_size,
            seed=self.config.train.seed,
            step=number,
            share=towers.feed_share(self.mesh),
        )


def open_parts(config: ConfigDict, workdir: Path | None = None) -> Parts:
    """Opens the data and builds everything a run of `config` needs; writes nothing. Raises AlexNetError."""
    mesh = parts.mesh(config)
    check_batches(config, mesh.shape[towers.DATA])
    split = parts.open_split(config, config.data.train_split)
    eval_split = parts.open_split(config, config.data.eval_split)
    config = parts.with_statistics(config, split.folder)
    plan = plans.make_plan(config, images=len(split.source))
    optimizer, learning_rate = plans.build_optimizer(config, images=plan.images, steps=plan.steps)
    return Parts(
        config, mesh, split, eval_split, plan,
        model=parts.network(config, len(split.class_names)),
        optimizer=optimizer,
        learning_rate=learning_rate,
        inputs=parts.inputs(config, folder=split.folder, workdir=workdir),
    )  # fmt: skip
