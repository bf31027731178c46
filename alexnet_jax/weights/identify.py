"""Which AlexNet a weight file holds: what it says of itself, or the recipes that have its shapes."""

import functools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import config as configs, summary
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model.plain import shapes_of
from alexnet_jax.schema import check
from alexnet_jax.weights.formats import WeightFile


def own_config(file: WeightFile) -> ConfigDict:
    """The config that a file written here carries; its train section is the default recipe's. Raises AlexNetError."""
    said = file.about
    try:
        config: ConfigDict = configs.recipe_module("alexnet").base(said.get("data", "imagenet2012"))
        config.model = ConfigDict(configs.tuples(_renamed(said["model"])))
        c = config.data
        c.mean, c.std = (tuple(said[field]) for field in ("mean", "std" if "std" in said else "deviation"))
        c.bgr = {"RGB": False, "BGR": True}[said["channels"]]
        c.crop_pixels = said["crop_pixels"]
        c.resize_pixels = said.get("resize_pixels", max(c.resize_pixels, c.crop_pixels))
        c.flip = said.get("flip", c.flip)
        config.lock()
        check(config)
    except (AlexNetError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).rstrip(".") if isinstance(error, AlexNetError) else f"{type(error).__name__}: {error}"
        raise AlexNetError(f"{file.path} says something impossible of itself: {reason}.") from error
    return config


# The fields of a layer in version 0.1, whose files name them so.
_FORMER = {"maps": "features", "units": "features", "kernel": "kernel_size", "then": "post_ops"}


def _renamed(model: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {_FORMER.get(field, field): value for field, value in section.items()}
        if isinstance(section, Mapping) and "then" in section
        else section
        for name, section in model.items()
    }


def identify(file: WeightFile) -> str:
    """A text: the layers of a file, and which recipe it is or whose shapes it has. Raises AlexNetError."""
    layers = _layers(file)
    if not layers:
        raise AlexNetError(
            f"{file.path} has no weights of layers (conv1_w or features.0.weight): it holds {some_arrays(file)}."
        )
    lines = [
        f"{file.path}: {sum(a.size for a in file.arrays.values()):,} numbers, {file.layout}{_said(file.about)}",
        "",
    ]
    channels = 3
    for name in layers:
        shape = file.arrays[f"{name}_w"].shape
        if len(shape) == 4:
            groups = channels // shape[1] if channels % shape[1] == 0 else 1
            in_groups = f", {groups} groups" if groups > 1 else ""
            lines.append(f"  {name}  {shape[0]} filters of {shape[1]} x {shape[2]} x {shape[3]}{in_groups}")
        else:
            lines.append(f"  {name}  {shape[0]} units of {' x '.join(map(str, shape[1:])) or 'no'} inputs")
        channels = shape[0]
    told = f"The file says what it is: {nearest_recipe(own_config(file))}." if "model" in file.about else _nearest(file)
    return "\n".join([*lines, "", told])


def _layers(file: WeightFile) -> list[str]:
    layers = [name[:-2] for name in file.arrays if name.endswith("_w")]
    return sorted(layers, key=lambda name: (not name.startswith("conv"), len(name), name))


def _said(said: dict[str, Any]) -> str:
    step = f", step {said['step']}" if "step" in said else ""
    return f", {said['channels']}{step}" if "channels" in said else ""


def some_arrays(file: WeightFile) -> str:
    """The names of the first arrays of a file."""
    names = sorted(file.arrays)
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def nearest_recipe(config: ConfigDict) -> str:
    """The recipe whose config.model a config has, or the nearest one and its other fields."""
    differing: dict[str, list[str]] = {}
    for name in configs.recipe_names():
        model = configs.recipe_module(name).get_config("imagenet2012").model
        differing[name] = [field for field, *_ in configs.differences(config.model, model)]
    nearest = _with_fewest(differing)
    first, fields = next(iter(nearest.items()))
    if not fields:
        return " or ".join(nearest)
    return f"{first} with other values of {', '.join(f'config.model.{field}' for field in fields)}"


def _with_fewest(differing: dict[str, list[str]]) -> dict[str, list[str]]:
    fewest = min(map(len, differing.values()))
    return {name: those for name, those in differing.items() if len(those) == fewest}


def nearest_recipes(file: WeightFile) -> dict[str, list[str]]:
    """{recipe: the layers that have other shapes than the file's}, of those that have the fewest of them."""
    layers = _layers(file)
    shapes = {name: array.shape for name, array in file.arrays.items()}
    classes = len(file.arrays[f"{layers[-1]}_w"]) if layers else 1
    differing: dict[str, list[str]] = {}
    for name in configs.recipe_names():
        wanted = _shapes(name, classes)
        others = [part for part in {**wanted, **shapes} if wanted.get(part) != shapes.get(part)]
        differing[name] = sorted({part.rpartition("_")[0] for part in others})
    return _with_fewest(differing)


@functools.cache
def _shapes(recipe: str, classes: int) -> dict[str, tuple[int, ...]]:
    return shapes_of(*summary.recipe_network(recipe, classes))


def _nearest(file: WeightFile) -> str:
    """The recipes that have the shapes of the file, or nearly have them."""
    differing = nearest_recipes(file)
    others = next(iter(differing.values()))
    if len(others) > len(_layers(file)) / 2:
        return "No recipe has these shapes or is near them."
    if others:
        return "\n".join(
            f"No recipe has these shapes; the nearest: {name} (other: {', '.join(others)})."
            for name, others in differing.items()
        )
    lines = [f"Its shapes are those of: {', '.join(differing)}."]
    if len(differing) > 1:
        lines.append(
            "The order of operations, norms, padding and the scale of the input are not in a weight file: where it "
            "came from tells which of these it is, or its accuracy under each."
        )
    return "\n".join(lines)
