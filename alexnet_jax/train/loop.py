"""A training run that can be stopped at any step and resumes to the bit."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import builder, config as configs, exits, files
from alexnet_jax.data import feed, statistics as pixel_statistics
from alexnet_jax.errors import AlexNetError
from alexnet_jax.evaluate import PerImage, Predictions, evaluator
from alexnet_jax.model import towers
from alexnet_jax.train import checksums, memory, provenance, skipped_batches as skips, speed, start
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.distributed import ProcessGroup, check_shared
from alexnet_jax.train.metrics import MetricsWriter, Tracker, format_evaluation
from alexnet_jax.train.step import TrainState
from alexnet_jax.train.watchdog import Watchdog


class Diverged(AlexNetError):
    """The loss or the parameters were not finite at `step`; `good` is the step of the last good checkpoint, or None."""

    def __init__(self, what: str, workdir: Path, *, first: int, step: int, good: int | None) -> None:
        kept = f"the checkpoint of step {good} in {workdir} is kept" if good else "no checkpoint was written yet"
        super().__init__(
            f"{what} (checked steps {first} to {step}): the run has diverged and stops here; {kept}. Lower "
            "config.train.learning_rate, or set config.train.rollbacks, which skips these batches."
        )
        self.step, self.good = step, good


def train(
    config: ConfigDict, workdir: Path, *, command: str, eval_command: str, group: ProcessGroup | None = None,
    watchdog: Watchdog | None = None, open_trackers: Callable[[], list[Tracker]] = list,
) -> "Run":  # fmt: skip
    """Trains to the end, or raises Stopped or AlexNetError with everything good saved.

    `command` and `eval_command` are shown as what to type to resume and to evaluate. `group` are the processes
    of the run, `open_trackers` is called in process 0 before the first line.
    """
    group, watchdog = group or ProcessGroup(), watchdog or Watchdog()
    watchdog.phase("opening the data")
    setup = builder.train_setup(config, workdir)
    precision = {"the precision": setup.model.compute_dtype}  # config.precision=auto may mean another one elsewhere
    group.compare(feed.fingerprint(setup.split) | feed.fingerprint(setup.evaluation.split) | precision)
    if group.main:
        files.make_folder(workdir)
    check_shared(group, workdir)
    while True:
        try:
            return _train(
                setup, workdir, group, watchdog, command=command, eval_command=eval_command, open_trackers=open_trackers
            )
        except Diverged as error:
            if len(skips.read(workdir, error.step)) >= setup.plan.rollbacks or error.good is None:
                raise
            group.barrier(f"the rollback from step {error.step}")  # all have read what process 0 now writes to
            if group.main:
                skips.add(workdir, after_step=error.good, batches=error.step - error.good)


def _train(
    setup: builder.TrainSetup, workdir: Path, group: ProcessGroup, watchdog: Watchdog, *, command: str,
    eval_command: str, open_trackers: Callable[[], list[Tracker]],
) -> "Run":  # fmt: skip
    """From the newest whole checkpoint, or from the start, to the end."""
    repairs: list[str] = []
    watchdog.phase("verifying the checkpoints")
    found = None
    if group.main:
        checksums.restore_files(workdir, say=repairs.append)
        found = checksums.newest_whole(workdir, quarantine=True, say=repairs.append)
    latest = group.gather("the newest whole checkpoint", found)[0]
    changed: list[str] = []
    if latest is not None:
        configs.check_classes(workdir, setup.split.class_names)
        changed = check_resume(setup.config, configs.load(workdir), latest, setup.plan.steps, workdir)
    skipped = skips.read(workdir, latest or 0)
    group.barrier("what the workdir holds")  # all have read it before process 0 writes
    if group.main:
        configs.save(setup.config, setup.split.class_names, workdir)
        if setup.inputs.mean.ndim == 3:
            files.write(workdir / pixel_statistics.MEAN_IMAGE, lambda path: np.save(path, setup.inputs.mean))
        provenance.add_start(workdir, step=latest or 0, command=command)
    checkpoints = Checkpoints(workdir, keep=setup.plan.keep)
    exits.hint = lambda: f"{checkpoints.last_saved()}; to resume: {command}"
    tracked = open_trackers() if group.main else []
    with MetricsWriter(workdir, main=group.main, first_step=latest or 0, trackers=tracked) as report:
        where = [f"tracked  {tracker.where}" for tracker in tracked]
        for line in (*start.introduction(setup, workdir, latest), *where, *repairs, *changed, *map(str, skipped)):
            report.say(line)
        run = Run(setup, workdir, checkpoints, report, latest or 0, command, group, watchdog)
        try:
            watchdog.phase("preparing the first step")
            group.barrier("the first state")
            with memory.shortage_named("this run"):
                run.loop(start.first_state(setup, checkpoints, latest, report.say), sum(s.batches for s in skipped))
        finally:
            watchdog.phase("saving a checkpoint")
            checkpoints.close()
            watchdog.phase("")
        last = checkpoints.folder / str(setup.plan.steps)
        evaluated = format_evaluation(report.evaluated[setup.plan.steps])
        report.say(f"done: {evaluated}; checkpoint {last}; evaluate it with: {eval_command}")
    return run


def check_resume(ours: ConfigDict, theirs: ConfigDict, step: int, steps: int, workdir: Path) -> list[str]:
    """A line for each field in which the run in `workdir`, which is at `step` of now `steps`, continues differently.

    Raises AlexNetError where it would be another run, or the run is past its end.
    """
    for field, our, their in configs.differences(ours, theirs, configs.Role.RUN):
        raise AlexNetError(
            f"{workdir} holds a run with config.{field}={their!r}, not {our!r}: "
            "use its value, or another workdir for a new run."
        )
    if step > steps:
        raise AlexNetError(
            f"{workdir} holds a run that is at step {step}, past the {steps} asked for: "
            "raise config.train.steps or config.train.epochs, or use another workdir."
        )
    changed = configs.differences(ours, theirs)
    return [f"changed  config.{field}: {their!r} so far, {our!r} from now on" for field, our, their in changed]


@dataclasses.dataclass
class Run:
    """A run from its first step after a start to its last: `loop` is what happens at a step."""

    setup: builder.TrainSetup
    workdir: Path
    checkpoints: Checkpoints
    report: MetricsWriter
    first_step: int
    command: str
    group: ProcessGroup
    watchdog: Watchdog

    def __post_init__(self) -> None:
        self.answers: Predictions | None = None  # of the last evaluation, image by image; in one process
        self._evaluate_split = evaluator(self.setup.evaluation, self.report.progress, self.report.warn)
        self._on_device: list[tuple[int, dict[str, jax.Array]]] = []  # metrics whose losses were not checked yet
        self._clock = speed.Clock()
        self._saved = self.first_step

    def loop(self, state: TrainState, skipped: int) -> None:
        """From the first step to the last; `skipped` batches came before. Raises Stopped or AlexNetError."""
        setup, plan, step = self.setup, self.setup.plan, self.first_step
        # Up to here, and in what follows, there is nothing to save: a signal ends the process.
        if plan.evaluates(step):
            state, _ = self._evaluate(state)  # the run may have been stopped right before it
        if step == plan.steps:
            return
        batches = setup.batches(step + skipped, self.report.warn)
        first = next(batches)
        train_step = self._compile(state, first)
        batches = itertools.chain([first], batches)
        with exits.graceful():
            while step < plan.steps:
                self.watchdog.phase("waiting for data", f" of step {step + 1}")
                with self._clock.waiting():
                    batch = next(batches)
                if signal := self.group.stop_requested():
                    self._stop(step, state, signal)
                self.watchdog.phase("computing", f" step {step + 1}")
                # Both are only started: the transfer of this batch runs beside the steps before it.
                state, metrics = train_step(state, towers.to_devices(batch, setup.mesh))
                step += 1
                self._on_device.append((step, metrics))
                if len(self._on_device) > 2:  # two steps ahead of the device, so that stopping does not wait for more
                    jax.block_until_ready(self._on_device[-3][1])
                self.report.tick()
                if plan.logs(step):
                    self._log(step, state)
                if plan.saves(step):
                    with self._clock.paused():
                        evaluation = None
                        if plan.evaluates(step):
                            try:
                                state, evaluation = self._evaluate(state)
                            except exits.Stopped as stop:
                                self._stop(step, state, stop.signal)
                        self._save(step, state, evaluation)
            self.watchdog.phase("saving a checkpoint", f" of step {step}")
            self.checkpoints.close()  # a signal waits for the last one too

    def _stop(self, step: int, state: TrainState, signal: int) -> NoReturn:
        if step > self._saved:
            self._save(step, state, None)
        self.checkpoints.close()
        self.report.say(f"saved at step {step:,} of {self.setup.plan.steps:,}; to resume: {self.command}")
        raise exits.Stopped(signal)

    def _compile(self, state: TrainState, batch: feed.Batch) -> Any:
        """The step, compiled before the first of it: slower processes are waited for."""
        self.watchdog.phase("compiling")
        compiled, self._peak = _compile_step(self.setup, state, batch, self.report.say)
        self.watchdog.phase("")
        self.group.barrier("the first step")
        self.report.start(step=self.first_step, steps=self.setup.plan.steps)
        self._clock.restart(self.first_step)
        return compiled

    def _check_losses(self) -> dict[str, Any]:
        """The last step's metrics on the host, after all losses since the last call were found to be finite."""
        done = [(step, jax.device_get(metrics)) for step, metrics in self._on_device]
        self._on_device = []
        for step, metrics in done:
            if not np.isfinite(metrics["loss"]):
                self.checkpoints.drop(step - 1)  # this loss is that of its parameters
                raise self._diverged(f"The loss is {metrics['loss']} at step {step}", done[0][0], step)
        return {"step": done[-1][0], **{name: float(value) for name, value in done[-1][1].items()}} if done else {}

    def _diverged(self, what: str, first: int, step: int) -> Diverged:
        self.checkpoints.close()
        good = self.group.gather(f"the divergence at step {step}", self.checkpoints.latest())[0]
        return Diverged(what, self.workdir, first=first, step=step, good=good)

    def _log(self, step: int, state: TrainState) -> None:
        entry, setup, plan = self._check_losses(), self.setup, self.setup.plan
        seconds, waited = self._clock.seconds_per_step(step), self._clock.share_waited()
        self._clock.restart(step)
        rate = float(setup.learning_rate(jnp.asarray(step - 1))) * float(state.opt_state.plateau.scale)
        teraflops = plan.batch_size / seconds * speed.flops_per_image(setup.model, setup.inputs.crop_pixels) / 1e12
        entry |= {
            "epoch": plan.epoch(step),
            "learning_rate": rate,
            "images_per_second": plan.batch_size / seconds,
            "seconds_per_step": seconds,
            "data_wait": waited,
            "teraflops_per_second": teraflops,
            "share_of_peak": teraflops / (self._peak.teraflops * setup.mesh.size),
            "device_memory_gb": speed.memory_in_use(),
        }
        self.report.step(entry, steps=plan.steps)

    def _evaluate(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """(the state with what the plateau schedule learns from it, the evaluation), made once per step.

        Raises Stopped where the run is asked to stop meanwhile: resumed, it evaluates first.
        """
        step, setup = int(state.step), self.setup
        if (entry := self.report.evaluated.get(step)) is None:
            self._check_losses()

            def check(batch: int) -> None:
                if not batch:  # it was compiled just now, in which some take longer
                    self.watchdog.phase("")
                    self.group.barrier(f"the evaluation at step {step}")
                if signal := self.group.stop_requested():
                    raise exits.Stopped(signal)
                self.watchdog.phase("evaluating", f" at step {step}")

            self.watchdog.phase("compiling")
            last, per_image = step == setup.plan.steps, list[PerImage]()
            each = per_image.append if last and jax.process_count() == 1 else None
            entry = {"step": step}
            entry |= self._evaluate_split(state.variables, state.average, last=last, check=check, each=each)
            self.report.evaluation(entry)
            self.answers = Predictions.of(setup.evaluation.split, entry, per_image) if each else None
        if setup.plateau:
            plateau = setup.plateau.after(state.opt_state.plateau, step=step, error=100.0 - entry["eval_top1"])
            on_devices = towers.on_every_device(plateau, setup.mesh)
            state = state.replace(opt_state=state.opt_state._replace(plateau=on_devices))
        return state, entry

    def _save(self, step: int, state: TrainState, evaluation: dict[str, Any] | None) -> None:
        self.watchdog.phase("saving a checkpoint", f" of step {step}")
        self._check_losses()
        if not bool(_all_finite((state.params, state.statistics))):
            raise self._diverged("The parameters are no longer finite", step, step)
        self.checkpoints.save(step, state, evaluation)
        self._saved = step


def _compile_step(
    setup: builder.TrainSetup, state: TrainState, batch: feed.Batch, say: checksums.Say
) -> tuple[Any, speed.Peak]:
    """(the compiled step, the peak of a device). Raises AlexNetError where it takes more memory than there is."""
    say("compiling the step ...")
    since = time.perf_counter()
    with memory.shortage_named("compiling the step"):
        compiled = setup.train_step().lower(state, towers.to_devices(batch, setup.mesh)).compile()
    say(f"compiled in {time.perf_counter() - since:.1f} s")
    multiple = setup.mesh.shape[towers.DATA] * setup.settings.microbatches
    say(f"memory   {memory.check_step(compiled, batch_size=setup.plan.batch_size, multiple=multiple)}")
    peak = speed.peak(setup.model.compute_dtype)
    say(f"speed    at most {peak.teraflops:,.2f} TFLOP/s a device in {peak.numbers}, {peak.source}")
    return compiled, peak


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
