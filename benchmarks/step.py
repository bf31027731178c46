"""The training step's speed on this machine beside PyTorch's, and both beside what the machine can do.

    python benchmarks/step.py [--torch=PYTHON] [--batches 128] [--turns=5] [--out=FOLDER] [--deadline=SECONDS]

Images per second of net 145 with 1000 classes: forward, backward and update, on uint8 images in memory, over many steps
between two syncs. `--torch` names a Python that has PyTorch. Everything runs in turn, each in a process of its own
(`measure.py`), and so do the machine's own matmul and copy, so that a ratio is one of neighbors in time on a machine
whose speed drifts. Each process adds a line to FOLDER/rows.jsonl. What is there is not run again: the same command goes
on where it ended or was killed. A failure is a row with its reason; delete its line to try again. FOLDER/results.md is
written at the end, and by --table alone. Ends with status 75 where something is left.
"""

import argparse
import collections
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DTYPES = ("bfloat16", "float32")  # the most telling first
MODES = ("max-autotune", "channels_last", "compiled", "eager")  # of PyTorch
ROWS, LEFT = "rows.jsonl", 75  # the exit status where something is left

Row = dict[str, Any]


class Job(NamedTuple):
    """One process: what it measures, the batch (0 where there is none) and the turn, from 1."""

    name: str
    batch: int
    turn: int


def plan(args: argparse.Namespace) -> list[Job]:
    """All jobs, the most telling first."""

    def turn(number: int, dtype: str, modes: tuple[str, ...], batches: list[int]) -> Iterator[Job]:
        names = [f"jax {dtype}", *(f"torch {mode} {dtype}" for mode in modes if args.torch)]
        yield from (Job(name, batch, number) for batch in batches for name in names)
        yield from [Job(f"ceilings {dtype}", 0, number)] * bool(batches)

    telling = 2 if args.all else len(MODES)
    best, others, turns = MODES[:telling], MODES[telling:], range(1, args.turns + 1)
    largest, more = max(args.batches), [batch for batch in args.more if batch not in args.batches]
    jobs = [Job("machine", 0, 1)]
    for number in turns:
        jobs += [job for dtype in DTYPES for job in turn(number, dtype, best, args.batches)]
        if number == 1:
            jobs += [Job("layers bfloat16", largest, 1)]
            jobs += [Job("profile bfloat16", largest, 1), Job("device", min(args.batches), 1)] if args.all else []
    jobs += [Job("layers float32", largest, 1)]
    jobs += [job for dtype in DTYPES for job in turn(1, dtype, others, args.batches)]
    jobs += [job for dtype in DTYPES for job in turn(1, dtype, best[:1], more)]
    jobs += [Job("feed", min(args.batches), 1)] if args.all else []
    needed = ("machine", *(f"ceilings {dtype}" for dtype in DTYPES))
    return [job for job in dict.fromkeys(jobs) if not args.variants or job.name in (*needed, *args.variants)]


# ---------------------------------------------------------------- rows


def read_rows(out: Path) -> list[Row]:
    """The rows so far; a line that was cut off by a kill is none."""
    path, rows = out / ROWS, []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def add_row(out: Path, row: Row) -> None:
    """Adds a line in one write; an empty one before it ends what a kill may have cut off."""
    with (out / ROWS).open("ab", buffering=0) as file:
        file.write(b"\n" + json.dumps(row).encode() + b"\n")


def job_of(row: Row) -> Job:
    """The job that a row is of."""
    return Job(row["name"], row["batch"], row["turn"])


def pending(jobs: list[Job], rows: list[Row]) -> list[Job]:
    """The jobs without a row; of what failed once there are no further turns."""
    done = {job_of(row) for row in rows if "stopped" not in row}
    failed = {(row["name"], row["batch"]) for row in rows if "failed" in row}
    return [job for job in jobs if job not in done and (job.name, job.batch) not in failed]


def expected_seconds(job: Job, rows: list[Row]) -> float:
    """How long a job may take: as long as its like took last, or was given."""
    took = [row["wall"] for row in rows if row["name"] == job.name]
    return took[-1] if took else 200.0 if "max-autotune" in job.name or job.name == "device" else 60.0


# ---------------------------------------------------------------- running


