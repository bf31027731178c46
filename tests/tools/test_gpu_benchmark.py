"""benchmarks/gpu.sh: killed and started again, with a deadline and failures, and where the package is not installed."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import measure

ROOT = Path(__file__).resolve().parent.parent.parent
# Measures nothing: notes that it was called; a file of the job's name has it kill what called it, hang or fail.
FAKE = """
import json, os, pathlib, signal, sys
name, batch = sys.argv[1], sys.argv[2].removeprefix("--batch=")
out = pathlib.Path(sys.argv[4].removeprefix("--out="))
with (out / "calls.txt").open("a") as file:
    file.write(f"{name} {batch}\\n")
order = out / f"{name} {batch}"
what = order.read_text() if order.exists() else ""
if what == "kill":
    order.unlink()
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit()
if what == "hang":
    signal.pause()
if what == "fail":
    print("not a word of JSON\\nout of memory", file=sys.stderr)
    sys.exit(3)
row = {"device": "a device", "versions": "none", "commit": "unknown", "date": "today", "numbers": "TF32"}
kind = name.split(" ")[0]
if kind in ("jax", "torch"):
    row |= {"rate": 100.0, "synced_rate": 90.0, "first_step": 1.0, "memory": 2.0}
if kind == "ceilings":
    row |= {"matmul": 1.0, "copy": 10.0}
if kind == "layers":
    row |= {"layers": {"conv1": {"gflop": 1.0, "forward": 0.002, "backward_gflop": 1.0, "backward": 0.004}}}
