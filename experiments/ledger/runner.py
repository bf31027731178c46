"""Runs a claim's missing runs: each in its own process, as many at a time as there are cores for."""

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import IO

import numpy as np

from alexnet_jax import ensembles, exits, files, progress
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import provenance
from experiments.ledger import rows
from experiments.ledger.claims import Claim, Proxy
from experiments.ledger.plans import Planned, ensemble_digest, variant_run

TRAIN = [sys.executable, "-m", "alexnet_jax", "train"]
_COMMIT, _LOG, _LOCK = "commit.txt", "run.log", "lock"


@dataclasses.dataclass
class _Running:
    run: Planned
    workdir: Path
    cores: tuple[int, ...]
    process: "subprocess.Popen[bytes]"
    lock: IO[str]
    commit: str
    since: float


def commit_of(root: Path) -> str:
    """The commit of this checkout, which the rows name. Only rows and what is written from them may differ from it.

    Raises AlexNetError.
    """
    folder = root.name
    written = (f"{folder}/{rows.FILE}", f"{folder}/**/README.md", f"{folder}/**/*.png", "README*.md", "docs/*.md")
    commit = provenance.commit(leaving_out=written)
    if commit is None:
        raise AlexNetError("The runs of the ledger name the commit that they were run on: run this in a git checkout.")
    if commit.endswith("+changes"):
        raise AlexNetError(
            "The checkout has changes that are not committed, and a row names the commit that it was run on: commit "
            "them first, or put them aside with git stash."
        )
    return commit


def run_all(
    runs: Sequence[Planned], root: Path, workdirs: Path, *, keep: Set[tuple[str, str]], overrides: Sequence[str]
) -> None:
    """Runs all of `runs` and appends a row of each to runs.csv in `root` as it ends.

    A run that was killed is resumed. `keep`: keys of runs whose checkpoints are still needed; those of others are
    removed with their row written. `overrides` are set in each, such as where the data lie.
    Raises AlexNetError where one fails.
    """
    waiting, running, free = list(runs), list[_Running](), slots(runs)
    done, begin = 0, time.monotonic()
    with progress.bar(total=len(runs), unit="run", delay=0.0) as bar, exits.graceful():
        try:
            while (waiting or running) and not exits.requested():
                while waiting and free:
                    started = _start(waiting[0], workdirs, free[0], commit_of(root), overrides)
                    if started is None:  # a process that an earlier command left is at it
                        waiting.append(waiting.pop(0))
                        break
                    waiting.pop(0)
                    running.append(started)
                    free.pop(0)
                ended = next((r for r in running if r.process.poll() is not None), None)
                if ended is None:
                    bar.set_postfix_str(", ".join(map(_percent_done, running)))
                    time.sleep(0.2)
                    continue
                running.remove(ended)
                free.append(ended.cores)
                done += 1
                row = _finished(ended, root, keep)
                left = (time.monotonic() - begin) / done * (len(runs) - done)
                _print(_summary_line(row, f"{done}/{len(runs)}", time.monotonic() - ended.since, left))
                bar.update()
        finally:
            _stop(running)
    if number := exits.requested():
        exits.exit_now(status=exits.SIGNALED + number)


def _percent_done(one: _Running) -> str:
    """By the last step in the log of a run."""
    log = one.workdir / _LOG
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        steps = re.findall(rb"^step (\d+)/(\d+) ", file.read(), re.MULTILINE)
    return f"{100 * int(steps[-1][0]) // int(steps[-1][1])} %" if steps else "starting"


def slots(runs: Sequence[Planned]) -> list[tuple[int, ...]]:
    """The cores of each run that there is room for at a time; () for all of the machine.

    A run on a CPU has as many cores wherever it is run: its sums, and so its rounding, depend on their number.
    """
    each = max((run.proxy.cores for run in runs), default=0)
    if not each or not hasattr(os, "sched_setaffinity"):
        return [()]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < each:
        return [tuple(cores)]
    return [tuple(cores[i : i + each]) for i in range(0, len(cores) - each + 1, each)]


