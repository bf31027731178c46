"""What a config may say: a rule for every field, and the check that names the first field that breaks one."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import AlexNetError
from alexnet_jax.model.alexnet import OPERATIONS

_Rule = tuple[Callable[[Any], bool], str]
# Sections of train with a field for each layer that is named there, and what kind of value it has.
BY_LAYER: dict[str, Any] = {"rates": 1.0, "decays": 0.0, "own_drop_epochs": (), "freeze_epochs": 0}


def _number(v: Any) -> bool:
    return _whole(v) or (isinstance(v, float) and math.isfinite(v))


def _whole(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**63


def _numbers(v: Any) -> bool:
    return isinstance(v, tuple) and all(map(_number, v))


def _at_least(low: float) -> _Rule:
    return lambda v: _number(v) and v >= low, f"a finite number of at least {low}"


def _count(low: int, most: int = 2**31 - 1) -> _Rule:
    return lambda v: _whole(v) and low <= v <= most, f"a whole number from {low} to {most:,}"


def _between(low: float, high: float) -> _Rule:
    return lambda v: _number(v) and low <= v < high, f"at least {low} and below {high}"


def _one_of(*allowed: Any) -> _Rule:
    return lambda v: isinstance(v, str) and v in allowed, "one of " + ", ".join(map(repr, allowed))


def _names(v: Any) -> bool:
    return isinstance(v, tuple) and all(isinstance(name, str) for name in v) and len(set(v)) == len(v)


def _rising(v: Any) -> bool:
    return _numbers(v) and all(map(_whole, v)) and all(b > a for a, b in zip((0, *v), v, strict=False))


_ABOVE_0: _Rule = (lambda v: _number(v) and v > 0, "a number above 0")
_FINITE: _Rule = (_number, "a finite number")
_NAME: _Rule = (lambda v: isinstance(v, str) and bool(v.strip()), "a name, not empty")
_TEXT: _Rule = (lambda v: isinstance(v, str), "text")
_FLAG: _Rule = (lambda v: isinstance(v, bool), "true or false")
_EPOCHS: _Rule = (_rising, "whole epochs in rising order, above 0")
_TWO_EPOCHS: _Rule = (lambda v: _rising(v) and len(v) in (0, 2), "two whole epochs in rising order, above 0, or ()")
_WORDS: _Rule = (
    lambda v: isinstance(v, str) and all(w in OPERATIONS for w in v.split()),
    f"words of: {' '.join(OPERATIONS)}",
)
TRACKERS = ("wandb", "trackio")
_TRACKERS: _Rule = (
    lambda v: isinstance(v, str) and all(w in TRACKERS for w in v.split()) and len(set(v.split())) == len(v.split()),
    f"words of: {' '.join(TRACKERS)}",
)
_MEAN: _Rule = (
    lambda v: _numbers(v) and len(v) in (0, 3) and all(0 <= m <= 255 for m in v),
    "three numbers from 0 to 255, or ()",
)
_STD: _Rule = (lambda v: _numbers(v) and len(v) == 3 and all(d > 0 for d in v), "three numbers above 0")
_COLOR_STD: _Rule = (
    lambda v: _numbers(v) and len(v) in (0, 3) and all(d >= 0 for d in v),
    "three numbers, at least 0, or ()",
)
_VECTORS: _Rule = (
    lambda v: isinstance(v, tuple) and len(v) in (0, 3) and all(_numbers(u) and len(u) == 3 for u in v),
    "three times three numbers, or ()",
)
_PADDING: _Rule = (
    lambda v: isinstance(v, tuple) and len(v) == 2 and all(_whole(p) and 0 <= p <= 1000 for p in v),
    "two numbers of pixels, such as (1,1)",
)
_WINDOW = {"size": _count(1, 1000), "alpha": _at_least(0), "beta": _at_least(0), "k": _ABOVE_0}
_LAYER = {"post_ops": _WORDS, "init_std": _at_least(0), "init_bias": _FINITE}
_CONV = _LAYER | {
    "features": _count(1, 100_000),
    "kernel_size": _count(1, 1000),
    "stride": _count(1, 1000),
    "padding": _PADDING,
}
_DENSE = _LAYER | {"features": _count(0, 10_000_000)}
_PIXELS = _count(1, 4096)

# A rule for every field; a field without one is an error in the config file.
_ALLOWED: dict[str, Any] = {
    "data": {
        "name": _NAME,
        "data_dir": _TEXT,
        "train_split": _NAME,
        "eval_split": _TEXT,
        "resize_pixels": _PIXELS,
        "crop_pixels": _PIXELS,
        "random_crop": _FLAG,
        "center_square": _FLAG,
        "crop_chunk": _count(1),
        "flip": _FLAG,
        "mean": _MEAN,
        "mean_image": _FLAG,
        "std": _STD,
        "bgr": _FLAG,
        "color_noise": _at_least(0),
        "color_noise_form": _one_of("std", "eigenvalues"),
        "color_std": _COLOR_STD,
        "color_vectors": _VECTORS,
        "color_noise_end_epoch": _at_least(0),
        "color_noise_again": _TWO_EPOCHS,
        "threads": _count(0, 256),
        "workers": _count(-1, 256),
        "prefetch_batches": _count(1, 1000),
        "cache": _FLAG,
        "max_bad_records": _count(0),
    },
    "model": {
        "towers": _count(1, 64),
        "layers": (lambda v: _names(v) and len(v) > 0, "names of layers, each once"),
        "exchange": (_names, "names of layers, each once"),
        "init": _one_of("normal", "fan_in"),
        "weight_norm": _FLAG,
        "norm": _WINDOW | {"alpha_over_size": _FLAG, "across_towers": _FLAG},
        "spatial_norm": _WINDOW,
        "batch_norm": {"momentum": _between(0, 1), "epsilon": _ABOVE_0},
        "pool": {
            "kind": _one_of("max", "avg"),
            "size": _count(1, 1000),
            "stride": _count(1, 1000),
            "ceil": _FLAG,
        },
        "dropout": {"rate": _between(0, 1), "inverted": _FLAG},
    },
    "precision": _one_of("auto", "float32", "bfloat16"),
    "init_from": _TEXT,
    "mesh": {"tower": _count(0, 64), "hybrid": _FLAG, "exchange_dtype": _one_of("float32", "bfloat16")},
    "train": {
        "batch_size": _count(1, 1_000_000),
        "epochs": _ABOVE_0,
        "steps": _count(0),
        "seed": _count(0),
        "learning_rate": _at_least(0),
        "bias_rate": _at_least(0),
        "rates": _at_least(0),  # of every layer
        "decays": _at_least(0),
        "schedule": _one_of("steps", "constant", "plateau", "dexp", "polynomial", "cosine"),
        "warmup_epochs": _at_least(0),
        "drop_epochs": _EPOCHS,
        "drop_factor": _ABOVE_0,
        "raise_epochs": _EPOCHS,
        "raise_factor": _ABOVE_0,
        "bias_drop_epochs": _EPOCHS,
        "own_drop_epochs": _EPOCHS,
        "freeze_epochs": _at_least(0),
        "plateau": {"patience": _count(1), "drops": _count(0)},
        "dexp": {
            "factor": _ABOVE_0,
            "pieces": _count(1, 1000),
            "bias_factor": _ABOVE_0,
            "bias_pieces": _count(1, 1000),
        },
        "power": _at_least(0),
        "momentum": _between(0, 1),
        "weight_decay": _at_least(0),
        "lars": _at_least(0),
        "label_smoothing": _between(0, 1),
        "ema_decay": _between(0, 1),
        "accumulate": _count(1, 1_000_000),
        "rollbacks": _count(0, 1000),
    },
    "eval": {
        "batch_size": _count(1, 1_000_000),
        "every_epochs": _count(1),
        "views": _one_of("all", "center"),
    },
    "checkpoint": {"every_steps": _count(1), "keep": _count(1)},
    "log": {"every_steps": _count(1), "track": _TRACKERS},
}


def check(config: ConfigDict) -> None:
    """Raises AlexNetError, naming the field and what is allowed, for the first value that is not."""
    _check_sections(config)
    model = config.model
    layers = {key: _CONV if "kernel_size" in model[key] else _DENSE for key in model if key not in _ALLOWED["model"]}
    by_layer = {key: dict.fromkeys(layers, _ALLOWED["train"][key]) for key in BY_LAYER}
    rules = _ALLOWED | {"model": _ALLOWED["model"] | layers, "train": _ALLOWED["train"] | by_layer}
    for path, value, rule in _leaves(config, rules, "config"):
        allowed, words = rule
        if not allowed(value):
            raise AlexNetError(f"{path}={_shown(value)} is not possible: it must be {words}.")
    _check_layers(config)
    if config.mesh.hybrid and config.mesh.tower > 1:
        raise AlexNetError(
            f"config.mesh.hybrid=True has all towers on every device, so config.mesh.tower={config.mesh.tower} is not "
            "possible: use 1, or 0."
        )
    if config.mesh.hybrid and config.train.lars:
        raise AlexNetError(
            f"config.train.lars={config.train.lars} needs the norms of whole layers, and config.mesh.hybrid=True "
            "splits them: use one of the two."
        )
    if len(config.data.color_std) != len(config.data.color_vectors):
        raise AlexNetError("config.data.color_vectors must be () where config.data.color_std is, and only there.")
    if config.data.crop_pixels > config.data.resize_pixels:
        raise AlexNetError(
            f"config.data.crop_pixels={config.data.crop_pixels} is not possible: "
            f"it must be at most config.data.resize_pixels={config.data.resize_pixels}."
        )


def _check_sections(config: ConfigDict) -> None:
    """All sections and layers must be there before their fields can be checked."""
    for section, rule in _ALLOWED.items():
        if section not in config or isinstance(config[section], ConfigDict) != isinstance(rule, dict):
            raise AlexNetError(f"The config has no {'section' if isinstance(rule, dict) else 'field'} {section!r}.")
        missing = [field for field in rule if field not in config[section]] if isinstance(rule, dict) else []
        if missing:
            raise AlexNetError(f"The config has no field config.{section}.{missing[0]}.")
    if not _names(config.model.layers) or not config.model.layers:
        raise AlexNetError(f"config.model.layers={config.model.layers!r} is not possible: it must be names of layers.")
    for name in config.model.layers:
        if not isinstance(config.model.get(name), ConfigDict):
            raise AlexNetError(f"config.model.layers names {name!r}, but there is no config.model.{name}.")
        missing = [f for f in (_CONV if "kernel_size" in config.model[name] else _DENSE) if f not in config.model[name]]
        if missing:
            raise AlexNetError(f"The config has no field config.model.{name}.{missing[0]}.")


def _check_layers(config: ConfigDict) -> None:
    model, numbers = config.model, dict[str, str]()
    for name in model.layers:
        number = name.lstrip("convf")
        if not re.fullmatch(r"(conv|fc)[0-9]+", name):
            raise AlexNetError(
                f"config.model.layers names {name!r}: a layer is conv or fc with a number, such as conv6."
            )
        if number in numbers:
            raise AlexNetError(
                f"config.model.layers has {numbers[number]} and {name}: their numbers must differ, since pool{number} "
                "must be one operation."
            )
        numbers[number] = name
    for field, section in (("exchange", model.exchange), *((f"train.{key}", config.train[key]) for key in BY_LAYER)):
        unknown = [name for name in section if name not in model.layers]
        if unknown:
            where = "model.exchange" if field == "exchange" else field
            raise AlexNetError(f"config.{where} names {unknown[0]!r}: it must be one of {', '.join(model.layers)}.")
    last = model.layers[-1]
    if "kernel_size" in model[last] or model[last].post_ops:
        raise AlexNetError(
            f"config.model.{last} is the last layer: it must be fully connected, without config.model.{last}.post_ops."
        )
    first_dense = next(i for i, name in enumerate(model.layers) if "kernel_size" not in model[name])
    if late := [name for name in model.layers[first_dense:] if "kernel_size" in model[name]]:
        raise AlexNetError(
            f"config.model.layers has {late[0]} after {model.layers[first_dense]}: convolutions come first."
        )


def check_batches(config: ConfigDict, data_parallel: int) -> None:
    """Raises AlexNetError if a batch is not divisible by the `data_parallel` rows of the mesh."""
    for path, size in (("train", config.train.batch_size), ("eval", config.eval.batch_size)):
        if size % data_parallel:
            raise AlexNetError(
                f"config.{path}.batch_size={size} is not divisible by {data_parallel}, the size of the mesh axis data: "
                f"use a multiple of {data_parallel}."
            )
    parts = config.train.accumulate
    if config.train.batch_size // data_parallel % parts:
        raise AlexNetError(
            f"config.train.accumulate={parts} does not divide {config.train.batch_size // data_parallel}, the images "
            "of a batch that a device computes: use a divisor of it."
        )


def _leaves(config: ConfigDict, rules: dict[str, Any], path: str) -> Iterator[tuple[str, Any, _Rule]]:
    for key, value in config.items():
        here = f"{path}.{key}"
        if key not in rules:
            raise AlexNetError(f"{here} is not a field of this program: remove it from the config.")
        if isinstance(value, ConfigDict) != isinstance(rules[key], dict):
            raise AlexNetError(f"{here}={_shown(value)} is not possible: it must be {_kind(rules[key])}.")
        if isinstance(value, ConfigDict):
            yield from _leaves(value, rules[key], here)
        else:
            yield here, value, rules[key]


def _shown(value: Any) -> str:
    if isinstance(value, ConfigDict) or (isinstance(value, int) and not -(10**99) < value < 10**99):
        return "a section" if isinstance(value, ConfigDict) else "a number of a hundred digits"
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


def _kind(rule: Any) -> str:
    return "a section with fields of its own" if isinstance(rule, dict) else rule[1]