print("something else\\n" + json.dumps(row))
"""


class Benchmark:
    """gpu.sh of this checkout with the fake, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.out, self.fake = folder / "out", folder / "fake.py"
        self.out.mkdir(parents=True)
        self.fake.write_text(FAKE)

    def order(self, job: str, what: str) -> None:
        """What the process of "NAME BATCH" does instead of measuring."""
        (self.out / job).write_text(what)

    def __call__(self, *options: str, **settings: str) -> int:
        """Runs it; its exit status."""
        environment = {"PYTHON": sys.executable, "OUT": str(self.out), "BATCHES": "2 4", "MORE": "8", "TURNS": "2"}
        command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), f"--measure={self.fake}", *options]
        done = subprocess.run(command, env=os.environ | environment | settings, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    def rows(self) -> list[dict[str, Any]]:
        lines = [line for line in (self.out / "rows.jsonl").read_text().splitlines() if line.endswith("}")]
        return [{key: value for key, value in json.loads(line).items() if key != "wall"} for line in lines]

    def calls(self) -> list[str]:
        return (self.out / "calls.txt").read_text().splitlines()

    def page(self) -> str:
        return (self.out / "results.md").read_text()


@pytest.fixture
def benchmark_(tmp_path: Path) -> Benchmark:
    return Benchmark(tmp_path / "one")


def test_killed_and_started_again_has_the_rows_of_an_undisturbed_one(benchmark_: Benchmark, tmp_path: Path) -> None:
    undisturbed = Benchmark(tmp_path / "other")
    assert undisturbed() == 0
    killed_at = ("machine 0", "torch max-autotune bfloat16 4", "layers float32 4")
    for job in killed_at:
        benchmark_.order(job, "kill")
    assert [benchmark_() for _ in killed_at] == [-9] * len(killed_at)
    with (benchmark_.out / "rows.jsonl").open("a") as file:
        file.write('{"name": "feed", "batch": 2, "tu')  # as a kill in the middle of a write leaves it
    assert benchmark_() == 0
    assert benchmark_.rows() == undisturbed.rows()
    assert benchmark_.page() == undisturbed.page()
    assert len(benchmark_.calls()) == len(undisturbed.calls()) + len(killed_at)


def test_the_most_telling_comes_first_and_each_once(benchmark_: Benchmark) -> None:
    assert benchmark_() == 0
    calls = benchmark_.calls()
    best = [
        f"{name} bfloat16 {batch}" for batch in (2, 4) for name in ("jax", "torch max-autotune", "torch channels_last")
    ]
    assert calls[: len(best) + 1] == ["machine 0", *best]
    assert calls.index("jax bfloat16 4") < calls.index("jax float32 2") < calls.index("device 2")
    assert calls.index("torch max-autotune float32 4") < calls.index("torch eager bfloat16 2") < calls.index("feed 2")
    assert {"device 2", "profile bfloat16 4", "layers bfloat16 4", "layers float32 4", "feed 2"} <= set(calls)
    assert calls.count("jax bfloat16 4") == 2
    assert calls.count("jax bfloat16 8") == 1
    assert benchmark_() == 0
    assert benchmark_.calls() == calls, "what is there is not run again"
    assert "| jax float32 as TF32 | 100.0 (100.0 to 100.0) | 90.0 (90.0 to 90.0) |" in benchmark_.page()
    assert "| conv1 | 2,000 | 0.50 | 4,000 | 0.25 |" in benchmark_.page()


def test_a_failure_is_a_row_with_its_reason(benchmark_: Benchmark) -> None:
    benchmark_.order("jax bfloat16 4", "fail")
    assert benchmark_() == 0
    assert benchmark_.calls().count("jax bfloat16 4") == 1, "neither another turn nor another call"
    assert benchmark_.calls().count("jax bfloat16 2") == 2
    assert "| jax bfloat16 | failed: ended with status 3: out of memory |" in benchmark_.page()


def test_deadline(benchmark_: Benchmark) -> None:
    """No process is started that would pass it but for the first; one that passes it is stopped."""
    earlier = {"name": "jax bfloat16", "batch": 1, "turn": 1, "failed": "", "wall": 1000.0}
    (benchmark_.out / "rows.jsonl").write_text(json.dumps(earlier) + "\n")
    assert benchmark_(DEADLINE="100") == 75
    assert "jax bfloat16 2" not in benchmark_.calls()
    assert "* jax bfloat16, batch 2: 2" in benchmark_.page()
    for row in benchmark_.rows()[1:]:
        assert row["name"] != "jax bfloat16"
    assert benchmark_(DEADLINE="100") == 75
    assert benchmark_.calls()[-1] != "machine 0"
    assert "jax bfloat16 2" in benchmark_.calls(), "the first of a call has all of it"


def test_process_that_takes_a_whole_command_is_stopped(benchmark_: Benchmark) -> None:
    benchmark_.order("machine 0", "hang")
    assert benchmark_("--deadline=1") == 75
    assert [row["failed"] for row in benchmark_.rows()] == ["took more than the 1 s of a whole command"]


def test_table_alone(benchmark_: Benchmark) -> None:
    assert benchmark_("--table") == 0
    assert "## Left: " in benchmark_.page()
    assert not (benchmark_.out / "calls.txt").exists()


def test_without_the_package_git_and_a_compiler(tmp_path: Path) -> None:
    """As on a bare machine, with the libraries and three tools. A recipe is found, which a checkout keeps apart."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "mkdir"):
        (tools / name).symlink_to(str(shutil.which(name)))
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    libraries = Path(jax.__file__).parent.parent
    environment = {
        "PATH": str(tools), "PYTHON": str(python), "PYTHONPATH": str(libraries), "OUT": str(tmp_path / "out"),
        "TORCH": "", "BATCHES": "2", "MORE": "", "TURNS": "1", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    (tmp_path / "out").mkdir()
    there = {"batch": 0, "turn": 1, "failed": "left out here"}
    lines = [json.dumps({"name": f"ceilings {dtype}"} | there) + "\n" for dtype in ("bfloat16", "float32")]
    (tmp_path / "out" / "rows.jsonl").write_text("".join(lines))
    command = [str(tools / "bash"), str(ROOT / "benchmarks" / "gpu.sh"), "--variants", "none"]
    found = subprocess.run(
        [str(python), "-c", "import alexnet_jax"], env=environment, cwd=tmp_path, capture_output=True
    )
    assert b"ModuleNotFoundError" in found.stderr
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "out" / "rows.jsonl").read_text().splitlines()[-1])
    assert row.get("gflop") == pytest.approx(4.1356, rel=1e-4), row
    assert row["commit"] == "unknown"


def test_loop_of_a_layer_computes_each_turn_from_the_last() -> None:
    """Three turns: what is multiplied in the third has got a millionth of the first two results."""
    x, kernel = np.full((2, 2), 3.0, np.float32), np.eye(2, dtype=np.float32) * 1e5
    (last_x, last_kernel), result = measure.looped(jnp.matmul, 3)(x, kernel)
    for _ in range(3):
        wanted = x @ kernel
        x, kernel = x.copy(), kernel.copy()
        x[0, 0] += 1e-6 * wanted[0, 0]
        kernel[0, 0] += 1e-6 * wanted[0, 0]
    np.testing.assert_allclose(result, wanted, rtol=1e-6)
    np.testing.assert_allclose(last_x, x, rtol=1e-6)
    np.testing.assert_allclose(last_kernel, kernel, rtol=1e-6)
    assert wanted[0, 0] > 3.5e5
