"""A training run that can be stopped anywhere and resumes to the bit."""

import itertools
import re
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import builder, config as configs, ending, files
from alexnet_jax.answers import Answers, Collector
from alexnet_jax.data import feed, statistics as pixel_statistics
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import towers
from alexnet_jax.train import (
    checksums as sums,
    memory,
    process_group as processes,
    provenance,
    skipped_batches as left_out,
    speed,
    start,
    trackers,
)
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.clock import Clock
from alexnet_jax.train.evaluation import evaluator
from alexnet_jax.train.metrics import Report, describe
from alexnet_jax.train.process_group import Peers
from alexnet_jax.train.resume import Resume, resume
from alexnet_jax.train.signals import Interrupted, StopRequest
from alexnet_jax.train.step import TrainState
from alexnet_jax.train.watchdog import Watch


class Diverged(AlexNetError):
    """The loss or the parameters were not finite at `step`; `good` is the step of the last good checkpoint, or None."""

    def __init__(self, message: str, *, step: int, good: int | None) -> None:
        super().__init__(message)
        self.step, self.good = step, good


def train(
    config: ConfigDict,
    workdir: Path,
    *,
    command: str,
    eval_command: str,
    peers: Peers | None = None,
    watch: Watch | None = None,
) -> "Run":
    """Trains to the end, or raises Interrupted or AlexNetError with everything good saved.

    `command` and `eval_command` are what a person is told to type to resume and to evaluate. `peers` are the processes
    of a run of several, `watch` its watchdog.
    """
    peers, watch = peers or processes.alone(), watch or Watch(0.0)
    watch.doing("opening the data")
    opened = builder.train_setup(config, workdir)
    precision = {"the precision": opened.model.compute_dtype}  # config.precision=auto may mean another one elsewhere
    processes.compare(peers, feed.fingerprint(opened.split) | feed.fingerprint(opened.evaluation.split) | precision)
    if peers.main:
        files.make_folder(workdir)
    processes.same_folder(peers, workdir)
    while True:
        try:
            return _train(opened, workdir, peers, watch, command=command, eval_command=eval_command)
        except Diverged as loss:
            if len(left_out.read(workdir, loss.step)) >= config.train.rollbacks or loss.good is None:
                raise
            peers.meet(f"the rollback from step {loss.step}")  # all have read what the first one now writes to
            if peers.main:
                left_out.add(workdir, after_step=loss.good, batches=loss.step - loss.good)


def _train(
    opened: builder.TrainSetup, workdir: Path, peers: Peers, watch: Watch, *, command: str, eval_command: str
) -> "Run":
    """From the newest whole checkpoint, or from the start, to the end."""
    told: list[str] = []
    watch.doing("verifying the checkpoints")
    found = None
    if peers.main:
        sums.mend(workdir, say=told.append)
        found = sums.newest_whole(workdir, set_aside=True, say=told.append)
    latest = peers.meet("the newest whole checkpoint", found)[0]
    checkpoints = Checkpoints(workdir, keep=opened.config.checkpoint.keep)
    saved = None if latest is None else configs.load(workdir)
    if saved is not None:
        configs.check_classes(workdir, opened.split.class_names)
    where = resume(opened.config, saved, latest=latest, plan=opened.plan, workdir=workdir)
    skips = left_out.read(workdir, where.first_step)
    peers.meet("what the workdir holds")  # all have read it before the first one writes
    if peers.main:
        _write_start(opened, workdir, where, command)
    ending.note(lambda: f"{_saved_in_words(checkpoints.folder)}; to resume: {command}")
    tracked = trackers.opened(opened.config.log.track.split(), workdir, opened.config) if peers.main else []
    with Report(workdir, main=peers.main, first_step=where.first_step, trackers=tracked) as report:
        introduction = (*start.introduction(opened, where, workdir), *start.read_ahead(opened))
        at = [f"tracked  {tracker.where}" for tracker in tracked]
        for line in (*introduction, *at, *told, *where.changed, *map(str, skips)):
            report.say(line)
        run = Run(opened, workdir, checkpoints, report, where, command=command, peers=peers, watch=watch)
        try:
            watch.doing("preparing the first step")
            peers.meet("the first state")
            with memory.told("this run"):
                run.loop(start.first_state(opened, where, checkpoints, report), skipped=sum(s.batches for s in skips))
        finally:
            watch.doing("saving a checkpoint")
            checkpoints.close()
            watch.doing("")
        entry = report.evaluated[opened.plan.steps]
        last = checkpoints.folder / str(opened.plan.steps)
        report.say(f"done: {describe(entry)}; checkpoint {last}; evaluate it with: {eval_command}")
    return run


