"""From the config to a run: how many steps it has, its learning rates, and what is done to its images."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import optax
from ml_collections import ConfigDict

from alexnet_jax.model.alexnet import operation_name
from alexnet_jax.model.preprocess import Augmentation
from alexnet_jax.train import optimizer as optimizers
from alexnet_jax.train.step import Rule


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many steps a run has and what happens at which of them, all computed from counts."""

    images: int  # of the training split
    batch_size: int
    steps: int
    every_epochs: int  # between evaluations

    def epoch(self, step: int) -> float:
        """How many epochs have been seen after `step` steps."""
        return step * self.batch_size / self.images

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after `step` steps: at the end of an epoch, or of the run."""
        epochs = [s * self.batch_size // self.images // self.every_epochs for s in (step - 1, step)]
        return step > 0 and (epochs[1] > epochs[0] or step == self.steps)


def make_plan(config: ConfigDict, *, images: int) -> Plan:
    """The plan of the config for a training split of so many images."""
    c = config.train
    steps = c.steps or step_of_epoch(c.epochs, images=images, batch_size=c.batch_size)
    return Plan(images, c.batch_size, steps, config.eval.every_epochs)


def step_of_epoch(epoch: float, *, images: int, batch_size: int) -> int:
    """The number of steps after which `epoch` epochs have been seen."""
    return int(-(-epoch * images // batch_size))


def build_optimizer(
    config: ConfigDict, *, images: int, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
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
            found = optimizers.step_schedule(learning_rate=rate, drop_steps=steps_of(drops), drop_factor=c.drop_factor)
            return found if bias else optimizers.raised(found, steps_of(c.raise_epochs), c.raise_factor)
        if c.schedule == "dexp":
            factor, pieces = (c.dexp.bias_factor, c.dexp.bias_pieces) if bias else (c.dexp.factor, c.dexp.pieces)
            return optimizers.dexp_schedule(learning_rate=rate, factor=factor, pieces=pieces, steps=steps)
        if c.schedule == "polynomial":
            return optimizers.polynomial_schedule(learning_rate=rate, power=c.power, steps=steps)
        if c.schedule == "cosine":
            return optimizers.cosine_schedule(learning_rate=rate, steps=steps)
        return optax.constant_schedule(rate)  # constant, or plateau, whose drops are in the optimizer's state

    # A batch norm learns like the layer that it follows.
    layer_of = {operation_name("bn", layer): layer for layer in config.model.layers}

    def rate_of(name: str, parameter: str) -> optax.Schedule:
        layer = layer_of.get(name, name)
        schedule, factor = schedule_of(layer, bias=parameter == "bias"), c.rates.get(layer, 1.0)
        if layer in c.freeze_epochs:
            schedule = optimizers.frozen_from(schedule, *steps_of([c.freeze_epochs[layer]]))
        return lambda step: factor * schedule(step)

    decays = {layer: c.decays[layer] for layer in c.decays}
    optimizer = optimizers.sgd_2012(
        rate_of=rate_of, momentum=c.momentum, weight_decay=c.weight_decay, decays=decays, lars=c.lars
    )
    return optimizer, schedule_of("", bias=False)


def learning_rule(config: ConfigDict) -> Rule:
    """What the config's train section says of a step, beside the optimizer."""
    c = config.train
    return Rule(accumulate=c.accumulate, label_smoothing=c.label_smoothing, ema_decay=c.ema_decay)


def plateau_rule(config: ConfigDict) -> optimizers.PlateauRule | None:
    """The rule of the schedule `plateau`, None for the others."""
    c = config.train
    return optimizers.PlateauRule(c.drop_factor, **c.plateau) if c.schedule == "plateau" else None


def build_augmentation(config: ConfigDict, *, images: int) -> Augmentation:
    """What is done to a training batch on the device, with the color noise in one of its two forms (section 4.1).

    "std": the 2012 source (convdata_jpeg.py:155-179) draws `color_noise` times N(0, 1) times the std along each
    component and divides the image with the sum added by 1 + `color_noise`.
    "eigenvalues": the form that is copied most takes variances of colors in 0..1 for std (Torch's
    fb.resnet, lighting), which is 2, 7 and 13 times weaker, and divides by nothing.
    """
    c = config.data
    augmentation = Augmentation(flip=c.flip, chunk=c.crop_chunk)
    if not c.color_noise or not (c.color_noise_end_epoch or c.color_noise_again):
        return augmentation
    std, shrink = np.asarray(c.color_std), 1.0 + c.color_noise
    if c.color_noise_form == "eigenvalues":
        std, shrink = std**2 / 255.0, 1.0
    spans = ((0, c.color_noise_end_epoch), *([c.color_noise_again] if c.color_noise_again else []))
    size = config.train.batch_size
    steps = tuple(tuple(step_of_epoch(e, images=images, batch_size=size) for e in span) for span in spans)
    colors = c.color_noise * std[:, None] * np.asarray(c.color_vectors)
    return dataclasses.replace(augmentation, colors=colors, shrink=shrink, color_steps=steps)
