"""A layer's activations of many pictures in one file, computed in blocks, resumed after a kill; and nearest neighbours.

The file is an .npz: `features` float32 [N, ...], `names` [N] as people name the pictures, `numbers` int64 [N] (which
picture of the source), and for a split `labels` int32 [N] and `classes`; `about` is JSON of the network, layer and
source.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xxhash

from alexnet_jax import files, progress
from alexnet_jax.classifier import Classifier
from alexnet_jax.data import feed, pictures as picture_files, preprocess
from alexnet_jax.errors import AlexNetError

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 128  # pictures between two saved states; a multiple of what the network computes at once
_READ_BYTES = 128 * 1024**2  # of features in memory at a time


# number -> (name, label or -1, uint8 [S, S, 3]); raises AlexNetError or ValueError
Read = Callable[[int], tuple[str, int, Array]]


class Row(NamedTuple):
    """A picture that was read: its number in the source, its name, its label, or -1."""

    number: int
    name: str
    label: int


Block = tuple[list[Row], Array]  # and uint8 [n, S, S, 3]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What features are computed of: `count` pictures, which `read` gives one by one.

    `about` says which they are, so that a resumed command is of the same ones.
    """

    count: int
    read: Read
    about: dict[str, Any]
    class_names: tuple[str, ...] = ()  # of the labels; () without any


def of_files(paths: Sequence[Path], net: Classifier) -> Pictures:
    """Picture files, in the order of `paths`."""
    pixels = net.config.data.resize_pixels

    def read(number: int) -> tuple[str, int, Array]:
        return str(paths[number]), -1, picture_files.square(paths[number], pixels)

    digest = xxhash.xxh3_64_hexdigest("\0".join(map(str, paths)).encode("utf-8", "surrogateescape"))
    return Pictures(len(paths), read, {"files": len(paths), "digest": digest})


def of_split(split: feed.Split, net: Classifier, data: str) -> Pictures:
    """A split of the prepared data set `data`."""
    pixels = net.config.data.resize_pixels
    cropped = preprocess.Crop(pixels, pixels)

    def read(number: int) -> tuple[str, int, Array]:
        record = split.source[number]
        return str(record["key"]), int(record["label"]), cropped(record["image"])

    about = {"data": data, "split": split.name, **feed.fingerprint(split)}
    return Pictures(len(split.source), read, about, split.class_names)


def _blocks(pictures: Pictures, first: int, say: Callable[[str], None]) -> Iterator[Block]:
    """The pictures from number `first` on, BLOCK at a time and a block ahead; `say` gets what cannot be read."""

    def read(number: int) -> tuple[Row, Array] | str:
        try:
            name, label, square = pictures.read(number)
            return Row(number, name, label), square
        except (AlexNetError, ValueError) as error:
            return f"warning: picture {number:,} is left out: {error}"

    found = picture_files.in_threads(read, range(first, pictures.count), ahead=BLOCK)
    while block := list(itertools.islice(found, BLOCK)):
        for message in block:
            if isinstance(message, str):
                say(message)
        if good := [one for one in block if not isinstance(one, str)]:
            yield [row for row, _ in good], np.stack([square for _, square in good])


def write(net: Classifier, pictures: Pictures, layer: str, output: Path, *, say: Callable[[str], None] = print) -> int:
    """Writes the features of all pictures to `output` (.npz) and returns how many there are.

    What is done lies in OUTPUT.parts meanwhile, and the same call resumes there after a kill, with the same result to
    the bit. Pictures that cannot be read are left out, and `say` gets a warning. Raises AlexNetError.
    """
    if output.suffix != ".npz" or output.is_dir():
        raise AlexNetError(f"output={output} must be a file whose name ends in .npz.")
    if layer not in net.layers:
        net.features(np.zeros((8, 8, 3), np.uint8), layer)  # which says what there is
    about = {"layer": layer, "shape": list(net.layers[layer]), "network": digest(net), **net.how, **pictures.about}
    folder = output.with_name(output.name + ".parts")
    files.make_folder(folder)
    if not (folder / "about.json").exists():
        files.write_text(folder / "about.json", json.dumps(about))
    if files.read_json(folder / "about.json") != json.loads(json.dumps(about)):
        raise AlexNetError(f"{folder} holds the beginning of other features: remove it, or name another output.")
    rows = _compute(net, pictures, layer, folder, say)
    if rows:
        _finish(output, folder / "features", rows, about, pictures.class_names)
    shutil.rmtree(folder, ignore_errors=True)
    if not rows:
        raise AlexNetError("None of the pictures could be read.")
    return len(rows)


