"""A network as an ONNX graph that needs nothing else: RGB in 0..255 in, logits out.

It is written operation by operation from the arrays of `model.plain`, so that each node has the paper's name. The
meaning of each operator: onnx/onnx, docs/Operators.md. Opset 17 and IR version 8 are of 2022, so that runtimes of
the last years read them.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax import __version__, files, weight_file
from alexnet_jax.classifier import Classifier
from alexnet_jax.data.preprocess import Input
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement
from alexnet_jax.model.layers import pooled_length
from alexnet_jax.model.plain import Arrays, to_arrays

OPSET, _IR_VERSION = 17, 8
IMAGES, LOGITS = "images", "logits"
_TOLERANCE = 1e-4  # of the largest logit; what was seen is below 1e-5 (docs/export.md)
_MOST_BYTES = 2**31 - 2**20  # a protobuf message has less than 2 GB


def write(net: Classifier, path: Path, *, pixels: str) -> str:
    """Writes `to_onnx` to `path` once onnxruntime, where it is installed, agrees with `net`; what was done, in words.

    Raises AlexNetError where the logits differ, where ONNX cannot say what the network does, and where the file cannot
    be written. It leaves no file then.
    """
    model = to_onnx(net, pixels=pixels)
    content = model.SerializeToString()
    compared = _compared(net, content, pixels)
    files.make_folder(path.parent)
    files.write(path, lambda growing: growing.write_bytes(content))
    side = net.image_pixels
    return (
        f"{path}: ONNX opset {OPSET}, {len(model.graph.node)} nodes, {len(content) / 1e6:,.1f} MB, "
        f"{IMAGES} {pixels} [B, {side}, {side}, 3] (RGB in 0..255) -> {LOGITS} float32 [B, {len(net.class_names)}]; "
        f"{compared}"
    )


def _compared(net: Classifier, content: bytes, pixels: str) -> str:
    """How far the logits of onnxruntime are from ours, in words. Raises AlexNetError where that is too far."""
    try:
        import onnxruntime
    except ImportError:
        return "not compared: onnxruntime is not installed"
    images = np.random.default_rng(0).integers(0, 256, (2, net.image_pixels, net.image_pixels, 3), np.uint8)
    with jax.default_matmul_precision("highest"):  # a GPU would multiply in TF32
        ours = np.asarray(jax.jit(net.apply)(net.variables, images))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (theirs,) = session.run([LOGITS], {IMAGES: images.astype(pixels)})
    difference = relative_difference(theirs, ours)
    if not difference <= _TOLERANCE:  # nor NaN
        raise AlexNetError(
            f"onnxruntime {onnxruntime.__version__} gives logits that differ from this network's by {difference:.1e} "
            f"of the largest, more than {_TOLERANCE:g}: nothing was written; please report it with the recipe."
        )
    return f"onnxruntime {onnxruntime.__version__} differs by {difference:.1e} of the largest logit on 2 random images"


def relative_difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The largest difference, as a part of the largest of `ours`."""
    return float(np.abs(theirs - ours).max() / max(np.abs(ours).max(), np.finfo(np.float32).tiny))


def to_onnx(net: Classifier, *, pixels: str, output: str = LOGITS) -> Any:
    """The onnx.ModelProto of a network: images `pixels` [B, crop, crop, 3], RGB in 0..255 -> logits float32 [B, K].

    `pixels` is "uint8" or "float32". The batch size is free. Mean, std and channel order of `net.inputs` are in the
    graph, the factor of the 2012 dropout is in its weights, and the names of the classes are JSON in metadata_props.
    The results of the nodes have the names of `net.layers`, all towers in one, as NCHW; `output` is the one that the
    graph gives. Raises AlexNetError.
    """
    from onnx import TensorProto, checker, helper

    graph, crop = _Graph(net.tower, to_arrays(net.tower, jax.device_get(net.variables))), net.image_pixels
    if sum(array.nbytes for array in graph.arrays.values()) > _MOST_BYTES:
        raise AlexNetError("The weights take more than the 2 GB of one ONNX file: use --format=safetensors.")
    _add_preprocessing(graph, net.inputs, pixels)
    _add_network(graph, crop)
    images = helper.make_tensor_value_info(
        IMAGES, helper.np_dtype_to_tensor_dtype(np.dtype(pixels)), ["batch", crop, crop, 3], "RGB in 0..255"
    )
    shape = [len(net.class_names)] if output == LOGITS else [None] * len(net.layers[output])
    given = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *shape])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "alexnet", [images], [given], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="alexnet_jax",
        producer_version=__version__,
    )
    about = weight_file.metadata(net.config, net.class_names, net.inputs, net.step)
    helper.set_model_props(model, {"classes": json.dumps(about.pop("classes")), "about": json.dumps(about)})
    checker.check_model(model, full_check=True)
    return model


