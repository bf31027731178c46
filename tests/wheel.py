"""A wheel of this project in an empty environment, far from the checkout: python tests/wheel.py [--python=PYTHON]

Builds the wheel, installs it with the pinned versions, and does there what a new user does: recipes, prepare,
training steps, weights, predict. Ends with status 0 where all of it works.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_PICTURES = """
import numpy as np
from PIL import Image
from pathlib import Path
rng = np.random.default_rng(0)
for split, count in (("train", 8), ("val", 2)):
    for name in ("cat", "dog"):
        folder = Path("pictures") / split / name
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (90, 80, 3), np.uint8) + np.uint8(120 * (name == "cat"))
            Image.fromarray(pixels).save(folder / f"{i}.jpg")
"""
# The network at a tenth of its size, so that a step takes a second.
_SMALL = [
    "--config.data.resize_pixels=67", "--config.data.crop_pixels=67", "--config.model.fc6.features=16",
    "--config.model.fc7.features=16", "--config.train.steps=2", "--config.train.batch_size=4",
]  # fmt: skip


def main() -> None:
    """Runs everything in a temporary folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the new environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        away = Path(folder)
        python = _environment(away, options.python)
        _commands(away, python)
    print("the wheel works")


def _environment(away: Path, interpreter: str) -> Path:
    """A new environment with the wheel; its python."""
    _run([interpreter, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={away}", str(ROOT)], away)
    if interpreter == sys.executable:
        venv.create(away / "env", with_pip=True)
    else:
        _run([interpreter, "-m", "venv", str(away / "env")], away)
    python = away / "env" / "bin" / "python"
    (wheel,) = away.glob("alexnet_jax-*.whl")
    pins = str(ROOT / "requirements.txt")
    _run([str(python), "-m", "pip", "install", "--quiet", "-c", pins, str(wheel)], away)
    return python


def _commands(away: Path, python: Path) -> None:
    alexnet = str(python.parent / "alexnet")
    train = ["--config=alexnet:pets", "--config.data.data_dir=data", "--workdir=run", *_SMALL]
    _run([str(python), "-c", _PICTURES], away)
    for command, wanted in (
        (["--version"], "alexnet_jax "),
        (["recipes"], "no_communication"),
        (["summary", "--config=half"], "59,798,312"),
        (["prepare", "folder", "--from=pictures", "--name=pets", "--data_dir=data"], "train on it with: "),
        (["train", *train], "done: top-1 "),
        (["train", "--mode=eval", "--workdir=run"], "of pets validation"),
        (["weights", "export", "--workdir=run", "--output=net.npz"], "net.npz"),
        (["weights", "identify", "--input=net.npz"], "conv1"),
        (["features", "pictures", "--workdir=run", "--output=fc7.npz"], "fc7 of 20 pictures"),
        (["neighbours", "pictures/val/dog/0.jpg", "--workdir=run", "--features=fc7.npz"], ".jpg"),
        (["predict", "--workdir=run", "pictures/val/cat/0.jpg"], "cat"),
        (["predict", "--weights=net.npz", "--json", "pictures/val/cat"], '"cat"'),
        (["export", "--format=hf", "--workdir=run", "--output=folder"], "hf upload OWNER/NAME folder"),
        (["predict", "--weights=folder", "pictures/val/cat/0.jpg"], "cat"),
    ):
        said = _run([alexnet, *command], away)
        assert wanted in said, f"alexnet {' '.join(command)} does not say {wanted!r}:\n{said}"


def _run(command: list[str], away: Path) -> str:
    print("$", *(Path(part).name if "/env/" in part else part.splitlines()[0] or "..." for part in command), flush=True)
    # Neither the checkout nor its environment may help.
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=away, env=inherited, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"status {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
