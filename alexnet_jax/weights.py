"""Weights in and out: Caffe's layout (.npz) and PyTorch's (.safetensors, .pth), and which AlexNet a file holds."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax import catalog, config as configs
from alexnet_jax.errors import AlexNetError
from alexnet_jax.network import model as models

# One network's arrays: NAME_w is [maps, channels of a group, k, k] or [units, inputs], NAME_b [maps]. A convolution
# that sees its own tower only is a grouped one, its groups the towers. The inputs of the first fully connected layer
# are in the order channel, row, column. Beside them NAME_scale (weight norm) and bnN_scale, _b, _mean, _var.
Arrays = dict[str, np.ndarray]

# torchvision numbers its layers by their place in two Sequentials (torchvision/models/alexnet.py).
_TORCHVISION = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip
_TORCH_PARTS = {"w": "weight", "b": "bias"}
ABOUT = "about"


# ---------------------------------------------------------------- towers to one network and back


def to_arrays(model: models.AlexNet, variables: dict[str, Any]) -> Arrays:
    """The variables of all towers (numpy, leading tower axis) as one network's arrays."""
    arrays: Arrays = {}
    for name, leaves in variables["params"].items():
        for leaf, value in leaves.items():
            if leaf == "kernel":
                arrays[f"{name}_w"] = np.concatenate(_kernels_out(model, name, np.asarray(value)))
            else:
                arrays[f"{name}_{'b' if leaf == 'bias' else leaf}"] = np.asarray(value).reshape(-1)
    for name, leaves in variables.get("batch_stats", {}).items():
        arrays |= {f"{name}_{leaf}": np.asarray(value).reshape(-1) for leaf, value in leaves.items()}
    last = model.stack[-1].name  # without what rounds the classes up to equal parts
    return {name: array[: model.classes] if name.startswith(last + "_") else array for name, array in arrays.items()}


def from_arrays(model: models.AlexNet, arrays: Arrays, image_pixels: int) -> dict[str, Any]:
    """The inverse of `to_arrays`; what rounds the classes up is 0. Raises AlexNetError where they do not fit."""
    shapes = jax.eval_shape(lambda: models.init_variables(model, jax.random.key(0), image_pixels))
    wanted = shapes_of(model, image_pixels)
    for name, shape in wanted.items():
        if name not in arrays or arrays[name].shape != shape:
            found = arrays[name].shape if name in arrays else "missing"
            raise AlexNetError(
                f"The weights do not fit the config: {name} is {found} in the file and {shape} in the network. "
                "alexnet weights identify --input=FILE says which recipe they are of."
            )
    if unknown := sorted(arrays.keys() - wanted.keys()):
        raise AlexNetError(f"The file holds {unknown[0]}, which the network of this config has no place for.")
    last = model.stack[-1].name

    def leaf_of(path: Any, leaf: Any) -> np.ndarray:
        name, part = path[1].key, path[2].key
        array = arrays[f"{name}_{ {'kernel': 'w', 'bias': 'b'}.get(part, part) }"]
        if name == last:
            spare = leaf.shape[0] * leaf.shape[-1] - model.classes
            # Under weight norm a kernel may not be 0: it is divided by its length.
            fill = 1.0 if part == "kernel" and model.stack[-1].weight_norm else 0.0
            array = np.pad(array, ((0, spare), *((0, 0),) * (array.ndim - 1)), constant_values=fill)
        if part == "kernel":
            return np.stack(_kernels_in(model, name, np.split(array, model.towers)))
        return array.reshape(leaf.shape)

    variables: dict[str, Any] = jax.tree_util.tree_map_with_path(leaf_of, shapes)
    return variables


