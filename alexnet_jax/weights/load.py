"""`load`: the network of a run, of a weight file, of an exported folder or of the Hugging Face Hub."""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import builder, classifier, config as configs, files
from alexnet_jax.classifier import Classifier
from alexnet_jax.data.preprocess import Input
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model.plain import folded, from_arrays
from alexnet_jax.weights import formats, hub, identify
from alexnet_jax.weights.formats import WeightFile
from alexnet_jax.weights.identify import own_config

Names = Iterable[str] | str | Path  # a path is that of a file with one name per line


def load(
    path: str | Path,
    *,
    checkpoint: str | int = "latest",
    recipe: str | None = None,
    classes: Names | None = None,
    channels: str | None = None,
    mesh: Mesh | None = None,
) -> Classifier:
    """The network of a run's workdir, of a weight file (.safetensors, .npz, .pth, .caffemodel, ...), or of the Hub.

    `path` may be hf://OWNER/NAME or hf://OWNER/NAME@REVISION, or a folder that `alexnet export --format=hf` wrote.
    `checkpoint` is latest, best or a step of a workdir. A file that was written here knows what it is. For any other,
    `recipe` names the network ("torchvision", "caffe_alexnet", ...), `classes` its classes in the order of its outputs
    (names, or a file with one per line) and `channels` is "rgb" or "bgr". The defaults are the sorted WordNet ids for
    1000 outputs and "class 0", ... otherwise; BGR for Caffe's layout and RGB for PyTorch's names. The network runs on
    one device, or on `mesh` (`alexnet_jax.model.towers.make_mesh`). Raises AlexNetError.
    """
    if not isinstance(path, str | os.PathLike):
        raise AlexNetError(f"path={path!r} must be the workdir of a run, or a .safetensors, .npz or .pth file.")
    path = hub.downloaded(path) if hub.is_address(path) else Path(path)
    if not path.exists():
        raise AlexNetError(f"There is no {path}: give the workdir of a run, or a .safetensors, .npz or .pth file.")
    if hub.is_exported(path):
        path /= hub.MODEL
    if path.is_dir():
        for name, value in (("recipe", recipe), ("classes", classes), ("channels", channels)):
            if value is not None:
                raise AlexNetError(
                    f"{path} is the workdir of a run, which knows its {name}: leave {name}={value!r} out."
                )
        return classifier.load_run(path, checkpoint, mesh=mesh)
    if checkpoint != "latest":
        raise AlexNetError(f"{path} is a file, without checkpoints: leave checkpoint={checkpoint!r} out.")
    file = open_file(path)
    config = _config_of(file, recipe)
    count = outputs_of(file, config)
    names = classes_of(file, classes, count) or tuple(f"class {i}" for i in range(count))
    variables = variables_of(file, config, names, channels=channels)
    return Classifier(config, names, variables, inputs=_inputs_of(file, config), mesh=mesh)


def _inputs_of(file: WeightFile, config: ConfigDict) -> Input:
    c, image = config.data, file.mean_image
    if image is None:
        return classifier.inputs_of(config)
    if image.shape != (c.crop_pixels, c.crop_pixels, 3):
        raise AlexNetError(
            f"{file.path} is damaged: its mean_image is {image.shape} for a crop of {c.crop_pixels} pixels."
        )
    return Input(c.crop_pixels, image, tuple(c.std), c.bgr)


def open_file(path: Path) -> WeightFile:
    """The file as a plain network, also where version 0.1 left the factor of dropout out. Raises AlexNetError."""
    file = formats.read(path)
    if "model" not in file.about:
        return file
    config = own_config(file)
    if "dropout" not in file.about:
        model = builder.model(config, outputs_of(file, config))
        file = dataclasses.replace(file, arrays=folded(model, file.arrays))
    return file


def _config_of(file: WeightFile, recipe: str | None) -> ConfigDict:
    """The file's own config, or that of `recipe` for a file of others. Raises AlexNetError."""
    named = configs.load_recipe(recipe if ":" in recipe else f"{recipe}:imagenet2012") if recipe else None
    if "model" not in file.about:
        if named is None:
            fitting = [name for name, others in identify.nearest_recipes(file).items() if not others]
            which = f", one of those with its shapes: {', '.join(fitting)}" if fitting else ""
            raise AlexNetError(f"{file.path} does not say which network it is: give recipe='NAME'{which}.")
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
        raise AlexNetError(
            f"{file.path} has no {last}, the last layer of this recipe: it holds {identify.some_arrays(file)}."
        )
    return len(file.arrays[last])


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
    model, arrays = builder.model(config, len(names)), dict(file.arrays)
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
    default = "BGR" if file.layout in formats.BGR else "RGB"
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
