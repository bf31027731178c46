"""Pictures as people have them: the official ImageNet tars, or a folder per class; opened as sources of records."""

import dataclasses
import hashlib
import io
import itertools
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alexnet_jax.data import sources
from alexnet_jax.data.feed import Source
from alexnet_jax.errors import AlexNetError

TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_TAR_OF = {"train": TRAIN_TAR, "validation": VALIDATION_TAR}
# Bytes of the official files, as the file system and the tars' own headers have them.
_TAR_BYTES = {TRAIN_TAR: 147_897_477_120, VALIDATION_TAR: 6_744_924_160}
_SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Originals:
    """A data set before it is prepared."""

    name: str
    version: str
    splits: dict[str, Source]
    class_names: tuple[str, ...]
    own: bool  # people's own pictures are put upright and may stay PNGs; else all is as TFDS has ImageNet
    about: str


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """One picture: where its bytes lie."""

    key: str
    label: int
    path: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Files:
    """Records that lie as files on the disk or inside an uncompressed tar; nothing is unpacked."""

    places: list[Place]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> dict[str, Any]:
        place = self.places[i]
        with open(place.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), place.size, place.offset)
        return {"image": data, "label": place.label, "key": place.key}


def _shuffled(places: Iterable[Place], split: str) -> Files:
    """In the order that TFDS gives them: by the MD5 of split and key (tfds.core.hashing)."""
    salt = hashlib.md5(split.encode())

    def rank(place: Place) -> str:
        digest = salt.copy()
        digest.update(place.key.encode())
        return digest.hexdigest()

    ordered = sorted(places, key=rank)
    for one, other in itertools.pairwise(ordered):
        if one.key == other.key:
            raise AlexNetError(f"{one.key} is twice in {split}: is {one.path} the official file?")
    return Files(ordered)


def as_originals(name: str, data_dir: str) -> Originals:
    """All splits of a prepared data set, as the originals of another one."""
    if name in ("digits", "synthetic"):
        raise AlexNetError(f"{name} lies in no folder, so there is nothing to pack.")
    builder, _, _ = sources.tfds_classification(name, data_dir)
    splits = {split: sources.open_split(name, split, data_dir) for split in builder.info.splits or ("train",)}
    if not isinstance(next(iter(splits.values())).source[0]["image"], bytes):
        raise AlexNetError(f"{name} holds pixels, not pictures: pack the set that it was made from.")
    class_names = next(iter(splits.values())).class_names
    about = f"{builder.info.full_name}."
    return Originals(
        name, str(builder.version), {k: s.source for k, s in splits.items()}, class_names, own=False, about=about
    )


# ---------------------------------------------------------------- ImageNet


def imagenet2012(folder: Path, splits: tuple[str, ...]) -> Originals:
    """ILSVRC 2012 from its two tars in `folder`; labels, classes and order are those of TFDS's imagenet2012.

    Raises AlexNetError where a tar is missing or truncated.
    """
    import tensorflow_datasets as tfds

    missing = [_TAR_OF[split] for split in splits if not (folder / _TAR_OF[split]).is_file()]
    if missing:
        raise AlexNetError(
            f"There is no {' and no '.join(missing)} in {folder}: download them from image-net.org, where one has "
            "to sign in, or prepare one split alone with --splits=train or --splits=validation."
        )
    builder = tfds.builder("imagenet2012")
    class_names = tuple(builder.info.features["label"].names)
    opened = {}
    for split in splits:
        path = folder / _TAR_OF[split]
        places = _train_places(path, class_names) if split == "train" else _validation_places(path, class_names)
        opened[split] = _shuffled(places, split)
    return Originals(
        "imagenet2012", str(builder.version), dict(opened), class_names, own=False, about=builder.info.description
    )


def _train_places(path: Path, class_names: tuple[str, ...]) -> Iterator[Place]:
    """A tar with a tar per class, n01440764.tar and so on."""
    labels = {name: label for label, name in enumerate(class_names)}
    for inner, start, size in _members(path, 0, path.stat().st_size, str(path)):
        wnid = inner.removesuffix(".tar")
        if wnid not in labels:
            raise AlexNetError(f"{path} holds {inner}, which is not a class of ILSVRC 2012: is it the official file?")
        for key, offset, length in _members(path, start, size, f"{inner} in {path}"):
            yield Place(key, labels[wnid], str(path), offset, length)


