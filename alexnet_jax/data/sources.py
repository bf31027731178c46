"""Where records come from: sets that TFDS has prepared, as array_record or TFRecord, and two that need no files."""

import dataclasses
import functools
import os
import re
import struct
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data.feed import Split
from alexnet_jax.errors import AlexNetError


def open_split(name: str, split: str, data_dir: str) -> Split:
    """A split of `digits`, of `synthetic`, or of any image classification set that TFDS or `prepare` has prepared.

    An empty `split` is the one to evaluate on: validation, or test if there is none. Raises
    AlexNetError, with what to run, when it is not there.
    """
    if name == "digits":
        return _digits(split or "test")
    if name == "synthetic":
        return _synthetic(split or "validation")
    return _tfds(name, split, data_dir)


def _no_split(name: str, split: str, there: Iterable[str]) -> AlexNetError:
    return AlexNetError(
        f"{name} has no split {split!r} but {', '.join(there)}: set config.data.train_split or config.data.eval_split."
    )


def _digits(split: str) -> Split:
    """scikit-learn's 1,797 handwritten digits (8x8, 16 gray levels): every sixth is held out for test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    numbers = np.arange(1797)
    held_out = numbers % 6 == 5
    chosen = {"train": numbers[~held_out], "test": numbers[held_out]}
    if split not in chosen:
        raise _no_split("digits", split, chosen)
    images = (digits.images[..., None] * 255.0 / 16.0).astype(np.uint8)
    records = [
        {"image": images[number], "label": int(digits.target[number]), "key": f"digit {number}"}
        for number in chosen[split].tolist()
    ]
    return Split(records, split, tuple(str(name) for name in digits.target_names))


# Height and width of ImageNet's photographs come in few kinds, and most are 500 pixels long.
_SYNTHETIC_SHAPES = ((375, 500),) * 10 + ((333, 500),) * 4 + ((500, 375),) * 4 + ((500, 333), (400, 500))


def _synthetic(split: str) -> Split:
    """Noise with the spectrum of photographs, in ImageNet's number, shapes and bytes: to time a run, not to learn."""
    sizes = {"train": 1_281_167, "validation": 1_000}
    if split not in sizes:
        raise _no_split("synthetic", split, sizes)
    names = tuple(f"class {i:03}" for i in range(1000))
    return Split(_Synthetic(sizes[split], split, _noise_photographs()), split, names)


@dataclasses.dataclass(frozen=True)
class _Synthetic:
    length: int
    split: str
    images: tuple[bytes, ...]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Any]:
        label = i * 2_654_435_761 % 2**32 * 1000 >> 32  # the same for the same i, and all classes alike
        return {"image": self.images[i % len(self.images)], "label": label, "key": f"{self.split}[{i}]"}


@functools.cache
def _noise_photographs() -> tuple[bytes, ...]:
    """Twenty JPEGs whose amplitudes fall with the frequency as a photograph's do; about 110 KB each."""
    import cv2

    rng = np.random.default_rng(0)
    images = []
    for height, width in _SYNTHETIC_SHAPES:
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / width
        gray, *colors = (
            np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency, s=(height, width))
            for _ in range(4)
        )
        planes = [gray / gray.std() * 50 + color / color.std() * 15 + 120 for color in colors]
        pixels = np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)
        images.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 89])[1].tobytes())
    return tuple(images)


