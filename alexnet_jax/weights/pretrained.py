"""Weights in and out: a network from a file and a file from a network, and which AlexNet a file holds.

A file is a plain network: convolutions, matmuls and the operations between them, without a factor for dropout.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import __version__, catalog, config as configs, files, parts
from alexnet_jax.allowed import check
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models
from alexnet_jax.model.preprocess import Input
from alexnet_jax.weights import formats as weight_files
from alexnet_jax.weights.formats import WeightFile
from alexnet_jax.weights.layout import Arrays, folded, from_arrays, shapes_of, to_arrays

__all__ = [
    "Arrays", "Loaded", "about", "channels_of", "classes_of", "from_arrays", "identify", "load_file", "open_file",
    "recipe_in_words", "shapes_of", "to_arrays", "variables_of", "write",
]  # fmt: skip

Names = Iterable[str] | str | Path  # a path is that of a file with one name per line


# ---------------------------------------------------------------- out


def about(config: ConfigDict, class_names: tuple[str, ...], inputs: Input | None) -> dict[str, Any]:
    """What `write` puts beside the arrays, so that `load_file` needs nothing else.

    Without `inputs` the mean is the config's, which may be () for that of a data set. A mean image is an array,
    float32 [crop, crop, 3]; `mean` is then that of its channels.
    """
    c = config.data
    image = inputs.mean if inputs is not None and inputs.mean.ndim == 3 else None
    mean = c.mean
    if inputs is not None and (image is not None or not mean):
        # The shortest decimals of a float32: 127.3, not 127.30000305.
        mean = [float(str(value)) for value in inputs.mean.reshape(-1, 3).mean(axis=0)]
    return {
        "version": __version__,
        "dropout": "folded",
        "model": config.model.to_dict(),
        "data": c.name,
        "channels": "BGR" if c.bgr else "RGB",
        "mean": list(mean),
        "std": list(c.std),
        "crop_pixels": c.crop_pixels,
        "resize_pixels": c.resize_pixels,
        "flip": c.flip,
        "classes": list(class_names),
    } | ({} if image is None else {"mean_image": image})


def write(path: Path, arrays: Arrays, about: dict[str, Any], model: models.AlexNet) -> None:
    """The arrays of `to_arrays` as .npz in Caffe's layout, or as .safetensors with PyTorch's names.

    torchvision's own key names only where `model` computes what torchvision's does. Raises AlexNetError.
    """
    said = {name: value for name, value in about.items() if name != "mean_image"}
    weight_files.write(
        path,
        arrays,
        said,
        torchvision_names=about.get("channels") != "BGR" and _is_torchvision(model, arrays),
        mean_image=about.get("mean_image"),
    )


def _is_torchvision(model: models.AlexNet, arrays: Arrays) -> bool:
    """Whether torchvision's `alexnet` with these arrays computes what `model` does."""
    theirs, pixels = catalog.build("torchvision", model.classes)
    shapes = {name: array.shape for name, array in arrays.items()}
    return _function(model) == _function(theirs) and shapes == shapes_of(theirs, pixels)


def _function(model: models.AlexNet) -> tuple[Any, ...]:
    """What a network without norms computes in evaluation, apart from its weights; dropout is folded into those."""

    def computed(layer: models.ConvLayer | models.DenseLayer) -> Any:
        words = tuple(word for word in layer.post_ops if word != "dropout")
        return dataclasses.replace(layer, post_ops=words, features=0, init_kind="", init_std=0.0, init_bias=0.0)

    return model.towers, model.pool, tuple(map(computed, model.stack))


# ---------------------------------------------------------------- in


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The network of a file: its config, classes in the order of its outputs, and variables (numpy, all towers).

    `inputs` is its preprocessing where that is more than the config says: with a mean image. Otherwise None.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    variables: dict[str, Any]
    inputs: Input | None = None


def load_file(
    path: str | Path, *, recipe: str | None = None, classes: Names | None = None, channels: str | None = None
) -> Loaded:
    """The network of a .npz, .safetensors or .pth.

    A file that was written here knows what it is. For any other, `recipe` names the network, `classes` its classes in
    the order of its outputs (names, or a file with one per line) and `channels` is "rgb" or "bgr". The defaults are the
    sorted WordNet ids for 1000 outputs and "class 0", ... otherwise; BGR for Caffe's layout and RGB for PyTorch's
    names. Raises AlexNetError.
    """
    file = open_file(Path(path))
    config = _config_of(file, recipe)
    count = outputs_of(file, config)
    names = classes_of(file, classes, count) or tuple(f"class {i}" for i in range(count))
    variables = variables_of(file, config, names, channels=channels)
    c, image = config.data, file.mean_image
    if image is not None and image.shape != (c.crop_pixels, c.crop_pixels, 3):
        raise AlexNetError(f"{path} is damaged: its mean_image is {image.shape} for a crop of {c.crop_pixels} pixels.")
    inputs = None if image is None else Input(c.crop_pixels, image, tuple(c.std), c.bgr)
    return Loaded(config, names, variables, inputs)