class _Graph:
    """The nodes and weights so far, of a model with these arrays; `x` is the name of the last result."""

    def __init__(self, model: models.AlexNet, arrays: Arrays) -> None:
        self.model, self.arrays = model, arrays
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.x = IMAGES

    def constant(self, name: str, value: Any, dtype: str = "float32") -> str:
        """The name of a weight that holds `value`."""
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype)), name))
        return name

    def then(self, operator: str, name: str, *more: str, **attributes: Any) -> None:
        """A node that makes `name` of `x` and `more`."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, [self.x, *more], [name], name=name, **attributes))
        self.x = name


def _add_preprocessing(graph: _Graph, inputs: Input, pixels: str) -> None:
    """What `Input` does, and NHWC -> NCHW for a convolution."""
    from onnx import TensorProto

    axis, mean, std = 3, inputs.mean, np.asarray(inputs.std)
    if isinstance(graph.model.stack[0], models.ConvLayer):  # first of all, where it moves the fewest bytes
        graph.then("Transpose", "nchw", perm=(0, 3, 1, 2))
        axis, std = 1, std.reshape(3, 1, 1)
        mean = mean.reshape(3, 1, 1) if mean.ndim == 1 else mean.transpose(2, 0, 1)
    if pixels != "float32":
        graph.then("Cast", "pixels", to=TensorProto.FLOAT)
    graph.then("Sub", "centered", graph.constant("mean", mean))
    if inputs.std != (1.0, 1.0, 1.0):
        graph.then("Div", "scaled", graph.constant("std", std))
    if inputs.bgr:
        graph.then("Gather", "bgr", graph.constant("blue_green_red", (2, 1, 0), "int64"), axis=axis)


def _add_network(graph: _Graph, image_pixels: int) -> None:
    model = graph.model
    of_tower = placement.shapes(model, image_pixels)
    shapes = {name: (*space, model.towers * channels) for name, (*space, channels) in of_tower.items()}
    shape: tuple[int, ...] = (image_pixels, image_pixels, 3)  # of the input of what comes next, all towers
    for layer in model.stack:
        name = f"{layer.name}_out"
        _add_weighted(graph, layer, LOGITS if layer is model.stack[-1] else name, shape)
        shape = shapes[name]
        for word in layer.post_ops:
            name = models.operation_name(word, layer.name)
            _add_operation(graph, word, layer.name, name, shape)
            shape = shapes[name]


def _add_weighted(
    graph: _Graph, layer: models.ConvLayer | models.DenseLayer, name: str, shape: tuple[int, ...]
) -> None:
    """A convolution, in groups where it reads its own tower only; a fully connected layer, with zeros there."""
    kernel = _kernel(graph.arrays, layer.name)
    bias = graph.constant(f"{layer.name}_b", graph.arrays[f"{layer.name}_b"])
    if isinstance(layer, models.ConvLayer):
        before, after = layer.padding
        graph.then(
            "Conv", name, graph.constant(f"{layer.name}_w", kernel), bias, group=shape[-1] // kernel.shape[1],
            strides=[layer.stride] * 2, pads=[before, before, after, after], kernel_shape=kernel.shape[2:],
        )  # fmt: skip
        return
    if len(shape) > 1:  # NCHW -> channel, row, column, the order of `model.plain`
        graph.then("Flatten", f"{layer.name}_in", axis=1)
    inputs = kernel.shape[1]
    if inputs < math.prod(shape):
        whole = np.zeros((len(kernel), math.prod(shape)), np.float32)
        for unit, weights in enumerate(kernel):
            tower = unit // layer.features
            whole[unit, tower * inputs : (tower + 1) * inputs] = weights
        kernel = whole
    graph.then("Gemm", name, graph.constant(f"{layer.name}_w", kernel), bias, transB=1)


def _kernel(arrays: Arrays, name: str) -> np.ndarray:
    """The weights of a layer; weight norm is computed here once."""
    kernel = arrays[f"{name}_w"]
    if f"{name}_scale" not in arrays:
        return kernel
    length = np.sqrt((kernel * kernel).sum(axis=tuple(range(1, kernel.ndim))))
    factor: np.ndarray = arrays[f"{name}_scale"] / length
    return kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))


def _add_operation(graph: _Graph, word: str, layer_name: str, name: str, shape: tuple[int, ...]) -> None:
    model, arrays = graph.model, graph.arrays
    if word in models.POINTWISE:
        graph.then({"relu": "Relu", "tanh": "Tanh"}[word], name)
    elif word == "norm":
        _add_channel_norm(graph, name, shape)
    elif word == "spatial_norm":
        _add_spatial_norm(graph, name, shape)
    elif word == "batch_norm":
        bn = models.operation_name("bn", layer_name)
        parts = [graph.constant(f"{bn}_{part}", arrays[f"{bn}_{part}"]) for part in ("scale", "b", "mean", "var")]
        graph.then("BatchNormalization", name, *parts, epsilon=model.batch_norm.epsilon)
    elif word in models.POOLS:
        _add_pool(graph, models.pool_of(model, word), name, shape)
    else:
        assert word == "dropout", word  # its factor is in the weights of the next layer


def _add_channel_norm(graph: _Graph, name: str, shape: tuple[int, ...]) -> None:
    """The sum of squares over the tower's channels, or all of them, as a convolution with a band of ones.

    Not as an LRN node, which takes onnxruntime as long as all the rest of the network, and has no even windows.
    """
    norm = graph.model.norm
    groups = 1 if norm.across_towers else graph.model.towers
    channel = np.arange(shape[-1] // groups)
    first = channel[:, None] - norm.size // 2  # of the window of each output
    band = ((channel >= first) & (channel < first + norm.size)).astype(np.float32)[:, :, None, None]
    scale = norm.alpha / norm.size if norm.alpha_over_size else norm.alpha
    _add_response_norm(graph, name, scale * np.tile(band, (groups, 1, 1, 1)), (0, 0), norm, group=groups)


def _add_spatial_norm(graph: _Graph, name: str, shape: tuple[int, ...]) -> None:
    """The sum of squares over the window's pixels, as a convolution of each channel with ones."""
    norm = graph.model.spatial_norm
    ones = np.full((shape[-1], 1, norm.size, norm.size), norm.alpha / norm.size**2)
    edges = norm.size // 2, norm.size - 1 - norm.size // 2
    _add_response_norm(graph, name, ones, edges, norm, group=shape[-1])