def _validation_places(path: Path, class_names: tuple[str, ...]) -> Iterator[Place]:
    """A flat tar; the labels come with TFDS, in the order of the file names."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

    labels = {name: label for label, name in enumerate(class_names)}
    wnids = tfds.core.tfds_path(imagenet_common._VALIDATION_LABELS_FNAME).read_text().split()
    members = sorted(_members(path, 0, path.stat().st_size, str(path)))
    if len(members) > len(wnids):
        raise AlexNetError(
            f"{path} holds {len(members):,} images where ILSVRC 2012 has 50,000: is it the official file?"
        )
    for (key, offset, size), wnid in zip(members, wnids[: len(members)], strict=True):
        yield Place(key, labels[wnid], str(path), offset, size)


def _members(path: Path, start: int, size: int, what: str) -> Iterator[tuple[str, int, int]]:
    """(name, offset in the file, bytes) of the files of the tar that lies at `start` of `path`."""
    with path.open("rb") as file:
        window = _Window(file, start, size)
        found, end, whole = 0, 0, True
        try:
            with tarfile.open(fileobj=window, mode="r:") as tar:  # type: ignore[call-overload]
                for member in tar:
                    if not member.isfile():
                        continue
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError
                    found += 1
                    end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    yield member.name, start + member.offset_data, member.size
        except tarfile.TarError:
            whole = False
        # tarfile takes a file that was cut between two members for whole: it ends in blocks of zeros.
        window.seek(end)
        whole = whole and found > 0 and window.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
    if not whole:
        official = _TAR_BYTES.get(path.name)
        expected = f" (the official file has {official:,} bytes, this one {path.stat().st_size:,})" if official else ""
        raise AlexNetError(f"{what} is truncated or not a tar, after {found:,} files{expected}: download it again.")


class _Window(io.RawIOBase):
    """`size` bytes of a file from `start` on, as a file of their own."""

    def __init__(self, file: Any, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        data: bytes = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


# ---------------------------------------------------------------- a folder per class


def folder(root: Path, name: str, *, validation_percent: int) -> Originals:
    """Pictures in `root`/train/CLASS/ and `root`/val/CLASS/, or in `root`/CLASS/ with a validation split drawn.

    The class of a picture is the first folder, its key the path below it, hidden files are passed
    over. A drawn split goes by the MD5 of the key: a picture stays where it is when others come.
    Raises AlexNetError for folders that are not of this form.
    """
    if not root.is_dir():
        raise AlexNetError(f"--from={root} is not a folder: give the one that holds a folder per class.")
    parts = {_SPLIT_FOLDERS[path.name]: path for path in _folders(root) if path.name in _SPLIT_FOLDERS}
    found = {split: _classes(path) for split, path in (parts or {"train": root}).items()}
    if "train" not in found:
        raise AlexNetError(f"{root} has {', '.join(sorted(found))} but no train: put the pictures to train on there.")
    class_names = tuple(sorted(found["train"]))
    if len(class_names) == 1:
        raise AlexNetError(f"{root} holds one class, {class_names[0]}: to tell classes apart takes two at least.")
    for split, classes in found.items():
        strangers = sorted(set(classes) - set(class_names))
        if strangers:
            raise AlexNetError(
                f"The class {strangers[0]} is in {parts[split]} but not in {parts['train']}: every class needs "
                "pictures to train on."
            )
    places: dict[str, list[Place]] = defaultdict(list)
    for split, classes in found.items():
        for label, class_name in enumerate(class_names):
            for path in classes.get(class_name, []):
                _check_name(path)
                key = f"{class_name}/{path.relative_to((parts or {'train': root})[split] / class_name).as_posix()}"
                drawn = len(found) == 1 and _percentile(key) < validation_percent
                places["validation" if drawn else split].append(Place(key, label, str(path), 0, path.stat().st_size))
    left = {place.label for place in places["train"]}
    for label, class_name in enumerate(class_names):
        if label not in left:
            raise AlexNetError(
                f"All pictures of the class {class_name} in {root} were drawn to evaluate on: add some, lower "
                f"--validation_percent={validation_percent}, or put them into folders train and val yourself."
            )
    if "validation" not in places and "test" not in places:
        raise AlexNetError(
            f"No picture of {root} was drawn to evaluate on: raise --validation_percent={validation_percent}, or put "
            "some into a folder val beside train."
        )
    splits: dict[str, Source] = {split: _shuffled(those, split) for split, those in places.items()}
    return Originals(
        name,
        "1.0.0",
        splits,
        class_names,
        own=True,
        about=f"The pictures of the folder {root.name}, a folder per class.",
    )


def _check_name(path: Path) -> None:
    """Raises AlexNetError for a name that no list with one name per line can hold."""
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", str(path)):
        raise AlexNetError(f"{str(path)!a} is not UTF-8 text, or has a control character in it: rename it.")


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _classes(root: Path) -> dict[str, list[Path]]:
    classes = {path.name: sorted(p for p in path.rglob("[!.]*") if p.is_file()) for path in _folders(root)}
    if not classes:
        raise AlexNetError(f"{root} holds no folders: put the pictures of each class into a folder of its own.")
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise AlexNetError(f"The class folder {root / empty[0]} has no picture: put some there or remove it.")
    return classes


def _percentile(key: str) -> int:
    return int(hashlib.md5(key.encode()).hexdigest(), 16) % 100
