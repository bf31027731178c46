"""Reads weight files: .npz in Caffe's layout, .safetensors and .pth with PyTorch's names. Nothing in them is executed.

A reader is a function `path -> (arrays, text)`: the arrays, laid out as `model.plain` says, under the file's names or
ours; and the JSON that a file written here has about itself, or None. `_reader_of` chooses it by the first bytes.
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
from alexnet_jax.weights import pickled

CAFFE, TORCH = "Caffe's layout", "PyTorch's names"

_FIRST_BYTES = 9


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """What a file holds: arrays as in `model.plain`, and what it says about them ({} unless written here).

    `layout` is CAFFE or TORCH, which decides the order of colors where nobody says. `mean_image` is float32
    [crop, crop, 3], over R, G, B, or None.
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
        found, text = reader(path)
    layout = TORCH if any("." in name for name in found) else CAFFE  # conv1.weight or conv1_w
    about = _about(path, text)
    image = found.pop(MEAN_IMAGE, None) if about else None
    found = {name: array for name, array in found.items() if not name.endswith("num_batches_tracked")}  # of batch norms
    arrays = _our_names(path, found)
    if not arrays:
        raise AlexNetError(f"{path} holds no arrays.")
    arrays = {name: _float32(path, name, array) for name, array in arrays.items()}
    return WeightFile(path, arrays, about, layout, None if image is None else _float32(path, MEAN_IMAGE, image))


_Found = tuple[dict[str, Any], str | None]


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
    if path.suffix == ".caffemodel":
        raise AlexNetError(
            f"{path} is Caffe's own format, which no maintained package reads today: where Caffe is installed, save it "
            "as .npz with net = caffe.Net(prototxt, caffemodel, caffe.TEST); numpy.savez(file, **{f'{name}_{part}': "
            "blob.data for name, blobs in net.params.items() for part, blob in zip('wb', blobs)})."
        )
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
    raise AlexNetError(f"{path} is not a weight file: give a .npz, .safetensors, .pth or .pt.")


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
    return found, None if text is None else str(text)


def _read_safetensors(path: Path) -> _Found:
    import ml_dtypes  # noqa: F401  (bfloat16 for NumPy; JAX has it)
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, (file.metadata() or {}).get(ABOUT)


def _read_torch(path: Path) -> _Found:
    return pickled.arrays_of_torch(path, functools.partial(_state_dict, path)), None


def _not_only_arrays(path: Path) -> AlexNetError:
    return AlexNetError(
        f"{path} is not a file of weights alone, but perhaps a whole model, and nothing in a file is executed here: "
        "save its weights with torch.save(model.state_dict(), FILE)."
    )


def _state_dict(path: Path, whole: Any) -> dict[str, Any]:
    """The tensors of the dict that has the most of them, whatever a training script put around it."""
    if isinstance(whole, pickled.Inert):
        raise _not_only_arrays(path)
    found, left = [], [whole]
    while left:
        if isinstance(one := left.pop(0), Mapping):
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
    kernels = {name: np.ndim(found.get(f"{name}.weight", 0)) for name in plain}
    if not set(named.values()) & TORCHVISION.keys() and list(kernels.values()) == sorted(
        kernels.values(), reverse=True
    ):
        kinds = {4: "conv", 2: "fc"}
        if kinds.keys() >= set(kernels.values()):
            return {name: f"{kinds[kernels[name]]}{number}" for number, name in enumerate(plain, 1)}
    return named


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
