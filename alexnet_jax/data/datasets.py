"""Facts about data sets, under the names of the config's fields: splits, sizes, means, principal components.

How one trains on them is up to the recipes.
"""

from typing import Any

# The principal components of ILSVRC-2012's colors: std in levels of 0..255, and unit vectors over R, G, B.
# Source: cuda-convnet2, make-data/input_meta.
_ILSVRC_COLORS = {
    "color_std": (121.7801, 37.0939, 19.7208),
    "color_vectors": ((0.5635, 0.5762, 0.5920), (0.7126, 0.0235, -0.7012), (0.4180, -0.8170, 0.3973)),
}
_PHOTOGRAPHS = {"eval_split": "", "mean": (), "resize_pixels": 256, "flip": True, "color_std": (), "color_vectors": ()}

# The channel means are over R, G, B in 0..255.
_FACTS: dict[str, dict[str, Any]] = {
    # The mean image of cuda-convnet2 (make-data/input_meta), averaged over its pixels.
    "imagenet2012": _PHOTOGRAPHS | _ILSVRC_COLORS | {"eval_split": "validation", "mean": (127.3, 119.7, 104.9)},
    # Noise of ImageNet's shape and sizes, around one gray.
    "synthetic": _PHOTOGRAPHS | _ILSVRC_COLORS | {"eval_split": "validation", "mean": (120.0, 120.0, 120.0)},
    # The means of these two are over their training split, center crops as the feed delivers them.
    "cifar10": _PHOTOGRAPHS | _ILSVRC_COLORS | {"eval_split": "test", "mean": (124.6, 121.2, 112.0)},
    "digits": _PHOTOGRAPHS
    | {
        "eval_split": "test",
        "mean": (79.4, 79.4, 79.4),
        "resize_pixels": 224,  # the size of the crop: a digit is used whole
        "flip": False,  # a mirrored 2 is not a 2
    },
}


def base_name(data_name: str) -> str:
    """The name of the set that a packed one, NAME_pack256 (or with _long or _raw behind it), was made from."""
    return data_name.partition("_pack")[0]


def facts(data_name: str) -> dict[str, Any]:
    """The fields of `config.data` that a data set decides.

    For a set that is not listed here "" and () stand for what `prepare` stored beside it.
    """
    return {"name": data_name} | _FACTS.get(base_name(data_name), _PHOTOGRAPHS)


def is_imagenet(data_name: str) -> bool:
    """Whether a data set is ILSVRC-2012, for which the recipes have the schedules of their sources."""
    return base_name(data_name) == "imagenet2012"


def known() -> tuple[str, ...]:
    """The names with facts of their own; a folder of pictures must not be prepared under one of them."""
    return tuple(_FACTS)
