"""Weight files of others: read if they can be, refused in one sentence if not, and nothing in them is executed."""

import io
import os
import pickle
import re
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.io
from flax import serialization
from safetensors import numpy as safetensors

import alexnet_jax as alexnet
from alexnet_jax import weight_file
from alexnet_jax.errors import AlexNetError
from alexnet_jax.weights import formats

Array = np.ndarray[Any, np.dtype[Any]]
Write = Callable[[Path], Any]

WEIGHTS: dict[str, Array] = {
    "conv1_w": np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32),
    "conv1_b": np.arange(4, dtype=np.float32),
    "fc8_w": np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32),
    "fc8_b": np.ones(2, np.float32),
}
DOTTED = {"features.0.weight": "conv1_w", "features.0.bias": "conv1_b", "classifier.6.weight": "fc8_w",
          "classifier.6.bias": "fc8_b"}  # fmt: skip


def _npz(**changes: Any) -> Write:
    return lambda path: path.write_bytes(_npz_bytes(**changes))


def _npz_bytes(**changes: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in (WEIGHTS | changes).items() if array is not None})
    return file.getvalue()


def _safetensors(dtype: Any = np.float32, prefix: str = "", **changes: Array) -> Write:
    """The weights under torchvision's names."""
    tensors = {prefix + dotted: WEIGHTS[name].astype(dtype) for dotted, name in DOTTED.items()} | changes
    return lambda path: path.write_bytes(safetensors.save(tensors))


def _cut(write: Write, by: float) -> Write:
    def cut(path: Path) -> None:
        write(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * by)])

    return cut


