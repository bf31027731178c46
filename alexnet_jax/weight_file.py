"""Our own weight files: the arrays of `model.plain`, and beside them all that a network needs to be loaded again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import __version__, builder, config as configs, files
from alexnet_jax.data.preprocess import Input
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models
from alexnet_jax.model.plain import Arrays, shapes_of, to_arrays

# torchvision numbers its layers by their place in two Sequentials (torchvision/models/alexnet.py).
TORCHVISION = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip
TORCH_PARTS = {"w": "weight", "b": "bias"}
ABOUT, MEAN_IMAGE = "about", "mean_image"  # what a file holds beside the arrays


def save(
    path: Path, model: models.AlexNet, variables: Any, *, config: ConfigDict, class_names: tuple[str, ...],
    inputs: Input, step: int | None = None,
) -> None:  # fmt: skip
    """Writes a network with these variables (numpy, of all towers), and all that it takes to load it again.

    torchvision's own names only where the network computes what torchvision's does. Raises AlexNetError.
    """
    about = metadata(config, class_names, inputs, step)
    write(
        path,
        to_arrays(model, variables),
        about,
        torchvision_names=not config.data.bgr and _computes_torchvision(model, inputs.crop_pixels),
        mean_image=inputs.mean if inputs.mean.ndim == 3 else None,
    )


def write(
    path: Path,
    arrays: Arrays,
    about: dict[str, Any],
    *,
    torchvision_names: bool = False,
    mean_image: np.ndarray | None = None,
) -> None:
    """Writes .npz in Caffe's layout, or .safetensors with PyTorch's names (torchvision's own if asked for).

    A failure leaves nothing and keeps what was there. Raises AlexNetError.
    """
    if path.suffix not in (".npz", ".safetensors"):
        raise AlexNetError(f"{path} cannot be written: its name must end in .npz or .safetensors.")
    if path.is_dir():
        raise AlexNetError(f"{path} cannot be written: it is a folder.")
    images = {} if mean_image is None else {MEAN_IMAGE: mean_image}
    files.make_folder(path.parent)
    if path.suffix == ".npz":
        whole: dict[str, Any] = arrays | images | {ABOUT: np.asarray(json.dumps(about))}
        files.write(path, lambda growing: np.savez(growing, **whole))
        return
    from safetensors import numpy as safetensors

    # Not save_file, whose errors are not the system's, and which makes private files.
    tensors = _torch_names(arrays, torchvision_names) | images
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    content = safetensors.save(tensors, {ABOUT: json.dumps(about)})
    files.write(path, lambda growing: growing.write_bytes(content))


def metadata(
    config: ConfigDict, class_names: tuple[str, ...], inputs: Input, step: int | None = None
) -> dict[str, Any]:
    """What `save` puts beside the weights, so that `load` needs nothing else; `mean` is that of each channel."""
    c, mean = config.data, config.data.mean
    if inputs.mean.ndim == 3 or not mean:
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
    } | ({} if step is None else {"step": step})


def _torch_names(arrays: Arrays, torchvision: bool) -> Arrays:
    named: Arrays = {}
    for name, array in arrays.items():
        layer, _, part = name.rpartition("_")
        named[f"{TORCHVISION[layer] if torchvision else layer}.{TORCH_PARTS.get(part, part)}"] = array
    return named


def _computes_torchvision(model: models.AlexNet, image_pixels: int) -> bool:
    """Whether torchvision's `alexnet` with the same weights computes what `model` does: then a file has its names."""
    config = configs.recipe_module("torchvision").get_config("imagenet2012")
    theirs = builder.model(config, model.classes)

    def computed(network: models.AlexNet) -> Any:
        """In evaluation, of a network without norms; the factor of a dropout is in the weights."""
        layers = []
        for layer in network.stack:
            words = tuple(word for word in layer.post_ops if word != "dropout")
            layers.append(dataclasses.replace(layer, post_ops=words, kernel_init=models.fan_in_uniform, bias_init=None))
        return network.towers, network.pool, layers

    shapes = shapes_of(theirs, config.data.crop_pixels)
    return computed(model) == computed(theirs) and shapes_of(model, image_pixels) == shapes
