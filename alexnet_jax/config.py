"""The config: a recipe by name or path, its fields as the command line sets them, and what is saved beside a run.

Which fields there are and what they may be is in `schema.py`; the 2012 recipe with a line for each is
`configs/alexnet.py`.
"""

import difflib
import importlib
import itertools
import json
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags
from ml_collections.config_dict import placeholder

from alexnet_jax import files, schema
from alexnet_jax.errors import AlexNetError
from alexnet_jax.schema import Role as Role  # noqa: PLC0414

SAVED_AS, CLASSES = "config.json", "classes.txt"
Overrides = Mapping[str, Any] | Sequence[str]


def recipe_names() -> list[str]:
    """The recipes that come with the package, sorted."""
    return sorted(_recipe_files())


def load_recipe(text: str, overrides: Overrides = ()) -> ConfigDict:
    """The config of RECIPE[:DATA], checked and locked.

    RECIPE is the name of one of the package's recipes (alexnet, half, ...) or the path of a Python file with
    `get_config(data_name)`. `overrides`: {"section.field": value}, or "section.field=value" as on the command line;
    the last one of a field counts. Raises AlexNetError, and whatever somebody's own recipe raises.
    """
    return _checked(find_recipe(text), overrides)


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
    from alexnet_jax import configs

    folder = Path(configs.__file__).parent
    paths = [*folder.glob("*.py"), *(folder / "ablations").glob("*.py")]
    return {path.stem: path for path in paths if path.stem != "__init__"}


def find_recipe(text: str) -> ConfigDict:
    """The config of RECIPE[:DATA] as its `get_config` makes it, neither checked nor locked. Raises AlexNetError."""
    path, colon, data_name = text.partition(":")
    if not path.strip() or (colon and not data_name.strip()):
        what = "data set" if path.strip() else "recipe"
        raise AlexNetError(
            f"config={text} names no {what}: write RECIPE or RECIPE:DATA, such as config=alexnet:digits."
        )
    by_name = "/" not in path and not path.endswith(".py")
    get_config = (vars(recipe_module(path)) if by_name else _run(Path(path))).get("get_config")
    if not callable(get_config):
        raise AlexNetError(f"config={path} has no function get_config(data_name), so it is not a recipe.")
    config = get_config(data_name) if data_name else get_config()
    if not isinstance(config, ConfigDict):
        raise AlexNetError(f"config={path}: its get_config returned a {type(config).__name__}, not a ConfigDict.")
    return ConfigDict(config) if isinstance(config, FrozenConfigDict) else config


def _run(path: Path) -> dict[str, Any]:
    """The names that a recipe defines which is a file of somebody's own."""
    with files.named(path, "read"):
        if not path.exists():
            raise AlexNetError(
                f"config={path}: there is no such file; the recipes by name are {', '.join(recipe_names())}."
            )
    if path.is_dir() or path.suffix != ".py":
        raise AlexNetError(f"config={path} is not a Python file with a recipe.")
    return runpy.run_path(str(path), run_name=f"_recipe_{path.stem}")


_KINDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    tuple: "a tuple, such as 5,7 or (5,7) or (30,)", ConfigDict: "a section: set one of its fields",
}  # fmt: skip


def override(config: ConfigDict, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Sets in `config` each --config.section.field=value of `argv`, by the grammar of `ml_collections.config_flags`.

    Returns {field: value} of these and the other arguments, and locks the config. What --config.train.rates.conv1 and
    the other fields by layer set need not be in the recipe. Raises AlexNetError.
    """
    named = [found[1] for argument in argv if (found := re.match(r"--?(?:no)?config\.([^=]*)", argument))]
    kinds = {name: _kind(config, name) for name in named}
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["", *argv])
        _, *rest = values(["", *argv], known_only=True)
    except (flags.Error, ValueError) as error:
        line = str(error).splitlines()[0].removeprefix("flag ")[:300]
        wrong = next((name for name in named if line.startswith(f"--config.{name}=")), None)
        if wrong and kinds[wrong] in _KINDS:
            line = f"config.{wrong} must be {_KINDS[kinds[wrong]]} ({line})"
        raise AlexNetError(f"{line}.") from None
    return values["config"].override_values, rest


def _kind(config: ConfigDict, name: str) -> type:
    """The type of a field. Makes room for one by layer that the recipe does not have. Raises AlexNetError."""
    *sections, last = name.split(".")
    here: Any = config
    for depth, key in enumerate([*sections, last]):
        at = ".".join(["config", *sections[:depth]])
        if not isinstance(here, ConfigDict):
            raise AlexNetError(f"config.{name}: {at} is a single value, without fields of its own.")
        if key not in here:
            break
        if depth == len(sections):
            return here.get_type(key)
        here = here[key]
    row = schema.FIELDS.get(f"{'.'.join(sections)}.<layer>")
    if row and last in config.model.layers:
        with config.unlocked():
            here[last] = placeholder(row.kind)
        return row.kind
    known = list(config.model.layers if row else here)
    near = difflib.get_close_matches(key, known, n=1)
    meant = f"did you mean {near[0]!r}? It has" if near else "it has"
    raise AlexNetError(f"config.{name}: {at} has no field {key!r}; {meant} {', '.join(known)}.")


def _checked(config: ConfigDict, overrides: Overrides) -> ConfigDict:
    texts = [f"{k}={v}" for k, v in overrides.items()] if isinstance(overrides, Mapping) else overrides
    override(config, [f"--config.{text}" for text in {text.partition("=")[0]: text for text in texts}.values()])
    schema.check(config)
    return config


def save(config: ConfigDict, class_names: tuple[str, ...], workdir: Path) -> None:
    """The resolved config as `config.json` in `workdir`, and beside it the classes' names in label order."""
    files.write_text(workdir / SAVED_AS, json.dumps(config.to_dict(), indent=2) + "\n")
    files.write_text(workdir / CLASSES, "".join(name + "\n" for name in class_names))


def load(workdir: Path, overrides: Overrides = ()) -> ConfigDict:
    """The config of the run in `workdir`, checked and locked; `overrides` as in `load_recipe`. Raises AlexNetError."""
    path = workdir / SAVED_AS
    if not path.exists():
        raise AlexNetError(f"There is no run in {workdir}: it has no {SAVED_AS}. Name the folder of a run.")
    saved = files.read_json(path)
    if not isinstance(saved, dict):
        raise AlexNetError(
            f"{path} is not the config of a run: it holds a {type(saved).__name__}: restore it from a copy."
        )
    schema.add_older(saved)
    try:
        config = ConfigDict(tuples(saved))
        schema.check(config)
    except (AlexNetError, ValueError, RecursionError) as error:  # ValueError: a name with a dot in it
        why = (str(error).splitlines() or [""])[0].rstrip(".")
        raise AlexNetError(f"{path} is not the config of a run: {why}.") from error
    return _checked(config, overrides)


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


def flat(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    """(section.field, value) of every leaf."""
    return ((name, value) for name, value in schema.walk(config) if not isinstance(value, ConfigDict))


def differences(ours: ConfigDict, theirs: ConfigDict, role: Role = Role.HOST) -> list[tuple[str, Any, Any]]:
    """[(field, our value, their value)] of every leaf that differs; None where there is none.

    With `role` only of fields that make as much of a run: with Role.RUN those under which a run is not resumed.
    """
    left, right = dict(flat(ours)), dict(flat(theirs))
    return [
        (name, left.get(name), right.get(name))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name) and _role(name) >= role
    ]


def _role(name: str) -> Role:
    row = schema.field(name)
    return row.role if row else Role.NETWORK
