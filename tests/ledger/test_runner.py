"""The harness: what it runs, what it leaves out of a commit's changes, and what a kill leaves of its rows."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import provenance
from experiments.ledger import claims, command, costs, plans, rows, runner

ROOT = Path(__file__).resolve().parents[2]

_PROXIES = """
[tiny]
what = "digits, tiny"
where = "on digits"
data = "digits"
classes = 10
images = 1498
width = 0.0625
cores = 1
set = [
  "data.resize_pixels=67", "data.crop_pixels=67", "train.steps=4", "log.every_steps=1", "checkpoint.every_steps=4",
  "checkpoint.keep=1", "precision=float32", "eval.views=center",
]
"""
# Net 145's first and last layers: they compile in a moment.
_RECIPE = """
from alexnet_jax.configs import alexnet

def get_config(data_name="digits"):
    c = alexnet.get_config(data_name)
    for layer in c.model.layers[1:-1]:
        del c.model[layer]
    c.model.layers, c.model.exchange = ("conv1", "fc8"), ("fc8",)
    return c
"""
_CLAIM = """
question = "?"
source = "s"
number = "n"
prediction = "p"
core_minutes = 1
[seeds]
tiny = 1
[variants.finishes]
recipe = "FOLDER/two_layers.py"
[variants.diverges]
recipe = "FOLDER/two_layers.py"
set = ["train.learning_rate=1e38"]
[[comparisons]]
what = "one against the other"
difference = ["finishes", "diverges"]
predicted = [0.0, inf]
"""


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """A folder of experiments with one claim of two runs, one of which diverges."""
    folder = tmp_path / "experiments"
    (folder / "001_toy").mkdir(parents=True)
    (folder / claims.PROXIES).write_text(_PROXIES)
    (folder / "001_toy" / claims.FILE).write_text(_CLAIM.replace("FOLDER", str(folder)))
    (folder / "two_layers.py").write_text(_RECIPE)
    return folder


def _options(experiments: Path) -> list[str]:
    return ["run", f"--experiments={experiments}", f"--workdirs={experiments / 'runs'}"]


def test_run_leaves_a_row_of_each_run(
    experiments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real training, started as the command of the plan says; what diverges has a row as well."""
    monkeypatch.setattr(runner, "commit_of", lambda root: "c" * 40)
    monkeypatch.setattr(costs, "estimates", lambda *runs, **options: [])
    command.main(_options(experiments))
    finished, diverged = sorted(rows.read(experiments), key=lambda row: row["note"])
    assert (finished["what"], finished["steps"], finished["commit"]) == (f"{experiments}/two_layers.py", "4", "c" * 40)
    assert finished["curve"].startswith("4:")
    assert all(finished[name] for name in ("top1", "loss", "parameters", "probe", "color_0", "color_chance"))
    assert diverged["note"].startswith("diverged: ")
    assert not list((experiments / "runs").glob("*/checkpoints")), "weights that nobody needs are left"
    capsys.readouterr()
    command.main([*_options(experiments), "--plan"])
    assert capsys.readouterr().out == "2 runs, 2 of them have a row; 0 to run\n"


# A harness whose training is the script below: each run stops half-way until somebody writes to its pipe "go".
_HARNESS = """
import sys
from pathlib import Path
from experiments.ledger import command, costs, rows, runner
costs.estimates = lambda *runs, **options: []
runner.commit_of = lambda root: "c" * 40
runner.TRAIN = [sys.executable, sys.argv[1]]
rows.row_of = lambda run, workdir, commit: dict.fromkeys(rows.COLUMNS, "") | {
    "digest": run.digest, "seed": str(run.seed), "top1": (workdir / "done").read_text(), "proxy": run.proxy.name,
    "what": run.what}

def start(run, workdirs, *rest, start=runner._start):
    if (running := start(run, workdirs, *rest)) is None:
        (workdirs / "refused").write_text("x")
    return running

runner._start = start
from alexnet_jax.cli import app
sys.argv[1:] = sys.argv[2:]
app.program("experiments.ledger.command")
"""
_TRAIN = """
import os, sys
workdir = sys.argv[-1].partition("=")[2]
half, done = f"{workdir}/half", f"{workdir}/done"
starts = open(f"{workdir}/starts", "a")
print("from the start" if not os.path.exists(half) else "resumed", file=starts, flush=True)
if not os.path.exists(done):
    open(half, "w").close()
    os.write(os.open(f"{workdir}/../is_half_way", os.O_WRONLY), b"x")
    os.close(os.open(f"{workdir}/../go", os.O_RDONLY))
    with open(done, "w") as file:
        file.write("50.0")
"""


