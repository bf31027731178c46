"""The metrics writer of a run: terminal, train.log, metrics.jsonl, TensorBoard, and trackers."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from alexnet_jax import files, progress
from alexnet_jax.errors import AlexNetError

METRICS, DAMAGED, LOG = "metrics.jsonl", "metrics.damaged.jsonl", "train.log"
T = TypeVar("T")


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
    Without a `first_step` it only appends, and a file that cannot be written, as in a workdir that one may only read,
    is warned of once and left out. Raises AlexNetError.
    """

    def __init__(
        self, workdir: Path, *, main: bool, first_step: int | None = None, trackers: Sequence[Tracker] = ()
    ) -> None:
        self.evaluated: dict[int, dict[str, Any]] = {}  # by step; the same in every process, which decide by it
        self._main, self._appends, self._trackers = main, first_step is None, list(trackers)
        self._path, self._log_path = workdir / METRICS, workdir / LOG
        self._out, self._err = _Stream(sys.stdout), _Stream(sys.stderr)
        self._bar: Any = None
        self._board: Any = None
        self._unwritten: dict[Path, AlexNetError] = {}
        warning = self._cut(first_step) if first_step is not None else ""
        if not main:
            return
        if warning:
            self.say(warning)
        for path in (self._path, self._log_path):
            with self._writing(path):
                path.open("ab").close()
        board = workdir / "tensorboard"
        with self._writing(board):
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(board), purge_step=None if first_step is None else first_step + 1)
        if self._unwritten:
            names = ", ".join(path.name for path in self._unwritten)
            _warn(f"not written: {names}: {next(iter(self._unwritten.values()))}")

    def _cut(self, first_step: int) -> str:
        """Reads the history up to `first_step` and leaves no other in the file; says which lines were damaged."""
        entries, damaged = _read_lines(self._path)
        kept = [(line, entry) for line, entry in entries if entry["step"] <= first_step]
        for _, entry in kept:
            if "eval_top1" in entry and "mode" not in entry:  # not one of --mode=eval
                self.evaluated[entry["step"]] = entry
        if not self._main:
            return ""
        aside = self._path.with_name(DAMAGED)
        for number, line in damaged:
            files.append_line(aside, json.dumps({"line": number, "text": line}))
        files.write_text(self._path, "".join(line + "\n" for line, _ in kept))
        numbers = format_names([str(number) for number, _ in damaged])
        return f"{self._path}: damaged lines {numbers} are moved to {aside.name}" if damaged else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._main:
            return
        self._close_bar()
        self._to_trackers(lambda tracker: tracker.close())
        try:
            if self._board is not None:
                self._board.close()
        except OSError as error:  # a full disk, which was already reported if it ended the run
            if value is None and not self._appends:
                raise AlexNetError(f"{self._path.parent} cannot be written: {error.strerror}.") from error

    @contextlib.contextmanager
    def _writing(self, path: Path, *, warn: bool = False) -> Iterator[None]:
        """An evaluation goes on where `path` cannot be written, and is worth printing anyway; a training run ends."""
        try:
            with files.named(path, "written"):
                yield
        except AlexNetError as error:
            if not self._appends:
                raise
            self._unwritten[path] = error
            if warn:
                _warn(f"not written: {path.name}: {error}")

    # ---------------------------------------------------------------- lines

    def say(self, text: str) -> None:
        """A line for people, on the terminal and in train.log."""
        if self._main:
            progress.write(progress.wrap(text), file=self._out)
            self._out.flush()
            self._log(text)
            if self._out.was_lost():
                self._log("the terminal, or whatever read stdout, is gone: the run continues, and so does this log")

    def warn(self, text: str) -> None:
        """A line for people from any process, such as what the feed of another one finds."""
        if self._main:
            self.say(text)
        else:
            _warn(text)

    def _log(self, text: str) -> None:
        if self._log_path not in self._unwritten:
            with self._writing(self._log_path, warn=True):
                line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
                files.append_line(self._log_path, line, synced=False)

    def step(self, entry: dict[str, Any], *, steps: int) -> None:
        """A training line: `step`, `loss`, `images_per_second`, ..."""
        if not self._main:
            return
        self._write(entry)
        text = format_step(entry, steps)
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str(f"loss {entry['loss']:.4f}, {entry['images_per_second']:.1f} images/s")
            self._log(text)
        else:
            self.say(text)

    def evaluation(self, entry: dict[str, Any]) -> None:
        """An evaluation line: `step`, `eval_top1`, `eval_top5`, `eval_loss`, `eval_images`, ..."""
        self.evaluated[entry["step"]] = entry
        if not self._main:
            return
        self._write(entry)
        self.say(f"step {entry['step']}  {format_evaluation(entry)}")

    def _write(self, entry: dict[str, Any]) -> None:
        if self._path not in self._unwritten:
            with self._writing(self._path, warn=True):
                files.append_line(self._path, json.dumps(entry), synced="eval_top1" in entry)
        group = "eval" if "eval_top1" in entry else "train"
        numbers = {
            f"{group}/{name.removeprefix('eval_')}": value
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
                _warn(f"{tracker.name} gets nothing more of this run: {why}; {METRICS} has it all")

    # ---------------------------------------------------------------- progress bars

    def start(self, *, step: int, steps: int) -> None:
        """Shows the progress bar, on a terminal only, until the last step."""
        if self._main and step < steps:
            self._bar = progress.bar(total=steps, done=step, unit="step", file=self._err, delay=0.0)

    def tick(self) -> None:
        """One step was started."""
        if self._bar is not None:
            self._bar.update()
            if self._bar.n >= self._bar.total:
                self._close_bar()

    def progress(self, batches: Iterable[T], *, total: int, what: str) -> Iterable[T]:
        """The batches, with a progress bar of their own below the run's."""
        return progress.watched(batches, total=total, what=what, file=self._err) if self._main else batches

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Stream:
    """A stream that may go away, as a terminal that is closed or `head -1`: what nobody reads is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._lost = stream, False

    def was_lost(self) -> bool:
        """Whether it went away since this was asked last."""
        lost, self._lost = self._lost, False
        return lost

    def write(self, text: str) -> int:
        self._call("write", text)
        return len(text)

    def flush(self) -> None:
        self._call("flush")

    def _call(self, method: str, *given: str) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, method)(*given)
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # what is still in its buffer goes nowhere, without an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream, self._lost = None, True

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return int(self._stream.fileno())  # tqdm asks it for the width of the terminal


# ---------------------------------------------------------------- metrics in words


def format_step(entry: dict[str, Any], steps: int) -> str:
    """A training line of a run of so many steps."""
    minutes, seconds = divmod(round((steps - entry["step"]) * entry["seconds_per_step"]), 60)
    left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
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


# ---------------------------------------------------------------- reading metrics.jsonl


def entries(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl, in order. Raises AlexNetError where it cannot be read."""
    return [entry for _, entry in _read_lines(workdir / METRICS)[0]]


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
