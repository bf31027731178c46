"""Reads weight files of every kind that AlexNets come in. Nothing in them is executed.

A reader is a function `path -> (arrays, text, layout)`: the arrays, laid out as `model.plain` says, under the file's
names or ours; the JSON that a file written here has about itself, or None; and where such a layout comes from.
`_reader_of` chooses it by the first bytes, or by the ending where the form has none.
"""

import contextlib
import dataclasses
import functools
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model.plain import Arrays
from alexnet_jax.weight_file import ABOUT, MEAN_IMAGE, TORCH_PARTS, TORCHVISION
from alexnet_jax.weights import foreign, pickled

CAFFE, TORCH = "Caffe's layout", "PyTorch's names"
# {the first bytes or the ending: how such a file is read, and what it is}
_FOREIGN: dict[bytes | str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    ".caffemodel": (foreign.caffemodel, "Caffe's own format"),
    b"\x93NUMPY": (foreign.npy, "a dict of caffe-tensorflow"),
    b"MATLAB 5.": (foreign.matconvnet, "MatConvNet's layout"),
    ".onnx": (foreign.onnx, "ONNX"),
    ".msgpack": (foreign.msgpack, "Flax's layout"),
}
_UNREAD: dict[bytes | str, str] = {
    b"version h": "is a pointer of Git LFS, not the file that it stands for: git lfs pull",
    b"\x89HDF": "is HDF5, as Keras and MATLAB 7.3 write it, which is not read: save its arrays as .npz, or with -v7",
    ".t7": "is Torch7's format, which no maintained package reads: save its arrays as .npz or .mat where Torch7 is",
}
_TENSORFLOW = r"\.(index|meta|data-\d+-of-\d+)"
# The layouts whose networks read colors in that order.
BGR = (CAFFE, "Caffe's own format", "a dict of caffe-tensorflow")
_FIRST_BYTES = 9


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """What a file holds: arrays as in `model.plain`, and what it says about them ({} unless written here).

    `layout` says where its layout comes from, which decides the order of colors where nobody says: see BGR.
    `mean_image` is float32 [crop, crop, 3], over R, G, B, or None.
    """

    path: Path
    arrays: Arrays
    about: dict[str, Any]
    layout: str
    mean_image: np.ndarray | None = None


def read(path: Path) -> WeightFile:
    """Reads a file by what it holds, whatever its name ends in. Numbers of any floating-point type become float32.

    Raises AlexNetError, in one sentence with the file's name, for anything that is not a whole file of finite
    floating-point arrays.
    """
    reader = _reader_of(path)
    with _in_a_sentence(path):
        found, text, layout = reader(path)
    about = _about(path, text)
    image = found.pop(MEAN_IMAGE, None) if about else None
    found = {name: array for name, array in found.items() if not name.endswith("num_batches_tracked")}  # of batch norms
    arrays = _our_names(path, found)
    if not arrays:
        raise AlexNetError(f"{path} holds no arrays.")
    arrays = {name: _float32(path, name, array) for name, array in arrays.items()}
    return WeightFile(path, arrays, about, layout, None if image is None else _float32(path, MEAN_IMAGE, image))


_Found = tuple[dict[str, Any], str | None, str]


def _reader_of(path: Path) -> Callable[[Path], _Found]:
    """The reader that the first bytes ask for. Raises AlexNetError."""
    with files.named(path, "read"):
        if path.is_dir():
            raise AlexNetError(f"{path} is a folder, not a weight file.")
        if path.exists() and not path.is_file():
            raise AlexNetError(f"{path} is not a regular file.")
        with path.open("rb") as file:
            head = file.read(_FIRST_BYTES)
    if not head:
        raise AlexNetError(f"{path} is empty.")
    for sign, reason in _UNREAD.items():
        if path.suffix == sign or (isinstance(sign, bytes) and head.startswith(sign)):
            raise AlexNetError(f"{path} {reason}.")
    if re.search(rf"{_TENSORFLOW}$", path.name):
        raise AlexNetError(
            f"{path} is a part of a checkpoint of TensorFlow: save its variables as .npz where TensorFlow is."
        )
    for sign, (reader, layout) in _FOREIGN.items():
        if path.suffix == sign or (isinstance(sign, bytes) and head.startswith(sign)):
            return lambda path: (_numbered(reader(path)), None, layout)
    if head.startswith(b"PK"):
        with _in_a_sentence(path), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):  # TorchScript
            raise _not_only_arrays(path)
        return _read_torch if any(name.endswith("/data.pkl") for name in names) else _read_npz
    if head.startswith(b"\x80"):  # a pickle: PyTorch before 1.6
        return _read_torch
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors
    raise AlexNetError(f"{path} is not a weight file of a kind that docs/weights.md lists.")


@contextlib.contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except AlexNetError:
        raise
    except MemoryError as error:
        raise AlexNetError(f"{path} cannot be read: it is larger than the memory, or damaged.") from error
    except Exception as error:  # whatever a damaged file makes a parser raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
        raise AlexNetError(
            f"{path} cannot be read ({reason}): it is damaged, cut off or of an unknown kind."
        ) from error


