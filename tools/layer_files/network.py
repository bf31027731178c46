"""From the rows of a layer file to the fields of a config's model section.

Source: the fields and their defaults in layer.py of the 2012 source and of cuda-convnet2, classes `...Parser`.
"""

import dataclasses
import math
from typing import Any

from alexnet_jax.errors import AlexNetError
from tools.layer_files import vocabulary
from tools.layer_files.graph import Sections, Weighted, read_graph
from tools.layer_files.reading import Missing, Section

# The files do not have it: it is an option of the command line (convdata_jpeg.py:73), and 224 for ImageNet.
IMAGE_PIXELS = 224
_MOST = 10_000_000


@dataclasses.dataclass(frozen=True)
class Network:
    """What a layer file says: fields of the config, the layers behind them, and what no field can say."""

    stated: dict[str, Any]  # {"model.conv1.features": 48, ...}
    layers: list[Weighted]
    towers: int
    classes: int
    missing: list[Missing]


def read_network(layers: Sections, params: Sections) -> Network:
    """The network of a layer file, with the constants of its norms from the file of parameters.

    Raises AlexNetError, naming the file and the line, for what is not such a network.
    """
    missing = list[Missing]()
    graph = read_graph(layers, params, missing)
    towers, last = len(graph[0].row), graph[-1]
    stated: dict[str, Any] = {
        "model.towers": towers,
        "model.layers": tuple(layer.name for layer in graph),
        "model.exchange": tuple(layer.name for layer in graph if layer.reads_all),
        "model.init": "normal",
        "model.weight_norm": False,
    }
    channels, pixels, mixed = 3, IMAGE_PIXELS, _pools_both_ways(graph)
    for layer in graph:
        read = channels * (towers if layer.reads_all else 1)
        fields = _fields(layer, read, pixels, missing, mixed)
        if "kernel_size" in fields:
            before, after = fields["padding"]
            pixels = (pixels + before + after - fields["kernel_size"]) // fields["stride"] + 1
        channels, pixels = fields["features"], _pooled(layer, fields["features"], pixels)
        stated |= {f"model.{layer.name}.{key}": value for key, value in fields.items()}
    if stated[f"model.{last.name}.post_ops"]:
        what = "something after the last layer, which only the softmax follows"
        missing.append(Missing(last.row[0].where("neuron"), f"[{last.row[0].name}]", what))
        stated[f"model.{last.name}.post_ops"] = ""
    stated[f"model.{last.name}.features"] = 0  # its share of the classes
    stated |= _constants(graph, params, missing)
    return Network(stated, graph, towers, channels * len(last.row), missing)


# ---------------------------------------------------------------- layers with weights


def _fields(layer: Weighted, read: int, pixels: int, missing: list[Missing], mixed: bool) -> dict[str, Any]:
    """The fields of a layer that reads `read` channels of `pixels` x `pixels`. Raises AlexNetError.

    `mixed`: of two kinds of pooling in one network the average is `avg_pool`.
    """
    section = layer.row[0]
    words = [word for part in (section, *layer.operations) for word in _words(part, mixed)]
    fields: dict[str, Any] = {
        "post_ops": " ".join(words),
        "init_std": one(section, "initw", layer, missing, "0.01"),
        "init_bias": section.number("initb", "0"),
    }
    if section.text("type") == "fc":
        return {"features": whole(section, "outputs"), **fields}
    channels = section.numbers("channels", len(section.texts("inputs")))
    if sum(channels[i] for i in layer.kept) != read:
        raise AlexNetError(
            f"{section.where('channels')}: {section.word('channels')} does not fit: what [{section.name}] reads has "
            f"{read} channels."
        )
    size, stride, before = (
        _whole(section, key, one(section, key, layer, missing, default), low)
        for key, default, low in (("filtersize", None, 1), ("stride", "1", 1), ("padding", "0", 0))
    )
    if size > pixels + 2 * before:
        raise AlexNetError(
            f"{section.where('filtersize')}: filters of {size} pixels do not fit into {pixels} pixels, padded by "
            f"{before}, for images of {IMAGE_PIXELS}."
        )
    filters = one(section, "filters", layer, missing) * one(section, "groups", layer, missing, "1")
    return {
        "features": _whole(section, "filters", filters, 1),
        "kernel_size": size,
        "stride": stride,
        # The last window begins inside and may end outside, where it reads zeros (layer.py:1004, a ceil): with 224
        # pixels, 11 of a filter and a stride of 4 that is 3 more pixels on the right and at the bottom.
        "padding": (before, math.ceil((pixels + 2 * before - size) / stride) * stride + size - pixels - before),
        **fields,
    }


