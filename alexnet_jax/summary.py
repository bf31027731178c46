"""The network as a table, read off the live model."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from alexnet_jax import data, model as models, run
from alexnet_jax.towers import TOWER

_HEAD = ("layer", "input", "kernel/stride", "output", "sees", "parameters", "multiply-adds")

# Where the table that is copied most (a Chinese description of the network, and its many descendants)
# is wrong. The numbers are those of the network with 1000 classes.
_COMMON_MISTAKES = """\
Where the commonly copied table is wrong:
  fc8    (4096 + 1) x 1000 x 2 parameters counts the layer twice: it is 4,097,000, once (the 2012 source keeps
         it whole on one GPU; here each tower has half of the classes). The copied table sums to 65,062,224.
  conv3  its input is 13 x 13 x 128 x 2, so its kernels are 256 deep, not 384 (which is conv4's input).
  conv1  224 gives 55 only with its padding: 3 zero pixels on the right and at the bottom, none on the left
         and on top. conv2 pads 2 and conv3 to conv5 pad 1, which the table leaves out too."""


def describe(model: models.AlexNet, image_pixels: int) -> list[dict[str, Any]]:
    """One row a weighted layer or pooling: its shapes for one tower, and parameters and MACs of all.

    Keys: name, input, window, output (shapes without the batch, of one tower), sees ("image", "own",
    "both"), parameters, macs (multiply-adds an image). Read off the shapes of the live model.
    """
    images = jax.ShapeDtypeStruct((1, image_pixels, image_pixels, 3), jnp.float32)
    one_tower = jax.vmap(model.init, in_axes=(0, None), axis_name=TOWER)
    variables = jax.eval_shape(one_tower, jax.random.split(jax.random.key(0), model.towers), images)
    params, seen = variables["params"], {name: shape.shape[2:] for name, shape in variables["perturbations"].items()}
    rows, shape = [], images.shape[1:]
    for layer in model.stack:
        exchanges = layer.name in model.exchange
        if exchanges:
            shape = (*shape[:-1], shape[-1] * model.towers)
        kernel, output = params[layer.name]["kernel"], seen[f"{layer.name}_out"]
        is_last = layer is model.stack[-1]
        units = model.classes if is_last else output[-1] * model.towers
        positions = math.prod(output[:-1])
        if isinstance(layer, models.DenseLayer):
            shape = (math.prod(shape),)
            window = f"{shape[0]} x {output[-1]}"
        else:
            window = f"{layer.kernel} x {layer.kernel} x {kernel.shape[-2]} / {layer.stride}{_padding(layer.padding)}"
        per_unit = math.prod(kernel.shape[1:-1])  # weights into one unit or map
        rows.append({
            "name": layer.name, "input": shape, "window": window, "output": output,
            "sees": "image" if not rows else "both" if exchanges and model.towers > 1 else "own",
            "parameters": (per_unit + 1) * units, "macs": per_unit * units * positions,
        })  # fmt: skip
        for word in layer.then:
            name = models.operation_name(word, layer.name)
            if word == "pool":
                window = f"{model.pool.size} x {model.pool.size} / {model.pool.stride} {model.pool.kind}"
                before = rows[-1]["output"]
                rows.append({"name": name, "input": before, "window": window, "output": seen[name], "sees": "own", "parameters": 0, "macs": 0})  # fmt: skip
            shape = seen[name]
        shape = seen[models.operation_name(layer.then[-1], layer.name)] if layer.then else output
    return rows


def summarize(config: ConfigDict) -> str:
    """The table of the config's network, the order of its operations, and what crosses the towers."""
    classes = _classes(config)
    model = run.build_model(config, classes)
    rows = describe(model, config.data.crop_pixels)
    times = f" (x{model.towers})" if model.towers > 1 else ""
    cells = [_HEAD] + [
        (r["name"], _shape(r["input"], times if r["sees"] == "own" else ""), r["window"], _shape(r["output"], times), r["sees"], f"{r['parameters']:,}", f"{r['macs']:,}")
        for r in rows
    ]  # fmt: skip
    cells.append(("total", "", "", "", "", f"{sum(r['parameters'] for r in rows):,}", f"{sum(r['macs'] for r in rows):,}"))
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEAD))]
    lines = ["  ".join(_aligned(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in cells]
    rule = "-" * max(map(len, lines))
    title = f"{config.data.name}: {classes} classes, {model.towers} tower(s); (x{model.towers}): in each tower; sees: own tower or both\n"
    order = ["", "The order of the operations:"]
    order += ["  " + " -> ".join((layer.name, *(models.operation_name(w, layer.name) for w in layer.then))) for layer in model.stack]
    return "\n".join([title, lines[0], rule, *lines[1:-1], rule, lines[-1], *order, "", _COMMON_MISTAKES])


def _classes(config: ConfigDict) -> int:
    if config.data.name == "digits":
        return len(data.open_split("digits", config.data.eval_split, "").class_names)
    builder, _, label = data.tfds_classification(config.data.name, config.data.data_dir)
    return int(builder.info.features[label].num_classes)


def _padding(padding: tuple[int, int]) -> str:
    if padding == (0, 0):
        return ""
    return f", pad {padding[0]}" if padding[0] == padding[1] else f", pad {padding[0]}+{padding[1]}"


def _shape(shape: tuple[int, ...], times: str) -> str:
    return " x ".join(map(str, shape)) + times


def _aligned(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column >= 5 else text.ljust(width)