def _add_response_norm(
    graph: _Graph, name: str, kernel: np.ndarray, edges: tuple[int, int], norm: Any, *, group: int
) -> None:
    """x / d ** beta, where d = k + the convolution of x^2 with `kernel`."""
    x = graph.x
    graph.then("Mul", f"{name}_squares", x)
    weights, k = graph.constant(f"{name}_w", kernel), graph.constant(f"{name}_k", np.full(len(kernel), norm.k))
    graph.then("Conv", f"{name}_d", weights, k, group=group, pads=[*edges[:1] * 2, *edges[1:] * 2])
    if norm.beta == 0.75:  # two roots are a third of the time of a power
        graph.then("Sqrt", f"{name}_root")
        root = graph.x
        graph.then("Sqrt", f"{name}_root_of_root")
        graph.then("Mul", f"{name}_power", root)
    else:
        graph.then("Pow", f"{name}_power", graph.constant(f"{name}_beta", norm.beta))
    power, graph.x = graph.x, x
    graph.then("Div", name, power)


def _add_pool(graph: _Graph, pool: models.Pool, name: str, shape: tuple[int, ...]) -> None:
    """Padding for what the last window lacks, instead of ONNX's ceil_mode, whose last window may begin outside.

    A maximum ignores padding, and an average does not count it.
    """
    edges = []
    for length in shape[:2]:
        windows = pooled_length(length, pool.size, pool.stride, pool.ceil)
        edges.append(max(0, (windows - 1) * pool.stride + pool.size - length))
    operator = "MaxPool" if pool.kind == "max" else "AveragePool"
    graph.then(operator, name, kernel_shape=[pool.size] * 2, strides=[pool.stride] * 2, pads=[0, 0, *edges])
