"""From a data set to batches: a batch is a pure function of (seed, step), wherever it is computed."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Protocol

import grain
import numpy as np

from alexnet_jax import AlexNetError, augment

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Random access to the records of one split: {"image": bytes or [H, W, C] uint8, "label": int}."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set: its records, its own name, and the classes' names in label order."""

    source: Source
    name: str
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Images:
    """How a record becomes the network's input: short side to `resize_pixels`, then a square crop."""

    resize_pixels: int
    crop_pixels: int

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> Batch:
        image = augment.resize_short_side(augment.decode(record["image"]), self.resize_pixels)
        image = augment.crop(image, self.crop_pixels, rng)
        return {"image": np.ascontiguousarray(image), "label": np.asarray(record["label"], np.int32)}


# ---------------------------------------------------------------- sources


def open_split(name: str, split: str, data_dir: str) -> Split:
    """The split of the embedded `digits`, or of any image classification set that TFDS has prepared.

    Raises AlexNetError, with what to run, when it is not there.
    """
    return _digits(split) if name == "digits" else _tfds(name, split, data_dir)


def _digits(split: str) -> Split:
    """scikit-learn's 1,797 handwritten digits (8x8, 16 greys): every sixth is held out for test."""
    from sklearn.datasets import load_digits

    held_out = np.arange(1797) % 6 == 5
    chosen = {"train": ~held_out, "test": held_out}
    if split not in chosen:
        raise AlexNetError(f"data.train_split or data.eval_split is {split!r}: digits has train and test.")
    digits = load_digits()
    images = (digits.images[chosen[split], :, :, None] * 255.0 / 16.0).astype(np.uint8)
    records = [
        {"image": image, "label": label} for image, label in zip(images, digits.target[chosen[split]], strict=True)
    ]
    return Split(records, split, tuple(str(name) for name in digits.target_names))


def _tfds(name: str, split: str, data_dir: str) -> Split:
    import tensorflow_datasets as tfds

    builder, image, label = tfds_classification(name, data_dir)
    where = data_dir or "~/tensorflow_datasets"
    if not builder.data_path.exists():
        option = f", data_dir={data_dir!r}" if data_dir else ""
        by_hand = f"put its archives into {where}/downloads/manual and " if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ""
        raise AlexNetError(
            f"{builder.info.full_name} is not prepared under {where}: {by_hand}run once, with TensorFlow, "
            f'pip install tensorflow-cpu importlib-resources; python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder({name!r}{option}, file_format='array_record').download_and_prepare()\" "
            "(or point --config.data.data_dir at where it is)."
        )
    if any(part.split("[")[0] not in builder.info.splits for part in split.split("+")):
        raise AlexNetError(
            f"{name} has no split {split!r} but {', '.join(builder.info.splits)}: "
            "set --config.data.train_split or --config.data.eval_split."
        )
    if builder.info.file_format.value != "array_record":
        raise AlexNetError(
            f"{builder.data_path} holds {builder.info.file_format.value} files, which need TensorFlow to be read: "
            "prepare the data set again with file_format='array_record'."
        )
    # download=False: a data set that is missing must not start its own preparation here.
    try:
        records = tfds.data_source(
            name, split=split, data_dir=data_dir or None, download=False, decoders={image: tfds.decode.SkipDecoding()}
        )
    except ValueError as error:
        raise AlexNetError(f"The split {split!r} of {name} is not to be read: {str(error).splitlines()[0]}") from error
    class_names = tuple(builder.info.features[label].names)
    return Split(_Renamed(records, image, label), split, class_names)


def tfds_classification(name: str, data_dir: str) -> tuple[Any, str, str]:
    """The TFDS builder of `name` and the names of its image and label features; reads no image."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except ImportError as error:
        raise AlexNetError(
            f"The definition of {name} needs a package that is not here ({error.name}): install it."
        ) from error
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise AlexNetError(
            f"TFDS knows no data set {name!r} ({str(error).splitlines()[0].rstrip('.')}): "
            "use digits, imagenet2012, cifar10 or another name of its catalogue."
        ) from error
    features = builder.info.features or {}
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    image, label = builder.info.supervised_keys or ((images or [None])[0], (labels or [None])[0])
    if image not in images or label not in labels:
        raise AlexNetError(f"{name} is no image classification set: its features are {', '.join(features)}.")
    return builder, image, label


@dataclasses.dataclass(frozen=True)
class _Renamed:
    """A TFDS source under the two names that the project uses."""

    records: Any
    image: str
    label: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        record = self.records[i]
        return {"image": record[self.image], "label": record[self.label]}


# ---------------------------------------------------------------- batches


def train_batches(
    split: Split,
    images: Images,
    *,
    batch_size: int,
    seed: int,
    step: int,
    share: tuple[int, int],
    threads: int,
    prefetch: int,
) -> Iterator[Batch]:
    """Batches from `step` on, without end: image [b, H, W, 3] uint8, label [b] int32, place [b] int32.

    The records are shuffled anew each epoch, and a batch may hold the end of one and the beginning
    of the next. `batch_size` is the global one; this process gets part `share` = (index, count) of
    it, and `place` is where in the global batch each of its examples stands. Nothing but `step` is
    needed to go on: neither threads nor processes change what comes.
    """
    index, count = share
    stream = grain.MapDataset.source(split.source).seed(seed).shuffle().repeat()
    stream = stream.random_map(images)  # keyed by (seed, place in the stream)
    stream = stream[index::count].batch(batch_size // count, drop_remainder=True)
    place = np.arange(batch_size, dtype=np.int32)[index::count]
    return _iterate(stream[step:].map(lambda batch: batch | {"place": place}), threads, prefetch)


def eval_batches(
    split: Split, images: Images, *, batch_size: int, share: tuple[int, int], threads: int, prefetch: int
) -> Iterator[Batch]:
    """Every record of the split once, in order and centre cropped; label -1 fills the last batch up."""
    index, count = share
    padded = -(-len(split.source) // batch_size) * batch_size
    stream = grain.MapDataset.source(_Padded(split.source, padded)).map(functools.partial(_or_blank, images))
    stream = stream[index::count].batch(batch_size // count, drop_remainder=True)
    return _iterate(stream, threads, prefetch)


def _iterate(stream: Any, threads: int, prefetch: int) -> Iterator[Batch]:
    # The buffer counts batches, and its default of 500 would hold 10 GB of them.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return iter(stream.to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class _Padded:
    source: Source
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Any] | None:
        return self.source[i] if i < len(self.source) else {}


def _or_blank(images: Images, record: dict[str, Any]) -> Batch:
    if record:
        return images(record)
    return {"image": np.zeros((images.crop_pixels, images.crop_pixels, 3), np.uint8), "label": np.asarray(-1, np.int32)}
