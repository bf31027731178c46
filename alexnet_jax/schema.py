"""Every field of the config in one table: its kind and range, what another value means, and what runs did before it.

A field lives in its recipe and in one row here. The check of a config, the meaning of configs that were saved before
the field existed, which runs may be resumed, and the ledger's digest all follow from the row.
"""

import dataclasses
import enum
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from alexnet_jax.errors import AlexNetError
from alexnet_jax.model.alexnet import OPERATIONS


class Role(enum.IntEnum):
    """What another value of a field makes of a run; each includes those before it."""

    HOST = 0  # the same run: it computes the same numbers in another way, or from another place
    TRAINING = 1  # other numbers; a run may resume with it
    RUN = 2  # another run, which does not resume this one
    NETWORK = 3  # another network: the weights were not trained for it


ALWAYS = object()  # there since the first version


@dataclasses.dataclass(frozen=True)
class Field:
    """A row of the table: `allows` a value or not, which `must_be` says in words. `older`: what runs without it did."""

    kind: type
    allows: Callable[[Any], bool]
    must_be: str
    role: Role = Role.TRAINING
    older: Any = ALWAYS


# ---------------------------------------------------------------- kinds and ranges


def _is_number(v: Any) -> bool:
    return _is_whole(v) or (isinstance(v, float) and math.isfinite(v))


