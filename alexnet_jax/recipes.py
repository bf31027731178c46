"""The recipes of `configs/`, by name, and the table that tells them apart.

python -m alexnet_jax.recipes
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import AlexNetError, model as models, run, summary

FOLDER = Path(__file__).resolve().parent.parent / "configs"
_HEAD = ("recipe", "what it is", "conv1", "conv2", "towers meet at", "parameters", "multiply-adds")


def names() -> list[str]:
    """The recipes there are, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name: str, data_name: str = "imagenet2012") -> tuple[str, ConfigDict]:
    """(the first sentence of a recipe's docstring, its config). Raises AlexNetError for a name that is none."""
    if name not in names():
        raise AlexNetError(f"There is no recipe {name!r} in {FOLDER}: it has {', '.join(names())}.")
    if str(FOLDER.parent) not in sys.path:
        sys.path.append(str(FOLDER.parent))  # the recipes import each other from there
    module: Any = importlib.import_module(f"configs.{name}")
    return module.__doc__.strip().split("\n\n")[0].replace("\n", " "), module.get_config(data_name)


def build(name: str, classes: int = 1000) -> tuple[models.AlexNet, int]:
    """(the network of a recipe, its input's pixels)."""
    _, config = load(name)
    return run.build_model(config, classes), config.data.crop_pixels


def table() -> str:
    """The recipes as Markdown, from the networks themselves; README.md holds it."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(_line(name) for name in names())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(name: str) -> tuple[str, ...]:
    title, _ = load(name)
    model, pixels = build(name)
    rows = summary.describe(model, pixels)
    then = {layer.name: " ".join(layer.then) for layer in model.stack}
    where = [place for place in summary.exchanges(model, pixels) if place != "the logits"]
    counts = (f"{sum(row.parameters for row in rows):,}", f"{sum(row.macs for row in rows):,}")
    words = (then.get(layer, "none") for layer in ("conv1", "conv2"))
    return (f"`{name}`", title.rstrip("."), *words, " ".join(where) or "one tower", *counts)


if __name__ == "__main__":
    print(table())
