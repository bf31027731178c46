"""A run: from the config to the parts, and the loop that can be stopped anywhere and goes on to the bit."""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
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
    provenance,
    sources,
    statistics,
    towers,
)
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.evaluate import evaluate, make_eval_step
from alexnet_jax.metrics import Report, describe, describe_classes, some_of
from alexnet_jax.towers import DATA, TOWER
from alexnet_jax.train import TrainState, make_state, make_train_step

# Fields that decide what a run is. A run does not go on under other values of these.
_IDENTITY = (
    "data.name", "data.train_split", "data.resize_pixels", "data.crop_pixels", "data.flip", "data.mean",
    "model.", "train.batch_size", "train.seed",
)  # fmt: skip


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
        norm=models.Window(**c.norm),
        spatial_norm=models.Window(**c.spatial_norm),
        pool=models.Pool(**c.pool),
        dropout=c.dropout,
    )


def build_optimizer(config: ConfigDict, images: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The update rule of the config's train section, and its learning rate as a function of the step."""
    c = config.train
    drops = [step_of_epoch(epoch, images=images, batch_size=c.batch_size) for epoch in c.drop_epochs]
    schedule = optimizers.step_schedule(learning_rate=c.learning_rate, drop_steps=drops, drop_factor=c.drop_factor)
    optimizer = optimizers.sgd_2012(
        learning_rate=schedule, bias_rate=c.bias_rate, momentum=c.momentum, weight_decay=c.weight_decay
    )
    return optimizer, schedule


def open_split(config: ConfigDict, split: str) -> data.Split:
    """A split of the config's data set; its means become the config's where that has none."""
    opened = sources.open_split(config.data.name, split, config.data.data_dir)
    if not config.data.mean:
        config.data.mean = statistics.mean_of(opened.folder, config.data.name)
    return opened


def make_feed(config: ConfigDict, say: Callable[[str], None]) -> data.Feed:
    """How this process computes its batches, with what the config leaves to the machine filled in."""
    c = config.data
    threads, workers = data.parallelism(c.threads, c.workers)
    return data.Feed(threads, workers, c.prefetch_batches, c.max_bad_records, say)


def evaluator(
    config: ConfigDict, model: models.AlexNet, mesh: Mesh, split: data.Split, say: Callable[[str], None]
) -> Callable[[Any], dict[str, Any]]:
    """`evaluate(params)` over the whole of `split`, compiled once."""
    step = make_eval_step(models.tower_program(model), mesh, mean=config.data.mean)

    def run(params: Any) -> dict[str, Any]:
        batches = data.eval_batches(
            split,
            data.Images(config.data.resize_pixels, config.data.crop_pixels),
            make_feed(config, say),
            batch_size=config.eval.batch_size,
            share=towers.feed_share(mesh),
        )
        entry = evaluate(step, params, batches, mesh, split.class_names)
        return entry | {"eval_split": f"{config.data.name} {split.name}"}

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
        self.optimizer, self.learning_rate = build_optimizer(config, images)
        self._make_state = lambda: make_state(
            self.model, self.optimizer, seed=c.seed, image_pixels=config.data.crop_pixels
        )
        self._shapes = jax.eval_shape(self._make_state)
        self.checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
        self.first_step = self.checkpoints.latest() or 0
        self._unseen: list[tuple[int, dict[str, jax.Array]]] = []  # metrics still on the device
        self._clock = _Clock()

    def train(self) -> None:
        """Trains to the end, or raises Interrupted or AlexNetError with everything good saved."""
        changed = self._check_goes_on()
        main = jax.process_index() == 0
        if main:
            self.workdir.mkdir(parents=True, exist_ok=True)
            configs.save(self.config, self.split.class_names, self.workdir)
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
        going_on = f", going on after step {self.first_step:,}" if self.first_step else ""
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
        if not self.first_step:
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
        if not self.first_step:
            # It runs once: a CPU takes 8 s to compile it at XLA's usual effort, 3 s at this one.
            quick = {"xla_backend_optimization_level": 1}
            shardings = towers.sharding_of(self._shapes, self.mesh)
            state = jax.jit(self._make_state, out_shardings=shardings, compiler_options=quick)()
        else:
            state = self.checkpoints.restore(self.first_step, towers.on_mesh(self._shapes, self.mesh))
        assert isinstance(state, TrainState)
        return state

    def _batches(self, step: int) -> Iterator[data.Batch]:
        c = self.config.data
        return data.train_batches(
            self.split,
            data.Images(c.resize_pixels, c.crop_pixels),
            make_feed(self.config, self.report.warn),
            batch_size=self.plan.batch_size,
            seed=self.config.train.seed,
            step=step,
            share=towers.feed_share(self.mesh),
        )

    def _loop(self, state: TrainState, stop: _StopRequest) -> None:
        c, step = self.config, self.first_step
        train_step = make_train_step(
            models.tower_program(self.model), self.optimizer, self.mesh, self._shapes,
            batch_size=self.plan.batch_size, mean=c.data.mean, flip=c.data.flip,
        )  # fmt: skip
        evaluate_now = evaluator(c, self.model, self.mesh, self.eval_split, self.report.warn)
        if self.plan.evaluates(step) and step not in self.report.evaluated:
            self._evaluate(evaluate_now, state)  # the run was stopped right before it
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
                    self._save(step, state, self._evaluate(evaluate_now, state) if due else None)
            if stopping and step < self.plan.steps:
                self.checkpoints.close()
                self.report.say(f"saved at step {step:,} of {self.plan.steps:,}; to go on: {self.command}")
                raise Interrupted(stop.signal or signal.SIGTERM)
        if step not in self.report.evaluated:
            self._evaluate(evaluate_now, state)  # it was asked to stop at its very end

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
            "learning_rate": float(self.learning_rate(step - 1)),
            "images_per_second": self.plan.batch_size / seconds,
            "seconds_per_step": seconds,
            "data_wait": waited,
        }
        self.report.step(entry, steps=self.plan.steps)

    def _evaluate(self, evaluate_now: Callable[[Any], dict[str, Any]], state: TrainState) -> dict[str, Any]:
        self._look()
        entry = {"step": int(state.step), **evaluate_now(state.params)}
        self.report.evaluation(entry)
        return entry

    def _save(self, step: int, state: TrainState, evaluation: dict[str, Any] | None) -> None:
        self._look()
        if not bool(_all_finite(state.params)):
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
    shapes = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0), config.data.crop_pixels))
    params = checkpoints.restore(step, {"params": towers.on_mesh(shapes, mesh)})["params"]
    checkpoints.close()
    with Report(workdir, main=jax.process_index() == 0) as report:
        entry = {"step": step, **evaluator(config, model, mesh, split, report.warn)(params), "mode": "eval"}
        report.evaluation(entry)
        report.say(describe_classes(entry))
    return entry
