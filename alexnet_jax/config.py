"""The config at its borders: loaded by name or path, changed field by field, checked, saved beside a run, read back.

Which fields there are and what they mean is in `configs/alexnet.py`; what is allowed is in `allowed.py`.
"""

import ast
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import files
from alexnet_jax.allowed import BY_LAYER, check
from alexnet_jax.errors import AlexNetError

SAVED_AS, CLASSES = "config.json", "classes.txt"

# ---------------------------------------------------------------- a recipe, by name or path


def recipe_names() -> list[str]:
    """The recipes that come with the package, sorted."""
    return sorted(_recipe_files())


def load_recipe(text: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of RECIPE[:DATA], with "section.field=value" set in it, checked.

    RECIPE is the name of one of the package's recipes (alexnet, half, ...) or the path of a Python file with
    `get_config(data_name)`. Raises AlexNetError.
    """
    config = _get_config(text)
    try:
        check(config)
    except AlexNetError as error:
        raise AlexNetError(f"config={text}: {error}") from error
    for override in overrides:
        _set(config, override)
    config.lock()
    check(config)
    return config


def recipe_module(name: str) -> Any:
    """The module of one of the package's recipes. Raises AlexNetError for another name."""
    found = _recipe_files()
    if name not in found:
        raise AlexNetError(
            f"There is no recipe {name!r}: use one of {', '.join(recipe_names())}, or the path of a file."
        )
    folder = "configs.ablations" if found[name].parent.name == "ablations" else "configs"
    return importlib.import_module(f"alexnet_jax.{folder}.{name}")


def _recipe_files() -> dict[str, Path]:
    from alexnet_jax.configs import alexnet

    folder = Path(alexnet.__file__).parent
    paths = [*folder.glob("*.py"), *(folder / "ablations").glob("*.py")]
    return {path.stem: path for path in paths if path.stem not in ("__init__", "datasets")}


def _get_config(text: str) -> ConfigDict:
    path, colon, data_name = text.partition(":")
    if not path.strip() or (colon and not data_name.strip()):
        what = "data set" if path.strip() else "recipe"
        raise AlexNetError(
            f"config={text} names no {what}: write RECIPE or RECIPE:DATA, such as config=alexnet:digits."
        )
    by_name = "/" not in path and not path.endswith(".py")
    module = recipe_module(path) if by_name else _module_of(Path(path))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise AlexNetError(f"config={path} has no function get_config(data_name), so it is not a recipe.")
    try:
        config = get_config(data_name) if data_name else get_config()
    except (Exception, SystemExit) as error:  # whatever somebody's own file raises
        raise AlexNetError(
            f"config={text}: its get_config raised {type(error).__name__}: {_first_line(error)}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise AlexNetError(f"config={path}: its get_config returned a {type(config).__name__}, not a ConfigDict.")
    return config


def _module_of(path: Path) -> Any:
    with files.named(path, "read"):
        if not path.exists():
            raise AlexNetError(
                f"config={path}: there is no such file; the recipes by name are {', '.join(recipe_names())}."
            )
    if path.is_dir() or path.suffix != ".py":
        raise AlexNetError(f"config={path} is not a Python file with a recipe.")
    spec = importlib.util.spec_from_file_location("recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise AlexNetError(f"config={path} cannot be read: {type(error).__name__}: {_first_line(error)}") from error
    return module


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".") + "."


# ---------------------------------------------------------------- overrides: section.field=value

_TYPES = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a tuple, such as (1,2)", str: "text"}


def _set(config: ConfigDict, override: str) -> None:
    """Sets the field of "section.field=value". Raises AlexNetError, naming the field that is wrong."""
    name, equals, text = override.partition("=")
    if not equals:
        raise AlexNetError(f"config.{name} has no value: write config.{name}=VALUE.")
    *sections, last = name.split(".")
    here: Any = config
    for depth, key in enumerate([*sections, last]):
        at = ".".join(["config", *sections[:depth]])
        if not isinstance(here, ConfigDict):
            raise AlexNetError(f"config.{name}: {at} is a single value, without fields of its own.")
        if depth == len(sections):
            break
        if key not in here:
            raise AlexNetError(f"config.{name}: {at} has no field {key!r}; it has {', '.join(here.keys())}.")
        here = here[key]
    by_layer = len(sections) == 2 and sections[0] == "train" and sections[1] in BY_LAYER
    if by_layer and last in config.model.layers:
        old: Any = BY_LAYER[sections[1]]
    elif last not in here:
        known = config.model.layers if by_layer else here.keys()
        raise AlexNetError(
            f"config.{name}: {'.'.join(['config', *sections])} has no field {last!r}; it has {', '.join(known)}."
        )
    else:
        old = here[last]
    if isinstance(old, ConfigDict):
        raise AlexNetError(f"config.{name} is a section: set one of its fields: {', '.join(old.keys())}.")
    here[last] = _parsed(name, text, type(old))


def _parsed(name: str, text: str, kind: type) -> Any:
    """`text` as a value of `kind`. Raises AlexNetError."""
    shown = text if len(text) <= 100 else text[:100] + "..."
    wrong = AlexNetError(f"config.{name}={shown} is not possible: it must be {_TYPES[kind]}.")
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise wrong
        return text.lower() in ("true", "1")
    try:
        value: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        # ast reads no inf and no nan: both are told by the check that numbers are finite.
        if kind is float and re.fullmatch(r"[+-]?(inf|nan)(inity)?", text.lower()):
            return float(text)
        raise wrong from None
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise wrong
    try:
        return float(value) if kind is float else value  # type: ignore[arg-type]
    except OverflowError:
        raise wrong from None


# ---------------------------------------------------------------- beside a run


def save(config: ConfigDict, class_names: tuple[str, ...], workdir: Path) -> None:
    """The resolved config as `config.json` in `workdir`, and beside it the classes' names in label order."""
    files.write_text(workdir / SAVED_AS, json.dumps(config.to_dict(), indent=2) + "\n")
    files.write_text(workdir / CLASSES, "".join(name + "\n" for name in class_names))


def load(workdir: Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of the run in `workdir`, with "section.field=value" set in it. Raises AlexNetError."""
    path = workdir / SAVED_AS
    if not path.exists():
        raise AlexNetError(f"There is no run in {workdir}: it has no {SAVED_AS}. Name the folder of a run.")
    saved = files.read_json(path)
    if not isinstance(saved, dict):
        raise AlexNetError(
            f"{path} is not the config of a run: it holds a {type(saved).__name__}: restore it from a copy."
        )
    try:
        config = ConfigDict(tuples(_with_later_fields(saved)))
        check(config)
    except (AlexNetError, ValueError, RecursionError) as error:  # ValueError: a name with a dot in it
        raise AlexNetError(f"{path} is not the config of a run: {_first_line(error)}") from error
    for override in overrides:
        _set(config, override)
    config.lock()
    check(config)
    return config


# Fields that came later, and what a run does that was saved without them.
LATER = {
    "precision": "float32",
    "data.cache": True,
    "data.random_crop": True,
    "data.color_noise_again": (),
    "log.track": "",
    "mesh.hybrid": False,
    "mesh.exchange_dtype": "float32",
    "train.decays": {},
    "train.raise_epochs": (),
    "train.raise_factor": 100.0,
    "train.warmup_epochs": 0.0,
    "train.lars": 0.0,
    "train.label_smoothing": 0.0,
    "train.ema_decay": 0.0,
    "train.accumulate": 1,
    "train.rollbacks": 0,
}


def _with_later_fields(saved: dict[str, Any]) -> dict[str, Any]:
    for name, value in LATER.items():
        section, _, field = name.rpartition(".")
        here = saved.get(section) if section else saved
        if isinstance(here, dict):
            here.setdefault(field, value)
    return saved


def load_classes(workdir: Path) -> tuple[str, ...]:
    """The names of the classes of the run in `workdir`, in label order. Raises AlexNetError."""
    path = workdir / CLASSES
    names = tuple(files.read_text(path).split("\n"))
    names = names[:-1] if names[-1] == "" else names  # a hand-edited file may lack the last newline
    if not names or not all(names):
        raise AlexNetError(
            f"{path} must hold the classes, one per line, in label order: it is empty or has empty lines."
        )
    return names


def check_classes(workdir: Path, names: tuple[str, ...]) -> None:
    """Raises AlexNetError if the run in `workdir` has other classes than a data set with these names."""
    theirs = load_classes(workdir)
    for label, (our, their) in enumerate(itertools.zip_longest(names, theirs)):
        if our != their:
            raise AlexNetError(
                f"The run in {workdir} has {len(theirs)} classes and the data set {len(names)}, and label {label} is "
                f"{their or 'none'} in the run and {our or 'none'} in the data: use the data set it was trained on, or "
                "another workdir."
            )


def tuples(value: Any) -> Any:
    """Lists as tuples: JSON has no tuples, and ml_collections takes a list for another type."""
    if isinstance(value, dict):
        return {key: tuples(part) for key, part in value.items()}
    return tuple(tuples(part) for part in value) if isinstance(value, list) else value


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[tuple[str, Any, Any]]:
    """[(field, our value, their value)] of every leaf that differs; None where there is none."""
    left, right = (dict(flat(c)) for c in (ours, theirs))
    keys = sorted(left.keys() | right.keys())
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def flat(config: ConfigDict, path: str = "") -> Iterator[tuple[str, Any]]:
    """(section.field, value) of every leaf."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat(value, f"{path}{key}.")
        else:
            yield path + key, value
