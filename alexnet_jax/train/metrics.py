"""The metrics writer of a run: terminal, train.log, metrics.jsonl, TensorBoard, and trackers."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from alexnet_jax import files, progress
from alexnet_jax.errors import AlexNetError

METRICS, DAMAGED, LOG = "metrics.jsonl", "metrics.damaged.jsonl", "train.log"


@dataclasses.dataclass(frozen=True)
class Tracker:
    """`log(metrics, step)` and `close()` of a service that runs report to, and a line that says where this run is."""

    name: str
    log: Callable[[dict[str, Any], int], Any]
    close: Callable[[], Any]
    where: str


class MetricsWriter:
    """The one place that prints and writes. Only process 0, `main`, does.

    `metrics.jsonl` has one object a line, written at once: training lines with `step` and `loss`, evaluations with
    `step` and `eval_top1`. A training run that starts or resumes at `first_step` cuts off what a killed one wrote
    after that, so that the file holds one history, and moves lines that cannot be read to `metrics.damaged.jsonl`.
    Without a `first_step` it only appends, and where that fails, as in a workdir that one may only read, it warns and
    from then on only prints. Raises AlexNetError.
    """

    def __init__(
        self, workdir: Path, *, main: bool, first_step: int | None = None, trackers: Sequence[Tracker] = ()
    ) -> None:
        self.evaluated: dict[int, dict[str, Any]] = {}  # by step; the same in every process, which decide by it
        self._main, self._trains, self._trackers = main, first_step is not None, list(trackers)
        self._workdir, self._writes, self._stdout = workdir, main, sys.stdout
        self._bar: Any = None
        if first_step is not None:
            self._cut(first_step)
        for name in (METRICS, LOG):
            self._write(name, lambda path: path.open("ab").close())
        self._board = self._write("tensorboard", lambda path: _open_board(path, first_step))

    def _cut(self, first_step: int) -> None:
        """Reads the history up to `first_step` and leaves no other in the file; says which lines were damaged."""
        path, aside = self._workdir / METRICS, self._workdir / DAMAGED
        entries, damaged = _read_lines(path)
        kept = [(line, entry) for line, entry in entries if entry["step"] <= first_step]
        for _, entry in kept:
            if "eval_top1" in entry and "mode" not in entry:  # not one of --mode=eval
                self.evaluated[entry["step"]] = entry
        if not self._main:
            return
        for number, line in damaged:
            files.append_line(aside, json.dumps({"line": number, "text": line}))
        files.write_text(path, "".join(line + "\n" for line, _ in kept))
        if damaged:
            numbers = format_names([str(number) for number, _ in damaged])
            self.say(f"{path}: damaged lines {numbers} are moved to {aside.name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._to_trackers(lambda tracker: tracker.close())
        if self._board is not None:
            with contextlib.suppress(AlexNetError) if kind else contextlib.nullcontext():  # it was reported already
                self._write("tensorboard", lambda _: self._board.close())

    def _write(self, name: str, write: Callable[[Path], Any]) -> Any:
        """Has a file of the workdir written. Where that fails, an evaluation is printed anyway."""
        if not self._writes:
            return None
        try:
            with files.named(self._workdir / name, "written"):
                return write(self._workdir / name)
        except AlexNetError as error:
            if self._trains:
                raise
            self._writes = False
            progress.to_stderr(f"nothing is written: {error}")

    def say(self, text: str) -> None:
        """A line for people, on the terminal and in train.log."""
        if not self._main:
            return
        self._log(text)
        try:
            if self._stdout is not None:
                progress.write(progress.wrap(text), file=self._stdout)
                self._stdout.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # what is in its buffer goes nowhere, without an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stdout.fileno())
            self._stdout = None
            self._log("the terminal, or whatever read stdout, is gone: the run continues, and so does this log")

    def warn(self, text: str) -> None:
        """A line for people from any process, such as what the feed of another one finds."""
        if self._main:
            self.say(text)
        else:
            progress.to_stderr(text)

    def _log(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        self._write(LOG, lambda path: files.append_line(path, line, synced=False))

    def step(self, entry: dict[str, Any], *, steps: int) -> None:
        """A training line: `step`, `loss`, `images_per_second`, ..."""
        self._add(entry)
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str(f"loss {entry['loss']:.4f}, {entry['images_per_second']:.1f} images/s")
            self._log(format_step(entry, steps))
        else:
            self.say(format_step(entry, steps))

    def evaluation(self, entry: dict[str, Any]) -> None:
        """An evaluation line: `step`, `eval_top1`, `eval_top5`, `eval_loss`, `eval_images`, ..."""
        self.evaluated[entry["step"]] = entry
        self._add(entry)
        self.say(f"step {entry['step']}  {format_evaluation(entry)}")

    def _add(self, entry: dict[str, Any]) -> None:
        """To metrics.jsonl, TensorBoard and the trackers."""
        if not self._main:
            return
        is_evaluation = "eval_top1" in entry
        self._write(METRICS, lambda path: files.append_line(path, json.dumps(entry), synced=is_evaluation))
        numbers = {
            f"{'eval' if is_evaluation else 'train'}/{name.removeprefix('eval_')}": value
            for name, value in entry.items()
            if name != "step" and isinstance(value, int | float)
        }
        for name, value in numbers.items() if self._board else ():
            self._board.add_scalar(name, value, entry["step"])
        self._to_trackers(lambda tracker: tracker.log(numbers, entry["step"]))

    def _to_trackers(self, call: Callable[[Tracker], Any]) -> None:
        """One that fails, in whatever way, is left out from then on: the run and its files do not depend on it."""
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                why = (str(error).splitlines() or [type(error).__name__])[0]
                progress.to_stderr(f"{tracker.name} gets nothing more of this run: {why}; {METRICS} has it all")

    def start(self, *, step: int, steps: int) -> None:
        """Shows the progress bar, on a terminal only."""
        if self._main and step < steps:
            self._bar = progress.bar(total=steps, done=step, unit="step", delay=0.0)

    def tick(self) -> None:
        """One step was started."""
        if self._bar is not None:
            self._bar.update()

    def progress(self, batches: Iterable[Any], *, total: int, what: str) -> Iterable[Any]:
        """The batches, with a progress bar of their own below the run's."""
        return progress.bar(batches, total=total, what=what) if self._main else batches


