"""The size and shape of this project, measured: python tests/structure.py

Lines per ring, import arrows between top-level modules, the files that a batch passes from disk to loss, and the
modules that the config passes from `loop.train` to its last use. tests/test_house.py holds the numbers.
"""

import ast
import importlib
import itertools
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from ml_collections import ConfigDict, FrozenConfigDict

import alexnet_jax

ROOT = Path(alexnet_jax.__file__).resolve().parent.parent
PACKAGE = ROOT / "alexnet_jax"
_BELOW = f"{PACKAGE}/"
MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "configs").rglob("*.py")])
# From the inside out: a ring imports itself and those before it.
RINGS = {
    "core": (
        "errors", "exits", "files", "progress", "schema", "config", "builder", "weight_file",
        "model", "data", "train", "evaluate", "classifier",
    ),
    "tools for networks": ("extras", "prepare", "weights", "figures", "export", "features", "ensembles", "summary"),
    "command line": ("cli", "__main__"),
}  # fmt: skip

_SMALL = (
    "data.resize_pixels=67", "data.crop_pixels=67", "data.threads=1", "model.fc6.features=8", "model.fc7.features=8",
    *(f"model.conv{i}.features=4" for i in range(1, 6)),
)  # fmt: skip


def lines(paths: Iterator[Path] | list[Path]) -> int:
    """All lines of these files."""
    return sum(len(path.read_text().splitlines()) for path in paths)


def module_name(path: Path) -> str:
    """alexnet_jax.model.towers; the recipes are alexnet_jax.configs.*, as they are imported."""
    parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
    return ".".join(["alexnet_jax", *parts] if parts[0] == "configs" else parts)


def top_level(name: str) -> str:
    """The module or package directly below alexnet_jax that a module is or belongs to; "" for alexnet_jax itself."""
    return name.split(".")[1] if "." in name else ""


def imports(path: Path) -> set[str]:
    """The project's modules that a module imports, at its top or inside of functions."""
    names, found = {module_name(other) for other in MODULES}, set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alexnet_jax"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in names else node.module or "")
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in names}
    return found


def arrows() -> set[tuple[str, str]]:
    """(importer, imported) of top-level modules and packages."""
    pairs = {(top_level(module_name(path)), top_level(name)) for path in MODULES for name in imports(path)}
    return {(one, other) for one, other in pairs if one and other and one != other}


def _traced(action: Callable[[], object], called: Callable[[FrameType], None]) -> None:
    """Runs `action`, and `called` for the frame of every call of a function of the package, in all threads."""

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_BELOW):
            called(frame)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def disk_to_loss() -> list[str]:
    """The files whose code runs between a record on the disk and the loss, in the order of their first call."""
    from alexnet_jax import builder, config as configs
    from alexnet_jax.model import towers

    there = jax.devices()
    jax.devices = lambda *_: there[:1]  # type: ignore[assignment]
    try:
        setup = builder.train_setup(configs.load_recipe("alexnet:synthetic", [*_SMALL, "train.batch_size=2"]))
    finally:
        jax.devices = lambda *_: there  # type: ignore[assignment]
    shapes, seen = setup.shapes(), dict[str, None]()
    batches, step = setup.batches(0), setup.train_step()

    def called(frame: FrameType) -> None:
        seen.setdefault(str(Path(frame.f_code.co_filename).relative_to(PACKAGE)))

    _traced(lambda: step.lower(shapes, towers.to_devices(next(batches), setup.mesh)), called)
    return list(itertools.takewhile(lambda path: path != "train/optimizer.py", seen))  # the update follows the loss


def config_path() -> tuple[list[str], set[tuple[str, str]]]:
    """(modules with a function that is given a config, or an object that holds one, during a short run; arrows).

    The arrows are (calling module, called module) of these calls, where they differ.
    """
    train = importlib.import_module(f"alexnet_jax.{'train' if (PACKAGE / 'train').exists() else 'training'}.loop").train
    from alexnet_jax import config as configs

    config = configs.load_recipe("alexnet:digits", [*_SMALL, "train.batch_size=8", "train.steps=2"])
    seen, passes = dict[str, None](), set[tuple[str, str]]()

    def called(frame: FrameType) -> None:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(_holds_config(frame.f_locals.get(name)) for name in names):
            module, caller = frame.f_globals["__name__"], frame.f_back
            while caller is not None and not caller.f_code.co_filename.startswith(_BELOW):
                caller = caller.f_back
            seen.setdefault(module)
            if caller is not None and caller.f_globals["__name__"] != module:
                passes.add((caller.f_globals["__name__"], module))

    with tempfile.TemporaryDirectory() as folder:
        _traced(lambda: train(config, Path(folder) / "run", command="", eval_command=""), called)
    return list(seen), passes


def _holds_config(value: Any) -> bool:
    kinds = (ConfigDict, FrozenConfigDict)
    return isinstance(value, kinds) or any(isinstance(part, kinds) for part in getattr(value, "__dict__", {}).values())


def main() -> None:
    """Prints all of it."""
    package, tests = lines(list(PACKAGE.rglob("*.py"))), [*(ROOT / "tests").rglob("*.py")]
    apart = [path for path in tests if path.relative_to(ROOT / "tests").parts[0] in ("ledger", "tools")]
    for ring, names in RINGS.items():
        print(f"{lines([p for p in PACKAGE.rglob('*.py') if top_level(module_name(p)) in names]):7,} lines  {ring}")
    print(f"{package:7,} lines  package, {lines(tests) - lines(apart):,} of its tests, {lines(apart):,} of the others")
    found = arrows()
    print(f"{len({top_level(module_name(p)) for p in MODULES} - {''}):7} top-level modules, {len(found)} import arrows")
    try:
        files = disk_to_loss()
        print(f"{len(files):7} files from disk to loss: {', '.join(files)}")
    except ImportError:
        print("        files from disk to loss: this checkout has tests/disk_to_loss.py")
    modules, passes = config_path()
    print(f"{len(modules):7} modules that the config passes, {len(passes)} arrows: {', '.join(modules)}")


if __name__ == "__main__":
    main()
