"""Weight files of Caffe, TensorFlow, MatConvNet, ONNX and Flax, each read without the framework that wrote it.

A reader is a function `path -> {name: array}`: the arrays as `model.plain` has them, under the file's names for the
layers with _w and _b behind. What cannot be read raises ValueError, KeyError, ... or the library's own error.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import extras
from alexnet_jax.weights import pickled

Arrays = dict[str, Any]

# Fields of BVLC/caffe src/caffe/proto/caffe.proto at 00733bb: (name, number, type, repeated). The numbers of a blob,
# packed on the wire, are taken as bytes.
_MESSAGES = {
    "Net": [("layers", 2, "V1Layer", True), ("layer", 100, "Layer", True)],
    "Layer": [("name", 1, "string", False), ("blobs", 7, "Blob", True)],
    "V1Layer": [("name", 4, "string", False), ("blobs", 6, "Blob", True), ("layer", 1, "V0Layer", False)],
    "V0Layer": [("name", 1, "string", False), ("blobs", 50, "Blob", True)],
    "Blob": [
        *((name, number, "int64", False) for number, name in enumerate(("num", "channels", "height", "width"), 1)),
        ("data", 5, "bytes", True), ("shape", 7, "Shape", False), ("double_data", 8, "bytes", True),
    ],
    "Shape": [("dim", 1, "int64", True)],
}  # fmt: skip


def caffemodel(path: Path) -> Arrays:
    """A NetParameter of any version of Caffe: kernels [out, in, k, k], BGR."""
    net = _caffe_message("Net")
    net.ParseFromString(path.read_bytes())
    found: Arrays = {}
    for layer in (*net.layers, *net.layer):
        inner = layer.layer if layer.DESCRIPTOR.name == "V1Layer" and layer.layer.blobs else layer
        for part, blob in zip("wb234", inner.blobs, strict=False):
            array = np.frombuffer(b"".join(blob.data), "<f4")
            if not blob.data:
                array = np.frombuffer(b"".join(blob.double_data), "<f8")
            shape = tuple(blob.shape.dim)
            if not blob.HasField("shape"):  # four axes: a matrix is [1, 1, out, in], a bias [1, 1, 1, out]
                shape = (blob.num, blob.channels, blob.height, blob.width)
                shape = shape if part == "w" and shape[:2] != (1, 1) else shape[2:] if part == "w" else (-1,)
            found[f"{inner.name}_{part}"] = array.reshape(shape)
    return found


def _caffe_message(name: str) -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in _MESSAGES.items():
        proto = file.message_type.add(name=message)
        for field, number, kind, repeated in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in _MESSAGES:
                proto.field.add(
                    name=field, number=number, label=label, type=kinds.TYPE_MESSAGE, type_name=f".caffe.{kind}"
                )
            else:
                proto.field.add(name=field, number=number, label=label, type=getattr(kinds, f"TYPE_{kind.upper()}"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))()


def npy(path: Path) -> Arrays:
    """A pickled {layer: [weights, biases]}, as kratzert/finetune_alexnet_with_tensorflow has bvlc_alexnet.npy: BGR."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        if not read_header(file)[2].hasobject:
            raise ValueError("one array, without names")
        (layers,) = pickled.load(file).value
    found: Arrays = {}
    for name, parts in layers.items():
        own = [part.value for part in (parts.values() if isinstance(parts, Mapping) else parts)]
        own.sort(key=np.ndim, reverse=True)
        found |= {f"{name}_{part}": array for part, array in zip("wb", own, strict=True)}
    return _channels_first(found)


def matconvnet(path: Path) -> Arrays:
    """A network of MatConvNet (vl_simplenn) in MATLAB's formats 5 to 7: kernels [k, k, in, out], RGB."""
    from scipy.io import loadmat

    layers = loadmat(path, squeeze_me=True, struct_as_record=False, variable_names=["layers"])["layers"]
    found: Arrays = {}
    for layer in np.atleast_1d(layers):
        weights = getattr(layer, "weights", None)
        if weights is None and hasattr(layer, "filters"):  # before version 1.0-beta8
            weights = layer.filters, layer.biases
        if weights is not None and len(weights) == 2:
            kernel = np.asarray(weights[0])  # fully connected layers are convolutions there, of 6 x 6 pixels and of one
            kernel = kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape).transpose(3, 2, 0, 1)
            found[f"{layer.name}_w"] = kernel.reshape(len(kernel), -1) if layer.name.startswith("fc") else kernel
            found[f"{layer.name}_b"] = np.asarray(weights[1]).reshape(-1)
    return found


def onnx(path: Path) -> Arrays:
    """The weights of the convolutions and of the matrix products, in the order of the graph."""
    package = extras.module("onnx", extra="export", what=str(path))
    from onnx import numpy_helper

    model = package.load(str(path), load_external_data=False)
    if model.producer_name == "alexnet_jax":
        raise ValueError("it was exported here, and the run or weight file that it was made of is what can be loaded")
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    found: Arrays = {}
    for node in graph.node:
        own = [numpy_helper.to_array(weights[name]) for name in node.input[1:] if name in weights]
        if node.op_type in ("Conv", "Gemm") and own:
            options = {attribute.name: attribute.i for attribute in node.attribute}
            kernel = own[0].T if node.op_type == "Gemm" and not options.get("transB") else own[0]
            name = f"{'conv' if node.op_type == 'Conv' else 'fc'}{len(found) // 2 + 1}"
            found |= {f"{name}_w": kernel, f"{name}_b": own[1] if len(own) > 1 else np.zeros(len(kernel), np.float32)}
    return found


def msgpack(path: Path) -> Arrays:
    """Parameters of Flax: {..., NAME: {kernel, bias}}; kernels [k, k, in, out] and [in, out], RGB."""
    from flax import serialization

    def layers(tree: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
        if isinstance(tree, Mapping) and "kernel" in tree:
            yield name, tree
        elif isinstance(tree, Mapping):
            for key in sorted(tree, key=_natural):
                yield from layers(tree[key], str(key))

    found: Arrays = {}
    for name, parts in layers(serialization.msgpack_restore(path.read_bytes())):
        found |= {f"{name}_w": parts["kernel"], f"{name}_b": parts["bias"]}
    return _channels_first(found)


def _natural(name: Any) -> list[Any]:
    """Conv_2 before Conv_10."""
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in re.split(r"(\d+)", str(name))]


def _channels_first(found: Arrays) -> Arrays:
    """Kernels [k, k, in, out] as [out, in, k, k], and matrices [in, out] as [out, in].

    The inputs of the first of these are rows, columns, channels in the file, and channels first here.
    """
    result, channels = dict(found), 0
    for name, array in found.items():
        if np.ndim(array) == 4:
            result[name], channels = np.transpose(array, (3, 2, 0, 1)), array.shape[3]
        elif np.ndim(array) == 2:
            inputs, units = array.shape
            side = round((inputs / channels) ** 0.5) if channels else 0
            whole = array.reshape(side, side, channels, units) if channels and side**2 * channels == inputs else None
            result[name] = array.T if whole is None else whole.transpose(3, 2, 0, 1).reshape(units, inputs)
            channels = 0
    return result
