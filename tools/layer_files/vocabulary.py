"""The words of cuda-convnet's layer files: which of them a config can say, and what the others are.

Source: layer.py of the 2012 source and of cuda-convnet2, whose two vocabularies are taken together.
"""

from collections.abc import Iterator

from alexnet_jax.errors import AlexNetError
from tools.layer_files.reading import Missing, Section, number_of

WITH_WEIGHTS = ("conv", "fc")
JOINED = ("concat", "pass")  # several layers under one name

# Which post-op a layer without weights is.
POST_OPS = {
    "cmrnorm": "norm",
    "rnorm": "spatial_norm",
    "pool": "pool",
    "hs": "dropout",
    "dropout": "dropout",
    "dropout2": "dropout",
}
_NEURONS = {"relu": "relu", "tanh[1,1]": "tanh", "ident": ""}

# Layers without weights that a network here cannot have. They are named, and left out.
_LEFT_OUT = {
    "cnorm": "a contrast norm: it divides by a function of the squared differences from the mean of a window, where a "
    "spatial norm takes the squares themselves",
    "blur": "a Gaussian blur of its input",
    "nailbed": "every n-th pixel of its input",
    "href": "the mirror image of its input",
    "resize": "its input in another size",
    "rscale": "its input in a random size",
    "crop": "a part of its input",
    "rgb2yuv": "its input in other colors",
    "rgb2lab": "its input in other colors",
}
# Layers that make another kind of network.
_REFUSED = {
    "local": "a convolution with weights of its own at every pixel",
    "treefc": "a layer whose classes are a tree",
    "sfc": "a fully connected layer in parts",
    "eltsum": "a sum of layers",
    "eltmax": "a maximum of layers",
    "sum": "a sum of images",
    "cmpool": "a pooling over channels",
}
_ONLY = {"data", "softmax", "neuron", "cost.logreg", *WITH_WEIGHTS, *JOINED, *POST_OPS}

# Keys that say where a layer is computed, or how.
_NEUTRAL = frozenset(("type", "inputs", "gpu", "dataidx", "partialsum", "sumwidth", "topk"))
# Keys that are read (network.py, rates.py).
_READ = frozenset(("channels", "filters", "padding", "stride", "filtersize", "sizex", "size", "outputs", "keep")) | {
    *("initw", "initb", "scale", "pow", "mindiv", "epsw", "epsb", "momw", "momb", "wc", "schedw", "schedb")
}
# Keys that a config cannot say: the values that change nothing, and what another one would be.
_MUST_BE = {
    "groups": ("1", "channels in groups within one layer"),
    "randsparse": ("0 false", "random connections between channels"),
    "sharedbiases": ("1 true", "a bias of its own at every pixel"),
    "blocked": ("0 false", "a norm over fixed blocks of channels; here its window slides"),
    "start": ("0", "a first window that is not at the first pixel"),
    "outputsx": ("0", "a number of windows that is set by hand"),
    "modulesx": ("0", "a number of windows that is set by hand"),
    "sum": ("0 false", "a sum in place of the average"),
    "domax": ("0 false", "a random pooling's maximum"),
    "enable": ("1 true", "a dropout that is switched off and still scales"),
    "coeff": ("1", "a weight of the cost"),
    "wball": ("0", "a bound on the weights"),
    "wcnormmin": ("0", "a bound on the norm of the filters"),
    "wcnormmax": ("0", "a bound on the norm of the filters"),
    "wcnorm": ("0", "a bound on the norm of the filters"),
    "updateperiod": ("0 1", "weights that wait for several batches"),
    "supereps": ("0", "an update rule of its own"),
    "supermom": ("0", "an update rule of its own"),
    "quantf": ("default", "activations that are exchanged in half precision; config.mesh.exchange_dtype is nearest"),
    "quantb": ("default", "gradients that are exchanged in half precision; config.mesh.exchange_dtype is nearest"),
    "initwfunc": (
        "",
        "weights that a Python function brings, such as those of an earlier run; config.init_from names one",
    ),
    "initbfunc": (
        "",
        "biases that a Python function brings, such as those of an earlier run; config.init_from names one",
    ),
    "initcfunc": ("", "connections that a Python function brings"),
    "weightsource": ("", "weights that are shared with another layer"),
    "sched": ("", "a schedule that the released code does not read"),
}


def check_types(layers: dict[str, Section]) -> None:
    """Raises AlexNetError for a layer that makes another kind of network, naming what it is."""
    for section in layers.values():
        kind = section.text("type")
        if kind in _ONLY or kind in _LEFT_OUT:
            continue
        what = _REFUSED.get(kind) or ("another cost" if kind.startswith("cost.") else "not a layer of cuda-convnet")
        raise AlexNetError(
            f"{section.where('type')}: type={kind} of [{section.name}] is {what}: a network here is conv, then "
            f"fc, with {', '.join(POST_OPS)} and neuron between them, and one cost.logreg."
        )


def missing_of(section: Section, kind: str) -> Iterator[Missing]:
    """What a section says that a config cannot; `kind` is the type of its layer."""
    if kind in _LEFT_OUT:
        if "type" in section.fields:
            yield Missing(section.where("type"), f"type={kind}", _LEFT_OUT[kind])
        return
    for key, (value, _) in section.fields.items():
        what = ""
        if key == "neuron":
            what = "" if _neuron(value) in _NEURONS else "a nonlinearity that is neither relu nor tanh[1,1]"
        elif key == "pool":
            what = "" if value in ("max", "avg") else "a pooling that is neither max nor avg"
        elif key in _MUST_BE:
            harmless, what = _MUST_BE[key]
            what = "" if all(_is_one_of(part.strip(), harmless.split()) for part in value.split(",")) else what
        elif key not in _NEUTRAL | _READ:
            what = "not a word that the released code reads in such a layer"
        if what:
            # A function's argument is the layer it is for.
            word = key if key.endswith("func") else section.word(key)
            yield Missing(section.where(key), word, what)


def _is_one_of(value: str, words: list[str]) -> bool:
    number = number_of(value)
    return value.lower() in words or (number is not None and number in map(number_of, words))


def post_ops(section: Section) -> list[str]:
    """The words of a layer's post-ops: what the layer itself is, and its neuron."""
    words = [POST_OPS.get(section.text("type"), ""), _NEURONS.get(_neuron(section.text("neuron", "")), "")]
    return [word for word in words if word]


def _neuron(value: str) -> str:
    return value.replace(" ", "").replace("1.0", "1") or "ident"