def open_file(path: Path) -> WeightFile:
    """The file as a plain network, also where version 0.1 left the factor of dropout out. Raises AlexNetError."""
    file = weight_files.read(path)
    if "model" not in file.about:
        return file
    config = own_config(file)
    if "dropout" not in file.about:
        model = parts.network(config, outputs_of(file, config))
        file = dataclasses.replace(file, arrays=folded(model, file.arrays))
    return file


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


def _config_of(file: WeightFile, recipe: str | None) -> ConfigDict:
    """The file's own config, or that of `recipe` for a file of others. Raises AlexNetError."""
    named = configs.load_recipe(recipe if ":" in recipe else f"{recipe}:imagenet2012") if recipe else None
    if "model" not in file.about:
        if named is None:
            fewest, differing = _differing_layers(file)
            fitting = "" if fewest else f", one of those with its shapes: {', '.join(differing)}"
            raise AlexNetError(f"{file.path} does not say which network it is: give recipe='NAME'{fitting}.")
        return named
    own = own_config(file)
    if named is not None and (fields := [field for field, *_ in configs.differences(own.model, named.model)]):
        raise AlexNetError(
            f"{file.path} says that it is not recipe={recipe!r}, whose config.model.{fields[0]} is another: leave it "
            "out, or import the file with that recipe."
        )
    return own


def outputs_of(file: WeightFile, config: ConfigDict) -> int:
    """How many classes the file has. Raises AlexNetError where the config's last layer is not in it."""
    last = f"{config.model.layers[-1]}_w"
    if last not in file.arrays:
        raise AlexNetError(f"{file.path} has no {last}, the last layer of this recipe: it holds {_some(file)}.")
    return len(file.arrays[last])


def _some(file: WeightFile) -> str:
    names = sorted(file.arrays)
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def variables_of(
    file: WeightFile,
    config: ConfigDict,
    names: tuple[str, ...],
    *,
    order: tuple[str, ...] | None = None,
    channels: str | None = None,
) -> dict[str, Any]:
    """The file's weights as the variables of the config's network, conv1 in the config's channel order.

    `names` are the classes in the file's order and `order` the same ones in that of the result. Raises AlexNetError.
    """
    model, arrays = parts.network(config, len(names)), dict(file.arrays)
    first, last = (model.stack[i].name for i in (0, -1))
    if order is not None and order != names:
        place = {name: i for i, name in enumerate(names)}
        places = [place[name] for name in order]
        arrays |= {
            name: array[places]
            for name, array in arrays.items()
            if name.startswith(last + "_") and len(array) == len(names)
        }
    kernel = arrays.get(f"{first}_w")
    if channels_of(file, channels) != ("BGR" if config.data.bgr else "RGB") and kernel is not None and kernel.ndim == 4:
        arrays[f"{first}_w"] = kernel[:, ::-1]
    try:
        return from_arrays(model, arrays, config.data.crop_pixels)
    except AlexNetError as error:
        raise AlexNetError(
            f"{file.path} does not fit the recipe: {str(error).rstrip('.')} (alexnet weights identify says which "
            "recipes it fits)."
        ) from None


def channels_of(file: WeightFile, channels: str | None) -> str:
    """RGB or BGR, the order in which the file's first layer reads colors. Raises AlexNetError."""
    if channels:
        if str(channels).lower() not in ("rgb", "bgr"):
            raise AlexNetError(f"channels={channels!r} must be 'rgb' or 'bgr'.")
        return str(channels).upper()
    default = "BGR" if file.layout == weight_files.CAFFE else "RGB"
    return str(file.about.get("channels", default))


# ---------------------------------------------------------------- classes


