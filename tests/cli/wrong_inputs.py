"""The slow part of what can go wrong: wrong devices, full disks, and signals after any line of every command.

    python tests/cli/wrong_inputs.py [--rounds=6] [--only=signals]

Prints a row per case and ends with status 1 if one is wrong. It takes about twenty minutes on two cores.
"""

import argparse
import dataclasses
import itertools
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = [
    "--config.data.resize_pixels=67", "--config.data.crop_pixels=67",
    *(f"--config.model.{name}.features=8" for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")),
    "--config.train.batch_size=8", "--config.eval.batch_size=64", "--config.train.steps=4",
]  # fmt: skip
FULL_SIZE = ["--config.train.batch_size=8", "--config.train.steps=1", "--config.eval.views=center"]


@dataclasses.dataclass
class Ended:
    """How a process ended."""

    status: int
    err: str


def _started(arguments: Sequence[object], bytes_per_file: int | None, **options: Any) -> "subprocess.Popen[str]":
    def limit() -> None:
        if bytes_per_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, bytes_per_file))

    return subprocess.Popen(
        [sys.executable, "-u", "-m", "alexnet_jax", *map(str, arguments)], cwd=ROOT, text=True, preexec_fn=limit,  # noqa: PLW1509
        stdout=subprocess.PIPE, **options,
    )  # fmt: skip


def run(*arguments: object, bytes_per_file: int | None = None, **environment: str) -> Ended:
    """Runs alexnet to its end."""
    # JAX warns of a cache that it cannot write, and leaves half of an entry in it.
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"} | environment
    with _started(arguments, bytes_per_file, stderr=subprocess.PIPE, env=env) as process:
        _, err = process.communicate()
    return Ended(process.returncode, err)


def stopped(arguments: Sequence[object], lines: int, number: int) -> tuple[Ended, int]:
    """Runs alexnet until it has printed so many lines, and sends a signal; how it ended, and how many there were.

    What is compiled is printed, too, so that there are lines all the way.
    """
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_LOG_COMPILES": "1"}
    with _started(arguments, None, stderr=subprocess.STDOUT, env=env) as process:
        assert process.stdout is not None
        before = list(itertools.islice(process.stdout, lines))
        process.send_signal(number)
        after = process.stdout.read()
    return Ended(process.returncode, after), len(before)


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


def _not_a_sentence(ended: Ended, said: str) -> str:
    """What is wrong about an end that should have been one sentence, "" for nothing."""
    if ended.status <= 0:
        return f"status {ended.status}"
    lines = ended.err.strip().splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"not one sentence: {ended.err!r}"
    return "" if re.search(said, lines[0]) else f"another sentence: {lines[0]}"


def devices(w: World, table: Table) -> None:
    """A wrong JAX_PLATFORMS, for all that compute."""
    before = w.files()
    for name in ("predict", "probe", "eval", "ensemble", "export", "import"):
        for platform in ("gpuu", "cuda"):
            ended = run(*_commands(w)[name][0], JAX_PLATFORMS=platform)
            problem = _not_a_sentence(ended, re.escape(f"JAX_PLATFORMS is {platform!r}"))
            changed = "" if w.files() == before else "it wrote something"
            table.add("devices", f"JAX_PLATFORMS={platform} {name}", problem or changed, ended.err.strip())


def full_disk(w: World, table: Table) -> None:
    """Files that may not grow over some bytes, as on a disk that is full."""
    for size in (1_000, 20_000, 1_000_000):
        folder = w / f"small{size}"
        commands = {name: command for name, (command, _) in _commands(w, folder).items()}
        commands["train"] = ["train", f"--workdir={folder / 'run'}", "--config.train.steps=1"]
        folder.mkdir()
        for name in ("train", "export", "import", "prepare"):
            ended = run(*commands[name], bytes_per_file=size)
            problem = _not_a_sentence(ended, "No space left|File too large|Disk quota|not enough|larger than|no room")
            whole = [*folder.glob("*.safetensors"), *folder.glob("new/config.json"), *folder.glob("data/some/1.0.0")]
            what = f"files of {size:,} bytes: {name}"
            table.add("full disk", what, problem or (f"left {whole}" if whole else ""), ended.err.strip())
            subprocess.run(["rm", "-rf", *folder.iterdir()], check=True)


def _commands(w: World, out: Path | None = None) -> dict[str, tuple[list[object], str]]:
    """{name: (the command, what it makes in the folder `out`)}."""
    out = out or w.folder
    full, pictures, data = f"--workdir={w / 'full'}", w / "pictures", "--config=alexnet:digits"
    return {
        "recipes": (["recipes"], ""),
        "summary": (["summary", "--config=half"], ""),
        "identify": (["weights", "identify", f"--input={w / 'full.npz'}"], ""),
        "predict": (["predict", pictures / "cat", full, "--views=all"], ""),
        "export": (["weights", "export", full, f"--output={out / 'new.safetensors'}"], "new.safetensors"),
        "import": (["weights", "import", f"--input={w / 'full.npz'}", f"--workdir={out / 'new'}", data], "new"),
        "probe": (["train", "--mode=probe"], ""),
        "eval": (["train", "--mode=eval", full, "--config.eval.views=all", "--config.data.resize_pixels=256"], ""),
        "ensemble": (["ensemble", "--workdirs", w / "full", w / "run"], ""),
        "prepare": (
            ["prepare", "folder", f"--from={pictures}", "--name=some", f"--data_dir={out / 'data'}", "--pack=64"],
            "data",
        ),
    }


def signals(w: World, table: Table, rounds: int) -> None:
    """Ctrl-C and SIGTERM after a random line of every command: one line and its status, nothing half written."""
    for name, (command, made) in _commands(w).items():
        _, whole = stopped(command, sys.maxsize, 0)
        for i in range(rounds):
            number = signal.SIGTERM if i == rounds - 1 else signal.SIGINT
            subprocess.run(["rm", "-rf", w / made] if made else ["true"], check=True)
            before, after = w.files(), random.randrange(whole) if i else 0  # the first in the imports
            ended, _ = stopped(command, after, number)
            left = [p for p in w.files() if p not in before and not re.search("incomplete|/tensorboard/", p)]
            problem = _not_interrupted(ended, number) or (f"left {left}" if ended.status and left else "")
            table.add(signal.Signals(number).name, f"{name} after {after} of {whole} lines", problem, "")


def _not_interrupted(ended: Ended, number: int) -> str:
    if ended.status in (0, -number):
        return ""  # it was over, or before the first or after the last line of Python
    if ended.status != 128 + number or not re.search(r"interrupted.*\n$", ended.err) or "Traceback" in ended.err:
        return f"status {ended.status}, {ended.err[-300:]!r}"
    return ""


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="lines per command (%(default)s)")
    parser.add_argument("--only", choices=["devices", "full-disk", "signals"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"seed {options.seed}")
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        w = World(Path(folder))
        w.make()
        if options.only in (None, "devices"):
            devices(w, table)
        if options.only in (None, "full-disk"):
            full_disk(w, table)
        if options.only in (None, "signals"):
            signals(w, table, options.rounds)
    print(f"{table.rows - table.wrong} of {table.rows} are right")
    sys.exit(table.wrong > 0)


if __name__ == "__main__":
    main()
