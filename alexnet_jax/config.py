"""The config at its borders: checked before anything runs, saved beside the run, read back.

Which fields there are and what they mean is in `configs/alexnet.py`; only what is allowed is here.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import AlexNetError
from alexnet_jax.data import Split
from alexnet_jax.model import OPERATIONS

SAVED_AS, CLASSES = "config.json", "classes.txt"

_Rule = tuple[Callable[[Any], bool], str]


def _at_least(low: float) -> _Rule:
    return lambda v: v >= low, f"at least {low}"


def _between(low: float, high: float) -> _Rule:
    return lambda v: low <= v < high, f"at least {low} and below {high}"


def _one_of(*allowed: Any) -> _Rule:
    return lambda v: v in allowed, "one of " + ", ".join(map(repr, allowed))


_ABOVE_0: _Rule = (lambda v: v > 0, "above 0")
_NAME: _Rule = (lambda v: bool(v.strip()), "a name, not empty")
_ANY: _Rule = (lambda v: True, "anything of its type")
_EPOCHS: _Rule = (lambda v: all(b > a for a, b in zip((0, *v), v, strict=False)), "epochs in rising order, above 0")
_WORDS: _Rule = (lambda v: all(w in OPERATIONS for w in v.split()), f"words of: {' '.join(OPERATIONS)}")

_WINDOW = {"size": _at_least(1), "alpha": _at_least(0), "beta": _at_least(0), "k": _ABOVE_0}
_VECTORS: _Rule = (lambda v: len(v) in (0, 3) and all(len(u) == 3 for u in v), "three times three numbers, or ()")
_DEVIATIONS: _Rule = (lambda v: len(v) in (0, 3) and all(d >= 0 for d in v), "three numbers, at least 0, or ()")
_INIT = {"then": _WORDS, "init_std": _at_least(0), "init_bias": _ANY}
_PADDING: _Rule = (lambda v: len(v) == 2 and all(isinstance(p, int) and p >= 0 for p in v), "two numbers of pixels")

# A rule for every field; a field without one is an error in the config file.
_ALLOWED: dict[str, Any] = {
    "data": {
        "name": _NAME,
        "data_dir": _ANY,
        "train_split": _NAME,
        "eval_split": _ANY,
        "resize_pixels": _at_least(1),
        "crop_pixels": _at_least(1),
        "flip": _ANY,
        "mean": (lambda v: len(v) in (0, 3) and all(0 <= m <= 255 for m in v), "three numbers from 0 to 255, or ()"),
        "square": _ANY,
        "crop_chunk": _at_least(1),
        "mean_image": _ANY,
        "deviation": (lambda v: len(v) == 3 and all(d > 0 for d in v), "three numbers above 0"),
        "bgr": _ANY,
        "colour_noise": _at_least(0),
        "colour_form": _one_of("deviations", "eigenvalues"),
        "colour_deviations": _DEVIATIONS,
        "colour_vectors": _VECTORS,
        "colour_end_epoch": _at_least(0),
        "threads": _at_least(0),
        "workers": _at_least(-1),
        "prefetch_batches": _at_least(1),
        "max_bad_records": _at_least(0),
    },
    "model": {
        "towers": _at_least(1),
        "layers": (lambda v: len(v) > 0 and len(set(v)) == len(v), "names of layers, each once"),
        "exchange": _ANY,
        "init": _one_of("normal", "fan_in"),
        "weight_norm": _ANY,
        "norm": _WINDOW | {"alpha_over_size": _ANY, "across_towers": _ANY},
        "spatial_norm": _WINDOW,
        "batch_norm": {"momentum": _between(0, 1), "epsilon": _ABOVE_0},
        "pool": {"kind": _one_of("max", "avg"), "size": _at_least(1), "stride": _at_least(1), "ceil": _ANY},
        "dropout": {"rate": _between(0, 1), "inverted": _ANY},
    },
    "init_from": _ANY,
    "mesh": {"tower": _at_least(0)},
    "train": {
        "batch_size": _at_least(1),
        "epochs": _ABOVE_0,
        "steps": _at_least(0),
        "seed": _between(0, 2**31),
        "learning_rate": _at_least(0),
        "bias_rate": _at_least(0),
        "rates": _at_least(0),  # of every layer
        "schedule": _one_of("steps", "constant", "plateau", "dexp", "polynomial"),
        "drop_epochs": _EPOCHS,
        "drop_factor": _ABOVE_0,
        "bias_drop_epochs": _EPOCHS,
        "own_drop_epochs": _EPOCHS,
        "freeze_epochs": _at_least(0),
        "plateau": {"patience": _at_least(1), "drops": _at_least(0)},
        "dexp": {
            "factor": _ABOVE_0,
            "pieces": _at_least(1),
            "bias_factor": _ABOVE_0,
            "bias_pieces": _at_least(1),
        },
        "power": _at_least(0),
        "momentum": _between(0, 1),
        "weight_decay": _at_least(0),
    },
    "eval": {"batch_size": _at_least(1), "every_epochs": _at_least(1)},
    "checkpoint": {"every_steps": _at_least(1), "keep": _at_least(1)},
    "log": {"every_steps": _at_least(1)},
}
_BY_LAYER = ("rates", "own_drop_epochs", "freeze_epochs")  # sections with a field for each layer
_CONV = _INIT | {"maps": _at_least(1), "kernel": _at_least(1), "stride": _at_least(1), "padding": _PADDING}
_DENSE = _INIT | {"units": _at_least(0)}


def check(config: ConfigDict) -> None:
    """Raises AlexNetError, naming the field and what is allowed, for the first value that cannot be."""
    model = config.model
    for name in model.layers:
        if name not in model:
            raise AlexNetError(f"config.model.layers names {name!r}, but there is no config.model.{name}.")
    layers = {key: _CONV if "maps" in model[key] else _DENSE for key in model if key not in _ALLOWED["model"]}
    by_layer = {key: dict.fromkeys(layers, _ALLOWED["train"][key]) for key in _BY_LAYER}
    rules = _ALLOWED | {"model": _ALLOWED["model"] | layers, "train": _ALLOWED["train"] | by_layer}
    for path, value, rule in _leaves(config, rules, "config"):
        allowed, words = rule
        if not allowed(value):
            raise AlexNetError(f"{path}={value!r} is not possible: it must be {words}.")
    unknown = [name for name in model.exchange if name not in model.layers]
    if unknown:
        raise AlexNetError(f"config.model.exchange names {unknown[0]!r}: it must be of {', '.join(model.layers)}.")
    without = [name for name in model.layers if name not in config.train.rates]
    if without:
        raise AlexNetError(f"config.train.rates has no {without[0]!r}: it must have a rate for every layer.")
    if len(config.data.colour_deviations) != len(config.data.colour_vectors):
        raise AlexNetError(
            "config.data.colour_vectors must be () where config.data.colour_deviations is, and only there."
        )
    last = model.layers[-1]
    if "maps" in model[last] or model[last].then:
        raise AlexNetError(
            f"config.model.{last} is the last layer: it must be fully connected, with config.model.{last}.then empty."
        )
    if config.data.crop_pixels > config.data.resize_pixels:
        raise AlexNetError(
            f"config.data.crop_pixels={config.data.crop_pixels} is not possible: "
            f"it must be at most config.data.resize_pixels={config.data.resize_pixels}."
        )


def check_batches(config: ConfigDict, data_parallel: int) -> None:
    """Raises AlexNetError when a batch does not divide over the `data_parallel` rows of the mesh."""
    for path, size in (("train", config.train.batch_size), ("eval", config.eval.batch_size)):
        if size % data_parallel:
            raise AlexNetError(
                f"config.{path}.batch_size={size} does not divide over the mesh: "
                f"it must be a multiple of {data_parallel}, the size of the axis data."
            )


def _leaves(config: ConfigDict, rules: dict[str, Any], path: str) -> Iterator[tuple[str, Any, _Rule]]:
    for key, value in config.items():
        here = f"{path}.{key}"
        if key not in rules:
            raise AlexNetError(f"{here} is no field of this program: remove it from the config file.")
        if isinstance(value, ConfigDict):
            yield from _leaves(value, rules[key], here)
        else:
            yield here, value, rules[key]


def save(config: ConfigDict, class_names: tuple[str, ...], workdir: Path) -> None:
    """The resolved config as `config.json` in `workdir`, and beside it the classes' names in label order."""
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    (workdir / SAVED_AS).write_text(text)
    (workdir / CLASSES).write_text("".join(name + "\n" for name in class_names), encoding="utf-8")