def classes_of(file: WeightFile, classes: Names | None, count: int) -> tuple[str, ...] | None:
    """The names of the file's `count` outputs, in their order; None where nobody says. Raises AlexNetError."""
    if classes is not None:
        source = f"classes={classes}" if isinstance(classes, str | Path) else "classes"
        names: Any = _lines(Path(classes)) if isinstance(classes, str | Path) else classes
        names = names if isinstance(names, Set) or not isinstance(names, Iterable) else tuple(names)
    elif "classes" in file.about:
        source, names = str(file.path), file.about["classes"]
    elif count == 1000:
        return _sorted_wnids()
    else:
        return None
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise AlexNetError(f"{source} must be the names of the classes in order, or a file with one per line.")
    if len(names) != count:
        raise AlexNetError(f"{source} has {len(names)} names, but the weights have {count} classes.")
    if twice := [name for name, times in collections.Counter(names).items() if times > 1]:
        raise AlexNetError(f"{source} has {twice[0]!r} twice: every class needs a name of its own.")
    return tuple(map(str, names))


def _lines(path: Path) -> list[str]:
    """The names in a file: whole lines, or the WordNet ids of the devkit's map_clsloc.txt, whose lines hold more."""
    lines = [line.strip() for line in files.read_text(path).removeprefix("\ufeff").split("\n")]
    lines = [line for line in lines if line]
    if lines and all(re.match(r"n\d{8}\s", line) for line in lines):
        return [line.split()[0] for line in lines]
    return lines


def _sorted_wnids() -> tuple[str, ...]:
    """ImageNet's 1000 classes in the order of their WordNet ids, which Caffe, PyTorch and TFDS share.

    The 2012 source has that of the devkit, ILSVRC2012_ID (make-data.py): `classes="map_clsloc.txt"`.
    """
    import tensorflow_datasets as tfds

    return tuple(tfds.builder("imagenet2012").info.features["label"].names)


# ---------------------------------------------------------------- which AlexNet is it?


def identify(path: Path) -> str:
    """The layers of a file and which recipe it is, or the recipes of its shapes, in words. Raises AlexNetError."""
    file = open_file(path)
    layers = _layers(file)
    if not layers:
        raise AlexNetError(f"{path} has no weights of layers (conv1_w or features.0.weight): it holds {_some(file)}.")
    lines = [f"{path}: {sum(a.size for a in file.arrays.values()):,} numbers, {file.layout}{_said(file.about)}", ""]
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
    told = (
        f"The file says what it is: {recipe_in_words(own_config(file))}." if "model" in file.about else _nearest(file)
    )
    return "\n".join([*lines, "", told])


def _layers(file: WeightFile) -> list[str]:
    layers = [name[:-2] for name in file.arrays if name.endswith("_w")]
    return sorted(layers, key=lambda name: (not name.startswith("conv"), len(name), name))


def _said(said: dict[str, Any]) -> str:
    step = f", step {said['step']}" if "step" in said else ""
    return f", {said['channels']}{step}" if "channels" in said else ""


def recipe_in_words(config: ConfigDict) -> str:
    """The recipe whose config.model a config has, or the nearest one and its other fields."""
    differing: dict[str, list[str]] = {}
    for name in configs.recipe_names():
        model = configs.recipe_module(name).get_config("imagenet2012").model
        differing[name] = [field for field, *_ in configs.differences(config.model, model)]
    fewest = min(map(len, differing.values()))
    nearest = [name for name, fields in differing.items() if len(fields) == fewest]
    if not fewest:
        return " or ".join(nearest)
    fields = ", ".join(f"config.model.{field}" for field in differing[nearest[0]])
    return f"{nearest[0]} with other values of {fields}"


def _differing_layers(file: WeightFile) -> tuple[int, dict[str, list[str]]]:
    """(how many layers of the nearest recipes have other shapes than the file, {each of them: which layers})."""
    layers = _layers(file)
    shapes = {name: array.shape for name, array in file.arrays.items()}
    classes = len(file.arrays[f"{layers[-1]}_w"]) if layers else 1
    differing: dict[str, list[str]] = {}
    for name in configs.recipe_names():
        wanted = _shapes(name, classes)
        others = [part for part in {**wanted, **shapes} if wanted.get(part) != shapes.get(part)]
        differing[name] = sorted({part.rpartition("_")[0] for part in others})
    fewest = min(map(len, differing.values()))
    return fewest, {name: others for name, others in differing.items() if len(others) == fewest}


@functools.cache
def _shapes(recipe: str, classes: int) -> dict[str, tuple[int, ...]]:
    return shapes_of(*catalog.build(recipe, classes))


def _nearest(file: WeightFile) -> str:
    """The recipes that have the shapes of the file, or nearly have them."""
    fewest, differing = _differing_layers(file)
    if fewest > len(_layers(file)) / 2:
        return "No recipe has these shapes or is near them."
    if fewest:
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