def run_all(args: argparse.Namespace) -> None:
    """Runs what is pending until the deadline. But for the first, no job is started that would pass it."""
    end, first = time.monotonic() + args.deadline, True
    for job in pending(plan(args), read_rows(args.out)):
        rows, left = read_rows(args.out), end - time.monotonic()
        if left <= 0:
            break
        if not pending([job], rows) or (not first and expected_seconds(job, rows) > left):
            continue
        row = run_job(args, job, left)
        if first and "stopped" in row:
            row = {"failed": f"took more than the {row['stopped']:.0f} s of a whole command", "wall": row["wall"]}
        add_row(args.out, job._asdict() | row)
        result = f"{row['rate']:,.1f} images/s" if "rate" in row else row.get("failed", "stopped" * ("stopped" in row))
        print(f"{job.name}, batch {job.batch}, turn {job.turn}: {result or 'done'} ({row['wall']:.0f} s)", flush=True)
        first = False


def run_job(args: argparse.Namespace, job: Job, seconds: float) -> Row:
    """What the process of a job found: its line, or {"failed": why}, or {"stopped": after how many seconds}."""
    python = args.torch if job.name.startswith("torch") else sys.executable
    options = (f"--batch={job.batch}", f"--steps={args.steps}", f"--out={args.out}")
    cache = str(args.out / "cache")
    environment = {"JAX_COMPILATION_CACHE_DIR": cache, "TORCHINDUCTOR_CACHE_DIR": cache} | (
        {} if job.name == "device" else {"CUDA_VISIBLE_DEVICES": "0"}  # one GPU, but for what compares two
    )
    since = time.monotonic()
    with (args.out / "log.txt").open("ab+") as log:
        begin = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [python, str(args.measure), job.name, *options],
            stdout=log, stderr=log, env=environment | os.environ, start_new_session=True,
        )  # fmt: skip
        stopped = None
        try:
            process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            stopped = {"stopped": seconds}
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # its children too
            process.wait()
        log.seek(begin)
        said = log.read().decode(errors="replace").splitlines()
    return (stopped or _row_in(said, process.returncode)) | {"wall": time.monotonic() - since}


def _row_in(lines: list[str], code: int) -> Row:
    """The line of JSON among what a process said, or why there is none."""
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            if line.startswith("{"):
                return json.loads(line)
    ended = f"killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return {"failed": f"{ended}: {next((line for line in reversed(lines) if line.strip()), 'without a word')}"}


# ---------------------------------------------------------------- the page


def page(rows: list[Row], left: list[Job]) -> str:
    """Markdown: the machine, a table for each batch, the layers, what else was run, and what is left."""
    measured = [row for row in rows if "date" in row]
    machine = next((row for row in measured if row["name"] == "machine"), {})
    tops = {(row["name"].split(" ")[1], row["turn"]): row for row in measured if row["name"].startswith("ceilings")}
    about = [f"{row['device']}, {row['versions']}, {row['date']}, commit {row['commit']}" for row in measured]
    about += [machine[key] for key in ("processor", "driver") if machine.get(key)]
    for numbers in dict.fromkeys(row["numbers"] for row in tops.values()):
        rates = [row["matmul"] for row in tops.values() if row["numbers"] == numbers]
        about.append(f"matmul in {numbers}: {_middle(rates, 2)} TFLOP/s")
    about += [f"copy: {_middle([row['copy'] for row in tops.values()])} GB/s"] if tops else []
    lines = ["# The training step on this machine", "", *(f"* {line}" for line in dict.fromkeys(about))]
    steps = [row for row in rows if row["name"].startswith(("jax", "torch")) and "stopped" not in row]
    for batch in dict.fromkeys(row["batch"] for row in steps):
        of_batch = [row for row in steps if row["batch"] == batch]
        lines += ["", f"## Batch {batch:,}", "", *_batch_table(of_batch, tops, machine.get("gflop", 0.0))]
    for row in (row for row in rows if row not in steps and row.keys() & {"failed", "layers", "text"}):
        lines += ["", f"## {row['name']}, batch {row['batch']:,}", ""]
        lines += [f"failed: {row['failed']}", ""] if "failed" in row else []
        lines += _layers_table(row, tops) if "layers" in row else []
        lines += [f"    {line}".rstrip() for line in row.get("text", "").splitlines()]
    if left:
        turns = collections.Counter(f"{job.name}, batch {job.batch:,}" for job in left)
        lines += ["", f"## Left: {len(left)}", "", *(f"* {job}: {count}" for job, count in turns.items())]
    return "\n".join(lines) + "\n"


