"""Pickles of arrays, read without what wrote them: PyTorch's files, and NumPy's arrays of Python objects.

Only arrays and plain types are made. Any other name stands for an `Inert`, which takes whatever a pickle does with it
and does nothing, so that nothing in a file is executed, and a training script's own objects beside the weights do no
harm. Nothing is allocated that the file does not hold.
"""

import dataclasses
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

# The first pickle of a file of PyTorch before 1.6 (torch/serialization.py, MAGIC_NUMBER).
_MAGIC = 0x1950A86A20F9469CFC6C
# torch/storage.py, _storage_type_to_dtype_map: what a file calls its numbers.
_STORAGES = {
    "DoubleStorage": np.dtype("<f8"), "FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16), "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"), "CharStorage": np.dtype("i1"), "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}  # fmt: skip


class Inert:
    """An object of another module: it can be made, called, filled and set, without effect."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        return Inert()

    __setstate__ = __setitem__ = append = extend = add = update = lambda self, *_: None


class _Dict(dict[Any, Any]):
    """An OrderedDict, which a state_dict is, without the attributes that it has."""

    def __init__(self, *_: Any) -> None: ...  # of a defaultdict: its factory

    def __setstate__(self, _: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class Storage:
    """The numbers of one or more tensors: where they are in the file, and how many."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, in numbers, as torch._utils._rebuild_tensor_v2 takes it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, numbers: np.ndarray) -> np.ndarray:
        """The view of its storage's `numbers`. Raises ValueError where it reaches beyond them or repeats any."""
        shape, strides = tuple(map(int, self.shape)), tuple(map(int, self.strides))
        last = self.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if min((*shape, *strides, self.offset), default=0) < 0 or not math.prod(shape) <= len(numbers) > last:
            raise ValueError(f"a tensor {shape} of {len(numbers):,} numbers")
        bytes_of = [stride * numbers.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], shape, bytes_of, writeable=False)


class _Dtype:
    """numpy.dtype(code, ...) with the byte order that its state has; `of` is None for what is not a number."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1]) if state[1] in ("<", ">") else "="

    @property
    def of(self) -> np.dtype[Any]:
        if self.code[:1] not in "fiub" or not self.code[1:].isdigit():
            raise ValueError(f"numbers of the type {self.code[:20]}")
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class NumpyArray:
    """A numpy.ndarray of a pickle; its state is (version, shape, dtype, Fortran order, bytes or a list of objects)."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if isinstance(content, list):
            self.value = content
            return
        content = content.encode("latin1") if isinstance(content, str) else content  # of Python 2
        self.value = np.frombuffer(content, dtype.of).reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: Any, content: Any = b"") -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype.of)[0] if isinstance(dtype, _Dtype) else Inert()


def _encoded(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")  # bytes of Python 3 in a pickle of protocol 2


_NAMES: dict[str, Any] = {
    "collections.OrderedDict": _Dict,
    "collections.defaultdict": _Dict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": Tensor,
    "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, strides, *_: Tensor(
        storage, offset, shape, strides
    ),
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "_codecs.encode": _encoded,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": NumpyArray,
    **{
        f"{module}._reconstruct": lambda *_: NumpyArray()
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    },
    **{f"{module}.scalar": _scalar for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    storages: dict[str, np.dtype[Any]]

    def find_class(self, module: str, name: str) -> Any:
        return _NAMES.get(f"{module}.{name}") or type(name, (Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] != "storage":
            return Inert  # the class of a whole model, with its source
        _, dtype, key, _, count, *_ = pid
        if not isinstance(dtype, np.dtype):
            raise ValueError("numbers of an unknown type")
        self.storages[str(key)] = dtype
        return Storage(str(key), dtype, int(count))


def load(file: Any, storages: dict[str, np.dtype[Any]] | None = None) -> Any:
    """The next pickle of a file, of Python 2 or 3; the types of its storages go to `storages`."""
    unpickler = _Unpickler(file, encoding="latin1")
    unpickler.storages = {} if storages is None else storages
    return unpickler.load()


def arrays_of_torch(path: Path, choose: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """What `choose` takes of a file of torch.save, its tensors as NumPy's arrays; the file is of any version since 0.2.

    Raises ValueError, EOFError, pickle.UnpicklingError and others for what is damaged.
    """
    if not zipfile.is_zipfile(path):
        return _arrays_of_old(path, choose)
    with zipfile.ZipFile(path) as archive:
        (main,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = main.removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its entries are compressed")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        with archive.open(main) as file:
            chosen = choose(load(file))
        return _arrays(chosen, lambda storage: archive.read(f"{folder}data/{storage.key}"))


def _arrays_of_old(path: Path, choose: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """Of PyTorch before 1.6: four pickles, the keys of the storages, and their numbers, each after its count."""
    with path.open("rb") as file:
        if load(file) != _MAGIC:
            raise ValueError("it is a pickle, but not PyTorch's")
        load(file), load(file)  # the version, and the machine's sizes
        types: dict[str, np.dtype[Any]] = {}
        chosen, keys, places = choose(load(file, types)), load(file), dict[str, tuple[int, int]]()
        for key in map(str, keys):
            size = int.from_bytes(file.read(8), "little") * types[key].itemsize
            places[key] = file.tell(), size
            file.seek(size, os.SEEK_CUR)

        def content(storage: Storage) -> bytes:
            begin, size = places[storage.key]
            file.seek(begin)
            return file.read(min(size, path.stat().st_size))

        return _arrays(chosen, content)


def _arrays(chosen: Mapping[str, Any], content: Callable[[Storage], bytes]) -> dict[str, Any]:
    read: dict[str, np.ndarray] = {}
    for tensor in (value for value in chosen.values() if isinstance(value, Tensor)):
        storage = tensor.storage
        if storage.key not in read:
            read[storage.key] = np.frombuffer(content(storage), storage.dtype)
        if len(read[storage.key]) < storage.count:
            raise ValueError(f"{storage.count:,} numbers by its header, {len(read[storage.key]):,} in truth")
    return {
        str(name): value.array(read[value.storage.key]) if isinstance(value, Tensor) else value
        for name, value in chosen.items()
    }
