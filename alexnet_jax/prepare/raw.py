"""Raw data sets, opened as sources of records: the official ImageNet tars, a folder per class, or a prepared set."""

import dataclasses
import hashlib
import itertools
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from alexnet_jax.data import sources
from alexnet_jax.data.feed import Source
from alexnet_jax.errors import AlexNetError

TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_TAR_OF = {"train": TRAIN_TAR, "validation": VALIDATION_TAR}
# Bytes of the official files, as the file system and the tars' own headers have them.
_TAR_BYTES = {TRAIN_TAR: 147_897_477_120, VALIDATION_TAR: 6_744_924_160}
_SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """A data set before it is prepared."""

    name: str
    version: str
    splits: dict[str, Source]
    class_names: tuple[str, ...]
    own: bool  # people's own pictures are put upright and may stay PNGs; else all is as TFDS has ImageNet
    about: str


@dataclasses.dataclass(frozen=True, slots=True)
class FileReference:
    """Where the bytes of one picture lie."""

    key: str
    label: int
    path: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Files:
    """Records that lie as files on the disk or inside an uncompressed tar; nothing is unpacked."""

    references: list[FileReference]

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, i: int) -> dict[str, Any]:
        reference = self.references[i]
        with open(reference.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), reference.size, reference.offset)
        return {"image": data, "label": reference.label, "key": reference.key}


def _shuffled(references: Iterable[FileReference], split: str) -> Files:
    """In the order that TFDS gives them: by the MD5 of split and key (tfds.core.hashing)."""
    ordered = sorted(references, key=lambda reference: hashlib.md5(f"{split}{reference.key}".encode()).hexdigest())
    for one, other in itertools.pairwise(ordered):
        if one.key == other.key:
            raise AlexNetError(f"{one.key} is twice in {split}: is {one.path} the official file?")
    return Files(ordered)


def prepared(name: str, data_dir: str) -> RawDataset:
    """All splits of a prepared data set, to make another one of them. Raises AlexNetError."""
    if name in ("digits", "synthetic"):
        raise AlexNetError(f"{name} lies in no folder, so there is nothing to pack.")
    builder, _, _ = sources.tfds_classification(name, data_dir)
    splits = {split: sources.open_split(name, split, data_dir) for split in builder.info.splits or ("train",)}
    first = next(iter(splits.values()))
    if not isinstance(first.source[0]["image"], bytes):
        raise AlexNetError(f"{name} holds pixels, not pictures: pack the set that it was made from.")
    opened, about = {name: split.source for name, split in splits.items()}, f"{builder.info.full_name}."
    return RawDataset(name, str(builder.version), opened, first.class_names, own=False, about=about)


def imagenet2012(folder: Path, splits: tuple[str, ...]) -> RawDataset:
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
    labels = {name: label for label, name in enumerate(class_names)}
    opened: dict[str, Source] = {}
    for split in splits:
        references = _train_references if split == "train" else _validation_references
        opened[split] = _shuffled(references(folder / _TAR_OF[split], labels), split)
    about = builder.info.description
    return RawDataset("imagenet2012", str(builder.version), opened, class_names, own=False, about=about)


def _train_references(path: Path, labels: dict[str, int]) -> Iterator[FileReference]:
    """A tar with a tar per class, n01440764.tar and so on."""
    with path.open("rb") as file:
        for tar, inner in _members(file, path.stat().st_size, str(path)):
            wnid, window = inner.name.removesuffix(".tar"), tar.extractfile(inner)
            if wnid not in labels:
                raise AlexNetError(
                    f"{path} holds {inner.name}, which is not a class of ILSVRC 2012: is it the official file?"
                )
            assert window is not None  # None only for what is not a file
            for _, member in _members(window, inner.size, f"{inner.name} in {path}"):
                offset = inner.offset_data + member.offset_data
                yield FileReference(member.name, labels[wnid], str(path), offset, member.size)