def test_killed_harness_gives_the_rows_of_an_undisturbed_one(experiments: Path, tmp_path: Path) -> None:
    """Killed twice in the middle of a run: by SIGTERM, and by SIGKILL, which the run outlives."""
    claim = experiments / "001_toy" / claims.FILE
    claim.write_text(claim.read_text().partition("[variants.diverges]")[0])
    (tmp_path / "train.py").write_text(_TRAIN)
    pipes = {name: experiments / "runs" / name for name in ("is_half_way", "refused", "go")}
    pipes["go"].parent.mkdir()
    for pipe in pipes.values():
        os.mkfifo(pipe)

    def harness() -> "subprocess.Popen[str]":
        options = [str(tmp_path / "train.py"), *_options(experiments)]
        return subprocess.Popen(
            [sys.executable, "-c", _HARNESS, *options], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    is_half_way, refused = (os.open(pipes[name], os.O_RDWR) for name in ("is_half_way", "refused"))
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = harness()
        came_there, _, _ = select.select([is_half_way], [], [], 240)
        process.send_signal(number)
        output, _ = process.communicate(timeout=240)
        assert came_there, output
        os.read(is_half_way, 1)
    last = harness()
    assert select.select([is_half_way, refused], [], [], 240)[0] == [refused], "two processes train in one workdir"
    go = os.open(pipes["go"], os.O_RDWR)
    output, _ = last.communicate(timeout=240)
    for pipe in (is_half_way, refused, go):
        os.close(pipe)
    assert last.returncode == 0, output
    assert [row["top1"] for row in rows.read(experiments)] == ["50.0"]
    (starts,) = experiments.glob("runs/*/starts")
    assert starts.read_text().splitlines()[:2] == ["from the start", "resumed"]


def test_run_begun_by_other_code_starts_anew(
    experiments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TRAIN", [sys.executable, "-c", "input()"])  # ends at once: it has no input
    run = plans.variant_run(claims.Variant("alexnet", "alexnet"), claims.read_proxies(experiments)["tiny"], 0)
    workdir = tmp_path / run.name
    workdir.mkdir()
    (workdir / "commit.txt").write_text("d" * 40 + "\n")
    (workdir / "metrics.jsonl").write_text("left by other code\n")
    started = runner._start(run, tmp_path, (), "c" * 40, ())
    assert started is not None
    assert runner._start(run, tmp_path, (), "c" * 40, ()) is None, "two processes train in one workdir"
    assert not (workdir / "metrics.jsonl").exists()
    assert (workdir / "commit.txt").read_text() == "c" * 40 + "\n"
    runner._stop([started])


def test_commands_of_runs_make_the_planned_config() -> None:
    """As a shell would pass them to alexnet train, for every run of the ledger."""
    from alexnet_jax import config as configs

    experiments = ROOT / "experiments"
    proxies, every = claims.read_proxies(experiments), claims.read_claims(experiments)
    pairs = [(claim, proxies[name]) for claim in every for name in claim.seeds]
    for run in {run.digest: run for pair in pairs for run in plans.planned(*pair, 1)}.values():
        name, train, recipe, *flags = runner.command_of(run)
        assert (name, train, recipe) == ("alexnet", "train", f"--config={run.recipe}")
        config = configs.find_recipe(run.recipe)
        configs.override(config, flags)
        assert (plans.digest(config), config.train.seed) == (run.digest, run.seed)


def test_harness_refuses_changes_of_anything_but_rows_and_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = ["experiments/runs.csv", "experiments/README.md", "experiments/009_lrn/README.md",
               "experiments/009_lrn/result.png", "README.md", "README.zh.md", "docs/questions.md"]  # fmt: skip
    code = ["experiments/ledger/runner.py", "experiments/009_lrn/claim.toml", "experiments/proxies.toml",
            "alexnet_jax/config.py", "configs/alexnet.py", "pyproject.toml"]  # fmt: skip

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *words], check=True)

    for name in (*written, *code):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=x")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "alexnet_jax" / "config.py"))
    for name in written:
        (tmp_path / name).write_text("after\n")
    assert len(runner.commit_of(tmp_path / "experiments")) == 40
    for name in code:
        (tmp_path / name).write_text("after\n")
        with pytest.raises(AlexNetError, match="not committed"):
            runner.commit_of(tmp_path / "experiments")
        (tmp_path / name).write_text("before\n")