def _is_whole(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**63


def _are_numbers(v: Any, *, lengths: tuple[int, ...], low: float = -math.inf, high: float = math.inf) -> bool:
    return isinstance(v, tuple) and len(v) in lengths and all(_is_number(x) and low <= x <= high for x in v)


def _are_names(v: Any) -> bool:
    return isinstance(v, tuple) and all(isinstance(name, str) for name in v) and len(set(v)) == len(v)


def _are_rising(v: Any) -> bool:
    return isinstance(v, tuple) and all(map(_is_whole, v)) and all(b > a for a, b in zip((0, *v), v, strict=False))


def _at_least(low: float, *, kind: type = float, **row: Any) -> Field:
    return Field(kind, lambda v: _is_number(v) and v >= low, f"a finite number of at least {low}", **row)


def _above_0(**row: Any) -> Field:
    return Field(float, lambda v: _is_number(v) and v > 0, "a number above 0", **row)


def _share(**row: Any) -> Field:
    return Field(float, lambda v: _is_number(v) and 0 <= v < 1, "at least 0 and below 1", **row)


def _count(low: int, most: int = 2**31 - 1, **row: Any) -> Field:
    return Field(int, lambda v: _is_whole(v) and low <= v <= most, f"a whole number from {low} to {most:,}", **row)


def _flag(**row: Any) -> Field:
    return Field(bool, lambda v: isinstance(v, bool), "true or false", **row)


def _text(**row: Any) -> Field:
    return Field(str, lambda v: isinstance(v, str), "text", **row)


def _name(**row: Any) -> Field:
    return Field(str, lambda v: isinstance(v, str) and bool(v.strip()), "a name, not empty", **row)


def _one_of(*choices: str, **row: Any) -> Field:
    return Field(str, lambda v: isinstance(v, str) and v in choices, "one of " + ", ".join(map(repr, choices)), **row)


def _words(choices: tuple[str, ...], *, repeated: bool, **row: Any) -> Field:
    def allows(v: Any) -> bool:
        words = v.split() if isinstance(v, str) else [None]
        return set(words) <= set(choices) and (repeated or len(set(words)) == len(words))

    return Field(str, allows, f"words of: {' '.join(choices)}", **row)


def _epochs(**row: Any) -> Field:
    return Field(tuple, _are_rising, "whole epochs in rising order, above 0, such as (5,7) or (30,)", **row)


def _tuple(allows: Callable[[Any], bool], must_be: str, **row: Any) -> Field:
    return Field(tuple, allows, must_be, **row)


# ---------------------------------------------------------------- the table

TRACKERS = ("wandb", "trackio")
_HOST, _RUN, _NETWORK = {"role": Role.HOST}, {"role": Role.RUN}, {"role": Role.NETWORK}

_DATA = {
    "data.name": _name(**_RUN),
    "data.data_dir": _text(**_HOST),
    "data.train_split": _name(**_RUN),
    "data.eval_split": _text(),
    "data.resize_pixels": _count(1, 4096, **_RUN),
    "data.crop_pixels": _count(1, 4096, **_NETWORK),
    "data.random_crop": _flag(older=True, **_RUN),
    "data.center_square": _flag(**_RUN),
    "data.crop_chunk": _count(1),
    "data.flip": _flag(**_RUN),
    "data.mean": _tuple(
        lambda v: _are_numbers(v, lengths=(0, 3), low=0, high=255), "three numbers from 0 to 255, or ()", **_NETWORK
    ),
    "data.mean_image": _flag(**_NETWORK),
    "data.std": _tuple(
        lambda v: _are_numbers(v, lengths=(3,)) and all(d > 0 for d in v), "three numbers above 0", **_NETWORK
    ),
    "data.bgr": _flag(**_NETWORK),
    "data.color_noise": _at_least(0),
    "data.color_noise_form": _one_of("std", "eigenvalues"),
    "data.color_std": _tuple(lambda v: _are_numbers(v, lengths=(0, 3), low=0), "three numbers, at least 0, or ()"),
    "data.color_vectors": _tuple(
        lambda v: isinstance(v, tuple) and len(v) in (0, 3) and all(_are_numbers(u, lengths=(3,)) for u in v),
        "three times three numbers, or ()",
    ),
    "data.color_noise_end_epoch": _at_least(0),
    "data.color_noise_again": _tuple(
        lambda v: _are_rising(v) and len(v) in (0, 2), "two whole epochs in rising order, above 0, or ()", older=()
    ),
    "data.threads": _count(0, 256, **_HOST),
    "data.workers": _count(-1, 256, **_HOST),
    "data.prefetch_batches": _count(1, 1000, **_HOST),
    "data.cache": _flag(older=True, **_HOST),
    "data.max_bad_records": _count(0),
}

# <conv> and <fc> are the layers of these kinds, conv1 or fc6.
_MODEL = {
    "model.towers": _count(1, 64),
    "model.layers": _tuple(lambda v: _are_names(v) and len(v) > 0, "names of layers, each once"),
    "model.exchange": _tuple(_are_names, "names of layers, each once"),
    "model.<conv>.features": _count(1, 100_000),
    "model.<conv>.kernel_size": _count(1, 1000),
    "model.<conv>.stride": _count(1, 1000),
    "model.<conv>.padding": _tuple(
        lambda v: _are_numbers(v, lengths=(2,), low=0, high=1000) and all(map(_is_whole, v)),
        "two numbers of pixels, such as (1,1)",
    ),
    "model.<conv>.post_ops": _words(OPERATIONS, repeated=True),
    "model.<conv>.init_std": _at_least(0),
    "model.<conv>.init_bias": Field(float, _is_number, "a finite number"),
    "model.<fc>.features": _count(0, 10_000_000),
    "model.<fc>.post_ops": _words(OPERATIONS, repeated=True),
    "model.<fc>.init_std": _at_least(0),
    "model.<fc>.init_bias": Field(float, _is_number, "a finite number"),
    "model.init": _one_of("normal", "fan_in"),
    "model.weight_norm": _flag(),
    "model.norm.size": _count(1, 1000),
    "model.norm.alpha": _at_least(0),
    "model.norm.beta": _at_least(0),
    "model.norm.k": _above_0(),
    "model.norm.alpha_over_size": _flag(),
    "model.norm.across_towers": _flag(),
    "model.spatial_norm.size": _count(1, 1000),
    "model.spatial_norm.alpha": _at_least(0),
    "model.spatial_norm.beta": _at_least(0),
    "model.spatial_norm.k": _above_0(),
    "model.batch_norm.momentum": _share(),
    "model.batch_norm.epsilon": _above_0(),
    "model.pool.kind": _one_of("max", "avg"),
    "model.pool.size": _count(1, 1000),
    "model.pool.stride": _count(1, 1000),
    "model.pool.ceil": _flag(),
    "model.dropout.rate": _share(),
    "model.dropout.inverted": _flag(),
}

# <layer> is any layer that is named in that section.
_TRAIN = {
    "train.batch_size": _count(1, 1_000_000, **_RUN),
    "train.epochs": _above_0(),
    "train.steps": _count(0),
    "train.seed": _count(0, **_RUN),
    "train.learning_rate": _at_least(0),
    "train.bias_rate": _at_least(0),
    "train.rates.<layer>": _at_least(0),
    "train.decays.<layer>": _at_least(0, older={}),
    "train.schedule": _one_of("steps", "constant", "plateau", "dexp", "polynomial", "cosine"),
    "train.warmup_epochs": _at_least(0, older=0.0),
    "train.drop_epochs": _epochs(),
    "train.drop_factor": _above_0(),
    "train.raise_epochs": _epochs(older=()),
    "train.raise_factor": _above_0(older=100.0),
    "train.bias_drop_epochs": _epochs(),
    "train.own_drop_epochs.<layer>": _epochs(),
    "train.freeze_epochs.<layer>": _at_least(0, kind=int),
    "train.plateau.patience": _count(1),
    "train.plateau.drops": _count(0),
    "train.dexp.factor": _above_0(),
    "train.dexp.pieces": _count(1, 1000),
    "train.dexp.bias_factor": _above_0(),
    "train.dexp.bias_pieces": _count(1, 1000),
    "train.power": _at_least(0),
    "train.momentum": _share(),
    "train.weight_decay": _at_least(0),
    "train.lars": _at_least(0, older=0.0),
    "train.label_smoothing": _share(older=0.0),
    "train.ema_decay": _share(older=0.0, **_RUN),
    "train.accumulate": _count(1, 1_000_000, older=1),
    "train.rollbacks": _count(0, 1000, older=0),
}

FIELDS: dict[str, Field] = {
    **_DATA,
    **{name: dataclasses.replace(row, role=Role.NETWORK) for name, row in _MODEL.items()},
    **_TRAIN,
    "precision": _one_of("auto", "float32", "bfloat16", older="float32"),
    "init_from": _text(**_RUN),
    "mesh.tower": _count(0, 64),
    "mesh.hybrid": _flag(older=False),
    "mesh.exchange_dtype": _one_of("float32", "bfloat16", older="float32"),
    "eval.batch_size": _count(1, 1_000_000),
    "eval.every_epochs": _count(1),
    "eval.views": _one_of("all", "center"),
    "checkpoint.every_steps": _count(1),
    "checkpoint.keep": _count(1),
    "log.every_steps": _count(1),
    "log.track": _words(TRACKERS, repeated=False, older=""),
}

# The sections of train with a field for each layer that is named there.
BY_LAYER = tuple(name.split(".")[1] for name in FIELDS if name.endswith(".<layer>"))


def field(name: str) -> Field | None:
    """The row of a field by its path, such as train.rates.conv1; None where there is no such field."""
    by_kind = re.sub(r"^model\.(conv|fc)[0-9]+\.", r"model.<\1>.", name)
    return FIELDS.get(by_kind) or FIELDS.get(re.sub(r"\.[^.]*$", ".<layer>", name))


def add_older(saved: dict[str, Any]) -> None:
    """Puts into a config that was saved before some fields existed what its run did without them."""
    for name, row in FIELDS.items():
        *sections, last = name.removesuffix(".<layer>").split(".")
        here: Any = saved
        for section in sections:
            here = here.get(section) if isinstance(here, dict) else None
        if row.older is not ALWAYS and isinstance(here, dict):
            here.setdefault(last, row.older)


# ---------------------------------------------------------------- the check


def check(config: ConfigDict) -> None:
    """Raises AlexNetError, naming the field and what is allowed, for the first value that is not."""
    found = dict(walk(config))
    for name in FIELDS:
        if "<conv>" not in name and "<fc>" not in name:
            _check_there(name.removesuffix(".<layer>"), found)
    for name, value in found.items():
        row = field(name)
        is_possible = row.allows(value) if row else isinstance(value, ConfigDict)
        if is_possible:
            continue
        is_section = any(known.startswith(f"{name}.") for known in FIELDS)
        otherwise = "a section with fields of its own" if is_section else "removed: this program has no such field"
        must_be = row.must_be if row else otherwise
        raise AlexNetError(f"config.{name}={_shown(value)} is not possible: it must be {must_be}.")
    _check_layers(config, found)
    _check_pairs(config)


def walk(config: ConfigDict, path: str = "") -> Iterator[tuple[str, Any]]:
    """(section.field, value) of every section and leaf. Raises AlexNetError for a required value that is not given."""
    for key in config:
        try:
            value = config[key]
        except RequiredValueError:
            raise AlexNetError(f"config.{path}{key} has no value: give it one, --config.{path}{key}=VALUE.") from None
        yield path + key, value
        if isinstance(value, ConfigDict):
            yield from walk(value, f"{path}{key}.")


def _check_there(name: str, found: dict[str, Any]) -> None:
    if name not in found:
        raise AlexNetError(f"The config has no field config.{name}.")


def _check_layers(config: ConfigDict, found: dict[str, Any]) -> None:
    model, numbers = config.model, dict[str, str]()
    for name in model.layers:
        kind, number = name.rstrip("0123456789"), name.lstrip("convf")
        if not re.fullmatch(r"(conv|fc)[0-9]+", name):
            raise AlexNetError(
                f"config.model.layers names {name!r}: a layer is conv or fc with a number, such as conv6."
            )
        if not isinstance(found.get(f"model.{name}"), ConfigDict):
            raise AlexNetError(f"config.model.layers names {name!r}, but there is no config.model.{name}.")
        for row in (row for row in FIELDS if row.startswith(f"model.<{kind}>.")):
            _check_there(row.replace(f"<{kind}>", name), found)
        if number in numbers:
            raise AlexNetError(
                f"config.model.layers has {numbers[number]} and {name}: their numbers must differ, since pool{number} "
                "must be one operation."
            )
        numbers[number] = name
    for field_ in ("model.exchange", *(f"train.{section}" for section in BY_LAYER)):
        if unknown := [name for name in found[field_] if name not in model.layers]:
            raise AlexNetError(f"config.{field_} names {unknown[0]!r}: it must be one of {', '.join(model.layers)}.")
    last = model.layers[-1]
    if last.startswith("conv") or model[last].post_ops:
        raise AlexNetError(
            f"config.model.{last} is the last layer: it must be fully connected, without config.model.{last}.post_ops."
        )
    first_dense = next(i for i, name in enumerate(model.layers) if name.startswith("fc"))
    if late := [name for name in model.layers[first_dense:] if name.startswith("conv")]:
        raise AlexNetError(
            f"config.model.layers has {late[0]} after {model.layers[first_dense]}: convolutions come first."
        )


def _check_pairs(config: ConfigDict) -> None:
    """What two fields may not be together."""
    data, mesh = config.data, config.mesh
    if mesh.hybrid and mesh.tower > 1:
        raise AlexNetError(
            f"config.mesh.hybrid=True has all towers on every device, so config.mesh.tower={mesh.tower} is not "
            "possible: use 1, or 0."
        )
    if mesh.hybrid and config.train.lars:
        raise AlexNetError(
            f"config.train.lars={config.train.lars} needs the norms of whole layers, and config.mesh.hybrid=True "
            "splits them: use one of the two."
        )
    if len(data.color_std) != len(data.color_vectors):
        raise AlexNetError("config.data.color_vectors must be () where config.data.color_std is, and only there.")
    if data.crop_pixels > data.resize_pixels:
        raise AlexNetError(
            f"config.data.crop_pixels={data.crop_pixels} is not possible: "
            f"it must be at most config.data.resize_pixels={data.resize_pixels}."
        )


def _shown(value: Any) -> str:
    if isinstance(value, ConfigDict) or (isinstance(value, int) and not -(10**99) < value < 10**99):
        return "a section" if isinstance(value, ConfigDict) else "a number of a hundred digits"
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."
