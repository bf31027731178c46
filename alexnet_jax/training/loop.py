"""A training run that can be stopped anywhere and resumes to the bit."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import config as configs, files, parts
from alexnet_jax.data import feed, pixel_statistics
from alexnet_jax.errors import AlexNetError
from alexnet_jax.network import towers
from alexnet_jax.training import plan as plans, provenance, start
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.clock import Clock
from alexnet_jax.training.evaluation import evaluator
from alexnet_jax.training.report import Report, describe
from alexnet_jax.training.resume import Resume, resume
from alexnet_jax.training.setup import Parts, open_parts
from alexnet_jax.training.signals import Interrupted, StopRequest
from alexnet_jax.training.step import TrainState, make_train_step


def train(config: ConfigDict, workdir: Path, *, command: str, eval_command: str) -> "Run":
    """Trains to the end, or raises Interrupted or AlexNetError with everything good saved.

    `command` and `eval_command` are what a person is told to type to resume and to evaluate.
    """
    opened = open_parts(config, workdir)
    files.make_folder(workdir)
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    latest = checkpoints.latest()
    saved = None if latest is None else configs.load(workdir)
    if saved is not None:
        configs.check_classes(workdir, opened.split.class_names)
    where = resume(opened.config, saved, latest=latest, plan=opened.plan, workdir=workdir)
    main = jax.process_index() == 0
    if main:
        _write_start(opened, workdir, where, command)
    with Report(workdir, main=main, first_step=where.first_step) as report, StopRequest() as stop:
        for line in (*start.introduction(opened, where, workdir), *where.changed):
            report.say(line)
        run = Run(opened, workdir, checkpoints, report, where, command=command)
        try:
            state = start.first_state(opened, where, checkpoints, report)
            run.loop(state, stop)
        finally:
            checkpoints.close()
        entry = report.evaluated[opened.plan.steps]
        last = checkpoints.folder / str(opened.plan.steps)
        report.say(f"done: {describe(entry)}; checkpoint {last}; evaluate it with: {eval_command}")
    return run


def _write_start(opened: Parts, workdir: Path, where: Resume, command: str) -> None:
    configs.save(opened.config, opened.split.class_names, workdir)
    if opened.config.data.mean_image:
        files.write(workdir / pixel_statistics.MEAN_IMAGE, lambda path: np.save(path, opened.inputs.mean))
    line = {"step": where.first_step, "command": command} | provenance.environment()
    starts = workdir / "starts.jsonl"
    with files.named(starts, "written"), starts.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


class Run:
    """The loop over the parts of one run. It is longer than other classes because a step happens in one place."""

    def __init__(
        self, opened: Parts, workdir: Path, checkpoints: Checkpoints, report: Report, where: Resume, *, command: str
    ) -> None:
        self.parts, self.workdir, self.command = opened, workdir, command
        self.checkpoints, self.report, self.first_step = checkpoints, report, where.first_step
        self._plateau = plans.plateau_rule(opened.config)
        self._evaluate_views = evaluator(
            opened.config, opened.model, opened.mesh, opened.eval_split, opened.inputs, report
        )
        self._unseen: list[tuple[int, dict[str, jax.Array]]] = []  # metrics still on the device
        self._clock = Clock()

    def loop(self, state: TrainState, stop: StopRequest) -> None:
        """From the first step to the last. Raises Interrupted or AlexNetError."""
        p, every, step = self.parts, self.parts.config, self.first_step
        train_step = make_train_step(
            p.model, p.optimizer, p.mesh, p.shapes(), batch_size=p.plan.batch_size, inputs=p.inputs,
            augmentation=plans.build_augmentation(p.config, images=p.plan.images),
        )  # fmt: skip
        if p.plan.evaluates(step):
            state, evaluation = self._evaluate(state, stop)  # the run may have been stopped right before it
            if evaluation is None:
                self._stop(step, stop)
        batches = self._batches(step)
        if step < p.plan.steps:
            self.report.say("compiling the step ...")
        self._clock.restart(step)
        while step < p.plan.steps:
            with self._clock.waiting():
                batch = next(batches)
            # Both are only started: the transfer of this batch runs beside the steps before it.
            state, metrics = train_step(state, towers.to_devices(batch, p.mesh))
            step += 1
            self._started(step, metrics)
            if step % every.log.every_steps == 0 or step == p.plan.steps:
                self._log(step)
            stopping = bool(stop.signal) or self.checkpoints.reached_preemption(step)
            due = p.plan.evaluates(step) and not stopping
            if due or step % every.checkpoint.every_steps == 0 or stopping:
                with self._clock.paused():
                    state, evaluation = self._evaluate(state, stop) if due else (state, None)
                    self._save(step, state, evaluation)
                if stopping or (due and evaluation is None):
                    self._stop(step, stop)

    def _stop(self, step: int, stop: StopRequest) -> NoReturn:
        self.checkpoints.close()
        self.report.say(f"saved at step {step:,} of {self.parts.plan.steps:,}; to resume: {self.command}")
        raise Interrupted(stop.signal or signal.SIGTERM)

    def _started(self, step: int, metrics: dict[str, jax.Array]) -> None:
        self._unseen.append((step, metrics))
        if len(self._unseen) > 2:  # two steps ahead of the device, so that stopping does not wait for more
            jax.block_until_ready(self._unseen[-3][1])
        if step > self.first_step + 1:
            self.report.tick()
            return
        jax.block_until_ready(metrics)  # compilation is not training: bar and clock start after it
        self.report.say(f"compiled in {self._clock.seconds_per_step(step):.0f} s")
        self.report.start(step=step, steps=self.parts.plan.steps)
        if step % self.parts.config.log.every_steps:
            self._clock.restart(step)

    def _batches(self, step: int) -> Iterator[feed.Batch]:
        p, c = self.parts, self.parts.config.data
        return feed.train_batches(
            p.split,
            feed.Images(c.resize_pixels, c.crop_pixels, c.center_square, c.crop_chunk),
            parts.make_feed(p.config, self.report.warn),
            batch_size=p.plan.batch_size,
            seed=p.config.train.seed,
            step=step,
            share=towers.feed_share(p.mesh),
        )

    def _look(self) -> dict[str, Any]:
        """The last step's metrics on the host, after all unseen losses were found to be finite."""
        seen = [(step, jax.device_get(metrics)) for step, metrics in self._unseen]
        self._unseen = []
        for step, metrics in seen:
            if not np.isfinite(metrics["loss"]):
                self.checkpoints.drop(step - 1)  # this loss is that of its parameters
                raise self._divergence(f"The loss is {metrics['loss']} at step {step}", seen[0][0], seen[-1][0])
        return {"step": seen[-1][0], **{name: float(value) for name, value in seen[-1][1].items()}} if seen else {}

    def _divergence(self, what: str, first: int, last: int) -> AlexNetError:
        self.checkpoints.close()
        good = self.checkpoints.latest()
        kept = f"the checkpoint of step {good} in {self.workdir} is kept" if good else "no checkpoint was written yet"
        return AlexNetError(
            f"{what} (checked steps {first} to {last}): the run has diverged and stops here; {kept}. "
            f"Try a config.train.learning_rate below {self.parts.config.train.learning_rate:g}."
        )

    def _log(self, step: int) -> None:
        entry, plan = self._look(), self.parts.plan
        seconds, waited = self._clock.seconds_per_step(step), self._clock.share_waited()
        self._clock.restart(step)
        entry |= {
            "epoch": plan.epoch(step),
            "learning_rate": float(self.parts.learning_rate(jnp.asarray(step - 1))) * entry.pop("rate_scale"),
            "images_per_second": plan.batch_size / seconds,
            "seconds_per_step": seconds,
            "data_wait": waited,
        }
        self.report.step(entry, steps=plan.steps)

    def _evaluate(self, state: TrainState, stop: StopRequest) -> tuple[TrainState, dict[str, Any] | None]:
        """(the state with what the plateau schedule learns from it, the evaluation), made once per step.

        None, and the state as it was, where the run is asked to stop meanwhile: resumed, it evaluates first.
        """
        step = int(state.step)
        if (entry := self.report.evaluated.get(step)) is None:
            self._look()
            try:
                evaluated = self._evaluate_views(state.variables, last=step == self.parts.plan.steps, check=stop.check)
            except Interrupted:
                return state, None
            entry = {"step": step, **evaluated}
            self.report.evaluation(entry)
        if self._plateau:
            plateau = self._plateau.after(state.opt_state.plateau, step=step, error=100.0 - entry["eval_top1"])
            state = state.replace(opt_state=state.opt_state._replace(plateau=plateau))
        return state, entry

    def _save(self, step: int, state: TrainState, evaluation: dict[str, Any] | None) -> None:
        self._look()
        if not bool(_all_finite((state.params, state.statistics))):
            raise self._divergence("The parameters are no longer finite", step, step)
        self.checkpoints.save(step, state, evaluation)


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
