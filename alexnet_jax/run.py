"""A run: from the config to the parts, and the loop that can be stopped anywhere and goes on to the bit."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import (
    AlexNetError,
    config as configs,
    data,
    model as models,
    optimizer as optimizers,
    probe,
    provenance,
    sources,
    statistics,
    towers,
)
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.evaluate import EvalStep, Input, Views, evaluate, make_eval_step, views_of
from alexnet_jax.metrics import Report, describe, describe_classes, some_of
from alexnet_jax.towers import DATA, TOWER
from alexnet_jax.train import Augmentation, TrainState, make_state, make_train_step, variables_of

# Fields that decide what a run is. A run does not go on under other values of these.
_IDENTITY = (
    "data.name", "data.train_split", "data.resize_pixels", "data.crop_pixels", "data.square", "data.flip", "data.mean",
    "data.deviation", "data.bgr", "model.", "train.batch_size", "train.seed", "init_from",
)  # fmt: skip


# Fields that weights were trained for: under other values they are not the same network.
_WHAT_WEIGHTS_MEAN = ("model.", "data.mean", "data.deviation", "data.bgr", "data.crop_pixels")


# ---------------------------------------------------------------- from the config to the parts


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many steps a run has and what happens at which of them; all of it from counts alone."""

    images: int  # of the training split
    batch_size: int
    steps: int
    every_epochs: int  # between evaluations

    def epoch(self, step: int) -> float:
        """How many epochs have been seen after `step` steps."""
        return step * self.batch_size / self.images

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after `step` steps: an epoch's end, or the run's."""
        epochs = [s * self.batch_size // self.images // self.every_epochs for s in (step - 1, step)]
        return step > 0 and (epochs[1] > epochs[0] or step == self.steps)


def step_of_epoch(epoch: int, *, images: int, batch_size: int) -> int:
    """The number of steps after which `epoch` epochs have been seen."""
    return -(-epoch * images // batch_size)


def build_model(config: ConfigDict, classes: int) -> models.AlexNet:
    """The network of the config's model section, with a share of the classes for each tower."""
    c = config.model
    stack: list[models.ConvLayer | models.DenseLayer] = []
    for name in c.layers:
        fields = dict(c[name]) | {"name": name, "then": tuple(c[name].then.split())}
        fields |= {"init_kind": c.init, "weight_norm": c.weight_norm}
        if "maps" in fields:
            stack.append(models.ConvLayer(**fields))
        else:
            fields["units"] = fields["units"] or -(-classes // c.towers)
            stack.append(models.DenseLayer(**fields))
    last = stack[-1]
    if not isinstance(last, models.DenseLayer) or last.units * c.towers < classes:
        raise AlexNetError(
            f"config.model.{last.name}.units is too small for {classes} classes: "
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
    )


def build_optimizer(
    config: ConfigDict, *, images: int, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The update rule of the config's train section, and its learning rate as a function of the step.

    `images` are those of the training split, `steps` those of the whole run.
    """
    c = config.train

    def steps_of(epochs: Sequence[int]) -> list[int]:
        return [step_of_epoch(epoch, images=images, batch_size=c.batch_size) for epoch in epochs]

    def schedule_of(layer: str, *, bias: bool) -> optax.Schedule:
        rate = c.learning_rate * (c.bias_rate if bias else 1.0)
        if c.schedule == "steps":
            drops = c.bias_drop_epochs if bias else dict(c.own_drop_epochs).get(layer, c.drop_epochs)
            return optimizers.step_schedule(learning_rate=rate, drop_steps=steps_of(drops), drop_factor=c.drop_factor)
        if c.schedule == "dexp":
            factor, pieces = (c.dexp.bias_factor, c.dexp.bias_pieces) if bias else (c.dexp.factor, c.dexp.pieces)
            return optimizers.dexp_schedule(learning_rate=rate, factor=factor, pieces=pieces, steps=steps)
        if c.schedule == "polynomial":
            return optimizers.polynomial_schedule(learning_rate=rate, power=c.power, steps=steps)
        return optax.constant_schedule(rate)  # constant, or plateau, whose drops are in the optimiser's state

    def rate_of(layer: str, name: str) -> optax.Schedule:
        layer = layer if layer in c.rates else _layer_of(layer, c.rates)
        schedule = schedule_of(layer, bias=name == "bias")
        if layer in c.freeze_epochs:
            schedule = optimizers.frozen_from(schedule, *steps_of([c.freeze_epochs[layer]]))
        return lambda step: c.rates[layer] * schedule(step)

    optimizer = optimizers.sgd_2012(rate_of=rate_of, momentum=c.momentum, weight_decay=c.weight_decay)
    return optimizer, schedule_of("", bias=False)


def _layer_of(batch_norm: str, rates: Iterable[str]) -> str:
    """The layer that a batch norm follows, by their common number."""
    return next(layer for layer in rates if models.operation_name("bn", layer) == batch_norm)


def build_input(config: ConfigDict, split: data.Split, workdir: Path | None = None) -> Input:
    """What the network is given; the mean image is the one that `workdir` keeps, or else the data set's."""
    c = config.data
    mean = np.asarray(c.mean, np.float32)
    if c.mean_image:
        kept = workdir / statistics.MEAN_IMAGE if workdir else None
        if kept and kept.exists():
            mean = np.load(kept)
        else:
            mean = statistics.mean_image_of(split.folder, c.name, c.crop_pixels)
    return Input(c.crop_pixels, mean, tuple(c.deviation), c.bgr)


def build_augmentation(config: ConfigDict, *, images: int) -> Augmentation:
    """What is done to a training batch on the device. The colours' noise in its two forms (paper, section 4.1):

    "deviations": the 2012 source (convdata_jpeg.py:155-179) draws `colour_noise` times N(0, 1) standard
    deviations along each component and divides the sum with the image by 1 + `colour_noise`.
    "eigenvalues": the form that is copied most takes variances of colours in 0..1 for deviations (Torch's
    fb.resnet, lighting), which is 2, 7 and 13 times weaker, and divides by nothing.
    """
    c, augmentation = config.data, Augmentation(flip=config.data.flip, chunk=config.data.crop_chunk)
    if not c.colour_noise or not c.colour_end_epoch:
        return augmentation
    deviations, shrink = np.asarray(c.colour_deviations), 1.0 + c.colour_noise
    if c.colour_form == "eigenvalues":
        deviations, shrink = deviations**2 / 255.0, 1.0
    end = step_of_epoch(c.colour_end_epoch, images=images, batch_size=config.train.batch_size)
    colours = c.colour_noise * deviations[:, None] * np.asarray(c.colour_vectors)
    return dataclasses.replace(augmentation, colours=colours, shrink=shrink, colour_steps=end)


def open_split(config: ConfigDict, split: str) -> data.Split:
    """A split of the config's data set; its means and colours become the config's where that has none."""
    c, opened = config.data, sources.open_split(config.data.name, split, config.data.data_dir)
    if not c.mean:
        c.mean = statistics.mean_of(opened.folder, c.name)
    if not c.colour_deviations and c.colour_noise:
        c.colour_deviations, c.colour_vectors = statistics.components_of(opened.folder, c.name)
    return opened


def make_feed(config: ConfigDict, say: Callable[[str], None]) -> data.Feed:
    """How this process computes its batches, with what the config leaves to the machine filled in."""
    c = config.data
    threads, workers = data.parallelism(c.threads, c.workers)
    return data.Feed(threads, workers, c.prefetch_batches, c.max_bad_records, say)


def evaluator(
    config: ConfigDict,
    model: models.AlexNet,
    mesh: Mesh,
    split: data.Split,
    inputs: Input,
    say: Callable[[str], None],
) -> Callable[..., dict[str, Any]]:
    """`evaluate(variables, all_views=False)` over the whole of `split`; each kind is compiled once."""
    c = config.data
    views = views_of(c.resize_pixels, c.crop_pixels, flip=c.flip)

    @functools.cache
    def step(views: Views) -> EvalStep:
        return make_eval_step(models.tower_program(model), mesh, inputs=inputs, views=views)

    def run(variables: Any, *, all_views: bool = False) -> dict[str, Any]:
        batches = data.eval_batches(
            split,
            data.Images(c.resize_pixels, c.resize_pixels),
            make_feed(config, say),
            batch_size=config.eval.batch_size,
            share=towers.feed_share(mesh),
        )
        entry = evaluate(step(views if all_views else views[:1]), variables, batches, mesh, split.class_names)
        count = {"eval_views": len(views)} if all_views and len(views) > 1 else {}
        return entry | count | {"eval_split": f"{c.name} {split.name}"}

    return run


# ---------------------------------------------------------------- the run


class Interrupted(Exception):
    """The run was asked to stop, and did, with everything saved. `signal` is the number that asked."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class _StopRequest:
    """Ctrl-C and SIGTERM ask the loop to stop after its step; the second time they end it at once.

    Of several processes one alone must not stop: there jax.distributed takes SIGTERM, and
    `Checkpoints.reached_preemption` says at which step all of them do.
    """

    def __init__(self) -> None:
        self.signal = 0
        numbers = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
        self._before = {number: signal.signal(number, self._ask) for number in numbers}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.restore()
        # A handler runs in the middle of anything, a write to the log or the terminal included, and such
        # a write may not be begun a second time: this goes past Python's buffers.
        line = f"\n{signal.Signals(number).name}: saving after this step (once more ends at once, unsaved)\n"
        os.write(1, line.encode())

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Run:
    """One training run: its parts, made from the config, and the loop over them."""

    def __init__(self, config: ConfigDict, workdir: Path, *, command: str, eval_command: str) -> None:
        self.config, self.workdir, self.command, self.eval_command = config, workdir, command, eval_command
        self.mesh = towers.make_mesh(towers=config.model.towers, tower=config.mesh.tower)
        configs.check_batches(config, self.mesh.shape[DATA])
        self.split = open_split(config, config.data.train_split)
        self.eval_split = open_split(config, config.data.eval_split)
        images, c = len(self.split.source), config.train
        steps = c.steps or step_of_epoch(c.epochs, images=images, batch_size=c.batch_size)
        self.plan = Plan(images, c.batch_size, steps, config.eval.every_epochs)
        self.model = build_model(config, len(self.split.class_names))
        self.optimizer, self.learning_rate = build_optimizer(config, images=images, steps=steps)
        self.inputs = build_input(config, self.split, workdir)
        plateau = optimizers.PlateauRule(c.drop_factor, **c.plateau)
        self._plateau = plateau if c.schedule == "plateau" else None
        self._make_state = lambda: make_state(
            self.model, self.optimizer, seed=c.seed, image_pixels=config.data.crop_pixels
        )
        self._shapes = jax.eval_shape(self._make_state)
        self.checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
        latest = self.checkpoints.latest()
        self._is_new, self.first_step = latest is None, latest or 0  # imported weights are at step 0
        self._unseen: list[tuple[int, dict[str, jax.Array]]] = []  # metrics still on the device
        self._clock = _Clock()

    def train(self) -> None:
        """Trains to the end, or raises Interrupted or AlexNetError with everything good saved."""
        changed = self._check_goes_on()
        main = jax.process_index() == 0
        if main:
            self.workdir.mkdir(parents=True, exist_ok=True)
            configs.save(self.config, self.split.class_names, self.workdir)
            if self.config.data.mean_image:
                np.save(self.workdir / statistics.MEAN_IMAGE, self.inputs.mean)
            start = {"step": self.first_step, "command": self.command} | provenance.environment()
            with (self.workdir / "starts.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(start) + "\n")
        with Report(self.workdir, main=main, first_step=self.first_step) as self.report:
            for line in (*self.introduction(), *changed):
                self.report.say(line)
            stop = _StopRequest()
            try:
                self._loop(self._start_state(), stop)
            finally:
                stop.restore()
                self.checkpoints.close()
            self._say_done()

    def introduction(self) -> list[str]:
        """What this run is, for its first lines: nobody gets a toy by accident."""
        c, rows, tower = self.config, self.mesh.shape[DATA], self.mesh.shape[TOWER]
        device = self.mesh.devices.flat[0]
        pixels, devices = c.data.crop_pixels, f"{rows * tower} {device.platform} device(s) ({device.device_kind})"
        placement = "each tower on a device of its own" if tower > 1 else "all towers together on each device"
        parameters = models.count_parameters(self.model, self._shapes.params)
        going_on = f", going on after step {self.first_step:,}" if not self._is_new else ""
        return [
            f"data     {c.data.name}: {len(self.split.source):,} images of {self.split.name}, "
            f"{len(self.eval_split.source):,} of {self.eval_split.name} for evaluation",
            f"classes  {self.model.classes:,}: {some_of(self.split.class_names)}",
            f"feed     {self._feed_in_words()}",
            f"network  {c.model.towers} tower(s), {parameters:,} parameters, {pixels} x {pixels} pixels",
            f"mesh     data {rows} x tower {tower} on {devices}: {placement}",
            f"steps    {self.plan.steps:,} of {self.plan.batch_size} images "
            f"({self.plan.epoch(self.plan.steps):.1f} epochs){going_on}",
            f"workdir  {self.workdir}",
            *([_HUGE_PAGES] if _lacks_huge_pages(device.platform) else []),
        ]

    def _feed_in_words(self) -> str:
        feed, pixels = make_feed(self.config, print), self.config.data.crop_pixels
        share = self.plan.batch_size // towers.feed_share(self.mesh)[1]
        size = feed.batches_in_memory * share * pixels**2 * 3 / 1e6
        where = f"{feed.workers} worker(s) of {feed.threads} thread(s)" if feed.workers else f"{feed.threads} thread(s)"
        return f"{where} in each process, at most {feed.batches_in_memory} batches ({size:,.0f} MB) in its memory"

    def _check_goes_on(self) -> list[str]:
        if self._is_new:
            return []
        configs.check_classes(self.workdir, self.split)
        changed = configs.differences(self.config, configs.load(self.workdir))
        for field, ours, theirs in changed:
            if field.startswith(_IDENTITY):
                raise AlexNetError(
                    f"{self.workdir} holds a run with config.{field}={theirs!r}, not {ours!r}: "
                    "use its value, or another --workdir for a new run."
                )
        if self.first_step > self.plan.steps:
            raise AlexNetError(
                f"{self.workdir} holds a run that is at step {self.first_step}, past the {self.plan.steps} asked for: "
                "raise train.steps or train.epochs, or use another --workdir."
            )
        return [
            f"changed  config.{field}: {theirs!r} until here, {ours!r} from now on" for field, ours, theirs in changed
        ]

    def _start_state(self) -> TrainState:
        if self._is_new:
            # It runs once: a CPU takes 8 s to compile it at XLA's usual effort, 3 s at this one.
            quick = {"xla_backend_optimization_level": 1}
            shardings = towers.sharding_of(self._shapes, self.mesh)
            state = jax.jit(self._make_state, out_shardings=shardings, compiler_options=quick)()
            if self.config.init_from:
                state = self._begin_from(Path(self.config.init_from), state)
        else:
            state = self.checkpoints.restore(self.first_step, towers.on_mesh(self._shapes, self.mesh))
        assert isinstance(state, TrainState)
        if self._is_new:
            found = probe_of(self.config, self.model, self.split, self.inputs, state.variables)
            self.report.say(f"probe    {probe.in_a_line(found)}")
            if warning := probe.warning(found, self.model.classes):
                self.report.say(f"warning  {warning}")
        return state

    def _begin_from(self, workdir: Path, state: TrainState) -> TrainState:
        """The state with the latest weights of another run; the last layer stays new for other classes."""
        theirs, last = configs.load(workdir), self.model.stack[-1].name
        classes = configs.load_classes(workdir)
        fields = [f for f, *_ in configs.differences(self.config, theirs) if f.startswith(_WHAT_WEIGHTS_MEAN)]
        if fields:
            self.report.say(f"differs  config.{', config.'.join(fields)}: not as in {workdir}, whose weights these are")
        checkpoints = Checkpoints(workdir)
        step = checkpoints.find("latest")
        target = {"params": state.params, "statistics": state.statistics}
        target = {name: towers.on_mesh(tree, self.mesh) for name, tree in target.items() if tree}
        same = classes == self.split.class_names
        if not same:
            target["params"] = {name: leaves for name, leaves in target["params"].items() if name != last}
        saved = checkpoints.restore(step, target)
        checkpoints.close()
        head = f"with its {len(classes):,} classes" if same else f"a new {last} for {self.model.classes:,} classes"
        self.report.say(f"weights  step {step:,} of {workdir}, {head}")
        statistics = saved.get("statistics", state.statistics)
        return state.replace(params=state.params | saved["params"], statistics=statistics)

    def _batches(self, step: int) -> Iterator[data.Batch]:
        c = self.config.data
        return data.train_batches(
            self.split,
            data.Images(c.resize_pixels, c.crop_pixels, c.square, c.crop_chunk),
            make_feed(self.config, self.report.warn),
            batch_size=self.plan.batch_size,
            seed=self.config.train.seed,
            step=step,
            share=towers.feed_share(self.mesh),
        )

    def _loop(self, state: TrainState, stop: _StopRequest) -> None:
        c, step = self.config, self.first_step
        train_step = make_train_step(
            self.model, self.optimizer, self.mesh, self._shapes, batch_size=self.plan.batch_size,
            inputs=self.inputs, augmentation=build_augmentation(c, images=self.plan.images),
        )  # fmt: skip
        self._evaluator = evaluator(c, self.model, self.mesh, self.eval_split, self.inputs, self.report.warn)
        if self.plan.evaluates(step):
            state, _ = self._evaluate(state)  # the run may have been stopped right before it
        batches = self._batches(step)
        if step < self.plan.steps:
            self.report.say("compiling the step ...")
        self._clock.restart(step)
        while step < self.plan.steps:
            with self._clock.waiting():
                batch = next(batches)
            # Both are only started: the transfer of this batch runs beside the steps before it.
            state, metrics = train_step(state, towers.to_devices(batch, self.mesh))
            step += 1
            self._unseen.append((step, metrics))
            if len(self._unseen) > 2:  # two steps ahead of the device, so that stopping does not wait for more
                jax.block_until_ready(self._unseen[-3][1])
            if step == self.first_step + 1:
                jax.block_until_ready(metrics)  # compilation is no training: bar and clock start after it
                self.report.start(step=step, steps=self.plan.steps)
                if step % c.log.every_steps:
                    self._clock.restart(step)
            else:
                self.report.tick()
            if step % c.log.every_steps == 0 or step == self.plan.steps:
                self._log(step)
            stopping = bool(stop.signal) or self.checkpoints.reached_preemption(step)
            if (due := self.plan.evaluates(step) and not stopping) or step % c.checkpoint.every_steps == 0 or stopping:
                with self._clock.paused():
                    state, evaluation = self._evaluate(state) if due else (state, None)
                    self._save(step, state, evaluation)
            if stopping and step < self.plan.steps:
                self.checkpoints.close()
                self.report.say(f"saved at step {step:,} of {self.plan.steps:,}; to go on: {self.command}")
                raise Interrupted(stop.signal or signal.SIGTERM)
        self._evaluate(state)  # it may have been asked to stop at its very end

    def _look(self) -> dict[str, Any]:
        """The last step's metrics on the host, after all unseen losses were found to be finite."""
        seen = [(step, jax.device_get(metrics)) for step, metrics in self._unseen]
        self._unseen = []
        for step, metrics in seen:
            if not np.isfinite(metrics["loss"]):
                self.checkpoints.drop(step - 1)  # this loss is that of its parameters
                raise AlexNetError(
                    self._divergence(f"The loss is {metrics['loss']} at step {step}", seen[0][0], seen[-1][0])
                )
        return {"step": seen[-1][0], **{name: float(value) for name, value in seen[-1][1].items()}} if seen else {}

    def _divergence(self, what: str, first: int, last: int) -> str:
        self.checkpoints.close()
        good = self.checkpoints.latest()
        kept = f"the checkpoint of step {good} in {self.workdir} is kept" if good else "no checkpoint was written yet"
        return (
            f"{what} (looking at steps {first} to {last}): the run has diverged and stops here; {kept}. "
            f"Try a config.train.learning_rate below {self.config.train.learning_rate:g}."
        )

    def _log(self, step: int) -> None:
        entry = self._look()
        seconds, waited = self._clock.seconds_per_step(step), self._clock.share_waited()
        self._clock.restart(step)
        entry |= {
            "epoch": self.plan.epoch(step),
            "learning_rate": float(self.learning_rate(jnp.asarray(step - 1))) * entry.pop("rate_scale"),
            "images_per_second": self.plan.batch_size / seconds,
            "seconds_per_step": seconds,
            "data_wait": waited,
        }
        self.report.step(entry, steps=self.plan.steps)

    def _evaluate(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """(the state with what the plateau schedule learns from it, the evaluation), made once for each step."""
        step = int(state.step)
        if (entry := self.report.evaluated.get(step)) is None:
            self._look()
            entry = {"step": step, **self._evaluator(state.variables, all_views=step == self.plan.steps)}
            self.report.evaluation(entry)
        if self._plateau:
            plateau = self._plateau.after(state.opt_state.plateau, step=step, error=100.0 - entry["eval_top1"])
            state = state.replace(opt_state=state.opt_state._replace(plateau=plateau))
        return state, entry

    def _save(self, step: int, state: TrainState, evaluation: dict[str, Any] | None) -> None:
        self._look()
        if not bool(_all_finite((state.params, state.statistics))):
            raise AlexNetError(self._divergence("The parameters are no longer finite", step, step))
        self.checkpoints.save(step, state, evaluation)

    def _say_done(self) -> None:
        entry = self.report.evaluated[self.plan.steps]
        where = self.checkpoints.folder / str(self.plan.steps)
        self.report.say(f"done: {describe(entry)}; checkpoint {where}; evaluate it with: {self.eval_command}")


_HUGE_PAGES = "hint     GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment makes the steps of a CPU faster"


def _lacks_huge_pages(platform: str) -> bool:
    return platform == "cpu" and sys.platform == "linux" and "hugetlb" not in os.environ.get("GLIBC_TUNABLES", "")


class _Clock:
    """Seconds of training: what evaluations and saves take is left out."""

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, step: int) -> None:
        self._since, self._step, self._waited = time.perf_counter(), step, 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def share_waited(self) -> float:
        """Part of the time, 0 to 1, in which the loop had no next batch to start."""
        return min(1.0, self._waited / (time.perf_counter() - self._since))

    def seconds_per_step(self, step: int) -> float:
        return (time.perf_counter() - self._since) / max(1, step - self._step)


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


# ---------------------------------------------------------------- the probe


def probe_of(
    config: ConfigDict, model: models.AlexNet, split: data.Split, inputs: Input, variables: Any
) -> list[probe.Stage]:
    """How the network sees some images of the split: the same ones in every process."""
    images = data.Images(config.data.resize_pixels, config.data.crop_pixels)
    return probe.stages(model, variables, data.some_images(split, images, probe.IMAGES), inputs)


def probe_start(config: ConfigDict) -> str:
    """The probe of a run of this config before its first step, in words."""
    split = open_split(config, config.data.train_split)
    model = build_model(config, len(split.class_names))
    key, _ = jax.random.split(jax.random.key(config.train.seed))  # as `train.make_state` does
    variables = jax.jit(lambda: models.init_variables(model, key, config.data.crop_pixels))()
    found = probe_of(config, model, split, build_input(config, split), variables)
    return probe.describe(found, model.classes)


# ---------------------------------------------------------------- evaluation of a checkpoint


def evaluate_checkpoint(config: ConfigDict, workdir: Path, *, which: str) -> dict[str, Any]:
    """Evaluates checkpoint `which` (latest, best or a step) of `workdir` on the devices that are there.

    `config` is the one saved beside it. Raises AlexNetError where there is no such checkpoint, or one
    of another network.
    """
    if not (workdir / "checkpoints").is_dir():
        raise AlexNetError(f"There is no checkpoint in {workdir}: train first, or name another --workdir.")
    checkpoints = Checkpoints(workdir)
    step = checkpoints.find(which)
    mesh = towers.make_mesh(towers=config.model.towers, tower=config.mesh.tower)
    configs.check_batches(config, mesh.shape[DATA])
    split = open_split(config, config.data.eval_split)
    configs.check_classes(workdir, split)
    model = build_model(config, len(split.class_names))
    variables = restore_variables(checkpoints, step, model, mesh, config.data.crop_pixels)
    inputs = build_input(config, split, workdir)
    with Report(workdir, main=jax.process_index() == 0) as report:
        run = evaluator(config, model, mesh, split, inputs, report.warn)
        entry = {"step": step, **run(variables, all_views=True), "mode": "eval"}
        report.evaluation(entry)
        report.say(describe_classes(entry))
    return entry


def restore_variables(
    checkpoints: Checkpoints, step: int, model: models.AlexNet, mesh: Mesh, image_pixels: int
) -> dict[str, Any]:
    """The weights and running statistics of a checkpoint, on `mesh`; closes the checkpoints."""
    shapes = jax.eval_shape(lambda: models.init_variables(model, jax.random.key(0), image_pixels))
    names = {"params": "params", "batch_stats": "statistics"}
    target = {names[name]: towers.on_mesh(tree, mesh) for name, tree in shapes.items()}
    saved = checkpoints.restore(step, target)
    checkpoints.close()
    return variables_of(saved["params"], saved.get("statistics"))