def _validation_references(path: Path, labels: dict[str, int]) -> Iterator[FileReference]:
    """A flat tar; the labels come with TFDS, in the order of the file names."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

    wnids = tfds.core.tfds_path(imagenet_common._VALIDATION_LABELS_FNAME).read_text().split()
    with path.open("rb") as file:
        found = _members(file, path.stat().st_size, str(path))
        members = sorted((member.name, member.offset_data, member.size) for _, member in found)
    if len(members) > len(wnids):
        raise AlexNetError(
            f"{path} holds {len(members):,} images where ILSVRC 2012 has 50,000: is it the official file?"
        )
    for (key, offset, size), wnid in zip(members, wnids[: len(members)], strict=True):
        yield FileReference(key, labels[wnid], str(path), offset, size)


def _members(file: IO[bytes], size: int, what: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The files of a tar of `size` bytes. Raises AlexNetError where it is truncated, also between two files."""
    count, end, whole = 0, 0, True
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError
                count += 1
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                yield tar, member
    except tarfile.TarError:
        whole = False
    # tarfile takes a file that was cut between two members for whole: it ends in blocks of zeros.
    file.seek(end)
    if not (whole and count and file.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE):
        official = _TAR_BYTES.get(Path(what).name)
        expected = f" (the official file has {official:,} bytes, this one {size:,})" if official else ""
        raise AlexNetError(f"{what} is truncated or not a tar, after {count:,} files{expected}: download it again.")


def folder(root: Path, name: str, *, validation_percent: int) -> RawDataset:
    """Pictures in `root`/train/CLASS/ and `root`/val/CLASS/, or in `root`/CLASS/ with a validation split drawn.

    The class of a picture is the first folder, its key the path below it, hidden files are passed
    over. A drawn split goes by the MD5 of the key: a picture stays where it is when others come.
    Raises AlexNetError for folders that are not of this form.
    """
    if not root.is_dir():
        raise AlexNetError(f"--from={root} is not a folder: give the one that holds a folder per class.")
    split_folders = {_SPLIT_FOLDERS[path.name]: path for path in _folders(root) if path.name in _SPLIT_FOLDERS}
    split_folders = split_folders or {"train": root}
    classes = {split: _classes(path) for split, path in split_folders.items()}
    if "train" not in classes:
        raise AlexNetError(f"{root} has {', '.join(sorted(classes))} but no train: put the pictures to train on there.")
    class_names = tuple(sorted(classes["train"]))
    if len(class_names) == 1:
        raise AlexNetError(f"{root} holds one class, {class_names[0]}: to tell classes apart takes two at least.")
    for split, path in split_folders.items():
        if strangers := sorted(set(classes[split]) - set(class_names)):
            raise AlexNetError(
                f"The class {strangers[0]} is in {path} but not in {split_folders['train']}: every class needs "
                "pictures to train on."
            )
    references: dict[str, list[FileReference]] = defaultdict(list)
    for split, path in split_folders.items():
        for reference in _references(path, classes[split], class_names):
            drawn = len(classes) == 1 and _percentile(reference.key) < validation_percent
            references["validation" if drawn else split].append(reference)
    trained = {reference.label for reference in references["train"]}
    for label, class_name in enumerate(class_names):
        if label not in trained:
            raise AlexNetError(
                f"All pictures of the class {class_name} in {root} were drawn to evaluate on: add some, lower "
                f"--validation_percent={validation_percent}, or put them into folders train and val yourself."
            )
    if not {"validation", "test"} & references.keys():
        raise AlexNetError(
            f"No picture of {root} was drawn to evaluate on: raise --validation_percent={validation_percent}, or put "
            "some into a folder val beside train."
        )
    splits: dict[str, Source] = {split: _shuffled(those, split) for split, those in references.items()}
    about = f"The pictures of the folder {root.name}, a folder per class."
    return RawDataset(name, "1.0.0", splits, class_names, own=True, about=about)


def _references(root: Path, classes: dict[str, list[Path]], class_names: tuple[str, ...]) -> Iterator[FileReference]:
    for label, class_name in enumerate(class_names):
        for path in classes.get(class_name, []):
            if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", str(path)):  # a list of names has one a line
                raise AlexNetError(f"{str(path)!a} is not UTF-8 text, or has a control character in it: rename it.")
            key = path.relative_to(root).as_posix()
            yield FileReference(key, label, str(path), 0, path.stat().st_size)


def _percentile(key: str) -> int:
    return int(hashlib.md5(key.encode()).hexdigest(), 16) % 100


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
