"""The shards of a data set that is being prepared, written by several threads; each is there whole or not at all."""

import contextlib
import dataclasses
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from alexnet_jax import progress as bars
from alexnet_jax.data import augment, pictures, statistics as pixel_statistics
from alexnet_jax.prepare import raw as originals
from alexnet_jax.prepare.raw import Originals


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is written of each picture: the file as it is, or resized to a short side of `pack` pixels.

    With `raw` the pixels of its center square, uint8 [pack, pack, 3], instead of a JPEG of them.
    """

    pack: int = 0
    keep_long_side: bool = False
    quality: int = 90
    images_per_shard: int = 1000
    raw: bool = dataclasses.field(default=False, repr=False)  # the set's name says it

    def suffix(self) -> str:
        """What a packed set's name ends with."""
        ending = "_long" if self.keep_long_side else "_raw" if self.raw else ""
        return f"_pack{self.pack}{ending}" if self.pack else ""

    def picture(self, data: bytes, *, own: bool) -> tuple[bytes, np.ndarray]:
        """The bytes to store and the pixels in them (before their compression). Raises ValueError."""
        data, pixels = pictures.checked(data, own=own)
        if self.pack:
            pixels = augment.resize_short_side(pixels, self.pack)
            if not self.keep_long_side:
                pixels = augment.crop_resized(pixels, self.pack, self.pack, None)
            data = pixels.tobytes() if self.raw else pictures.encode(pixels, quality=self.quality)
        return data, pixels

    def __str__(self) -> str:
        if not self.pack:
            return "Pictures as they are."
        shape = "the long side kept" if self.keep_long_side else f"the center {self.pack} x {self.pack}"
        stored = "uint8 pixels" if self.raw else f"JPEG of quality {self.quality}"
        return f"Short side {self.pack} pixels, {shape}, {stored}."


class Stopped(Exception):
    """Another thread failed, or the user stopped the program."""


@dataclasses.dataclass(frozen=True)
class Shards:
    """The shards of `data` in `folder`, with what each says of itself (its part) in `folder`/parts."""

    data: Originals
    layout: Layout
    name: str
    folder: Path
    threads: int

    def count(self, split: str) -> int:
        return -(-len(self.data.splits[split]) // self.layout.images_per_shard)

    def path(self, split: str, number: int) -> Path:
        return self.folder / f"{self.name}-{split}.array_record-{number:05}-of-{self.count(split):05}"

    def part_path(self, split: str, number: int, ending: str) -> Path:
        return self.folder / "parts" / f"{split}-{number:05}.{ending}"

    def write(self) -> None:
        jobs = [(split, number) for split in self.data.splits for number in range(self.count(split))]
        todo = [job for job in jobs if not self.path(*job).exists()]
        total = sum(len(source) for source in self.data.splits.values())
        left = sum(len(self._records(*job)) for job in todo)
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo):,} of {len(jobs):,} shards are finished already: resuming with the others")
        stop = threading.Event()
        with bar(total, total - left, f"{self.name}") as tick, ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(self._write_one, *job, tick, stop) for job in todo]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _records(self, split: str, number: int) -> range:
        size = self.layout.images_per_shard
        return range(number * size, min((number + 1) * size, len(self.data.splits[split])))

    def _write_one(self, split: str, number: int, tick: Callable[[], None], stop: threading.Event) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        path = self.path(split, number)
        growing = path.with_name(path.name + ".tmp")
        sums = pixel_statistics.Sums.zero(self.layout.pack or 256)
        refused: list[tuple[str, str]] = []
        labels: Counter[int] = Counter()
        # One record a group, so that each can be read alone; a JPEG does not compress any further.
        writer = ArrayRecordWriter(str(growing), "group_size:1,uncompressed")
        for i in self._records(split, number):
            if stop.is_set():
                raise Stopped
            tick()
            try:
                record = self.data.splits[split][i]
                data, pixels = self.layout.picture(record["image"], own=self.data.own)
            except (ValueError, OSError) as error:
                refused.append((self._key(split, i), str(error).splitlines()[0]))
                continue
            writer.write(_example(record["key"], record["label"], data))
            labels[record["label"]] += 1
            if split == "train":
                sums.add(pixels)
        writer.close()
        if split == "train":
            sums.save(self.part_path(split, number, "npz"))
        part = {
            "images": sum(labels.values()),
            "bytes": growing.stat().st_size,
            "sha256": _sha256(growing),
            "refused": refused,
            "labels": dict(labels),
        }
        replace(self.part_path(split, number, "json"), json.dumps(part).encode())
        growing.replace(path)  # the last of all: a shard that is there has its parts

    def _key(self, split: str, i: int) -> str:
        source = self.data.splits[split]
        return source.places[i].key if isinstance(source, originals.Files) else f"{split}[{i}]"


def _example(key: str, label: int, image: bytes) -> bytes:
    """A tf.train.Example as TFDS writes it; TFDS's own way to it costs 0.5 ms per image, this one 0.02."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    feature = {
        "image": tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[image])),
        "label": tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[label])),
        "file_name": tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[key.encode()])),
    }
    features = tf_feature_pb2.Features(feature=feature)
    return bytes(tf_example_pb2.Example(features=features).SerializeToString(deterministic=True))


def replace(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, as `files.write`, but a kill leaves only what the next start overwrites."""
    growing = path.with_name(path.name + ".tmp")
    growing.write_bytes(data)
    growing.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def bar(total: int, done: int, name: str) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, else a line every ten seconds; yields what to call after each image."""
    lock, count, said = threading.Lock(), done, time.monotonic()
    with bars.bar(total=total, done=done, what=name, unit="image") as bar:

        def tick() -> None:
            nonlocal count, said
            with lock:
                count += 1
                bar.update()
                if bar.disable and time.monotonic() - said > 10:
                    said = time.monotonic()
                    print(f"{name}: {count:,} of {total:,} images", flush=True)

        yield tick