def _start(
    run: Planned, workdirs: Path, cores: tuple[int, ...], commit: str, overrides: Sequence[str]
) -> _Running | None:
    """Starts or resumes a run; None where another process has it.

    The lock is held by the run's own process, too: one that outlives a killed command keeps it until it ends. It has a
    session of its own, since a Ctrl-C of the terminal beside the SIGTERM from here would end it without saving.
    """
    workdir = workdirs / run.name
    files.make_folder(workdir)
    lock = (workdir / _LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    before = workdir / _COMMIT
    if before.exists() and files.read_text(before).strip() != commit:
        for path in workdir.iterdir():  # begun by other code: from the start
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    files.write_text(before, commit + "\n")
    flags = [*command_of(run)[2:], *(f"--config.{override}" for override in overrides), f"--workdir={workdir}"]
    with (workdir / _LOG).open("ab") as log:
        process = subprocess.Popen(
            [*TRAIN, *flags], env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()], start_new_session=True,
        )  # fmt: skip
    if cores:
        os.sched_setaffinity(process.pid, cores)  # it is still starting: the threads of its work come later
    return _Running(run, workdir, cores, process, lock, commit, time.monotonic())


def command_of(run: Planned) -> list[str]:
    """The command that trains it."""
    changes = (*run.overrides, f"train.seed={run.seed}")
    return ["alexnet", "train", f"--config={run.recipe}", *(f"--config.{change}" for change in changes)]


def _environment() -> dict[str, str]:
    """Huge pages, which make steps on a CPU faster and change no number."""
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | dict(os.environ)


def _finished(ended: _Running, root: Path, keep: Set[tuple[str, str]]) -> rows.Row:
    """The row of a run whose process has ended, written. Raises AlexNetError where it failed."""
    status, run, workdir = ended.process.returncode, ended.run, ended.workdir
    last = ([line for line in files.read_text(workdir / _LOG).splitlines() if line] or [""])[-1]
    if status and "has diverged" not in last:
        raise AlexNetError(
            f"{run.what} with seed {run.seed} on {run.proxy.name} ended with status {status}: {last.rstrip('.')} "
            f"(its log is {workdir / _LOG}); the same command resumes."
        )
    if status:
        why = f"diverged: {last.partition('error: ')[2].partition(' (')[0]}"
        row = rows.diverged_row(run, workdir, why, commit=ended.commit)
    else:
        row = rows.row_of(run, workdir, commit=ended.commit)
    if not any((other["digest"], other["seed"]) == run.key for other in rows.read(root)):
        rows.add(root, row)
    if run.key not in keep:
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    ended.lock.close()
    return row


def _stop(running: Sequence[_Running]) -> None:
    """Has the runs save and end, and waits for it."""
    for one in running:
        with contextlib.suppress(OSError):
            one.process.terminate()
    for one in running:
        one.process.wait()
        one.lock.close()


def _summary_line(row: rows.Row, count: str, took: float, left: float) -> str:
    result = row["note"] or f"top-1 {float(row['top1']):.2f} %"
    if row["views_top1"]:
        result += f", all views {float(row['views_top1']):.2f} %"
    rest = f", {_clock(left)} left" if left else ""
    return f"{count}  {row['proxy']}  {row['what']}  seed {row['seed']}: {result}  ({_clock(took)}{rest})"


def _print(line: str) -> None:
    progress.write(line)
    sys.stdout.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def add_ensembles(
    claim: Claim, proxy: Proxy, seeds: int, root: Path, workdirs: Path, *, overrides: Sequence[str]
) -> None:
    """Appends a row of every ensemble of a claim that has none; its members have run in `workdirs`.

    Raises AlexNetError.
    """
    commit, known = commit_of(root), {(row["digest"], row["seed"]) for row in rows.read(root)}
    for variant, seed in ((v, seed) for v in claim.variants.values() if v.of for seed in range(seeds)):
        key = ensemble_digest(variant, claim, proxy)
        if (key, str(seed)) in known:
            continue
        member = variant_run(claim.variants[variant.of], proxy, 0)
        numbers = range(seed * variant.members, (seed + 1) * variant.members)
        folders = [workdirs / dataclasses.replace(member, seed=number).name for number in numbers]
        split, members, labels = None, list[ensembles.Member](), np.zeros(0, np.int32)
        for folder in folders:
            one, labels, split = ensembles.member(folder, "latest", split, overrides)
            members.append(one)
        row = rows.ensemble_row(member, key, seed, variant, members, labels, folders[0], commit=commit)
        rows.add(root, row)
        _print(_summary_line(row, "ensemble", 0.0, 0.0))


def groups(runs: Sequence[Planned]) -> Iterator[list[Planned]]:
    """The runs by how many cores each of them has, in their order: those of one group share the machine."""
    for cores in dict.fromkeys(run.proxy.cores for run in runs):
        yield [run for run in runs if run.proxy.cores == cores]