def _compute(net: Classifier, pictures: Pictures, layer: str, folder: Path, say: Callable[[str], None]) -> list[Row]:
    """Fills `features`, raw float32, and `rows`, a line of JSON for each block whose features are on the disk."""
    rows: list[Row] = []
    for line in files.read_text(folder / "rows").splitlines() if (folder / "rows").exists() else ():
        with contextlib.suppress(ValueError):  # a line that was cut off
            rows += [Row(*row) for row in json.loads(line)]
    done = _looked_at(rows, pictures)
    if rows:
        say(f"resuming after {done:,} of {pictures.count:,} pictures")
    with (
        progress.bar(total=pictures.count, done=done, unit="picture") as bar,
        files.named(folder / "features", "written"),
        (folder / "features").open("ab") as file,
    ):
        file.truncate(4 * math.prod(net.layers[layer]) * len(rows))  # what came after the last line is written again
        for block, squares in _blocks(pictures, done, say):
            file.write(np.ascontiguousarray(net.features(squares, layer), "<f4").data)
            file.flush()
            os.fsync(file.fileno())
            files.append_line(folder / "rows", json.dumps(block))
            rows += block
            bar.update(_looked_at(rows, pictures) - bar.n)
    return rows


def _looked_at(rows: list[Row], pictures: Pictures) -> int:
    """How many pictures there are up to the end of the block of the last row."""
    return min(pictures.count, (rows[-1].number // BLOCK + 1) * BLOCK) if rows else 0


def _finish(output: Path, raw: Path, rows: list[Row], about: dict[str, Any], class_names: tuple[str, ...]) -> None:
    """Makes the .npz."""
    numbers, names, labels = zip(*rows, strict=True)
    arrays: dict[str, Any] = {
        "features": np.memmap(raw, "<f4", "r", shape=(len(rows), *about["shape"])),  # NumPy writes it in chunks
        "names": np.asarray(names, np.str_),
        "numbers": np.asarray(numbers, np.int64),
        "about": np.asarray(json.dumps(about)),
    }
    if class_names:
        arrays |= {"labels": np.asarray(labels, np.int32), "classes": np.asarray(class_names, np.str_)}
    files.make_folder(output.absolute().parent)
    files.write(output, lambda growing: np.savez(growing, **arrays))


def digest(net: Classifier) -> str:
    """A name for what the network computes, by which features of two files are known to be of one network."""
    hashed = xxhash.xxh3_64(json.dumps(net.config.model.to_dict(), sort_keys=True).encode())
    hashed.update(np.ascontiguousarray(net.inputs.mean, np.float32).data)
    for leaf in jax.tree.leaves(jax.device_get(net.variables)):
        hashed.update(np.ascontiguousarray(leaf).data)
    return hashed.hexdigest()


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """A file that `write` made. `shape` is that of one picture; the features are read in blocks."""

    path: Path
    names: Array
    numbers: Array
    labels: Array | None
    class_names: tuple[str, ...]
    about: dict[str, Any]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def label(self, i: int) -> str:
        """The class of picture `i`; "" where nobody knows."""
        return "" if self.labels is None else self.class_names[int(self.labels[i])]

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """(the first row, float32 [rows, D]) one block after the other. Raises AlexNetError for a damaged file."""
        width = int(np.prod(self.shape))
        rows = max(1, _READ_BYTES // (4 * width))
        with _whole(self.path), zipfile.ZipFile(self.path) as archive, archive.open("features.npy") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            for first in range(0, len(self), rows):
                count = min(rows, len(self) - first)
                content = file.read(4 * count * width)
                if len(content) != 4 * count * width:
                    raise ValueError("it ends early")
                yield first, np.frombuffer(content, "<f4").reshape(count, width)


def read(path: Path) -> FeatureFile:
    """Opens a file of features; not its features. Raises AlexNetError."""
    with files.named(path, "read"):
        file = path.open("rb")
    with file, _whole(path), np.load(file, allow_pickle=False) as found:
        labels = np.asarray(found["labels"]) if "labels" in found.files else None
        classes = tuple(map(str, found["classes"])) if "classes" in found.files else ()
        about = json.loads(str(found["about"]))
        shape = tuple(int(side) for side in about["shape"])
        return FeatureFile(path, found["names"], found["numbers"], labels, classes, about, shape)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, OSError) as error:
        raise AlexNetError(
            f"{path} is not a whole file of features ({str(error).strip() or type(error).__name__}): make it again "
            "with alexnet features."
        ) from error


def nearest(
    queries: Array, found: FeatureFile, *, top: int, without: Sequence[str] | None = None
) -> tuple[Array, Array]:
    """(rows [Q, top] int64, distances [Q, top] float64) of the closest pictures by Euclidean distance, closest first.

    Exact: every distance, in float64; of equal ones the first row. `queries` are [Q, ...] features of the same layer;
    `without` are Q paths, and the picture that is named so, or by the end of the path ("cat/7.jpg" of "val/cat/7.jpg"),
    is left out for its query. Memory holds a block of the file, 0.13 GB and twice that in float64, and the distances of
    the queries to it, however many pictures there are. Source: the paper, section 6.1, on the last hidden layer, of
    4,096 units. Raises AlexNetError for features of another shape.
    """
    flat = np.asarray(queries, np.float64).reshape(len(queries), -1)
    if flat.shape[1] != int(np.prod(found.shape)):
        raise AlexNetError(f"{found.path} holds features of the shape {found.shape}, not of {queries.shape[1:]}.")
    best = np.full((len(flat), 0), np.inf)
    rows = np.zeros((len(flat), 0), np.int64)
    for first, block in found.blocks():
        there = _distances(flat, block.astype(np.float64))
        if without is not None:
            names = found.names[first : first + len(block)]
            for row, path in zip(there, without, strict=True):
                row[np.isin(names, _ends(path))] = np.inf
        best = np.concatenate([best, there], axis=1)
        numbers = np.broadcast_to(np.arange(first, first + len(block)), there.shape)
        rows = np.concatenate([rows, numbers], axis=1)
        order = np.argsort(best, axis=1, kind="stable")[:, :top]
        best, rows = (np.take_along_axis(array, order, axis=1) for array in (best, rows))
    return rows, best


def nearest_to(paths: Sequence[Path], net: Classifier, found: FeatureFile, *, top: int) -> tuple[Array, Array]:
    """`nearest` of picture files, without themselves. Raises AlexNetError for features of another network."""
    if found.about.get("network") != digest(net):
        raise AlexNetError(
            f"{found.path} has features of another network than this one: make them with the same --workdir or "
            "--weights, and the same checkpoint."
        )
    queries = net.features(paths, str(found.about["layer"]))
    return nearest(queries, found, top=top, without=[str(path) for path in paths])


def _ends(path: str) -> list[str]:
    """A path and its ends: a/b/c.jpg, b/c.jpg, c.jpg."""
    return [path, *("/".join(path.split("/")[i:]) for i in range(1, path.count("/") + 1))]


def _distances(queries: Array, block: Array) -> Array:
    """[Q, D] and [R, D] -> [Q, R]; by the square of a difference, of which nothing is lost to cancellation at 0."""
    squared = (queries**2).sum(1)[:, None] + (block**2).sum(1)[None] - 2.0 * queries @ block.T
    # Where the two nearly meet the difference of large numbers is all rounding: those are computed one by one.
    close = squared < 1e-6 * ((queries**2).sum(1)[:, None] + 1e-30)
    for q, r in zip(*np.nonzero(close), strict=True):
        squared[q, r] = ((queries[q] - block[r]) ** 2).sum()
    return np.sqrt(np.maximum(squared, 0.0))