def _batch_table(rows: list[Row], tops: dict[tuple[str, int], Row], gflop: float) -> list[str]:
    """Medians over the turns with their range; a ratio is one of rates of the same turn."""
    heads = ("", "images/s", "with a sync each", "TFLOP/s", "share of the ceiling", "against the best PyTorch")
    lines = [_cells(*heads, "memory, GB", "first step, s"), "| --- " * 8 + "|"]
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    rates = {name: {row["turn"]: row["rate"] for row in found if "rate" in row} for name, found in by_name.items()}
    for name, found in by_name.items():
        own, dtype, good = rates[name], name.split(" ")[-1], [row for row in found if "rate" in row]
        if not good:
            lines.append(_cells(name, f"failed: {found[0]['failed'].replace('|', '/')}", *[""] * 6))
            continue
        peers = [of for other, of in rates.items() if other.startswith("torch") and other.endswith(dtype) and of]
        best = max(peers, key=lambda of: statistics.median(of.values()), default={}) if name.startswith("jax") else {}
        shares = [1e-3 * gflop * own[turn] / tops[dtype, turn]["matmul"] for turn in own if (dtype, turn) in tops]
        first, *warm = (row["first_step"] for row in good)
        lines.append(_cells(
            _label(good[0]), _middle([*own.values()]), _middle([row["synced_rate"] for row in good]),
            f"{1e-3 * gflop * statistics.median(own.values()):.3g}", _middle(shares, 2),
            _middle([own[turn] / best[turn] for turn in own if turn in best], 2),
            f"{statistics.median(row['memory'] for row in good):.1f}",
            f"{first:.1f} cold" + (f", {statistics.median(warm):.1f} warm" if warm else ""),
        ))  # fmt: skip
    return lines


def _layers_table(row: Row, tops: dict[tuple[str, int], Row]) -> list[str]:
    """Each layer's products alone, both towers, with their share of the ceiling."""
    dtype = row["name"].split(" ")[1]
    top = statistics.median([top["matmul"] for (of, _), top in tops.items() if of == dtype] or [float("nan")])
    lines = [_cells(_label(row), "forward, µs", "share", "backward, µs", "share"), "| --- " * 5 + "|"]
    for name, of in row["layers"].items():
        forward = (f"{1e6 * of['forward']:,.0f}", f"{1e-3 * of['gflop'] / of['forward'] / top:.2f}")
        backward = (f"{1e6 * of['backward']:,.0f}", f"{1e-3 * of['backward_gflop'] / of['backward'] / top:.2f}")
        lines.append(_cells(name, *forward, *backward))
    return lines


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _label(row: Row) -> str:
    """The name of a row; float32 that is multiplied as TF32 says so."""
    return row["name"] + (f" as {row['numbers']}" if row["numbers"] not in row["name"] else "")


def _middle(values: list[float], digits: int = 1) -> str:
    if not values:
        return ""
    middle, least, most = (f"{of(values):,.{digits}f}" for of in (statistics.median, min, max))
    return f"{middle} ({least} to {most})" if len(values) > 1 else middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[128])
    parser.add_argument("--more", type=int, nargs="*", default=[], help="batches of one turn, last")
    parser.add_argument("--steps", type=int, default=3, help="steps with a sync each, and at least so many without")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--variants", nargs="*", help='those alone, such as "jax bfloat16"')
    parser.add_argument("--all", action="store_true", help="also check the device, keep a profile, time the feed")
    parser.add_argument("--out", type=Path, default=Path("runs/step"), help="the folder of rows and page (%(default)s)")
    parser.add_argument("--deadline", type=float, default=1e6, help="seconds until it ends")
    parser.add_argument("--table", action="store_true", help="write the page of the rows that there are")
    parser.add_argument("--measure", default=Path(__file__).resolve().parent / "measure.py", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.table:
        run_all(args)
    rows = read_rows(args.out)
    left = pending(plan(args), rows)
    (args.out / "results.md").write_text(text := page(rows, left))
    print(f"\n{text}\nwritten: {args.out / 'results.md'}")
    sys.exit(LEFT if left and not args.table else 0)


if __name__ == "__main__":
    main()
