"""The house: how long things are, which way the arrows go, what an import costs, and the way from disk to loss."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import disk_to_loss
import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted([ROOT / "main.py", *(ROOT / "alexnet_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")])

# ---------------------------------------------------------------- how long things are


def _length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1  # type: ignore[attr-defined, no-any-return]


def _says_why(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> bool:
    """A class or module that is longer than the rest says so in its docstring."""
    return " longer than other" in (ast.get_docstring(node) or "")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_longer_than_a_reader_can_hold(path: Path) -> None:
    """Functions below 60 lines, classes below 150, modules below 400, or a line that says why."""
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) < 400 or _says_why(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert _length(node) < 60, node.name
        if isinstance(node, ast.ClassDef):
            assert _length(node) < (200 if _says_why(node) else 150), node.name
            attributes = {
                target.attr
                for part in ast.walk(node)
                if isinstance(part, ast.Assign | ast.AnnAssign)
                for target in ast.walk(part)
                if isinstance(target, ast.Attribute)
                and isinstance(target.ctx, ast.Store)
                and isinstance(target.value, ast.Name)
                and target.value.id == "self"
            }
            assert len(attributes) <= 15, node.name


# ---------------------------------------------------------------- which way the arrows go


def _name(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = [part for part in relative.parts if part != "__init__"]
    return ".".join(["alexnet_jax", *parts] if parts[0] == "configs" else parts)


def _imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    """The project's modules that a module imports, at its top or `everywhere` in it."""
    names = {_name(other) for other in MODULES}
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alexnet_jax"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in names else node.module or ""
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not even inside functions."""
    arrows = {_name(path): set(_imports(path, everywhere=True)) - {"alexnet_jax"} for path in MODULES}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in sorted(arrows.get(name, ())):
                walk(other, (*way, name))
            done.add(name)

    for name in arrows:
        walk(name, ())


# A room may import from itself and from the rooms below it.
FLOORS = (
    ("main", "alexnet_jax.__main__"),
    ("alexnet_jax.cli",),
    ("alexnet_jax.export", "alexnet_jax.figures", "alexnet_jax.ensembles"),
    ("alexnet_jax.features",),
    ("alexnet_jax.classifier",),
    ("alexnet_jax.train", "alexnet_jax.prepare"),
    ("alexnet_jax.weights",),
    ("alexnet_jax.answers", "alexnet_jax.evaluate", "alexnet_jax.memory"),
    ("alexnet_jax.catalog",),
    ("alexnet_jax.parts",),
    ("alexnet_jax.config", "alexnet_jax.allowed"),
    ("alexnet_jax.configs",),
    ("alexnet_jax.model", "alexnet_jax.data"),
    ("alexnet_jax.extras", "alexnet_jax.progress"),
    ("alexnet_jax.files",),
    ("alexnet_jax.errors", "alexnet_jax.ending", "alexnet_jax"),
)


def _floor(name: str) -> int:
    """How deep a module lies: the longest name in FLOORS that it begins with."""
    rooms = [(room, depth) for depth, floor in enumerate(FLOORS) for room in floor]
    return max((len(room), depth) for room, depth in rooms if f"{name}.".startswith(f"{room}."))[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_go_down(path: Path) -> None:
    name = _name(path)
    if name == "alexnet_jax":
        return  # its lazy attributes are the way in
    for other in _imports(path, everywhere=True):
        assert _floor(other) >= _floor(name), f"{name} imports {other}, which is above it"


def test_the_step_does_not_know_of_evaluation() -> None:
    imports = set(_imports(ROOT / "alexnet_jax" / "train" / "step.py", everywhere=True))
    assert not any("evaluat" in name for name in imports), imports


@pytest.mark.parametrize("word", ["shard_map", "vmap"])
def test_the_axis_is_realized_in_one_file(word: str) -> None:
    """Every shard_map, and every vmap with the axis name of the towers, is in towers.py (and Flax's in model.py)."""
    for path in MODULES:
        if path.name == "towers.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(f".{word}"):
                over_towers = word == "shard_map" or any(key.arg == "axis_name" for key in node.keywords)
                assert not over_towers or ast.unparse(node.func) == "nn.vmap", f"{path}: {ast.unparse(node)}"


# ---------------------------------------------------------------- what an import costs


def _python(code: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_and_building_need_nothing_heavy() -> None:
    """No Orbax, Grain, TensorBoard, TFDS, progress bars or other formats before something asks for them."""
    heavy = (
        "orbax", "grain", "matplotlib", "tensorboardX", "tqdm", "tensorflow_datasets", "tensorflow", "sklearn", "onnx",
        "onnxruntime", "huggingface_hub",
    )  # fmt: skip
    seen = _python(
        f"""
        import sys
        import alexnet_jax as alexnet
        print("jax" in sys.modules)
        alexnet.build, alexnet.load, alexnet.Classifier
        alexnet.build("alexnet", classes=2)
        print(sorted(set({heavy!r}) & sys.modules.keys()))
        """
    ).split("\n")
    assert seen[:2] == ["False", "[]"]


# ---------------------------------------------------------------- the way from disk to loss


def test_a_batch_walks_through_few_files() -> None:
    """The files whose code runs between a record on the disk and the loss, seen by tracing a step and its batch."""
    assert disk_to_loss.files() == [
        "alexnet_jax/data/feed.py",
        "alexnet_jax/data/sources.py",
        "alexnet_jax/data/augment.py",
        "alexnet_jax/model/towers.py",
        "alexnet_jax/train/step.py",
        "alexnet_jax/model/preprocess.py",
        "alexnet_jax/model/alexnet.py",
        "alexnet_jax/model/layers.py",
        "alexnet_jax/model/cpu_products.py",
    ]