def one(section: Section, key: str, layer: Weighted, missing: list[Missing], default: str | None = None) -> float:
    """The number that a field has for each of a layer's inputs that are features. Raises AlexNetError."""
    values = section.numbers(key, len(layer.row[0].texts("inputs")), default)
    values = tuple(values[i] for i in layer.kept)
    if len(set(values)) > 1:
        what = "another value for each input; here a layer has one"
        missing.append(Missing(section.where(key), section.word(key), what))
    return values[0]


def whole(section: Section, key: str, low: int = 1) -> int:
    """A whole number of at least `low`. Raises AlexNetError."""
    return _whole(section, key, section.number(key), low)


def _whole(section: Section, key: str, value: float, low: int) -> int:
    if not low <= value <= _MOST or value != int(value):
        raise AlexNetError(
            f"{section.where(key)}: {section.word(key)} is not possible: it must be a whole number from {low} to "
            f"{_MOST:,}."
        )
    return int(value)


# ---------------------------------------------------------------- layers without


def _pools_both_ways(graph: list[Weighted]) -> bool:
    """Whether a network has poolings by the maximum and by the average."""
    kinds = {_averages(section) for layer in graph for section in layer.operations if section.text("type") == "pool"}
    return len(kinds) == 2


def _averages(section: Section) -> bool:
    return section.text("pool") == "avg"


def _words(section: Section, mixed: bool) -> list[str]:
    """The post-ops of a layer, with `avg_pool` for an average where there are maxima too."""
    words = vocabulary.post_ops(section)
    return ["avg_pool" if mixed and word == "pool" and _averages(section) else word for word in words]


def _pooled(layer: Weighted, features: int, pixels: int) -> int:
    """The pixels that are left after a layer's post-ops; its poolings and norms must state its channels."""
    for section in layer.operations:
        if "channels" in section.fields and section.number("channels") != features:
            raise AlexNetError(
                f"{section.where('channels')}: {section.word('channels')} does not fit: [{layer.row[0].name}] has "
                f"{features}."
            )
        if section.text("type") == "pool":
            size, stride = whole(section, "sizex"), whole(section, "stride")
            if size > pixels:
                raise AlexNetError(
                    f"{section.where('sizex')}: {section.word('sizex')} does not fit into {pixels} pixels."
                )
            pixels = math.ceil((pixels - size) / stride) + 1
    return pixels


def _constants(graph: list[Weighted], params: Sections, missing: list[Missing]) -> dict[str, Any]:
    """The fields of the norms, the pooling and the dropout that the network has; there is one of each here."""
    stated, mixed = dict[str, Any](), _pools_both_ways(graph)
    fields: dict[str, Any]
    for section in (section for layer in graph for section in layer.operations):
        kind, words = section.text("type"), vocabulary.post_ops(section)
        if kind == "pool":
            fields = {"kind": "avg" if _averages(section) and not mixed else "max", "ceil": True}
            fields |= {"size": whole(section, "sizex"), "stride": whole(section, "stride")}
        elif kind in ("cmrnorm", "rnorm"):
            fields = _norm(section, of(params, section), across=kind == "cmrnorm", towers=len(graph[0].row))
        elif "dropout" in words:
            keep = section if "keep" in section.fields else params.get(section.name, section)
            # hs and dropout2 mask in training and scale by keep in the test; dropout scales by 1 / keep in training.
            fields = {"rate": round(1 - keep.number("keep", "0.5"), 12), "inverted": kind == "dropout"}
        else:
            continue
        new = {f"model.{words[0]}.{key}": value for key, value in fields.items()}
        if any(stated.setdefault(key, value) != value for key, value in new.items()):
            what = f"another {words[0]} than the one before; here all of a network are alike"
            missing.append(Missing(section.where(), f"[{section.name}]", what))
    return stated


def _norm(section: Section, constants: Section, *, across: bool, towers: int) -> dict[str, Any]:
    """Of x / (minDiv + scale / n * sum of n squares) ** pow; n is the size, in space its square (layer.py:1183).

    minDiv is 1 by default. The 2012 source does not read it for a norm in space, cuda-convnet2 does.
    """
    fields: dict[str, Any] = {
        "size": whole(section, "size"),
        "alpha": constants.number("scale"),
        "beta": constants.number("pow"),
        "k": constants.number("mindiv", "1"),
    }
    if across:
        fields["alpha_over_size"] = True
        if towers > 1:
            fields["across_towers"] = False
    return fields


def of(params: Sections, section: Section) -> Section:
    """A layer's section in the file of parameters. Raises AlexNetError where it has none."""
    if section.name not in params:
        file = next(iter(params.values())).path.name
        raise AlexNetError(
            f"{file} has no [{section.name}], which {section.where()} needs: name the file that belongs to it."
        )
    return params[section.name]