def _open_board(folder: Path, first_step: int | None) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), purge_step=None if first_step is None else first_step + 1)


def format_step(entry: dict[str, Any], steps: int) -> str:
    """A training line of a run of so many steps."""
    from tqdm import tqdm

    left = tqdm.format_interval((steps - entry["step"]) * entry["seconds_per_step"])
    return (
        f"step {entry['step']}/{steps}  epoch {entry['epoch']:.2f}  loss {entry['loss']:.4f}  "
        f"top-1 {entry['top1']:.1f} %  {entry['images_per_second']:.1f} images/s  "
        f"{entry['teraflops_per_second']:.3g} TFLOP/s, {100 * entry['share_of_peak']:.0f} % of peak  "
        f"waiting for data {100 * entry['data_wait']:.0f} %  "
        f"{entry['device_memory_gb']:.1f} GB{f'  {left} left' if entry['step'] < steps else ''}"
    )


def format_evaluation(entry: dict[str, Any]) -> str:
    """An evaluation in a line."""
    name, percent = min(entry["eval_classes"].items(), key=lambda item: item[1])
    more = ""
    if "eval_views" in entry:
        more = (
            f"; with {entry['eval_views']} views top-1 {entry['eval_views_top1']:.2f} %  "
            f"top-5 {entry['eval_views_top5']:.2f} %  loss {entry['eval_views_loss']:.4f}"
        )
    if "eval_average_top1" in entry:
        of_average = entry.get("eval_average_views_top1", entry["eval_average_top1"])
        more += f"; of the average of the weights top-1 {of_average:.2f} %"
    return (
        f"top-1 {entry['eval_top1']:.2f} % (weakest {name}: {percent:.1f} %)  top-5 {entry['eval_top5']:.2f} %  "
        f"loss {entry['eval_loss']:.4f}  "
        f"on {entry['eval_images']:,} images of {entry['eval_split']} (center crop){more}"
    )


def format_classes(entry: dict[str, Any]) -> str:
    """The table of the classes of an evaluation, the weakest first, twenty of them at most, and their means."""
    present = {name: row for name, row in entry["eval_by_class"].items() if row["images"]}
    weakest = sorted(present.items(), key=lambda item: item[1]["top1"])
    # Of a name 40 columns, which fits a terminal of 80.
    shown = [(name if len(name) <= 40 else f"{name[:37]}...", row) for name, row in weakest[:20]]
    width = max(len("mean of the classes"), *(len(name) for name, _ in shown))
    head = f"  {'by class, in percent':{width}}  {'images':>7}  {'top-1':>6}  {'top-5':>6}  {'precision':>9}"
    lines = [
        f"  {name:{width}}  {row['images']:7,}  {row['top1']:6.2f}  {row['top5']:6.2f}  {row['precision']:9.2f}"
        for name, row in shown
    ]
    more = [f"  ... and {len(weakest) - 20:,} more in {METRICS}"] if len(weakest) > 20 else []
    mean = f"  {'mean of the classes':{width}}  {'':7}  {entry['eval_recall']:6.2f}"
    return "\n".join([head, *lines, *more, f"{mean}  {'':6}  {entry['eval_precision']:9.2f}"])


def format_names(names: Sequence[str]) -> str:
    """The first names of a long list, all of a short one."""
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:8])}, ..., {names[-1]}"


def entries(workdir: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl, or of `name`, in order. Raises AlexNetError where it cannot be read."""
    return [entry for _, entry in _read_lines(workdir / name)[0]]


def _read_lines(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], list[tuple[int, str]]]:
    """([(line, entry)] of the lines that are whole, [(number, line)] of the damaged ones), without empty ones.

    A killed run or a full disk leaves a last line that is cut off; a damaged disk, lines of anything. Bytes that are
    not text are kept as lone surrogates. Raises AlexNetError where the file cannot be read.
    """
    with files.named(path, "read"):
        lines = (path.read_bytes() if path.exists() else b"").split(b"\n")
    whole, damaged = [], []
    for number, line in enumerate(lines, 1):
        text = line.decode("utf-8", "surrogateescape")
        if (entry := _entry(line)) is not None:
            whole.append((text, entry))
        elif line:
            damaged.append((number, text))
    return whole, damaged


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry in a line of the file, None where it is not one."""
    try:
        entry = json.loads(line.decode("utf-8"))
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            return None
        if "eval_top1" in entry:
            format_evaluation(entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return entry
