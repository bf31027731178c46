"""Faults injected into runs: each must end in one sentence, lose nothing, and finish as if undisturbed, to the bit.

    python tests/faults.py [--count=100] [--seed=0] [--jobs=2] [--only=WORD]

A fault is drawn from every family in turn: signals at every stage of a run, damaged checkpoints and small files, full,
read-only and vanished disks, terminals that go away, feed workers and processes that die, hang, come late, never, or
differ. After each that had begun to train the same command finishes the run, and its last checkpoint, its metrics and
its last line are compared with those of a run that nobody disturbed, on the same layout: one process, or two with a
tower each.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

STEPS, TIMEOUT = 30, 150
_FIELDS = [
    f"--config.train.steps={STEPS}", "--config.train.batch_size=64", "--config.checkpoint.every_steps=5",
    "--config.log.every_steps=5",
]  # fmt: skip
_TWO = ["--processes=2", "--peer_timeout=4"]
_ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOST = 75


class Wrong(Exception):
    """A fault that was answered otherwise than it should be."""


def _small() -> list[str]:
    from conftest import SMALL

    return [f"--config.{name}={value}" for name, value in SMALL.items() if name != "train.batch_size"]


# ---------------------------------------------------------------- one run, disturbed


class Case:
    """One disturbed run in a folder of its own."""

    def __init__(self, bench: "Bench", layout: str, rng: random.Random, number: int) -> None:
        self.bench, self.layout, self.rng = bench, layout, rng
        self.folder = bench.folder / f"case-{number}"
        self.folder.mkdir()
        self.workdir = self.folder / "run"
        self.said: list[str] = []

    def command(self, *extra: str, workdir: Path | None = None) -> list[str]:
        flags = _TWO if self.layout == "two" else []
        return [*self.bench.command, f"--workdir={workdir or self.workdir}", *flags, *extra]

    def start(self, *extra: str, streams: dict[str, Any] | None = None, **options: Any) -> subprocess.Popen[str]:
        command = options.pop("command", None) or self.command(*extra)
        self.out, self.err = self.folder / "stdout", self.folder / "stderr"
        with self.out.open("w") as out, self.err.open("w") as err:
            given = {"stdout": out, "stderr": err} | (streams or {})
            return subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, text=True, start_new_session=True,
                env=self.bench.environment, **given, **options,
            )  # fmt: skip

    def until(self, process: subprocess.Popen[str], *, line: str = "", path: str = "") -> None:
        """Waits until the run has said a line that matches, or has a file that does; or has ended."""
        end = time.monotonic() + TIMEOUT
        while process.poll() is None:
            text = self.out.read_text(errors="replace")
            if (line and re.search(line, text)) or (path and list(self.folder.glob(path))):
                return
            if time.monotonic() > end:
                raise Wrong(f"no {line or path} within {TIMEOUT} s: {self.tail()}")
            time.sleep(0.003)

    def tail(self) -> str:
        return " | ".join(
            (self.out.read_text(errors="replace") + self.err.read_text(errors="replace")).splitlines()[-4:]
        )

    def end(self, process: subprocess.Popen[str], *statuses: int, within: float = TIMEOUT) -> None:
        """The end of a disturbed run: one of these statuses, in time, and at most a sentence."""
        began = time.monotonic()
        try:
            status = process.wait(within)
        except subprocess.TimeoutExpired:
            raise Wrong(f"it still runs after {within:.0f} s: {self.tail()}") from None
        finally:
            _end_all(process)
        if status not in statuses:
            raise Wrong(f"status {status} where {' or '.join(map(str, statuses))} was due: {self.tail()}")
        lines = [line for line in self.err.read_text(errors="replace").splitlines() if line.strip()]
        lines = [line for line in lines if not re.match(r"SIG\w+: saving after this step", line)]
        if len(lines) > 1 or any("Traceback" in line for line in lines):
            raise Wrong(f"more than a sentence: {' | '.join(lines)[:600]}")
        what = f"status {status}" + (f": {lines[0]}" if lines else "")
        self.said.append(f"{what} ({time.monotonic() - began:.1f} s)")

    def stopped(self) -> Path:
        """A run that was stopped in its middle, here; its newest checkpoint."""
        shutil.copytree(self.bench.stopped[self.layout], self.workdir)
        steps = sorted(int(path.name) for path in (self.workdir / "checkpoints").iterdir() if path.name.isdigit())
        return self.workdir / "checkpoints" / str(steps[-1])

    def fails(self, sentence: str, *extra: str, command: list[str] | None = None) -> None:
        process = self.start(*extra, command=command)
        self.end(process, 1)
        if not re.search(sentence, self.err.read_text()):
            raise Wrong(f"not the sentence {sentence!r}: {self.tail()}")

    def finish(self) -> None:
        """The same command, to the end; the run must be that of nobody's disturbance."""
        process = self.start()
        self.end(process, 0)
        self.bench.compare(self)


