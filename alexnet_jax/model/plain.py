"""The variables of the towers as the arrays of one plain network, and back.

A plain network has convolutions, matmuls and the operations between them, and no factor for dropout. NAME_w is
[channels, channels of a group, k, k] or [units, inputs], NAME_b is [channels]. A convolution that reads its own tower
only is a grouped one, its groups the towers. The inputs of the first fully connected layer are in the order channel,
row, column. Beside them are NAME_scale (weight norm) and bnN_scale, bnN_b, bnN_mean, bnN_var. All of it is float32.
"""

import math
from typing import Any

import jax
import numpy as np

from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement

Arrays = dict[str, np.ndarray]


def to_arrays(model: models.AlexNet, variables: dict[str, Any]) -> Arrays:
    """The variables of all towers (numpy, leading tower axis) as the arrays of one plain network.

    The factor of the 2012 dropout is folded into them: see `factors`, which says when that raises AlexNetError.
    """
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
    arrays = {name: array[: model.classes] if name.startswith(last + "_") else array for name, array in arrays.items()}
    return folded(model, arrays)


def from_arrays(model: models.AlexNet, arrays: Arrays, image_pixels: int) -> dict[str, Any]:
    """The inverse of `to_arrays`; what rounds the classes up is 0. Raises AlexNetError where they do not fit."""
    wanted = shapes_of(model, image_pixels)
    for name, shape in wanted.items():
        if name not in arrays or arrays[name].shape != shape:
            found = arrays[name].shape if name in arrays else "missing"
            raise AlexNetError(f"{name} is {found} in the file and {shape} in the network.")
    if unknown := sorted(arrays.keys() - wanted.keys()):
        raise AlexNetError(f"the file holds {unknown[0]}, which the network has no place for.")
    arrays = arrays | {part: arrays[part] / np.float32(by) for part, by in _scaled_parts(model, arrays)}  # unfolded
    last = model.stack[-1]

    def leaf_of(path: Any, leaf: Any) -> np.ndarray:
        name, part = path[1].key, path[2].key
        array = arrays[f"{name}_{ {'kernel': 'w', 'bias': 'b'}.get(part, part) }"]
        if name == last.name:
            spare = leaf.shape[0] * leaf.shape[-1] - model.classes
            # Under weight norm a kernel may not be 0: it is divided by its length.
            fill = 1.0 if part == "kernel" and last.weight_norm else 0.0
            array = np.pad(array, ((0, spare), *((0, 0),) * (array.ndim - 1)), constant_values=fill)
        if part == "kernel":
            return np.stack(_kernels_in(model, name, np.split(array, model.towers)))
        return array.reshape(leaf.shape)

    variables: dict[str, Any] = jax.tree_util.tree_map_with_path(leaf_of, placement.variables(model, image_pixels))
    return variables


def shapes_of(model: models.AlexNet, image_pixels: int) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the arrays of a network. Raises AlexNetError where the image shrinks below a window."""
    found: dict[str, tuple[int, ...]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(placement.variables(model, image_pixels)):
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
    if channels := _channels_before(model, name):
        side = math.isqrt(kernel.shape[1] // channels)
        grid = kernel.reshape(len(kernel), side, side, channels, -1).transpose(0, 3, 1, 2, 4)
        kernel = grid.reshape(kernel.shape)
    return [tower.T for tower in kernel]


def _kernels_in(model: models.AlexNet, name: str, parts: list[np.ndarray]) -> list[np.ndarray]:
    if parts[0].ndim == 4:
        return [part.transpose(2, 3, 1, 0) for part in parts]
    if channels := _channels_before(model, name):
        side = math.isqrt(parts[0].shape[1] // channels)
        grids = [part.reshape(-1, channels, side, side).transpose(0, 2, 3, 1) for part in parts]
        parts = [grid.reshape(part.shape) for grid, part in zip(grids, parts, strict=True)]
    return [part.T for part in parts]


def _channels_before(model: models.AlexNet, name: str) -> int:
    """How many channels of a convolution a fully connected layer reads, 0 where it reads units."""
    names = [layer.name for layer in model.stack]
    place = names.index(name)
    before = model.stack[place - 1] if place else None
    if not isinstance(before, models.ConvLayer):
        return 0
    return before.features * (model.towers if name in model.exchange else 1)


def factors(model: models.AlexNet) -> dict[str, float]:
    """{layer: the factor that a dropout before it applies in evaluation}, without the layers for which it is 1.

    Dropout as in 2012 (not inverted) multiplies by 1 - rate in evaluation, and the weighted layer that comes next may
    do it instead. Raises AlexNetError where an operation between the two does not let a factor pass.
    """
    found: dict[str, float] = {}
    if model.dropout.inverted:
        return found
    for layer, following in zip(model.stack, model.stack[1:], strict=False):
        factor = 1.0
        for word in layer.post_ops:
            if factor != 1.0 and word not in models.HOMOGENEOUS:
                raise AlexNetError(
                    f"config.model.{layer.name}.post_ops={' '.join(layer.post_ops)!r} has {word} after a dropout that "
                    f"is not inverted, so its factor of {factor:g} cannot be folded into the weights of "
                    f"{following.name}: put the dropout last, or use config.model.dropout.inverted=true."
                )
            factor *= 1.0 - model.dropout.rate if word == "dropout" else 1.0
        if factor != 1.0:
            found[following.name] = factor
    return found


def folded(model: models.AlexNet, arrays: Arrays) -> Arrays:
    """The arrays with `factors` in the weights; with weight norm in their scale. 0.5 is exact in float32."""
    return arrays | {part: arrays[part] * np.float32(by) for part, by in _scaled_parts(model, arrays)}


def _scaled_parts(model: models.AlexNet, arrays: Arrays) -> list[tuple[str, float]]:
    # Biases are added to the sum, so they take no factor.
    parts = ((f"{name}_scale" if f"{name}_scale" in arrays else f"{name}_w", by) for name, by in factors(model).items())
    return [(part, by) for part, by in parts if part in arrays]
