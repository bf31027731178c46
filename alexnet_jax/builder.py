"""From the config to objects: the one module that reads the config's sections. Below it values are passed."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax.data import feed, preprocess, sources, statistics as pixel_statistics
from alexnet_jax.data.feed import Batch
from alexnet_jax.data.preprocess import Augmentation, Input, Views, views_of
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, towers
from alexnet_jax.train import memory, optimizer as optimizers, speed
from alexnet_jax.train.step import StepSettings, TrainState, make_state, make_train_step

# ---------------------------------------------------------------- the network and its devices

# Gaussian, not truncated (2012 source, layers-145.cfg). Of equal numbers they are equal, so that networks are.
_normal, _constant = functools.cache(nn.initializers.normal), functools.cache(nn.initializers.constant)


def model(config: ConfigDict, classes: int) -> models.AlexNet:
    """The network of the config's model section, each tower with its share of the classes. Raises AlexNetError."""
    c, dtype = config.model, compute_dtype(config)
    stack: list[models.ConvLayer | models.DenseLayer] = []
    for name in c.layers:
        fields = dict(c[name]) | {"name": name, "post_ops": tuple(c[name].post_ops.split())}
        kernel, bias = _normal(fields.pop("init_std")), _constant(fields.pop("init_bias"))
        fields |= {"weight_norm": c.weight_norm}  # what a layer begins with by default is "fan_in"
        fields |= {"kernel_init": kernel, "bias_init": bias} if c.init == "normal" else {}
        if "kernel_size" in fields:
            stack.append(models.ConvLayer(**fields))
        else:
            fields["features"] = fields["features"] or -(-classes // c.towers)
            stack.append(models.DenseLayer(**fields))
    last = stack[-1]
    if not isinstance(last, models.DenseLayer) or last.features * c.towers < classes:
        raise AlexNetError(
            f"config.model.{last.name}.features={last.features} is too small for {classes} classes: "
            "use 0, which is each tower's share of them."
        )
    return models.AlexNet(
        classes=classes,
        towers=c.towers,
        stack=tuple(stack),
        exchange=frozenset(c.exchange),
        norm=models.ChannelNorm(**c.norm),
        spatial_norm=models.SpatialNorm(**c.spatial_norm),
        batch_norm=models.BatchNorm(**c.batch_norm),
        pool=models.Pool(**c.pool),
        dropout=models.Dropout(**c.dropout),
        compute_dtype=dtype,
        exchange_dtype=config.mesh.exchange_dtype if dtype == "float32" else dtype,
        hybrid=config.mesh.hybrid,
    )


def compute_dtype(config: ConfigDict) -> str:
    """What the devices here compute in under config.precision: "float32" or "bfloat16"."""
    return speed.native_dtype() if config.precision == "auto" else str(config.precision)


def mesh(config: ConfigDict) -> Mesh:
    """The mesh of the config over all devices. Raises AlexNetError."""
    return towers.make_mesh(towers=config.model.towers, tower=1 if config.mesh.hybrid else config.mesh.tower)


# ---------------------------------------------------------------- data and preprocessing


def open_split(config: ConfigDict, split: str) -> feed.Split:
    """A split of the config's data set. Raises AlexNetError."""
    return sources.open_split(config.data.name, split, config.data.data_dir)


def with_statistics(config: ConfigDict, folder: Path | None) -> ConfigDict:
    """A copy of the config whose mean and principal components, where left open, are those stored in `folder`.

    Raises AlexNetError where nothing is stored there.
    """
    filled = ConfigDict(config.to_dict())
    c = filled.data
    if not c.mean:
        c.mean = pixel_statistics.mean_of(folder, c.name)
    if not c.color_std and c.color_noise:
        c.color_std, c.color_vectors = pixel_statistics.components_of(folder, c.name)
    return filled.lock()


def inputs(config: ConfigDict, *, folder: Path | None = None, workdir: Path | None = None) -> Input:
    """The preprocessing; a mean image is the one saved in `workdir`, else that of the data set in `folder`.

    Raises AlexNetError where the config leaves the mean to a data set that is not there.
    """
    c = config.data
    mean = np.asarray(c.mean or pixel_statistics.mean_of(folder, c.name), np.float32)
    if c.mean_image:
        saved = workdir / pixel_statistics.MEAN_IMAGE if workdir else None
        if saved and saved.exists():
            mean = np.load(saved)
        else:
            mean = pixel_statistics.mean_image_of(folder, c.name, c.resize_pixels, c.crop_pixels)
    return Input(c.crop_pixels, mean, tuple(c.std), c.bgr)


def augmentation(config: ConfigDict, *, images: int) -> Augmentation:
    """What is done to a training batch on the device, with the color noise in one of its two forms (section 4.1).

    "std": the 2012 source (convdata_jpeg.py:155-179) draws `color_noise` times N(0, 1) times the std along each
    component and divides the image with the sum added by 1 + `color_noise`.
    "eigenvalues": the form that is copied most takes variances of colors in 0..1 for std (Torch's
    fb.resnet, lighting), which is 2, 7 and 13 times weaker, and divides by nothing.
    """
    c = config.data
    plain = Augmentation(flip=c.flip, chunk=c.crop_chunk)
    if not c.color_noise or not (c.color_noise_end_epoch or c.color_noise_again):
        return plain
    std, shrink = np.asarray(c.color_std), 1.0 + c.color_noise
    if c.color_noise_form == "eigenvalues":
        std, shrink = std**2 / 255.0, 1.0
    spans = ((0, c.color_noise_end_epoch), *([c.color_noise_again] if c.color_noise_again else []))
    size = config.train.batch_size
    steps = tuple(tuple(step_of_epoch(e, images=images, batch_size=size) for e in span) for span in spans)
    colors = c.color_noise * std[:, None] * np.asarray(c.color_vectors)
    return dataclasses.replace(plain, colors=colors, shrink=shrink, color_steps=steps)


def views(config: ConfigDict) -> Views:
    """The views of a test image, the center first."""
    return views_of(config.data.resize_pixels, config.data.crop_pixels, flip=config.data.flip)


# ---------------------------------------------------------------- steps and learning rates


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many steps a run has and what is due after which of them."""

    images: int  # of the training split
    batch_size: int
    steps: int
    eval_every_epochs: int = 1
    log_every_steps: int = 1
    save_every_steps: int = 1
    keep: int = 1  # checkpoints
    rollbacks: int = 0  # the most that a run recovers from divergence

    def epoch(self, step: int) -> float:
        """How many epochs `step` steps are."""
        return step * self.batch_size / self.images

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after `step` steps: at the end of an epoch, or of the run."""
        epochs = [s * self.batch_size // self.images // self.eval_every_epochs for s in (step - 1, step)]
        return step > 0 and (epochs[1] > epochs[0] or step == self.steps)

    def logs(self, step: int) -> bool:
        """Whether a line is due after `step` steps."""
        return step % self.log_every_steps == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps; there is one with every evaluation."""
        return step % self.save_every_steps == 0 or self.evaluates(step)


def plan(config: ConfigDict, *, images: int) -> Plan:
    """The plan of the config for a training split of so many images."""
    c = config.train
    steps = c.steps or step_of_epoch(c.epochs, images=images, batch_size=c.batch_size)
    return Plan(
        images, c.batch_size, steps,
        eval_every_epochs=config.eval.every_epochs,
        log_every_steps=config.log.every_steps,
        save_every_steps=config.checkpoint.every_steps,
        keep=config.checkpoint.keep,
        rollbacks=c.rollbacks,
    )  # fmt: skip


def step_of_epoch(epoch: float, *, images: int, batch_size: int) -> int:
    """The number of steps after which `epoch` epochs are over."""
    return int(-(-epoch * images // batch_size))


def optimizer(config: ConfigDict, *, images: int, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The update rule of the config's train section, and its learning rate as a function of the step.

    `images` are those of the training split, `steps` those of the whole run.
    """
    c = config.train

    def steps_of(epochs: Sequence[float]) -> list[int]:
        return [step_of_epoch(epoch, images=images, batch_size=c.batch_size) for epoch in epochs]

    def schedule_of(layer: str, *, bias: bool) -> optax.Schedule:
        return optimizers.warmed_up(cold_schedule_of(layer, bias=bias), *steps_of([c.warmup_epochs]))

    def cold_schedule_of(layer: str, *, bias: bool) -> optax.Schedule:
        rate = c.learning_rate * (c.bias_rate if bias else 1.0)
        if c.schedule == "steps":
            drops = c.bias_drop_epochs if bias else c.own_drop_epochs.get(layer, c.drop_epochs)
            return optimizers.step_schedule(
                learning_rate=rate, drop_steps=steps_of(drops), drop_factor=c.drop_factor,
                raise_steps=[] if bias else steps_of(c.raise_epochs), raise_factor=c.raise_factor,
            )  # fmt: skip
        if c.schedule == "dexp":
            factor, pieces = (c.dexp.bias_factor, c.dexp.bias_pieces) if bias else (c.dexp.factor, c.dexp.pieces)
            return optimizers.dexp_schedule(learning_rate=rate, factor=factor, pieces=pieces, steps=steps)
        if c.schedule == "polynomial":
            return optax.polynomial_schedule(rate, 0.0, c.power, steps)  # Caffe's policy "poly"
        if c.schedule == "cosine":
            return optax.cosine_decay_schedule(rate, steps)
        return optax.constant_schedule(rate)  # constant, or plateau, whose drops are in the optimizer's state

    # A batch norm learns like the layer that it follows.
    layer_of = {models.operation_name("bn", layer): layer for layer in config.model.layers}

    def rate_of(name: str, parameter: str) -> optax.Schedule:
        layer = layer_of.get(name, name)
        schedule, factor = schedule_of(layer, bias=parameter == "bias"), c.rates.get(layer, 1.0)
        if layer in c.freeze_epochs:
            frozen = steps_of([c.freeze_epochs[layer]])
            schedule = optax.join_schedules([schedule, optax.constant_schedule(0.0)], frozen)
        return lambda step: factor * schedule(step)

    decays = {layer: c.decays[layer] for layer in c.decays}
    rule = optimizers.sgd_2012(
        rate_of=rate_of, momentum=c.momentum, weight_decay=c.weight_decay, decays=decays, lars=c.lars
    )
    return rule, schedule_of("", bias=False)


def step_settings(config: ConfigDict) -> StepSettings:
    """What the config's train section says of a step, beside the optimizer."""
    c = config.train
    return StepSettings(microbatches=c.accumulate, label_smoothing=c.label_smoothing, ema_decay=c.ema_decay)


def plateau_rule(config: ConfigDict) -> optimizers.PlateauRule | None:
    """The rule of the schedule `plateau`, None for the others."""
    c = config.train
    return optimizers.PlateauRule(c.drop_factor, **c.plateau) if c.schedule == "plateau" else None


# ---------------------------------------------------------------- an evaluation, and a training run


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What it takes to evaluate a network on a split."""

    model: models.AlexNet
    mesh: Mesh
    split: feed.Split
    inputs: Input
    views: Views  # the center first; all of them where the last evaluation of a run has all
    batch_size: int
    side_pixels: int  # of the squares that all views are cropped from
    feed: feed.Feed
    data_name: str

    def batches(self, say: Callable[[str], None]) -> Iterator[Batch]:
        """Every image of the split once, on the host, for this process; bad records are named to `say`."""
        images, reader = preprocess.Crop(self.side_pixels, self.side_pixels), dataclasses.replace(self.feed, say=say)
        share = towers.feed_share(self.mesh)
        return feed.eval_batches(self.split, images, reader, batch_size=self.batch_size, share=share)


def evaluation(config: ConfigDict, *, classes: int, workdir: Path | None = None) -> Evaluation:
    """The evaluation of the config's network, which has so many classes, on the config's eval split.

    A mean image is the one in `workdir`. Raises AlexNetError, also where the batches cannot fit into memory.
    """
    c, grid, every = config.data, mesh(config), views(config)
    check_batches(config, grid)
    network, split = model(config, classes), open_split(config, c.eval_split)
    preprocessing = inputs(config, folder=split.folder, workdir=workdir)
    _check_memory(config, network, preprocessing, training=False)
    return Evaluation(
        network, grid, split, preprocessing, views=every if config.eval.views == "all" else every[:1],
        batch_size=config.eval.batch_size, side_pixels=c.resize_pixels,
        feed=feed.Feed(*feed.parallelism(c.threads, c.workers), c.prefetch_batches, c.max_bad_records),
        data_name=c.name,
    )  # fmt: skip


def check_batches(config: ConfigDict, grid: Mesh) -> None:
    """Raises AlexNetError if a batch is not divisible by the rows of the mesh, or a device's share by its parts."""
    rows, parts = grid.shape[towers.DATA], config.train.accumulate
    for section in ("train", "eval"):
        if (size := config[section].batch_size) % rows:
            raise AlexNetError(
                f"config.{section}.batch_size={size} is not divisible by {rows}, the size of the mesh axis data: "
                f"use a multiple of {rows}."
            )
    if config.train.batch_size // rows % parts:
        raise AlexNetError(
            f"config.train.accumulate={parts} does not divide {config.train.batch_size // rows}, the images of a batch "
            "that a device computes: use a divisor of it."
        )


def _check_memory(config: ConfigDict, network: models.AlexNet, preprocessing: Input, *, training: bool) -> None:
    c, section = config.data, "train" if training else "eval"
    memory.check(
        network, preprocessing, field=f"config.{section}.batch_size", batch_size=config[section].batch_size,
        side_pixels=c.crop_pixels if training else c.resize_pixels, prefetch_batches=c.prefetch_batches,
        training=training,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """What a training run consists of, made from its config by `train_setup`."""

    config: ConfigDict  # complete, to be saved beside the run and compared with that of a run to resume
    model: models.AlexNet
    mesh: Mesh
    split: feed.Split
    plan: Plan
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    plateau: optimizers.PlateauRule | None
    settings: StepSettings
    inputs: Input
    augmentation: Augmentation
    images: preprocess.Crop
    feed: feed.Feed
    seed: int
    evaluation: Evaluation
    init_from: str  # the workdir of the run whose weights are the first ones; "" for new ones
    cache: bool  # whether the data set is read ahead into memory

    def new_state(self) -> TrainState:
        """The state at step 0, to be run under jit."""
        return make_state(
            self.model, self.optimizer, seed=self.seed, image_pixels=self.inputs.crop_pixels,
            averaged=self.settings.ema_decay > 0,
        )  # fmt: skip

    def shapes(self) -> Any:
        """The shapes of the state."""
        return jax.eval_shape(self.new_state)

    def train_step(self) -> Any:
        """The jitted step, not compiled yet."""
        return make_train_step(
            self.model, self.optimizer, self.mesh, self.shapes(), batch_size=self.plan.batch_size, inputs=self.inputs,
            augmentation=self.augmentation, settings=self.settings,
        )  # fmt: skip

    def batches(self, first: int, say: Callable[[str], None] = print) -> Iterator[Batch]:
        """The training batches from number `first` on, on the host; bad records are named to `say`."""
        reader, share = dataclasses.replace(self.feed, say=say), towers.feed_share(self.mesh)
        return feed.train_batches(
            self.split, self.images, reader, batch_size=self.plan.batch_size, seed=self.seed, step=first, share=share
        )


def train_setup(config: ConfigDict, workdir: Path | None = None) -> TrainSetup:
    """Opens the data and builds everything that a run of `config` needs; writes nothing.

    Raises AlexNetError, also where the network and its batches cannot fit into memory.
    """
    split = open_split(config, config.data.train_split)
    config = with_statistics(config, split.folder)
    evaluated, c = evaluation(config, classes=len(split.class_names), workdir=workdir), config.data
    _check_memory(config, evaluated.model, evaluated.inputs, training=True)
    steps = plan(config, images=len(split.source))
    update_rule, learning_rate = optimizer(config, images=steps.images, steps=steps.steps)
    return TrainSetup(
        config, evaluated.model, evaluated.mesh, split, steps, update_rule, learning_rate,
        plateau=plateau_rule(config),
        settings=step_settings(config),
        inputs=evaluated.inputs,
        augmentation=augmentation(config, images=steps.images),
        images=preprocess.Crop(c.resize_pixels, c.crop_pixels, c.center_square, c.crop_chunk, c.random_crop),
        feed=evaluated.feed,
        seed=config.train.seed,
        evaluation=evaluated,
        init_from=config.init_from,
        cache=c.cache,
    )  # fmt: skip