def shapes_of(model: models.AlexNet, image_pixels: int) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the arrays of a network."""
    variables = jax.eval_shape(lambda: models.init_variables(model, jax.random.key(0), image_pixels))
    found: dict[str, tuple[int, ...]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name, part = path[1].key, path[2].key
        units = model.classes if name == model.stack[-1].name else leaf.shape[0] * leaf.shape[-1]
        if part == "kernel":
            inputs = leaf.shape[1:-1] if leaf.ndim == 3 else (leaf.shape[3], *leaf.shape[1:3])
            found[f"{name}_w"] = (units, *inputs)
        else:
            found[f"{name}_{'b' if part == 'bias' else part}"] = (units,)
    return found


def _kernels_out(model: models.AlexNet, name: str, kernel: np.ndarray) -> list[np.ndarray]:
    if kernel.ndim == 5:
        return [tower.transpose(3, 2, 0, 1) for tower in kernel]
    if channels := _maps_before(model, name):
        side = math.isqrt(kernel.shape[1] // channels)
        grid = kernel.reshape(len(kernel), side, side, channels, -1).transpose(0, 3, 1, 2, 4)
        kernel = grid.reshape(kernel.shape)
    return [tower.T for tower in kernel]


def _kernels_in(model: models.AlexNet, name: str, parts: list[np.ndarray]) -> list[np.ndarray]:
    if parts[0].ndim == 4:
        return [part.transpose(2, 3, 1, 0) for part in parts]
    if channels := _maps_before(model, name):
        side = math.isqrt(parts[0].shape[1] // channels)
        grids = [part.reshape(-1, channels, side, side).transpose(0, 2, 3, 1) for part in parts]
        parts = [grid.reshape(part.shape) for grid, part in zip(grids, parts, strict=True)]
    return [part.T for part in parts]


def _maps_before(model: models.AlexNet, name: str) -> int:
    """How many maps a fully connected layer reads, 0 where it reads units."""
    names = [layer.name for layer in model.stack]
    place = names.index(name)
    before = model.stack[place - 1] if place else None
    if not isinstance(before, models.ConvLayer):
        return 0
    return before.features * (model.towers if name in model.exchange else 1)


# ---------------------------------------------------------------- files


def read(path: Path) -> tuple[Arrays, dict[str, Any], str]:
    """(arrays, what the file says about them or {}, "caffe" or "torch"). Raises AlexNetError."""
    if not path.exists():
        raise AlexNetError(f"{path}: there is no such file.")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop(ABOUT))) if ABOUT in arrays else {}
        return arrays, about, "caffe"
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
        return _from_torch(tensors), about, "torch"
    if path.suffix in (".pth", ".pt"):
        try:
            import torch
        except ImportError:
            raise AlexNetError(
                f"{path} needs PyTorch to be read: pip install torch, or save it as .safetensors where there is one."
            ) from None
        return _from_torch({k: v.numpy() for k, v in torch.load(path, weights_only=True).items()}), {}, "torch"
    if path.suffix == ".caffemodel":
        raise AlexNetError(
            f"{path}: no maintained package reads a .caffemodel today. Where Caffe is installed, write an .npz: "
            "net = caffe.Net(prototxt, caffemodel, caffe.TEST); numpy.savez(file, **{f'{name}_{part}': blob.data "
            "for name, blobs in net.params.items() for part, blob in zip('wb', blobs)})."
        )
    raise AlexNetError(f"{path}: it must end in .npz, .safetensors, .pth or .pt.")


def write(path: Path, arrays: Arrays, about: dict[str, Any]) -> None:
    """As .npz in Caffe's layout, or as .safetensors with PyTorch's names. Raises AlexNetError for another ending."""
    if path.suffix not in (".npz", ".safetensors"):
        raise AlexNetError(f"{path}: it must end in .npz or .safetensors.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        whole: dict[str, Any] = {**arrays, ABOUT: np.asarray(json.dumps(about))}
        np.savez(path, **whole)
        return
    from safetensors.numpy import save_file

    one_tower = about["model"]["towers"] == 1
    save_file(_to_torch(arrays, torchvision=one_tower), path, metadata={ABOUT: json.dumps(about)})


def _to_torch(arrays: Arrays, *, torchvision: bool) -> dict[str, np.ndarray]:
    """torchvision's own names where its eight layers are there and nothing else, conv1.weight and so on otherwise."""
    layers = {name.rpartition("_")[0] for name in arrays}
    torchvision = torchvision and layers == _TORCHVISION.keys() and len(arrays) == 2 * len(layers)
    tensors = {}
    for name, array in arrays.items():
        layer, _, part = name.rpartition("_")
        layer = _TORCHVISION[layer] if torchvision else layer
        tensors[f"{layer}.{_TORCH_PARTS.get(part, part)}"] = np.ascontiguousarray(array)
    return tensors


def _from_torch(tensors: dict[str, np.ndarray]) -> Arrays:
    ours = {theirs: layer for layer, theirs in _TORCHVISION.items()}
    parts = {theirs: part for part, theirs in _TORCH_PARTS.items()}
    arrays = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        arrays[f"{ours.get(layer, layer)}_{parts.get(part, part)}"] = tensor
    return arrays


# ---------------------------------------------------------------- which AlexNet is it?


def identify(path: Path) -> str:
    """The layers of a file and the recipes that have its weights' shapes, in words. Raises AlexNetError."""
    arrays, about, kind = read(path)
    shapes = {name: array.shape for name, array in arrays.items()}
    layers = [name[:-2] for name in shapes if name.endswith("_w")]
    if not layers:
        raise AlexNetError(f"{path} holds no weights of layers (conv1_w, or features.0.weight): {sorted(shapes)[:5]}.")
    layers.sort(key=lambda name: (not name.startswith("conv"), len(name), name))
    form = "Caffe's layout" if kind == "caffe" else "PyTorch's names"
    lines = [f"{path}: {sum(a.size for a in arrays.values()):,} numbers, {form}" + _said(about), ""]
    maps = 3
    for name in layers:
        shape = shapes[f"{name}_w"]
        if len(shape) == 4:
            groups = maps // shape[1] if shape[1] and maps % shape[1] == 0 else 1
            in_groups = f", {groups} groups" if groups > 1 else ""
            lines.append(f"  {name}  {shape[0]} filters of {shape[1]} x {shape[2]} x {shape[3]}{in_groups}")
        else:
            lines.append(f"  {name}  {shape[0]} units of {shape[1]} inputs")
        maps = shape[0]
    return "\n".join([*lines, "", *_nearest(shapes, classes=shapes[f"{layers[-1]}_w"][0])])


def _said(about: dict[str, Any]) -> str:
    return f", {about['channels']}, step {about['step']}" if {"channels", "step"} <= about.keys() else ""


def _nearest(shapes: dict[str, tuple[int, ...]], classes: int) -> list[str]:
    differing: dict[str, list[str]] = {}
    for name in configs.recipe_names():
        model, pixels = catalog.build(name, classes)
        wanted = shapes_of(model, pixels)
        parts = [part for part in {**wanted, **shapes} if wanted.get(part) != shapes.get(part)]
        differing[name] = sorted({part.rpartition("_")[0] for part in parts})
    fewest = min(map(len, differing.values()))
    nearest = [name for name, parts in differing.items() if len(parts) == fewest]
    if fewest:
        return [
            f"No recipe has these shapes; the nearest: {name} (other: {', '.join(differing[name])})."
            for name in nearest
        ]
    lines = [f"The shapes are those of: {', '.join(nearest)}."]
    if len(nearest) > 1:
        lines.append(
            "Order of operations, norms, padding and the input's colours are not in a weight file: which of these it "
            "is, its origin says, or its accuracy under each."
        )
    return lines