def _saved_in_words(folder: Path) -> str:
    steps = [int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()] if folder.is_dir() else []
    return f"the last whole checkpoint is of step {max(steps):,}" if steps else "no checkpoint was written yet"


def _write_start(opened: builder.TrainSetup, workdir: Path, where: Resume, command: str) -> None:
    configs.save(opened.config, opened.split.class_names, workdir)
    if opened.config.data.mean_image:
        files.write(workdir / pixel_statistics.MEAN_IMAGE, lambda path: np.save(path, opened.inputs.mean))
    provenance.add_start(workdir, step=where.first_step, command=command)


class Run:
    """The loop over the parts of one run. It is longer than other classes because a step happens in one place."""

    def __init__(
        self,
        opened: builder.TrainSetup,
        workdir: Path,
        checkpoints: Checkpoints,
        report: Report,
        where: Resume,
        *,
        command: str,
        peers: Peers,
        watch: Watch,
    ) -> None:
        self.parts, self.workdir, self.command, self.peers, self.watch = opened, workdir, command, peers, watch
        self.checkpoints, self.report, self.first_step = checkpoints, report, where.first_step
        self._evaluate_views = evaluator(opened.evaluation, report)
        self._unseen: list[tuple[int, dict[str, jax.Array]]] = []  # metrics still on the device
        self._clock = Clock()
        self._peak = speed.Peak(0.0, "")
        self._saved = self.first_step
        self.answers: Answers | None = None  # of the last evaluation, image by image; in one process

    def loop(self, state: TrainState, *, skipped: int = 0) -> None:
        """From the first step to the last; `skipped` batches are left out. Raises Interrupted or AlexNetError."""
        p, every, step = self.parts, self.parts.config, self.first_step
        # Up to here, and in what follows, there is nothing to save: a signal ends the process.
        if p.plan.evaluates(step):
            state, _ = self._evaluate(state)  # the run may have been stopped right before it
        if step == p.plan.steps:
            return
        batches = p.batches(step + skipped, self.report.warn)
        first = next(batches)
        train_step = self._compiled(state, first)
        batches = itertools.chain([first], batches)
        with StopRequest():
            while step < p.plan.steps:
                self.watch.doing("waiting for data", f" of step {step + 1}")
                with self._clock.waiting():
                    batch = next(batches)
                if signal := self._asked(f"step {step + 1}"):
                    self._stop(step, state, signal)
                self.watch.doing("computing", f" step {step + 1}")
                # Both are only started: the transfer of this batch runs beside the steps before it.
                state, metrics = train_step(state, towers.to_devices(batch, p.mesh))
                step += 1
                self._started(step, metrics)
                if step % every.log.every_steps == 0 or step == p.plan.steps:
                    self._log(step)
                due = p.plan.evaluates(step)
                if due or step % every.checkpoint.every_steps == 0:
                    with self._clock.paused():
                        try:
                            state, evaluation = self._evaluate(state) if due else (state, None)
                        except Interrupted as stop:
                            self._stop(step, state, stop.signal)
                        self._save(step, state, evaluation)
            self.watch.doing("saving a checkpoint", f" of step {step}")
            self.checkpoints.close()  # a signal waits for the last one too

    def _asked(self, where: str) -> int:
        """The signal that asks this process or another one to stop, 0 without one: the same on all, who meet here.

        Nobody waits for another one inside a collective, in which a CPU gives up after 30 s.
        """
        self.watch.doing("")  # those who are waited for have watchdogs of their own
        return max(self.peers.meet(where, StopRequest.asked()))

    def _compiled(self, state: TrainState, batch: feed.Batch) -> Any:
        """The step, compiled before the first of it: processes that need longer than others are waited for."""
        p = self.parts
        last = _last_compilation(self.workdir)
        self.report.say(f"compiling the step ...{f' ({last:.1f} s the last time)' if last else ''}")
        self.watch.doing("compiling")
        self._clock.restart(0)
        with memory.told("compiling the step"), self.report.waiting("compiling the step", last):
            compiled = p.train_step().lower(state, towers.to_devices(batch, p.mesh)).compile()
        self.report.say(f"compiled in {self._clock.seconds_per_step(1):.1f} s")
        rows = p.mesh.shape[towers.DATA] * p.config.train.accumulate
        self.report.say(f"memory   {memory.check_step(compiled, batch_size=p.plan.batch_size, multiple=rows)}")
        self._peak = speed.peak(p.model.compute_dtype)
        self.report.say(
            f"speed    at most {self._peak.teraflops:,.2f} TFLOP/s a device in {p.model.compute_dtype}, "
            f"{self._peak.source}"
        )
        self.report.start(step=self.first_step, steps=p.plan.steps)
        self._clock.restart(self.first_step)
        return compiled

    def _stop(self, step: int, state: TrainState, signal: int) -> NoReturn:
        if step > self._saved:
            self._save(step, state, None)
        self.checkpoints.close()
        self.report.say(f"saved at step {step:,} of {self.parts.plan.steps:,}; to resume: {self.command}")
        raise Interrupted(signal)

    def _started(self, step: int, metrics: dict[str, jax.Array]) -> None:
        self._unseen.append((step, metrics))
        if len(self._unseen) > 2:  # two steps ahead of the device, so that stopping does not wait for more
            jax.block_until_ready(self._unseen[-3][1])
        self.report.tick()

    def _look(self) -> dict[str, Any]:
        """The last step's metrics on the host, after all unseen losses were found to be finite."""
        seen = [(step, jax.device_get(metrics)) for step, metrics in self._unseen]
        self._unseen = []
        for step, metrics in seen:
            if not np.isfinite(metrics["loss"]):
                self.checkpoints.drop(step - 1)  # this loss is that of its parameters
                raise self._divergence(f"The loss is {metrics['loss']} at step {step}", seen[0][0], step)
        return {"step": seen[-1][0], **{name: float(value) for name, value in seen[-1][1].items()}} if seen else {}

    def _divergence(self, what: str, first: int, step: int) -> Diverged:
        self.checkpoints.close()
        good = self.peers.meet(f"the divergence at step {step}", self.checkpoints.latest())[0]
        kept = f"the checkpoint of step {good} in {self.workdir} is kept" if good else "no checkpoint was written yet"
        return Diverged(
            f"{what} (checked steps {first} to {step}): the run has diverged and stops here; {kept}. "
            f"Try a config.train.learning_rate below {self.parts.config.train.learning_rate:g}, or "
            "config.train.rollbacks, which leaves these batches out.",
            step=step,
            good=good,
        )

    def _log(self, step: int) -> None:
        entry, plan = self._look(), self.parts.plan
        seconds, waited = self._clock.seconds_per_step(step), self._clock.share_waited()
        self._clock.restart(step)
        entry |= {
            "epoch": plan.epoch(step),
            "learning_rate": float(self.parts.learning_rate(jnp.asarray(step - 1))) * entry.pop("rate_scale", 1.0),
            "images_per_second": plan.batch_size / seconds,
            "seconds_per_step": seconds,
            "data_wait": waited,
        } | self._effort(plan.batch_size / seconds)
        self.report.step(entry, steps=plan.steps)

    def _effort(self, images_per_second: float) -> dict[str, float]:
        """What the devices do of what they could, and their memory."""
        p = self.parts
        teraflops = images_per_second * speed.flops_per_image(p.model, p.config.data.crop_pixels) / 1e12
        return {
            "teraflops_per_second": teraflops,
            "share_of_peak": teraflops / (self._peak.teraflops * p.mesh.size),
            "device_memory_gb": speed.memory_in_use(),
        }

    def _evaluate(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """(the state with what the plateau schedule learns from it, the evaluation), made once per step.

        Raises Interrupted where the run is asked to stop meanwhile: resumed, it evaluates first.
        """
        step = int(state.step)
        if (entry := self.report.evaluated.get(step)) is None:
            self._look()

            def check(batch: int) -> None:
                if signal := self._asked(f"batch {batch} of the evaluation at step {step}"):
                    raise Interrupted(signal)
                self.watch.doing("evaluating", f" at step {step}")

            self.watch.doing("compiling")
            last, collector = step == self.parts.plan.steps, Collector()
            each = collector if last and jax.process_count() == 1 else None
            evaluated = self._evaluate_views(state.variables, state.average, last=last, check=check, each=each)
            entry = {"step": step, **evaluated}
            self.report.evaluation(entry)
            self.answers = collector.answers(self.parts.evaluation.split, entry) if each else None
        if self.parts.plateau:
            plateau = self.parts.plateau.after(state.opt_state.plateau, step=step, error=100.0 - entry["eval_top1"])
            state = state.replace(
                opt_state=state.opt_state._replace(plateau=towers.on_every_device(plateau, self.parts.mesh))
            )
        return state, entry

    def _save(self, step: int, state: TrainState, evaluation: dict[str, Any] | None) -> None:
        self.watch.doing("saving a checkpoint", f" of step {step}")
        self._look()
        if not bool(_all_finite((state.params, state.statistics))):
            raise self._divergence("The parameters are no longer finite", step, step)
        self.checkpoints.save(step, state, evaluation)
        self._saved = step


def _last_compilation(workdir: Path) -> float | None:
    """The seconds that the last start in this workdir compiled for, None where none has."""
    log = workdir / "train.log"
    found = re.findall(rb"compiled in ([0-9.]+) s\n", log.read_bytes()) if log.exists() else []
    return float(found[-1]) if found else None


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
