"""The named recipe that a layer file is nearest, how they differ, and a recipe file that says so."""

import dataclasses
import math
import re
import textwrap
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import config as configs
from alexnet_jax.schema import BY_LAYER, check
from tools.layer_files.network import Network
from tools.layer_files.rates import Rates, end_of

# What the files were written for, and so what a recipe is asked for.
DATA = "imagenet2012"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A field of the config that the files say otherwise; None where the recipe has no such field."""

    field: str
    ours: Any  # the files'
    theirs: Any  # the recipe's


Pair = tuple[float, float]  # learning rates of weights and biases


@dataclasses.dataclass(frozen=True)
class Nearest:
    """A recipe and what the files say otherwise."""

    recipe: str
    model: list[Difference]
    train: list[Difference]
    ends: list[tuple[str, Pair, Pair | None]]  # (layer, the files' last rates, the recipe's or None) where they differ


def nearest(network: Network, rates: Rates) -> Nearest:
    """The recipe that differs in the fewest fields, rates set by hand being one; then `alexnet`, then by name."""
    every = [_compared(name, network, rates) for name in configs.recipe_names()]
    return min(every, key=lambda n: (len(n.model + n.train) + bool(n.ends), n.recipe != "alexnet", n.recipe))


def _compared(recipe: str, network: Network, rates: Rates) -> Nearest:
    config = configs.recipe_module(recipe).get_config(DATA)
    names = _names(network, config)
    stated = {_renamed(field, names): value for field, value in (network.stated | rates.stated).items()}
    for field in ("model.layers", "model.exchange"):
        stated[field] = tuple(names[name] for name in stated[field])
    for layer in set(config.train.decays) & set(names.values()):
        stated.setdefault(f"train.decays.{layer}", stated["train.weight_decay"])
    theirs = dict(configs.flat(config))
    theirs["model.exchange"] = tuple(name for name in config.model.layers if name in config.model.exchange)
    differences = []
    for field, value in stated.items():
        its = theirs.get(field, _unset(field))
        ours = (its if its > config.train.epochs else int(config.train.epochs) + 1) if value is None and its else value
        if ours != its and not (value is None and its is None):
            differences.append(Difference(field, ours, its))
    ends = end_of(config)
    last = {names[layer]: pair for layer, pair in rates.last.items()}
    return Nearest(
        recipe,
        [d for d in differences if d.field.startswith("model.")],
        [d for d in differences if d.field.startswith("train.")],
        [(layer, pair, ends.get(layer)) for layer, pair in last.items() if not _close(pair, ends.get(layer))],
    )


def _close(one: Pair, other: Pair | None) -> bool:
    return other is not None and all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(one, other, strict=True))


def _unset(field: str) -> Any:
    """What a field by layer is where a recipe does not name the layer."""
    return 1.0 if field.startswith("train.rates.") else None


def _names(network: Network, config: ConfigDict) -> dict[str, str]:
    """Our names of layers and the recipe's, which counts them otherwise where it leaves one out (no_conv3)."""
    ours, theirs = network.stated["model.layers"], config.model.layers
    alike = [re.sub("[0-9]", "", n) for n in ours] == [re.sub("[0-9]", "", n) for n in theirs]
    return dict(zip(ours, theirs if alike else ours, strict=True))


def _renamed(field: str, names: dict[str, str]) -> str:
    return ".".join(names.get(part, part) for part in field.split("."))


# ---------------------------------------------------------------- a recipe file


def recipe_text(match: Nearest, about: str) -> str:
    """A Python file with the recipe that the files are: the nearest one and the fields that differ.

    Those of the train section are for ImageNet, as the files are. Raises AlexNetError where a value is not allowed.
    """
    module = configs.recipe_module(match.recipe).__name__
    package, _, name = module.rpartition(".")
    model, train = _lines(match.model) + _without_layers(match), _lines(match.train)
    needs_datasets = ["from alexnet_jax.data import datasets"] * bool(train)
    text = "\n".join(
        [
            '"""' + textwrap.fill(re.sub(r"[^\w .,:`-]", "_", about), 114) + '"""',  # files may have any name
            "",
            "from ml_collections import ConfigDict",
            "",
            f"from {package} import {name}",
            *needs_datasets,
            "",
            "",
            'def get_config(data_name: str = "digits") -> ConfigDict:',
            '    """The recipe for a data set, as in `configs/alexnet.py`."""',
            f"    c = {name}.get_config(data_name)",
            *(f"    {line}" for line in model),
            *["    if datasets.is_imagenet(data_name):"] * bool(train),
            *(f"        {line}" for line in train),
            "    return c",
            "",
        ]
    )
    namespace = dict[str, Any]()
    exec(compile(text, "the recipe", "exec"), namespace)  # what is above, and nothing from the files but numbers
    check(namespace["get_config"](DATA))
    return text


def _without_layers(match: Nearest) -> list[str]:
    """Lines that take out what the recipe's train section says of layers that the files have not."""
    layers = next((d.ours for d in match.model if d.field == "model.layers"), None)
    if layers is None:
        return []
    train = configs.recipe_module(match.recipe).get_config(DATA).train
    return [
        f"c.train.{section} = ConfigDict({{k: v for k, v in c.train.{section}.items() if k in c.model.layers}})"
        for section in BY_LAYER
        if set(train[section]) - set(layers)
    ]


def _lines(differences: list[Difference]) -> list[str]:
    new = {".".join(d.field.split(".")[:2]) for d in differences if d.theirs is None and d.field.count(".") == 2}
    made = [f"c.{section} = ConfigDict()" for section in sorted(new) if section.startswith("model.")]
    return made + [f"c.{d.field} = {_value(d)!r}".replace("'", '"') for d in differences]


def _value(difference: Difference) -> Any:
    """A whole number where the recipe has one, since a field keeps its type."""
    is_float = isinstance(difference.theirs, float) or difference.field.endswith(("init_std", "init_bias"))
    return float(difference.ours) if is_float else difference.ours