def _tfds(name: str, split: str, data_dir: str) -> Split:
    import tensorflow_datasets as tfds

    builder, image, label = tfds_classification(name, data_dir)
    where = data_dir or "~/tensorflow_datasets"
    if not builder.data_path.exists():
        raise AlexNetError(
            f"{builder.info.full_name} is not prepared under {where}: {_how_to_prepare(name, where, builder)} "
            "(or set config.data.data_dir to where it is)."
        )
    splits = builder.info.splits
    split = split or next((s for s in ("validation", "test", "val") if s in splits), "validation")
    if any(part.split("[")[0] not in splits for part in split.split("+")):
        raise _no_split(name, split, splits)
    kind = builder.info.file_format.value
    serialized: Any
    try:
        if not splits[split].num_examples:
            raise AlexNetError(f"The split {split!r} of {name} is empty: choose another one or prepare the set again.")
        if kind == "array_record":
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            serialized = builder.as_data_source(split=split, deserialize_method=raw)
            for end in (0, -1):
                serialized[range(len(serialized))[end]]  # a file that is missing or truncated fails here
        elif kind == "tfrecord":
            serialized = _TFRecords.index(splits[split].file_instructions)
        else:
            raise AlexNetError(
                f"{builder.data_path} holds {kind} files: prepare the data set again with file_format='array_record'."
            )
    except (ValueError, OSError, RuntimeError, IndexError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise AlexNetError(f"The split {split!r} of {name} cannot be read: {why} ({builder.data_path}).") from error
    key = next((k for k in ("file_name", "filename", "id") if k in builder.info.features), None)
    class_names = tuple(builder.info.features[label].names)
    feature = builder.info.features[image]
    shape = None if isinstance(feature, tfds.features.Image) else feature.shape
    return Split(_Examples(serialized, split, image, shape, label, key), split, class_names, Path(builder.data_path))


def _how_to_prepare(name: str, where: str, builder: Any = None) -> str:
    """What to run to have the data set; `builder` is TFDS's definition of it, if it has one."""
    base, packed, layout = name.partition("_pack")
    size, _, kind = layout.partition("_")
    pack = f" --pack={size}{ {'long': ' --keep_long_side', 'raw': ' --raw'}.get(kind, '') }" if packed else ""
    command = "run alexnet prepare"
    if base == "imagenet2012":
        return f"{command} imagenet2012 --from=FOLDER_OF_THE_TARS --data_dir={where}{pack}"
    if builder is None and packed:
        return f"{command} tfds {base} --data_dir={where}{pack}, or folder --name={base} for pictures of your own"
    if builder is None:
        new = name if re.fullmatch("[a-z][a-z0-9_]*", name) else "NAME"
        return (
            "use digits, synthetic, imagenet2012, cifar10 or another name of TFDS's catalogue, or, for pictures of "
            f"your own, {command} folder --from=PICTURES --name={new} --data_dir={where}"
        )
    by_hand = f"put its archives into {where}/downloads/manual and " if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ""
    return (
        f'{by_hand}run once, with TensorFlow, pip install tensorflow-cpu importlib-resources; python -c "import '
        f"tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={where!r}, file_format='array_record')"
        '.download_and_prepare()"'
    )


def tfds_classification(name: str, data_dir: str) -> tuple[Any, str, str]:
    """The TFDS builder of `name` and the names of its image and label features; reads no image."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except ImportError as error:
        raise AlexNetError(
            f"The definition of {name} needs a package that is not here ({error.name}): install it."
        ) from error
    except (tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        where = data_dir or "~/tensorflow_datasets"
        for path in (Path(where).expanduser() / name).glob("*/features.json"):
            why = str(error).splitlines()[0].rstrip(".")
            raise AlexNetError(f"{path.parent} is damaged ({why}): remove it and prepare it again.") from error
        raise AlexNetError(f"There is no data set {name!r} under {where}: {_how_to_prepare(name, where)}.") from error
    features = builder.info.features or {}
    images = [key for key, feature in features.items() if _is_image(feature)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    image, label = builder.info.supervised_keys or ((images or [None])[0], (labels or [None])[0])
    if image not in images or label not in labels:
        raise AlexNetError(f"{name} is not an image classification set: its features are {', '.join(features)}.")
    return builder, image, label


def _is_image(feature: Any) -> bool:
    """An encoded image, or an array of pixels as `prepare --raw` writes it."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image):
        return True
    if not isinstance(feature, tfds.features.Tensor) or feature.np_dtype != np.uint8:
        return False
    return feature.shape[2:] in ((1,), (3,)) and feature.to_json_content().encoding == "bytes"


@dataclasses.dataclass(frozen=True)
class _Examples:
    """Serialised tf.train.Examples as records; the image stays encoded until somebody wants its pixels."""

    serialized: Any  # len and [i] -> bytes
    split: str
    image: str
    shape: tuple[int, ...] | None  # of the pixels, where they are stored as such
    label: str
    key: str | None

    def __len__(self) -> int:
        return len(self.serialized)

    def __getitem__(self, i: int) -> dict[str, Any]:
        # TFDS's own parser goes through NumPy for every feature, 80 us a record where this takes 10.
        from tensorflow_datasets.proto import tf_example_pb2

        features = tf_example_pb2.Example.FromString(self.serialized[i]).features.feature
        image = features[self.image].bytes_list.value[0]
        return {
            "image": image if self.shape is None else np.frombuffer(image, np.uint8).reshape(self.shape),
            "label": features[self.label].int64_list.value[0],
            "key": _text(features[self.key]) if self.key else f"{self.split}[{i}]",
        }


def _text(feature: Any) -> str:
    values = feature.bytes_list.value or feature.int64_list.value
    return values[0].decode("utf-8", "replace") if isinstance(values[0], bytes) else str(values[0])


@dataclasses.dataclass(frozen=True)
class _TFRecords:
    """Random access to TFRecord files, which TFDS itself only streams, and through TensorFlow.

    The format (tensorflow/core/lib/io/record_writer.h): length u64, its checksum u32, the bytes,
    their checksum u32. Opening reads the lengths alone, one short read a record.
    """

    paths: tuple[str, ...]
    where: np.ndarray  # [n, 3]: file, offset, bytes

    @classmethod
    def index(cls, instructions: list[Any]) -> "_TFRecords":
        """The records that TFDS's file instructions of a split or a part of it name. Raises ValueError."""
        with ThreadPoolExecutor(16) as pool:
            rows = list(pool.map(lambda f: _lengths(f.filename), instructions))
        parts = []
        for number, (instruction, row) in enumerate(zip(instructions, rows, strict=True)):
            end = None if instruction.take == -1 else instruction.skip + instruction.take
            part = row[instruction.skip : end]
            parts.append(np.concatenate([np.full((len(part), 1), number), part], axis=1))
        empty = np.zeros((0, 3), np.int64)
        return cls(tuple(str(f.filename) for f in instructions), np.concatenate([empty, *parts]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, i: int) -> bytes:
        number, offset, size = self.where[i].tolist()
        with open(self.paths[number], "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)


def _lengths(path: str) -> np.ndarray:
    """[n, 2]: offset and size in bytes of every record of one file."""
    rows: list[tuple[int, int]] = []
    at, end = 0, os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        while at < end:
            header = os.pread(file.fileno(), 8, at)
            size = struct.unpack("<Q", header)[0] if len(header) == 8 else end
            if at + 16 + size > end:
                raise ValueError(f"{path} is truncated after {len(rows):,} records.")
            rows.append((at + 12, size))
            at += 16 + size
    return np.asarray(rows, np.int64).reshape(-1, 2)


def read_ahead(folder: Path | None, *, free: int) -> str:
    """Starts to read a prepared set into the system's page cache, if it takes at most half of `free` bytes; a message.

    The feed reads records in random order, which many disks and networks are slow at; this reads them from end to end,
    and all processes of a machine share what it leaves in memory. The message is "" where there are no files. The
    thread ends with the process, and a file that cannot be read is left to the feed.
    """
    paths = sorted(folder.glob("*record-*-of-*")) if folder is not None else []
    size = sum(path.stat().st_size for path in paths)
    if not size:
        return ""
    if size > free // 2:
        return f"none: half of the free memory is {free / 2e9:.3g} GB, and the records take {size / 1e9:.3g} GB"
    threading.Thread(target=_read, args=(paths,), daemon=True).start()
    return f"all {size / 1e9:.3g} GB of records are read into memory meanwhile"


def _read(paths: list[Path]) -> None:
    chunk = bytearray(1 << 22)
    for path in paths:
        try:
            with path.open("rb", buffering=0) as file:
                while file.readinto(chunk):
                    pass
        except OSError:
            continue
