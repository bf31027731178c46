"""What a run says: on the terminal, in train.log, in metrics.jsonl and to TensorBoard."""

import contextlib
import json
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tensorboardX import SummaryWriter

from alexnet_jax import files, progress as bars
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train.trackers import Tracker

METRICS, DAMAGED, LOG = "metrics.jsonl", "metrics.damaged.jsonl", "train.log"
_TICK = 0.25  # seconds
T = TypeVar("T")


class Report:
    """The one place that prints and writes, which makes it longer than other classes. Only the first process does.

    `metrics.jsonl` has one object a line, written at once: training lines with `step` and `loss`, evaluations with
    `step` and `eval_top1`. A training run that starts or resumes at `first_step` cuts off what a killed one wrote
    after that, so that the file holds one history, and moves lines that cannot be read to `metrics.damaged.jsonl`.
    None only appends: what cannot be written, as in a workdir that one may only read, is told once and left out.
    """

    def __init__(
        self, workdir: Path, *, main: bool, first_step: int | None = None, trackers: Sequence[Tracker] = ()
    ) -> None:
        self._trackers = list(trackers)
        self._main, self._appends, self._is_open = main, first_step is None, False
        self._bar: Any = None
        self._out, self._err = _Lasting(sys.stdout), _Lasting(sys.stderr)
        self._board: Any = None
        self._unwritten: dict[Path, AlexNetError] = {}
        self.evaluated: dict[int, dict[str, Any]] = {}  # the same in every process: they decide by it
        self._path, self._log_path = workdir / METRICS, workdir / LOG
        said = self._rewind(first_step) if first_step is not None else []
        if not main:
            return
        for line in said:
            self.say(line)
        for path in (self._path, self._log_path):
            with self._written(path), files.named(path, "written"):
                path.open("ab").close()
        board = workdir / "tensorboard"
        with self._written(board), files.named(board, "written"):
            self._board = SummaryWriter(str(board), purge_step=None if first_step is None else first_step + 1)
        if self._unwritten:
            names = ", ".join(path.name for path in self._unwritten)
            _warn(f"not written: {names}: {next(iter(self._unwritten.values()))}")
        self._is_open = True

    def _rewind(self, first_step: int) -> list[str]:
        """Takes the history up to `first_step`, and leaves no other in the file; what was wrong with it, in words."""
        entries, damaged = _logged(self._path)
        kept = [(line, entry) for line, entry in entries if entry["step"] <= first_step]
        for _, entry in kept:
            if "eval_top1" in entry and "mode" not in entry:  # not one of --mode=eval
                self.evaluated[entry["step"]] = entry
        if not self._main:
            return []
        aside = self._path.with_name(DAMAGED)
        for number, line in damaged:
            files.append_line(aside, json.dumps({"line": number, "text": line}))
        files.write_text(self._path, "".join(line + "\n" for line, _ in kept))
        numbers = some_of(tuple(str(number) for number, _ in damaged))
        what = f"lines {numbers} of {self._path} are" if len(damaged) > 1 else f"line {numbers} of {self._path} is"
        return [f"{what} not whole: kept in {aside.name}, and left out of the history"] if damaged else []

    def __enter__(self) -> "Report":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._main:
            return
        self._close_bar()
        self._tell_trackers(lambda tracker: tracker.close())
        try:
            if self._board is not None:
                self._board.close()
        except OSError as error:  # a full disk, which has been told if it ended the run
            if value is None and not self._appends:
                raise AlexNetError(f"{self._path.parent} cannot be written: {error.strerror}.") from error

    @contextlib.contextmanager
    def _written(self, path: Path) -> Iterator[None]:
        """What is only appended to is left out where it cannot be written: an evaluation is worth printing anyway."""
        try:
            yield
        except AlexNetError as error:
            if not self._appends:
                raise
            self._unwritten[path] = error
            if self._is_open:
                _warn(f"not written: {path.name}: {error}")

    def say(self, text: str) -> None:
        """A line for people, on the terminal and in train.log."""
        if self._main:
            bars.write(fitted(text), file=self._out)
            self._out.flush()
            self._note(text)
            if self._out.is_gone() and self._log_path not in self._unwritten:
                self._note("the terminal, or whatever read stdout, is gone: the run continues, and so does this log")

    def warn(self, text: str) -> None:
        """A line for people from any process: what the feed of another process finds is said there."""
        if self._main:
            self.say(text)
        else:
            _warn(text)

    def _note(self, text: str) -> None:
        if self._log_path not in self._unwritten:
            with self._written(self._log_path):
                line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
                files.append_line(self._log_path, line, synced=False)

    def start(self, *, step: int, steps: int) -> None:
        """Shows the progress bar, on a terminal only, until the last step."""
        if self._main and step < steps:
            self._bar = bars.bar(total=steps, done=step, unit="step", file=self._err, delay=0.0)

    def tick(self) -> None:
        """One step was started."""
        if self._bar is not None:
            self._bar.update()
            if self._bar.n >= self._bar.total:
                self._close_bar()

    def watch(self, batches: Iterable[T], *, total: int, what: str) -> Iterator[T]:
        """The batches, with a bar of their own below the run's."""
        if not self._main:
            yield from batches
            return
        yield from bars.watched(batches, total=total, what=what, file=self._err)

    @contextlib.contextmanager
    def waiting(self, what: str, last_seconds: float | None) -> Iterator[None]:
        """While something runs that cannot be counted: a bar that fills in the time that it took last."""
        if not self._main or last_seconds is None:
            yield
            return
        done = threading.Event()
        with bars.bar(total=last_seconds, what=what, file=self._err) as shown:

            def fill() -> None:
                while not done.wait(_TICK):
                    shown.update(min(_TICK, shown.total - shown.n))

            ticking = threading.Thread(target=fill, daemon=True)
            ticking.start()
            try:
                yield
            finally:
                done.set()
                ticking.join()

    def step(self, entry: dict[str, Any], *, steps: int) -> None:
        """A training line: `step`, `loss`, `images_per_second`, ..."""
        if not self._main:
            return
        self._write(entry)
        left = (steps - entry["step"]) * entry["seconds_per_step"]
        text = (
            f"step {entry['step']}/{steps}  epoch {entry['epoch']:.2f}  loss {entry['loss']:.4f}  "
            f"top-1 {entry['top1']:.1f} %  {entry['images_per_second']:.1f} images/s  "
            f"{entry['teraflops_per_second']:.3g} TFLOP/s, {100 * entry['share_of_peak']:.0f} % of peak  "
            f"waiting for data {100 * entry['data_wait']:.0f} %  "
            f"{entry['device_memory_gb']:.1f} GB{f'  {_clock(left)} left' if left else ''}"
        )
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str(f"loss {entry['loss']:.4f}, {entry['images_per_second']:.1f} images/s")
            self._note(text)
        else:
            self.say(text)

    def evaluation(self, entry: dict[str, Any]) -> None:
        """An evaluation line: `step`, `eval_top1`, `eval_top5`, `eval_loss`, `eval_images`, ..."""
        self.evaluated[entry["step"]] = entry
        if not self._main:
            return
        self._write(entry)
        self.say(f"step {entry['step']}  {describe(entry)}")

    def _write(self, entry: dict[str, Any]) -> None:
        if self._path not in self._unwritten:
            with self._written(self._path):
                files.append_line(self._path, json.dumps(entry), synced="eval_top1" in entry)
        group = "eval" if "eval_top1" in entry else "train"
        numbers = {
            f"{group}/{name.removeprefix('eval_')}": value
            for name, value in entry.items()
            if name != "step" and isinstance(value, int | float)
        }
        for name, value in numbers.items() if self._board else ():
            self._board.add_scalar(name, value, entry["step"])
        self._tell_trackers(lambda tracker: tracker.log(numbers, entry["step"]))

    def _tell_trackers(self, say: Callable[[Tracker], Any]) -> None:
        """One that fails is left out from then on: the run and its files do not depend on it."""
        for tracker in list(self._trackers):
            try:
                say(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                why = (str(error).splitlines() or [type(error).__name__])[0]
                _warn(f"{tracker.name} gets nothing more of this run: {why}; {METRICS} has it all")

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Lasting:
    """A stream that may go away, as a terminal that is closed or `head -1`: what nobody reads is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._gone = stream, False

    def is_gone(self) -> bool:
        """Whether it went away since the last time this was asked."""
        gone, self._gone = self._gone, False
        return gone

    def write(self, text: str) -> int:
        self._unless_gone("write", text)
        return len(text)

    def flush(self) -> None:
        self._unless_gone("flush")

    def _unless_gone(self, verb: str, *given: str) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, verb)(*given)
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # what is still in its buffer goes nowhere, without an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream, self._gone = None, True

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return int(self._stream.fileno())  # tqdm asks it for the width of the terminal


def describe(entry: dict[str, Any]) -> str:
    """An evaluation in words."""
    name, percent = min(entry["eval_classes"].items(), key=lambda item: item[1])
    views = ""
    if "eval_views" in entry:
        views = (
            f"; with {entry['eval_views']} views top-1 {entry['eval_views_top1']:.2f} %  "
            f"top-5 {entry['eval_views_top5']:.2f} %  loss {entry['eval_views_loss']:.4f}"
        )
    if "eval_average_top1" in entry:
        best = "eval_average_views_top1" if "eval_average_views_top1" in entry else "eval_average_top1"
        views += f"; of the average of the weights top-1 {entry[best]:.2f} %"
    return (
        f"top-1 {entry['eval_top1']:.2f} % (weakest {name}: {percent:.1f} %)  top-5 {entry['eval_top5']:.2f} %  "
        f"loss {entry['eval_loss']:.4f}  "
        f"on {entry['eval_images']:,} images of {entry['eval_split']} (center crop){views}"
    )


def describe_classes(entry: dict[str, Any]) -> str:
    """The table of the classes of an evaluation, the weakest first, twenty of them at most, and their means."""
    present = {name: row for name, row in entry["eval_by_class"].items() if row["images"]}
    weakest = sorted(present.items(), key=lambda item: item[1]["top1"])
    shown = [(shortened(name, _CLASS_COLUMNS), row) for name, row in weakest[:20]]
    width = max(len("mean of the classes"), *(len(name) for name, _ in shown))
    head = f"  {'by class, in percent':{width}}  {'images':>7}  {'top-1':>6}  {'top-5':>6}  {'precision':>9}"
    lines = [
        f"  {name:{width}}  {row['images']:7,}  {row['top1']:6.2f}  {row['top5']:6.2f}  {row['precision']:9.2f}"
        for name, row in shown
    ]
    more = [f"  ... and {len(weakest) - 20:,} more in {METRICS}"] if len(weakest) > 20 else []
    mean = f"  {'mean of the classes':{width}}  {'':7}  {entry['eval_recall']:6.2f}"
    return "\n".join([head, *lines, *more, f"{mean}  {'':6}  {entry['eval_precision']:9.2f}"])


_CLASS_COLUMNS = 40  # of a class name in the table, which fits a terminal of 80


def shortened(text: str, columns: int) -> str:
    """The text, cut to `columns` characters where it is longer."""
    return text if len(text) <= columns else f"{text[: columns - 3]}..."


def fitted(text: str) -> str:
    """A line as the terminal can show it: broken between words, the rest indented. Elsewhere as it is."""
    if sys.stdout is None or sys.stdout.closed or not sys.stdout.isatty():
        return text
    width = max(40, shutil.get_terminal_size().columns - 1)
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def entries(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl, in order. Raises AlexNetError where it cannot be read."""
    return [entry for _, entry in _logged(workdir / METRICS)[0]]


def _logged(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], list[tuple[int, str]]]:
    """([(line, entry)] of the lines that are whole, [(number, line)] of the others), but for empty ones.

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
    """What a line of the log holds, None where it is not one."""
    try:
        entry = json.loads(line.decode("utf-8"))
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            return None
        if "eval_top1" in entry:
            describe(entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return entry


def some_of(names: tuple[str, ...]) -> str:
    """The first names of a long list, all of a short one."""
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:8])}, ..., {names[-1]}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