def check_classes(workdir: Path, split: Split) -> None:
    """Raises AlexNetError where the run in `workdir` knows other classes than the data set."""
    ours, theirs = split.class_names, load_classes(workdir)
    for label, (our, their) in enumerate(itertools.zip_longest(ours, theirs)):
        if our != their:
            raise AlexNetError(
                f"The run in {workdir} has {len(theirs)} classes and the data set {len(ours)}, and label {label} is "
                f"{their or 'none'} for the run and {our or 'none'} for the data: use the data set it was trained on, "
                "or another --workdir."
            )


def load_classes(workdir: Path) -> tuple[str, ...]:
    """The names of the classes of the run in `workdir`, in label order."""
    return tuple((workdir / CLASSES).read_text(encoding="utf-8").split("\n")[:-1])


def load(workdir: Path) -> ConfigDict:
    """The config of the run in `workdir`. Raises AlexNetError when there is no run."""
    path = workdir / SAVED_AS
    if not path.exists():
        raise AlexNetError(
            f"There is no run in {workdir}: it has no {SAVED_AS}. Name the folder of one with --workdir."
        )
    config = ConfigDict(tuples(json.loads(path.read_text())))
    config.lock()
    return config


def tuples(value: Any) -> Any:
    """JSON knows no tuples, and ml_collections takes a list for another type."""
    if isinstance(value, dict):
        return {key: tuples(part) for key, part in value.items()}
    return tuple(tuples(part) for part in value) if isinstance(value, list) else value


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[tuple[str, Any, Any]]:
    """[(field, our value, their value)] of every leaf that is not the same; None where there is none."""
    left, right = (dict(_flat(c)) for c in (ours, theirs))
    keys = sorted(left.keys() | right.keys())
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def _flat(config: ConfigDict, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield path + key, value
