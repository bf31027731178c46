"""The slow part of what can go wrong: wrong devices, full disks, and signals at any moment of every command.

    python tests/cli/wrong_inputs.py [--rounds=6] [--only=ctrl-c]

Prints a row per case and ends with status 1 if one is wrong. It takes about twenty minutes on two cores.
"""

import argparse
import contextlib
import dataclasses
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = [
    "--config.data.resize_pixels=67", "--config.data.crop_pixels=67",
    *(f"--config.model.{name}.features=8" for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")),
    "--config.train.batch_size=8", "--config.eval.batch_size=64", "--config.train.steps=4",
]  # fmt: skip
FULL_SIZE = ["--config.train.batch_size=8", "--config.train.steps=1", "--config.eval.views=center"]
_LARGER = "--config.data.resize_pixels=256"  # five views of the digits


@dataclasses.dataclass
class Ended:
    """How a process ended."""

    status: int
    out: str
    err: str
    seconds: float  # after the signal, where there was one


def run(
    *arguments: object, after: float | None = None, number: int = signal.SIGINT, group: bool = False,
    bytes_per_file: int | None = None, **environment: str,
) -> Ended:  # fmt: skip
    """Runs alexnet, with a signal `after` so many seconds."""

    def limit() -> None:
        if bytes_per_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, bytes_per_file))

    with subprocess.Popen(
        [sys.executable, "-m", "alexnet_jax", *map(str, arguments)], cwd=ROOT, text=True, preexec_fn=limit,  # noqa: PLW1509
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        since = time.monotonic()
        try:
            if after is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(after)
                since = time.monotonic()
                (os.killpg if group else os.kill)(process.pid, number) if process.returncode is None else None
            out, err = process.communicate(timeout=300)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return Ended(process.returncode, out, err, time.monotonic() - since)


# ---------------------------------------------------------------- what is there


@dataclasses.dataclass(frozen=True)
class World:
    """A folder with what the commands need."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def make(self) -> None:
        """Two runs, a small one and one of full size, pictures, a prepared set, weights."""
        for class_name in ("cat", "dog"):
            (self / "pictures" / class_name).mkdir(parents=True)
            for i in range(300):
                noise = Image.frombytes("RGB", (400, 400), random.Random(i).randbytes(400 * 400 * 3))
                noise.save(self / "pictures" / class_name / f"{i}.jpg")
        for arguments in (
            ["train", f"--workdir={self / 'run'}", *SMALL],
            ["train", f"--workdir={self / 'full'}", *FULL_SIZE],
            ["weights", "export", f"--workdir={self / 'run'}", f"--output={self / 'weights.npz'}"],
            ["weights", "export", f"--workdir={self / 'full'}", f"--output={self / 'full.npz'}"],
        ):
            ended = run(*arguments)
            assert ended.status == 0, ended.err

    def files(self) -> dict[str, tuple[int, int]]:
        """What is there, with sizes and times."""
        return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in self.folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- the cases


@dataclasses.dataclass
class Table:
    """The rows so far."""

    wrong: int = 0
    rows: int = 0

    def add(self, kind: str, what: str, problem: str, note: str) -> None:
        self.rows += 1
        self.wrong += bool(problem)
        print(f"{'WRONG' if problem else 'ok':5}  {kind:9}  {what:58}  {problem or note}"[:400], flush=True)


def sentence(ended: Ended, said: str) -> str:
    """What is wrong about an end that should have been one sentence, "" for nothing."""
    if ended.status in (0, -signal.SIGKILL) or ended.status < 0:
        return f"status {ended.status}"
    lines = ended.err.strip().splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: ") or "This is a bug" in lines[0]:
        return f"not one sentence: {ended.err!r}"
    return "" if re.search(said, lines[0]) else f"another sentence: {lines[0]}"


def devices(w: World, table: Table) -> None:
    """A wrong JAX_PLATFORMS, for all that compute."""
    commands = {
        "train": ["train", f"--workdir={w / 'new'}"],
        "eval": ["train", "--mode=eval", f"--workdir={w / 'run'}"],
        "probe": ["train", "--mode=probe"],
        "ensemble": ["ensemble", "--workdirs", w / "run"],
        "export": ["weights", "export", f"--workdir={w / 'run'}", f"--output={w / 'new.npz'}"],
        "import": [
            "weights", "import", f"--input={w / 'full.npz'}", f"--workdir={w / 'new'}", "--config=alexnet:digits",
        ],
    }  # fmt: skip
    before = w.files()
    for name, command in commands.items():
        for platform in ("gpuu", "cuda", ",") if name in ("train", "eval") else ("gpuu", "cuda"):
            ended = run(*command, JAX_PLATFORMS=platform)
            problem = sentence(ended, re.escape(f"JAX_PLATFORMS is {platform!r}"))
            changed = "" if w.files() == before else "it wrote something"
            table.add("devices", f"JAX_PLATFORMS={platform} {name}", problem or changed, ended.err.strip())
    ended = run("train", "--distributed", f"--workdir={w / 'new'}")
    table.add("devices", "train --distributed", sentence(ended, "found no cluster to join"), ended.err.strip())


def full_disk(w: World, table: Table) -> None:
    """Files that may not grow over some bytes, and a file system of a few megabytes where one can be mounted."""
    for size in (1_000, 20_000, 1_000_000):
        _full(w, table, w / f"small{size}", f"files of {size:,} bytes", bytes_per_file=size)
    for size in ("64k", "1m", "4m"):
        folder = w / f"disk{size}"
        folder.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
        ).returncode:
            print("cannot mount a small file system here")
            return
        try:
            _full(w, table, folder, f"a disk of {size}")
        finally:
            subprocess.run(["umount", folder], check=True)


def _full(w: World, table: Table, folder: Path, what: str, bytes_per_file: int | None = None) -> None:
    commands: dict[str, list[object]] = {
        "train": ["train", f"--workdir={folder / 'run'}", "--config.train.steps=1"],
        "export .npz": ["weights", "export", f"--workdir={w / 'full'}", f"--output={folder / 'a.npz'}"],
        "export .safetensors": ["weights", "export", f"--workdir={w / 'full'}", f"--output={folder / 'a.safetensors'}"],
        "import": [
            "weights", "import", f"--input={w / 'full.npz'}", f"--workdir={folder / 'imported'}",
            "--config=alexnet:digits",
        ],
        "prepare": ["prepare", "folder", f"--from={w / 'pictures'}", "--name=some", f"--data_dir={folder / 'data'}"],
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    for name, command in commands.items():
        ended = run(*command, bytes_per_file=bytes_per_file)
        problem = sentence(
            ended, "No space left on device|File too large|Disk quota|not enough|larger than|There is no room"
        )
        found = [p.name for p in folder.rglob("*") if p.is_file() and p.suffix in (".npz", ".safetensors", ".tmp")]
        halves = [name for name in found if "array_record" not in name]
        if name.startswith("export") and halves:
            problem = problem or f"left {halves}"
        if name == "import" and (folder / "imported").exists():
            problem = problem or "left a workdir"
        if name == "prepare" and (folder / "data" / "some" / "1.0.0").exists():
            problem = problem or "left a data set"
        table.add("full disk", f"{what}: {name}", problem, ended.err.strip())
        subprocess.run(["rm", "-rf", *folder.iterdir()], check=True)


def _commands(w: World) -> dict[str, tuple[list[object], Callable[[], object]]]:
    """{name: (the command, what makes it possible once more)}."""

    def nothing() -> None: ...

    def removed(name: str) -> Callable[[], object]:
        return lambda: subprocess.run(["rm", "-rf", w / name], check=True)

    return {
        "recipes": (["recipes"], nothing),
        "summary": (["summary", "half"], nothing),
        "identify": (["weights", "identify", f"--input={w / 'full.npz'}"], nothing),
        "predict": (["predict", w / "pictures" / "cat", f"--workdir={w / 'full'}", "--views=all"], nothing),
        "export": (
            ["weights", "export", f"--workdir={w / 'full'}", f"--output={w / 'new.safetensors'}"],
            removed("new.safetensors"),
        ),
        "import": (
            [
                "weights", "import", f"--input={w / 'full.npz'}", f"--workdir={w / 'new'}", "--config=alexnet:digits",
            ],
            removed("new"),
        ),
        "probe": (["train", "--mode=probe"], nothing),
        "eval": (["train", "--mode=eval", f"--workdir={w / 'full'}", "--config.eval.views=all", _LARGER], nothing),
        "ensemble": (["ensemble", "--workdirs", w / "full", w / "run"], nothing),
        "prepare": (
            ["prepare", "folder", f"--from={w / 'pictures'}", "--name=some", f"--data_dir={w / 'data'}", "--pack=64"],
            removed("data"),
        ),
    }  # fmt: skip


def ctrl_c(w: World, table: Table, rounds: int) -> None:
    """At random moments of every command: status 130, one line, at once."""
    for name, (command, again) in _commands(w).items():
        again()
        since = time.monotonic()
        run(*command, after=30.0)
        whole = min(time.monotonic() - since, 30.0)
        for i in range(rounds):
            again()
            before = w.files()
            after = random.uniform(0.03, 0.3 if i == 0 else whole * 0.9)  # the first in the imports
            ended = run(*command, after=after)
            problem = _interrupted(ended)
            left = [p for p in w.files() if p not in before and "/." in p.removeprefix(str(w.folder))]
            problem = problem or (f"left {left}" if left else "")
            table.add("Ctrl-C", f"{name} after {after:.2f} of {whole:.0f} s", problem, f"{ended.seconds:.1f} s")


def _interrupted(ended: Ended) -> str:
    if ended.status == 0 or (ended.status == -signal.SIGINT and not ended.err):
        return ""  # it was over, or in the last milliseconds of the interpreter, which a shell reports as 130
    if ended.status != 130 or not re.fullmatch(r"interrupted.*\n", ended.err):
        return f"status {ended.status}, {ended.err[-300:]!r}"
    return f"after {ended.seconds:.1f} s" if ended.seconds > 4 else ""


def training(w: World, table: Table, rounds: int) -> None:
    """Ctrl-C and SIGTERM in training: saved, resumed, and with workers, which a terminal's Ctrl-C reaches too."""
    long = [*SMALL, "--config.train.steps=100000", "--config.log.every_steps=50"]
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for workers in ("0", "2"):
            for _ in range(rounds):
                subprocess.run(["rm", "-rf", w / "new"], check=True)
                after = random.uniform(0.05, 12.0)
                ended = run(
                    "train", f"--workdir={w / 'new'}", *long, f"--config.data.workers={workers}",
                    after=after, number=number, group=True,
                )  # fmt: skip
                what = f"{signal.Signals(number).name} to train with {workers} workers after {after:.2f} s"
                table.add("training", what, _saved(ended, status, number), f"{ended.seconds:.1f} s: {_last(ended)}")
    full = ["train", f"--workdir={w / 'new'}", "--config.train.batch_size=8", "--config.train.steps=2"]
    for after in (16.0, 18.0, 20.0):  # in the evaluation of ten views at its end
        subprocess.run(["rm", "-rf", w / "new"], check=True)
        ended = run(*full, after=after)
        table.add(
            "training", f"SIGINT to the last evaluation after {after:.0f} s", _saved(ended, 130, signal.SIGINT),
            f"{ended.seconds:.1f} s: {_last(ended)}",
        )  # fmt: skip


def _saved(ended: Ended, status: int, number: int) -> str:
    if ended.status in (0, -number) and not ended.err:
        return ""  # it was over, or had not begun
    asked = f"\n?{signal.Signals(number).name}: saving after this step .*\n"
    if ended.status != status or not re.fullmatch(f"({asked})?(interrupted.*\n)?", ended.err):
        return f"status {ended.status}, {ended.err[-300:]!r}"
    if "saving after this step" in ended.err and "; to resume: " not in ended.out:
        return f"it did not say that it saved: {ended.out[-200:]!r}"
    return ""


def _last(ended: Ended) -> str:
    return (ended.out.strip().splitlines() or [""])[-1][:60]


def terminated(w: World, table: Table) -> None:
    """kill -TERM to the other commands: status 143, one line at most, and nothing that looks whole."""
    for name, (command, again) in _commands(w).items():
        again()
        before = w.files()
        ended = run(*command, after=random.uniform(0.3, 5.0), number=signal.SIGTERM)
        new = [p for p in w.files() if p not in before and not Path(p).name.startswith(".")]
        halves = [p for p in new if not re.search("incomplete|/[.]|/tensorboard/", p)] if ended.status else []
        quiet = ended.status in (0, -signal.SIGTERM, 143) and re.fullmatch(r"(interrupted.*\n)?", ended.err)
        problem = "" if quiet else f"{ended.status}, {ended.err!r}"
        table.add("SIGTERM", name, problem or (f"left {halves}" if halves else ""), f"status {ended.status}")
    again()


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A world for a while."""
    with tempfile.TemporaryDirectory() as folder:
        made = World(Path(folder))
        made.make()
        yield made


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="moments per command (%(default)s)")
    parser.add_argument("--only", choices=["devices", "full-disk", "ctrl-c", "training", "sigterm"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    random.seed(options.seed)
    table = Table()
    with world() as w:
        for name, cases in {
            "devices": lambda: devices(w, table),
            "full-disk": lambda: full_disk(w, table),
            "ctrl-c": lambda: ctrl_c(w, table, options.rounds),
            "training": lambda: training(w, table, max(1, options.rounds // 2)),
            "sigterm": lambda: terminated(w, table),
        }.items():
            if options.only in (None, name):
                cases()
    print(f"{table.rows} cases, {table.wrong} wrong")
    sys.exit(bool(table.wrong))


if __name__ == "__main__":
    main()