def _read_npz(path: Path) -> _Found:
    found: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            try:
                found[name] = file[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                raise AlexNetError(
                    f"{path} holds {name}, an array of Python objects, and nothing in a file is executed here: save "
                    "its numbers as plain arrays."
                ) from error
    text = found.pop(ABOUT, None)
    return found, None if text is None else str(text), _layout(found)


def _layout(found: dict[str, Any]) -> str:
    return TORCH if any("." in name for name in found) else CAFFE  # conv1.weight or conv1_w


def _read_safetensors(path: Path) -> _Found:
    import ml_dtypes  # noqa: F401  (bfloat16 for NumPy; JAX has it)
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        return found, (file.metadata() or {}).get(ABOUT), _layout(found)


def _read_torch(path: Path) -> _Found:
    found = pickled.arrays_of_torch(path, functools.partial(_state_dict, path))
    return found, None, _layout(found)


def _not_only_arrays(path: Path) -> AlexNetError:
    return AlexNetError(
        f"{path} is not a file of weights alone, but perhaps a whole model, and nothing in a file is executed here: "
        "save its weights with torch.save(model.state_dict(), FILE)."
    )


def _state_dict(path: Path, whole: Any) -> dict[str, Any]:
    """The tensors of the dict that has the most of them, whatever a training script put around it."""
    if isinstance(whole, pickled.Inert):
        raise _not_only_arrays(path)
    found, left, seen = [], [whole], set[int]()
    while left:
        if isinstance(one := left.pop(0), Mapping) and id(one) not in seen:  # a pickle may hold itself
            seen.add(id(one))
            found.append({str(name): value for name, value in one.items() if isinstance(value, pickled.Tensor)})
            left += one.values()
    best = max(found, key=len, default={})
    if not best:
        raise AlexNetError(f"{path} holds a {type(whole).__name__}, not a state_dict of named weights.")
    return best


# ---------------------------------------------------------------- checked and named as here


def _about(path: Path, text: str | None) -> dict[str, Any]:
    """What a file written here says about its arrays. Raises AlexNetError."""
    try:
        about = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError) as error:
        raise AlexNetError(f"{path} is damaged: its 'about' is not whole JSON ({error}).") from error
    if not isinstance(about, dict):
        raise AlexNetError(f"{path} is damaged: its 'about' is a {type(about).__name__}.")
    return about


def _our_names(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """The arrays as conv1_w, ... Raises AlexNetError for two arrays of one name."""
    parts = {theirs: part for part, theirs in TORCH_PARTS.items()}
    layers = _layers(dict.fromkeys(name.rpartition(".")[0] for name in found if "." in name), found)
    arrays, origin = dict[str, Any](), dict[str, str]()
    for name, array in found.items():
        layer, dot, part = name.rpartition(".")
        ours = f"{layers[layer]}_{parts.get(part, part)}" if dot else name
        if ours in arrays:
            raise AlexNetError(f"{path} has two arrays for {ours}: {origin[ours]} and {name}.")
        arrays[ours], origin[ours] = array, name
    return arrays


def _layers(names: Iterable[str], found: dict[str, Any]) -> dict[str, str]:
    """{the name of a layer in PyTorch: ours}.

    Wrappers leave their names in it: in front of all (`net.`, `encoder.`), and `module` anywhere, of DataParallel
    around the convolutions alone in pytorch/examples' imagenet/main.py. Where torchvision's names are not behind them,
    and none of ours, layers are numbered in order: conv1, conv2, ... where the kernel has four axes, then fc6, ...
    """
    plain = {name: re.sub(r"(^|\.)(module|_orig_mod)(?=\.)", "", name).lstrip(".") for name in names}
    while plain and all("." in name for name in plain.values()):
        if len({name.split(".")[0] for name in plain.values()}) > 1 or set(plain.values()) & set(TORCHVISION.values()):
            break
        plain = {name: inner.split(".", 1)[1] for name, inner in plain.items()}
    behind = {theirs: ours for ours, theirs in TORCHVISION.items()}
    named = {name: behind.get(".".join(inner.split(".")[-2:]), inner) for name, inner in plain.items()}
    if set(named.values()) & TORCHVISION.keys():
        return named
    return _in_order({name: np.ndim(found.get(f"{name}.weight", 0)) for name in plain}) or named


def _in_order(axes: dict[str, int]) -> dict[str, str]:
    """{a layer: conv1, ... or fc6, ...} by the axes of their kernels; {} where they are not first 4 and then 2."""
    kinds = {4: "conv", 2: "fc"}
    if not kinds.keys() >= set(axes.values()) or list(axes.values()) != sorted(axes.values(), reverse=True):
        return {}
    return {name: f"{kinds[count]}{number}" for number, (name, count) in enumerate(axes.items(), 1)}


def _numbered(found: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a file whose layers may have any names (conv_1, fc8_flickr), in order."""
    axes = {name.removesuffix("_w"): np.ndim(array) for name, array in found.items() if name.endswith("_w")}
    names = _in_order(axes)
    parts = {name: name.rpartition("_") for name in found}
    return {f"{names.get(parts[name][0], parts[name][0])}_{parts[name][2]}": array for name, array in found.items()}


def _float32(path: Path, name: str, array: Any) -> np.ndarray:
    """The array as float32. Raises AlexNetError unless it is a floating-point array of finite numbers."""
    if not isinstance(array, np.ndarray) or not (array.dtype.kind == "f" or array.dtype.name == "bfloat16"):
        kind = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
        raise AlexNetError(f"{path} holds {name} as {kind}, not as floating-point numbers.")
    if not array.ndim or not array.size:
        raise AlexNetError(f"{path} holds {name} of the shape {array.shape}, which is not that of any layer's weights.")
    with np.errstate(over="ignore"):  # told below
        numbers = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(numbers).all():
        raise AlexNetError(f"{path} holds {name} with numbers that are NaN, infinite or too large for float32.")
    return numbers