def _bytes(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def _entry(**entries: bytes) -> Write:
    """A zip archive with entries as they are."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)

    return write


def _lying_npy() -> bytes:
    """An array of 4 TB by its header, and of 4 bytes in truth."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    return b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + bytes(4)


def _torch(name: str) -> Write:
    """A file that PyTorch has written: see tests/weight_files/write.py."""
    content = (Path(__file__).parent / "weight_files" / name).read_bytes()
    return lambda path: path.write_bytes(content)


def _pickle(whole: Any) -> Write:
    """A file of PyTorch's form with the pickle of `whole`."""
    return _entry(**{"w/data.pkl": pickle.dumps(whole, 2), "w/version": b"3\n"})


def _changed(name: str, before: bytes = b"", after: bytes = b"", *, compression: int = zipfile.ZIP_STORED) -> Write:
    """A file of PyTorch, with the names and contents of its entries changed so."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(Path(__file__).parent / "weight_files" / name) as old:
            entries = {entry: old.read(entry) for entry in old.namelist()}
        with zipfile.ZipFile(path, "w", compression) as new:
            for entry, content in entries.items():
                new.writestr(entry.encode().replace(before, after).decode(), content.replace(before, after))

    return write


def _tensor(count: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Write:
    """A file of one tensor of a storage that has 300 numbers, and `count` by its header."""

    def number(n: int) -> bytes:
        return b"I%d\n" % n

    def tuple_of(*parts: bytes) -> bytes:
        return b"(" + b"".join(parts) + b"t"

    storage = tuple_of(b"Vstorage\n", b"ctorch\nFloatStorage\n", b"V0\n", b"Vcpu\n", number(count)) + b"Q"
    view = number(offset), tuple_of(*map(number, shape)), tuple_of(*map(number, strides))
    content = b"(Vconv1.weight\nctorch._utils\n_rebuild_tensor_v2\n" + tuple_of(storage, *view) + b"Rd."
    return _entry(**{"w/data.pkl": content, "w/data/0": bytes(1200)})


# Two convolutions and two matrices, as no two axes are alike: conv2 in two groups, fc3 of 2 x 2 x 6 inputs.
_rng = np.random.default_rng(2)
SMALL = {
    "conv1_w": _rng.standard_normal((4, 3, 5, 5)), "conv1_b": _rng.standard_normal(4),
    "conv2_w": _rng.standard_normal((6, 2, 3, 3)), "conv2_b": _rng.standard_normal(6),
    "fc3_w": _rng.standard_normal((7, 24)), "fc3_b": _rng.standard_normal(7),
    "fc4_w": _rng.standard_normal((2, 7)), "fc4_b": _rng.standard_normal(2),
}  # fmt: skip
SMALL = {name: array.astype(np.float32) for name, array in SMALL.items()}
_LAYERS = ("conv1", "conv2", "fc3", "fc4")


def _channels_last(array: Array) -> Array:
    """A kernel as TensorFlow, Flax and MATLAB have it; the inputs of fc3 in the order row, column, channel."""
    if array.shape == (7, 24):
        array = array.reshape(7, 6, 2, 2).transpose(0, 2, 3, 1).reshape(7, 24)
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _caffemodel(version: int) -> Write:
    """By protobuf, from the lines of caffe.proto: with layers of version 2, 1 or 0, whose blobs have four axes."""
    net = _caffe_net()
    for name in (*_LAYERS, "relu4"):
        layer = net.layer.add() if version == 2 else net.layers.add()
        layer = layer.layer if version == 0 else layer
        layer.name = name
        for part in "wb" if name != "relu4" else "":
            array, blob = SMALL[f"{name}_{part}"], layer.blobs.add()
            blob.data.extend(array.reshape(-1))
            if version == 2:
                blob.shape.dim.extend(array.shape)
            else:
                blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
    return _bytes(net.SerializeToString())


def _caffe_net() -> Any:
    """An empty NetParameter."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    text = """
    name: "caffe.proto" package: "caffe" syntax: "proto2"
    message_type { name: "Shape" field { name: "dim" number: 1 label: LABEL_REPEATED type: TYPE_INT64
      options { packed: true } } }
    message_type { name: "Blob"
      field { name: "num" number: 1 label: LABEL_OPTIONAL type: TYPE_INT32 }
      field { name: "channels" number: 2 label: LABEL_OPTIONAL type: TYPE_INT32 }
      field { name: "height" number: 3 label: LABEL_OPTIONAL type: TYPE_INT32 }
      field { name: "width" number: 4 label: LABEL_OPTIONAL type: TYPE_INT32 }
      field { name: "data" number: 5 label: LABEL_REPEATED type: TYPE_FLOAT options { packed: true } }
      field { name: "shape" number: 7 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".caffe.Shape" } }
    message_type { name: "Layer" field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
      field { name: "blobs" number: 7 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".caffe.Blob" } }
    message_type { name: "V0" field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
      field { name: "blobs" number: 50 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".caffe.Blob" } }
    message_type { name: "V1" field { name: "layer" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE
      type_name: ".caffe.V0" } field { name: "name" number: 4 label: LABEL_OPTIONAL type: TYPE_STRING }
      field { name: "blobs" number: 6 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".caffe.Blob" } }
    message_type { name: "Net"
      field { name: "layers" number: 2 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".caffe.V1" }
      field { name: "layer" number: 100 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".caffe.Layer" } }
    """
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.Net"))()


def _npy(path: Path) -> None:
    """As caffe-tensorflow writes it: {layer: [weights, biases]}."""
    layers = {name: [_channels_last(SMALL[f"{name}_w"]), SMALL[f"{name}_b"]] for name in _LAYERS}
    with path.open("wb") as file:
        np.save(file, np.array(layers, object), allow_pickle=True)


def _matconvnet(path: Path) -> None:
    """Fully connected layers are convolutions, and others have no weights."""
    layers: list[Any] = [{"type": "relu", "name": "relu1"}]
    for name in _LAYERS:
        kernel = SMALL[f"{name}_w"]
        kernel = (
            kernel.reshape(7, 6, 2, 2) if name == "fc3" else kernel.reshape(*kernel.shape, *(1,) * (4 - kernel.ndim))
        )
        weights = np.empty(2, object)
        weights[:] = kernel.transpose(2, 3, 1, 0), SMALL[f"{name}_b"]
        layers.append({"type": "conv", "name": name, "weights": weights})
    cells = np.empty(len(layers), object)
    cells[:] = layers
    with path.open("wb") as file:
        scipy.io.savemat(file, {"layers": cells, "meta": {"normalization": 1}})


def _onnx(path: Path) -> None:
    from onnx import helper, numpy_helper

    weights = [numpy_helper.from_array(array, name) for name, array in SMALL.items()]
    weights[6] = numpy_helper.from_array(np.ascontiguousarray(SMALL["fc4_w"].T), "fc4_w")
    names = [("Conv", "conv1", {}), ("Relu", "", {}), ("Conv", "conv2", {"group": 2}), ("Gemm", "fc3", {"transB": 1})]
    nodes = [
        helper.make_node(kind, ["x", *([f"{name}_w", f"{name}_b"] if name else [])], ["x"], **options)
        for kind, name, options in (*names, ("Gemm", "fc4", {}))
    ]
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "net", [], [], weights)).SerializeToString())


def _msgpack(path: Path) -> None:
    names = {"conv1": "Conv_0", "conv2": "Conv_1", "fc3": "Dense_0", "fc4": "Dense_1"}
    layers = {
        names[name]: {"kernel": _channels_last(SMALL[f"{name}_w"]), "bias": SMALL[f"{name}_b"]} for name in _LAYERS
    }
    path.write_bytes(serialization.msgpack_serialize({"params": layers}))


FORMS: dict[str, tuple[str, Write, bool]] = {  # the last is whether it reads BGR
    "caffemodel": ("w.caffemodel", _caffemodel(2), True),
    "caffemodel of 2014": ("w.caffemodel", _caffemodel(1), True),
    "caffemodel of 2013": ("w.caffemodel", _caffemodel(0), True),
    "a dict in an npy": ("w.npy", _npy, True),
    "MatConvNet": ("w.mat", _matconvnet, False),
    "ONNX": ("w.onnx", _onnx, False),
    "Flax": ("w.msgpack", _msgpack, False),
}


@pytest.mark.parametrize("case", FORMS)
def test_files_of_other_frameworks(case: str, tmp_path: Path) -> None:
    name, write, bgr = FORMS[case]
    write(tmp_path / name)
    file = formats.read(tmp_path / name)
    assert file.arrays.keys() == SMALL.keys()
    for part, array in file.arrays.items():
        np.testing.assert_array_equal(array, SMALL[part], err_msg=part)
    assert (file.layout in formats.BGR) == bgr


def test_a_dict_that_holds_itself(tmp_path: Path) -> None:
    whole: dict[str, Any] = {"epoch": 1}
    whole["self"] = whole
    _pickle(whole)(tmp_path / "w.pth")
    with pytest.raises(AlexNetError, match="not a state_dict"):
        formats.read(tmp_path / "w.pth")


@pytest.mark.parametrize("case", FORMS)
@pytest.mark.parametrize("by", [0.02, 0.3, 0.9])
def test_files_of_other_frameworks_cut_off(case: str, by: float, tmp_path: Path) -> None:
    name, write, _ = FORMS[case]
    _cut(write, by)(tmp_path / name)
    with pytest.raises(AlexNetError) as raised:
        formats.read(tmp_path / name)
    _sentence(raised.value, tmp_path / name)


def _sentence(error: AlexNetError, path: Path) -> str:
    """The error, which must be one sentence with the file's name in it."""
    text = str(error)
    assert path.name in text
    assert text.endswith(".")
    assert "\n" not in text
    assert not re.search(r"\.\s+[A-Z]", text), f"more than a sentence: {text}"
    return text


_COUNT = "features.1.num_batches_tracked"
READ: dict[str, tuple[str, Write, float]] = {  # the last is the largest relative difference
    "npz named .pth": ("w.pth", _npz(), 0),
    "npz of half precision": ("w.npz", _npz(**{n: a.astype(np.float16) for n, a in WEIGHTS.items()}), 1e-3),
    "npz of another byte order": ("w.npz", _npz(**{n: a.astype(">f8", "F") for n, a in WEIGHTS.items()}), 0),
    "safetensors named .npz": ("w.npz", _safetensors(), 0),
    "safetensors of half precision": ("w.safetensors", _safetensors(np.float16), 1e-3),
    "safetensors of bfloat16": ("w.safetensors", _safetensors(ml_dtypes.bfloat16), 1e-2),
    "safetensors of torch.compile and Lightning": ("w.safetensors", _safetensors(prefix="model._orig_mod."), 0),
    "safetensors of an encoder": ("w.safetensors", _safetensors(prefix="encoder.alexnet."), 0),
    "safetensors of a batch norm's count": ("w.safetensors", _safetensors(**{_COUNT: np.ones((), np.int64)}), 0),
    "pth named .npz": ("w.npz", _torch("plain.pth"), 0),
    "pth before PyTorch 1.6": ("w.pth", _torch("before_1_6.pth"), 0),
    "pth of bfloat16": ("w.pt", _torch("bfloat16.pt"), 1e-2),
    "pth of half precision": ("w.pth", _torch("half.pth"), 1e-3),
    "pth of parameters": ("w.pth", _torch("parameters.pth"), 0),
    "pth of views of one array": ("w.pth", _torch("views.pth"), 0),
    "pth.tar of PyTorch's ImageNet example": ("checkpoint.pth.tar", _torch("imagenet_example.pth.tar"), 0),
    "ckpt of Lightning": ("w.ckpt", _torch("lightning.ckpt"), 0),
}


@pytest.mark.parametrize("case", READ)
def test_weight_file_is_read(case: str, tmp_path: Path) -> None:
    name, write, tolerance = READ[case]
    write(tmp_path / name)
    file = formats.read(tmp_path / name)
    assert file.arrays.keys() == WEIGHTS.keys()
    for part, array in file.arrays.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_allclose(array, WEIGHTS[part], rtol=tolerance, atol=0, err_msg=part)
    dotted = not case.startswith("npz")
    assert file.layout == (formats.TORCH if dotted else formats.CAFFE)
    assert file.about == {}


_NAN = np.full(4, np.nan, np.float32)
_HUGE_HEADER = (2**60).to_bytes(8, "little") + b"{" + bytes(100)
REFUSED: dict[str, tuple[str, Write, str]] = {
    "not there": ("w.npz", lambda path: None, "cannot be read: No such file or directory"),
    "a folder": ("w.npz", lambda path: path.mkdir(), "is a folder"),
    "a pipe": ("w.npz", os.mkfifo, "is not a regular file"),
    "a name that is too long": ("w" * 300 + ".npz", lambda path: None, "File name too long"),
    "empty": ("w.npz", _bytes(b""), "is empty"),
    "text": ("w.npz", _bytes(b"conv1_w,conv1_b\n1,2\n"), "is not a weight file of a kind"),
    "a pointer of Git LFS": ("w.pth", _bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "HDF5": ("w.h5", _bytes(b"\x89HDF\r\n\x1a\n" + bytes(9)), "is HDF5"),
    "Torch7": ("w.t7", _bytes(bytes(9)), "is Torch7's format"),
    "a part of a TensorFlow checkpoint": ("model.ckpt-1.data-00000-of-00001", _bytes(bytes(9)), "of TensorFlow"),
    "an empty caffemodel": ("w.caffemodel", _bytes(b"\n\x07AlexNet"), "holds no arrays"),
    "a caffemodel of text": ("w.caffemodel", _bytes(b"name: 'AlexNet'"), "damaged"),
    "an array without names": ("w.npy", lambda path: np.save(path, np.ones(3)), "one array, without names"),
    "TorchScript": ("w.pt", _entry(**{"w/data.pkl": b"", "w/constants.pkl": b""}), "model.state_dict()"),
    "a zip cut off": ("w.npz", _cut(_npz(), 0.7), "damaged"),
    "an empty zip": ("w.npz", _entry(), "holds no arrays"),
    "an npz with damaged numbers": ("w.npz", _bytes(_npz_bytes().replace(b"\x93NUMPY", b"\x93NUMPI")), "damaged"),
    "an npz with a wrong checksum": (
        "w.npz",
        _bytes(_npz_bytes().replace(WEIGHTS["fc8_w"].tobytes(), bytes(32))),
        "damaged",
    ),
    "an npz larger than memory": ("w.npz", _entry(**{"conv1_w.npy": _lying_npy()}), "memory"),
    "objects in an npz": ("w.npz", _npz(conv1_b=np.asarray([{}, None], object)), "conv1_b, an array of Python objects"),
    "whole numbers": ("w.npz", _npz(conv1_w=np.ones((4, 3, 5, 5), np.int8)), "holds conv1_w as int8"),
    "NaN": ("w.npz", _npz(conv1_b=_NAN), "conv1_b with numbers that are NaN, infinite"),
    "too large a number": ("w.npz", _npz(conv1_b=np.full(4, 1e300)), "too large for float32"),
    "a single number": ("w.npz", _npz(conv1_b=np.float32(1)), "conv1_b of the shape ()"),
    "no numbers": ("w.npz", _npz(conv1_w=np.zeros((0, 3, 5, 5), np.float32)), "conv1_w of the shape (0, 3, 5, 5)"),
    "two arrays of one layer": (
        "w.npz",
        _npz(**{"features.0.weight": WEIGHTS["conv1_w"]}),
        "two arrays for conv1_w: conv1_w and features.0.weight",
    ),
    "an about that is not JSON": ("w.npz", _npz(about=np.asarray('{"dropout": ')), "its 'about' is not whole JSON"),
    "an about that is a list": ("w.npz", _npz(about=np.asarray("[1]")), "its 'about' is a list"),
    "safetensors cut off": ("w.safetensors", _cut(_safetensors(), 0.7), "damaged"),
    "safetensors with a huge header": ("w.safetensors", _bytes(_HUGE_HEADER), "damaged"),
    "safetensors of whole numbers": ("w.safetensors", _safetensors(x=np.ones(1, np.int64)), "holds x as int64"),
    "a pth cut off": ("w.pth", _cut(_torch("plain.pth"), 0.7), "damaged"),
    "an old pth cut off": ("w.pth", _cut(_torch("before_1_6.pth"), 0.9), "damaged"),
    "a whole model": ("w.pth", _torch("whole_model.pth"), "model.state_dict()"),
    "a tensor alone": ("w.pth", _torch("one_tensor.pth"), "holds a Tensor, not a state_dict"),
    "a list of numbers": ("w.pth", _pickle([1, 2]), "holds a list, not a state_dict"),
    "a pickle of something else": ("w.pth", _bytes(pickle.dumps({"conv1": 1}, 2)), "not PyTorch's"),
    "a pth that is compressed": ("w.pth", _changed("plain.pth", compression=zipfile.ZIP_DEFLATED), "compressed"),
    "a pth of big-endian numbers": ("w.pth", _changed("plain.pth", b"little", b"big"), "big-endian"),
    "a pth without its numbers": ("w.pth", _changed("plain.pth", b"data/0", b"data/x"), "damaged"),
    "a tensor beyond its numbers": ("w.pth", _tensor(300, (4, 3, 5, 5), (75, 25, 5, 1), 299), "a tensor (4, 3, 5, 5)"),
    "a tensor of 4 TB": ("w.pth", _tensor(1, (1_000_000, 1_000_000), (0, 0), 0), "a tensor (1000000, 1000000)"),
    "a tensor of negative strides": ("w.pth", _tensor(4, (4,), (-1,), 3), "a tensor (4,)"),
    "a tensor of more numbers than there are": ("w.pth", _tensor(10**12, (10**12,), (1,), 0), "in truth"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_or_foreign_file_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    name, write, message = REFUSED[case]
    write(tmp_path / name)
    with pytest.raises(AlexNetError) as raised:
        formats.read(tmp_path / name)
    assert message in _sentence(raised.value, tmp_path / name)


WRONG: dict[str, tuple[Write, str]] = {
    "a missing bias": (_npz(conv1_b=None), "conv1_b is missing"),
    "a layer too many": (_npz(conv9_w=WEIGHTS["conv1_w"]), "conv9_w"),
    "a wrong shape": (_npz(conv1_w=WEIGHTS["conv1_w"][:, :2]), "conv1_w is (4, 2, 5, 5)"),
    "a kernel without its axes": (_npz(conv1_w=WEIGHTS["fc8_w"]), "conv1_w is (2, 4)"),
    "another number of biases": (_npz(fc8_b=np.ones(3, np.float32)), "fc8_b is (3,)"),
    "no last layer": (_npz(fc8_w=None, fc8_b=None), "fc8_w"),
    "one layer": (lambda path: np.savez(path, conv1_w=WEIGHTS["conv1_w"]), "fc8_w"),
}

RECIPE = """
from alexnet_jax.configs import alexnet
def get_config(data_name="digits"):
    c = alexnet.base(data_name)
    c.data.crop_pixels = c.data.resize_pixels = 5
    c.model.towers, c.model.layers, c.model.exchange = 1, ("conv1", "fc8"), ()
    for name in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
        del c.model[name]
    c.model.conv1 = alexnet.conv(4, 5, 1, (0, 0), "relu", std=0.1, bias=0.0)
    return c
"""


@pytest.mark.parametrize("case", WRONG)
def test_weights_of_another_network_are_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    write, message = WRONG[case]
    (tmp_path / "tiny.py").write_text(RECIPE)
    recipe, path = f"{tmp_path / 'tiny.py'}:digits", tmp_path / "w.npz"
    _npz()(path)
    assert alexnet.load(path, recipe=recipe).class_names == ("class 0", "class 1")
    write(path)
    with pytest.raises(AlexNetError) as raised:
        alexnet.load(path, recipe=recipe)
    assert message in _sentence(raised.value, path)


class _Trap:
    """Makes the file of its name if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["w.npz", "w.pth", "w.zip"])
def test_no_code_in_a_file_is_executed(name: str, tmp_path: Path) -> None:
    path, trap = tmp_path / name, _Trap(tmp_path / "sprung")
    if name == "w.npz":
        np.savez(path, conv1_w=np.asarray([trap], object))
    elif name == "w.pth":
        path.write_bytes(pickle.dumps(trap, 2))
    else:
        _pickle(trap)(path)
    with pytest.raises(AlexNetError) as raised:
        formats.read(path)
    _sentence(raised.value, path)
    assert not trap.path.exists()


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_full_disk_leaves_nothing_and_keeps_what_was_there(ending: str, tmp_path: Path) -> None:
    """No file of this process may grow beyond 200 bytes: only around the write, or pytest's own log is hit."""
    path, before = tmp_path / f"w{ending}", resource.getrlimit(resource.RLIMIT_FSIZE)
    for there in ([], [b"what was there"]):
        for content in there:
            path.write_bytes(content)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
        try:
            with pytest.raises(AlexNetError) as raised:
                weight_file.write(path, WEIGHTS, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "File too large" in _sentence(raised.value, path)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == there


@pytest.mark.parametrize("name", ["w.pth", "w", "folder.npz", "there.txt/w.npz"])
def test_file_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "there.txt").touch()
    with pytest.raises(AlexNetError, match=re.escape(name.split("/", maxsplit=1)[0])):
        weight_file.write(tmp_path / name, WEIGHTS, {})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder.npz", "there.txt"]