def _end_all(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _pids(process: subprocess.Popen[str], word: str) -> list[int]:
    """The processes of a run with this word in their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(folder.name)) == process.pid and word in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


def _member(process: subprocess.Popen[str], which: int) -> int:
    """The pid of process 0 or 1 of a run of two."""
    pids = [process.pid] if which == 0 else _pids(process, f"--process_id={which}\0")
    if not pids:
        raise Wrong(f"process {which} is not there")
    return pids[0]


# ---------------------------------------------------------------- the bench


class Bench:
    """The undisturbed runs, and runs that were stopped in the middle, of each layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [sys.executable, "main.py", "--config=configs/alexnet.py", *_small(), *_FIELDS]
        self.environment = {
            **os.environ,
            "XLA_FLAGS": "--xla_backend_optimization_level=1",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        self.calm: dict[str, Any] = {}
        self.stopped: dict[str, Path] = {}
        self._lock = threading.Lock()
        for layout in ("one", "two"):
            self._prepare(layout)

    def _prepare(self, layout: str) -> None:
        case = Case(self, layout, random.Random(0), number=-1 if layout == "one" else -2)
        case.end(case.start(), 0)
        self.calm[layout] = self._result(case)
        case.workdir = case.folder / "stopped"
        process = case.start()
        case.until(process, line=r"step 20/")
        process.send_signal(signal.SIGTERM)
        case.end(process, 143)
        self.stopped[layout] = case.workdir

    def compare(self, case: Case) -> None:
        calm, disturbed = self.calm[case.layout], self._result(case)
        for name in calm:
            if calm[name] != disturbed[name]:
                raise Wrong(f"{name} differs from the undisturbed run's")

    def _result(self, case: Case) -> dict[str, Any]:
        """What must be the same: the bits of the last state, the metrics without times, the last line."""
        from conftest import without_speed

        lines = (case.workdir / "metrics.jsonl").read_text().splitlines()
        metrics = [without_speed(json.loads(line)) for line in lines]
        done = [x for x in (case.workdir / "train.log").read_text().splitlines() if " done: " in x][-1]
        with self._lock:
            state = digest(case.workdir, STEPS)
        return {"the state": state, "metrics.jsonl": metrics, "the last line": done.split(" done: ")[1].split(";")[0]}


def digest(workdir: Path, step: int) -> dict[str, str]:
    """{leaf: a hash of its bits} of a checkpoint."""
    import hashlib

    import jax
    import numpy as np

    from alexnet_jax import builder, config as configs
    from alexnet_jax.model import placement
    from alexnet_jax.train.checkpoint import Checkpoints

    opened = builder.train_setup(configs.load(workdir, ["mesh.tower=1"]), workdir)
    target = placement.on_mesh(opened.model, opened.shapes(), opened.mesh)
    state = Checkpoints(workdir, read_only=True).restore(step, target)
    leaves = jax.tree_util.tree_leaves_with_path(state.replace(key=jax.random.key_data(state.key)))
    return {jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for path, leaf in leaves}


# ---------------------------------------------------------------- the faults

_STAGES = {  # what a run has said when the stage begins, and how long it lasts at most, in seconds
    "start": (r"", 1.5),
    "probe": (r"workdir  ", 0.8),
    "compilation": (r"compiling the step", 0.5),
    "a step": (r"step \d+/", 0.3),
    "a save": (r"step (5|10|15)/", 0.15),
    "an evaluation": (r"step 20/", 0.6),
    "the last evaluation": (r"step 30/", 0.5),
}


def _reach(case: Case, stage: str, *extra: str) -> subprocess.Popen[str]:
    line, longest = _STAGES[stage]
    process = case.start(*extra)
    if line:
        case.until(process, line=line)
    time.sleep(case.rng.uniform(0, longest))
    return process


def _signal(process: subprocess.Popen[str], number: int, which: int = 0) -> None:
    """To process 0 or 1 of the run, as soon as it is there; to nobody where the run has ended."""
    while process.poll() is None:
        with contextlib.suppress(ProcessLookupError, Wrong):
            os.kill(_member(process, which), number)
            return
        time.sleep(0.01)


def killed(case: Case, stage: str) -> None:
    process = _reach(case, stage)
    _signal(process, signal.SIGKILL)
    case.end(process, -signal.SIGKILL, 0)
    case.finish()


def asked(case: Case, stage: str, number: int) -> None:
    process = _reach(case, stage)
    _signal(process, number)
    # Before Python has begun with the program, a signal does what it always does.
    early = (-number, 1) if stage == "start" else ()
    case.end(process, 128 + number, 0, *early, within=15)
    case.finish()


def asked_twice(case: Case, number: int) -> None:
    process = _reach(case, "a save")
    _signal(process, number)
    time.sleep(case.rng.uniform(0.0, 0.1))
    _signal(process, number)
    case.end(process, 128 + number, 0, within=15)
    case.finish()


def suspended(case: Case) -> None:
    process = _reach(case, "a step")
    _signal(process, signal.SIGSTOP)
    time.sleep(2.0)
    _signal(process, signal.SIGCONT)
    case.end(process, 0)
    case.finish()


def stream(case: Case, which: str) -> None:
    if which == "head":
        process = case.start(command=["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "-", *case.command()])
    elif which == "closed":
        process = case.start(command=["bash", "-c", '"$@" >&-', "-", *case.command()])
    else:
        with open("/dev/full", "w") as full:
            process = case.start(streams={"stdout": full})
    case.end(process, 0)
    case.finish()


# ---- checkpoints


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def _damage(case: Case, path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(data[: case.rng.randrange(len(data))] if data else b"x")
    else:
        at = case.rng.randrange(max(1, len(data)))
        path.write_bytes(data[:at] + bytes([(data[at] if data else 0) ^ case.rng.randrange(1, 256)]) + data[at + 1 :])


def checkpoint_file(case: Case, how: str) -> None:
    newest = case.stopped()
    _damage(case, case.rng.choice(_files(newest)), how)
    case.finish()
    _was_told(case, "damaged|not finished|set aside")


def checkpoint_folder(case: Case, how: str) -> None:
    newest = case.stopped()
    if how == "empty":
        shutil.rmtree(newest)
        newest.mkdir()
    elif how == "its files empty":
        for path in _files(newest):
            path.write_bytes(b"")
    elif how == "a file more":
        (newest / "default" / "more").write_text("not mine")
    elif how == "no sums":
        (newest / "sums.json").unlink()
    elif how == "sums changed":
        _damage(case, newest / "sums.json", "changed")
    elif how == "left unfinished":
        shutil.copytree(newest, newest.with_name("29.orbax-checkpoint-tmp"))
    elif how == "two damaged":
        older = sorted((p for p in newest.parent.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))[-2:]
        for each in older:
            _damage(case, case.rng.choice(_files(each)), "truncated")
        if len([p for p in newest.parent.iterdir() if p.name.isdigit()]) == 2:
            # Nothing whole is left: it is refused, and starts anew only where that is said.
            case.fails("No checkpoint in .* is whole")
            shutil.rmtree(case.workdir)
    case.finish()


def _was_told(case: Case, pattern: str) -> None:
    if not re.search(pattern, (case.workdir / "train.log").read_text()):
        raise Wrong(f"the log does not tell of it: no {pattern!r}")


# ---- small files


def small_file(case: Case, name: str, how: str) -> None:
    case.stopped()
    path = case.workdir / name
    if how == "a folder":
        path.unlink()
        path.mkdir()
        case.fails(re.escape(name))
        path.rmdir()
        # What was in it is gone: the history begins here.
        shutil.copy(case.bench.stopped[case.layout] / name, path)
    elif how == "a line of something else":
        path.write_text(path.read_text() + '["not", "mine"]\n')
    elif how == "not text":
        path.write_bytes(path.read_bytes() + b"\xff\xfe\x00\n")
    elif how == "cut":
        data = path.read_bytes()
        path.write_bytes(data[: case.rng.randrange(1, len(data) - 1)] if name != "metrics.jsonl" else data + b'{"st')
    else:
        path.unlink()
    case.finish()


def left_out_list(case: Case) -> None:
    case.stopped()
    (case.workdir / "left_out.json").write_text('[{"after": 3}]')
    case.fails("left_out.json")
    (case.workdir / "left_out.json").unlink()
    case.finish()


# ---- disks


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def disk(case: Case, how: str) -> None:
    disk = case.folder / "disk"
    disk.mkdir()
    case.workdir = disk / "run"
    room = {"full": f"{case.rng.randrange(150, 400)}k"}.get(how, "64m")
    _mount("-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk))
    try:
        if how == "read-only from the start":
            _mount("-o", "remount,ro", str(disk))
            case.fails("run|checkpoints")
        else:
            case.end(case.start(), 1)
        _mount("-o", "remount,rw,size=64m", str(disk))
        case.finish()
    finally:
        subprocess.run(["umount", "-l", str(disk)], capture_output=True)


def frozen(case: Case) -> None:
    """The folder of the checkpoints becomes read-only during the run, for root too."""
    process = case.start()
    case.until(process, line=r"step 5/")
    folder = case.workdir / "checkpoints"
    subprocess.run(["chattr", "+i", str(folder)], check=True)
    try:
        case.end(process, 1)
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)
    case.finish()


def _allowed(do: list[str], undo: list[str]) -> bool:
    """Whether this machine lets the tests do so to a folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(FileNotFoundError):
        done = subprocess.run([*do, folder], capture_output=True).returncode == 0
        subprocess.run([*undo, folder], capture_output=True)
        return done
    return False


def moved_away(case: Case) -> None:
    process = case.start()
    case.until(process, line=r"step 5/")
    away = case.workdir.with_name("away")
    try:
        case.workdir.rename(away)
    except OSError:
        return
    case.end(process, 1, 0)  # 0 where it was through already
    shutil.rmtree(case.workdir, ignore_errors=True)  # what was written to a folder of the same name
    away.rename(case.workdir)
    case.finish()


def file_limit(case: Case) -> None:
    """Files of at most so many blocks, as with a quota."""
    kilobytes = case.rng.choice([4, 8, 16, 32])
    command = ["bash", "-c", f'trap "" XFSZ; ulimit -f {kilobytes}; exec "$@"', "-", *case.command()]
    case.end(case.start(command=command), 1)
    case.finish()


def nowhere(case: Case, how: str) -> None:
    place = {"/proc": Path("/proc/nowhere/run"), "a file": case.folder / "file" / "run"}[how]
    if how == "a file":
        place.parent.write_text("")
    case.fails("nowhere|file", command=case.command(workdir=place))


# ---- feed workers


def worker(case: Case, number: int) -> None:
    """The run stands still meanwhile, and begins anew if it had read ahead all that it needs to its end."""
    late = True
    while late:
        shutil.rmtree(case.workdir, ignore_errors=True)
        process = case.start("--config.data.workers=1", "--hang_timeout=3")
        case.until(process, line=r"step 5/")
        _signal(process, signal.SIGSTOP)
        if late := bool(re.search(r"step (20|25|30)/", case.out.read_text())):
            _end_all(process)
    for pid in _pids(process, "spawn_main"):
        os.kill(pid, number)
    _signal(process, signal.SIGCONT)
    case.end(process, LOST, within=60)
    case.finish()


# ---- two processes


def one_killed(case: Case, stage: str, which: int) -> None:
    process = _reach(case, stage)
    _signal(process, signal.SIGKILL, which)
    status = -signal.SIGKILL if which == 0 else LOST
    case.end(process, status, 0, *((1,) if stage == "start" else ()), within=15)
    case.finish()


def one_asked(case: Case, stage: str, which: int, number: int) -> None:
    process = _reach(case, stage)
    _signal(process, number, which)
    case.end(process, 128 + number, 0, *((1, -number, LOST) if stage == "start" else ()), within=15)
    case.finish()


def one_stopped(case: Case, which: int) -> None:
    process = _reach(case, "a step")
    pids = [_member(process, k) for k in (0, 1)]
    os.kill(pids[which], signal.SIGSTOP)
    if which == 0:
        end = time.monotonic() + 20
        while Path(f"/proc/{pids[1]}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        if Path(f"/proc/{pids[1]}").exists() and "Z" not in Path(f"/proc/{pids[1]}/stat").read_text().split()[2]:
            raise Wrong("process 1 still waits for process 0, which is stopped")
        os.kill(pids[0], signal.SIGCONT)
    case.end(process, LOST, within=20)
    case.finish()


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return int(server.getsockname()[1])


def _pair(case: Case, *extra: list[str], delay: float = 0.0, order: tuple[int, int] = (0, 1)) -> list[tuple[int, str]]:
    """Two processes that are started by hand; [(status, what it said on stderr)]."""
    port = _free_port()
    running = {}
    for which in order:
        place = ["--processes=1", f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={which}"]
        with (case.folder / f"stderr-{which}").open("w") as said:
            running[which] = subprocess.Popen(
                [*case.command(), *place, *extra[which]], cwd=ROOT, stdin=subprocess.DEVNULL, text=True,
                stdout=subprocess.DEVNULL, stderr=said, env=case.bench.environment,
            )  # fmt: skip
        time.sleep(delay)
    ended = []
    for which in (0, 1):
        try:
            status = running[which].wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Wrong(f"process {which} still waits") from None
        finally:
            if sys.exc_info()[0]:
                for process in running.values():
                    process.kill()
        lines = [x for x in (case.folder / f"stderr-{which}").read_text().splitlines() if x.strip()]
        if len(lines) > 1:
            raise Wrong(f"more than a sentence: {' | '.join(lines)[:600]}")
        ended.append((status, lines[0] if lines else ""))
    return ended


def late(case: Case) -> None:
    ended = _pair(case, [], [], delay=4.0, order=(1, 0) if case.rng.random() < 0.5 else (0, 1))
    if [status for status, _ in ended] != [0, 0]:
        raise Wrong(f"{ended}")
    case.said.append("finished")
    case.bench.compare(case)


def differs(case: Case, what: str) -> None:
    other = case.folder / "other"
    theirs, sentence = {
        "seed": (["--config.train.seed=7"], r"config\.train\.seed: '?7'? there, '?0'? here"),
        "learning rate": (["--config.train.learning_rate=0.01"], "config.train.learning_rate"),
        "batch size": (["--config.train.batch_size=32"], "config.train.batch_size"),
        "steps": (["--config.train.steps=31"], "config.train.steps"),
        "workdir": ([f"--workdir={other}"], "another workdir"),
        "count": (["--num_processes=3"], "num_processes|was told of 3"),
    }[what]
    other.mkdir()
    for status, said in _pair(case, [], theirs):
        if status != 1 or not re.search(sentence, said):
            raise Wrong(f"status {status}: {said}")
    case.said.append(f"status 1: {said}")
    if (case.workdir / "checkpoints").exists():
        raise Wrong("it began to train")


def never_comes(case: Case, which: int) -> None:
    place = ["--processes=1", f"--coordinator=localhost:{_free_port()}", "--num_processes=2"]
    place += [f"--process_id={1 - which}"]
    case.fails("not all 2 processes had come", *place, "--start_timeout=3")


def port_taken(case: Case) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        place = ["--processes=1", f"--coordinator=localhost:{port}", "--num_processes=2", "--process_id=0"]
        case.fails("another job may use it", *place)


# ---------------------------------------------------------------- which of them


@dataclasses.dataclass(frozen=True)
class Fault:
    family: str
    layout: str
    what: str
    inject: Callable[..., None]
    given: tuple[Any, ...]


def _families() -> dict[str, list[Fault]]:
    """{family: its faults}: each family is a row of docs/faults.md."""
    stages = tuple(_STAGES)
    found: dict[str, list[Fault]] = {}

    def add(family: str, layout: str, inject: Callable[..., None], *options: tuple[Any, ...], what: str = "") -> None:
        for given in itertools.product(*options):
            words = (getattr(x, "name", f"process {x}" if x in (0, 1) else x) for x in given)
            found.setdefault(family, []).append(Fault(family, layout, what or ", ".join(words), inject, given))

    add("kill -9", "one", killed, stages)
    add("a signal", "one", asked, stages, _ASKS)
    add("a signal twice, while saving", "one", asked_twice, (signal.SIGINT, signal.SIGTERM))
    add("suspended and continued", "one", suspended, what="SIGSTOP, SIGCONT")
    add("stdout goes away", "one", stream, ("head", "closed", "full"))
    add("a file of a checkpoint", "one", checkpoint_file, ("removed", "emptied", "truncated", "changed"))
    add(
        "a checkpoint", "one", checkpoint_folder,
        ("empty", "its files empty", "a file more", "no sums", "sums changed", "left unfinished", "two damaged"),
    )  # fmt: skip
    damage = ("cut", "a line of something else", "not text", "a folder")
    add("metrics.jsonl", "one", small_file, ("metrics.jsonl",), damage)
    add("config.json, classes.txt", "one", small_file, ("config.json", "classes.txt"), ("cut", "removed", "not text"))
    add("other small files", "one", small_file, ("starts.jsonl", "train.log"), ("cut", "removed"))
    add("other small files", "one", left_out_list, what="left_out.json")
    if _allowed(["mount", "-t", "tmpfs", "tmpfs"], ["umount"]):
        add("a disk", "one", disk, ("full", "read-only from the start"))
    if _allowed(["chattr", "+i"], ["chattr", "-i"]):
        add("a disk", "one", frozen, what="becomes read-only")
    add("a disk", "one", moved_away, what="vanished")
    add("a disk", "one", file_limit, what="a quota")
    add("no place for a workdir", "one", nowhere, ("/proc", "a file"))
    add("a feed worker", "one", worker, (signal.SIGKILL, signal.SIGSTOP))
    add("one of two is killed", "two", one_killed, stages, (0, 1))
    add("one of two gets a signal", "two", one_asked, stages, (0, 1), _ASKS)
    add("one of two is stopped", "two", one_stopped, (0, 1))
    add("a checkpoint of two processes", "two", checkpoint_file, ("removed", "truncated", "changed"))
    add("one of two differs", "two", differs, ("seed", "learning rate", "batch size", "steps", "workdir", "count"))
    add("one of two never comes", "two", never_comes, (0, 1))
    add("one of two comes late", "two", late, what="by 4 s")
    add("the port is taken", "two", port_taken)
    return found


def drawn(count: int, seed: int, only: str = "") -> Iterator[Fault]:
    """`count` faults: every family in turn, and within it every fault once before one comes again."""
    rng = random.Random(seed)
    families = [list(faults) for name, faults in _families().items() if only in name]
    for family in families:
        rng.shuffle(family)
    rng.shuffle(families)
    turns = [itertools.cycle(family) for family in families]
    # A family with many faults comes more often: twice for those with more than five.
    order = [turn for turn, family in zip(turns, families, strict=True) for _ in range(1 if len(family) <= 5 else 2)]
    rng.shuffle(order)
    return (next(turn) for turn in itertools.islice(itertools.cycle(order), count))


def inject(count: int, *, seed: int, jobs: int, only: str = "", say: Callable[[str], None] = print) -> int:
    """Injects so many faults, tells of each, and returns how many were answered as they should be."""
    folder = Path(tempfile.mkdtemp(prefix="alexnet-faults-"))
    rows: dict[str, list[bool]] = {}
    try:
        bench = Bench(folder)

        def run(numbered: tuple[int, Fault]) -> tuple[Fault, str, float]:
            number, fault = numbered
            case, began = Case(bench, fault.layout, random.Random(f"{seed} {number}"), number), time.monotonic()
            try:
                fault.inject(case, *fault.given)
                what = "; ".join(case.said)
            except Wrong as error:
                what = f"WRONG: {error}"
            except Exception as error:  # of the bench itself, or of a run that left nothing to compare
                what = f"WRONG: {type(error).__name__}: {error}"
            shutil.rmtree(case.folder, ignore_errors=True)
            return fault, what, time.monotonic() - began

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            done = pool.map(run, enumerate(drawn(count, seed, only)))
            for number, (fault, what, seconds) in enumerate(done, 1):
                rows.setdefault(fault.family, []).append(not what.startswith("WRONG"))
                say(f"{number:3}/{count}  {fault.family}: {fault.what}  [{fault.layout}, {seconds:.0f} s]  {what}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    good = sum(map(sum, rows.values()))
    for family, answers in rows.items():
        say(f"| {family:30} | {sum(answers):3} of {len(answers):3} |")
    say(f"{good} of {count}")
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="families whose names hold this")
    options = parser.parse_args()
    began = time.monotonic()
    good = inject(
        options.count, seed=options.seed, jobs=options.jobs, only=options.only, say=lambda x: print(x, flush=True)
    )
    print(f"in {(time.monotonic() - began) / 60:.1f} minutes, seed {options.seed}")
    sys.exit(good != options.count)
