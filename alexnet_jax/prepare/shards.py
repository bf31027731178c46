"""The shards of a data set that is being prepared, several at a time; each is there whole or not at all."""

import dataclasses
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from alexnet_jax import files
from alexnet_jax.data import pictures, preprocess
from alexnet_jax.prepare.raw import Files, RawDataset
from alexnet_jax.prepare.statistics import Sums, counted


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

    @property
    def statistics_pixels(self) -> int:
        """The side of the squares that statistics are of."""
        return self.pack or 256

    def picture(self, data: bytes, *, own: bool) -> tuple[bytes, np.ndarray]:
        """The bytes to store and the pixels in them, before their compression. Raises ValueError."""
        pixels, is_plain = pictures.decode(data, own=own)
        if self.pack:
            pixels = preprocess.resize_short_side(pixels, self.pack)
            if not self.keep_long_side:
                pixels = preprocess.crop_resized(pixels, self.pack, self.pack)
            return pixels.tobytes() if self.raw else _encoded(pixels, quality=self.quality), pixels
        return data if is_plain else _encoded(pixels, quality=100, subsampling=False), pixels


@dataclasses.dataclass(frozen=True)
class Shards:
    """The shards of `data`. They grow in `folder`, each with its metadata in parts/; `finished` is what it becomes."""

    data: RawDataset
    layout: Layout
    data_dir: Path

    @property
    def name(self) -> str:
        """The data set's name for TFDS and for --config=alexnet:NAME."""
        return self.data.name + self.layout.suffix()

    @property
    def finished(self) -> Path:
        return self.data_dir / self.name / self.data.version

    @property
    def folder(self) -> Path:
        return self.finished.with_name(self.finished.name + ".incomplete")

    def count(self, split: str) -> int:
        return -(-len(self.data.splits[split]) // self.layout.images_per_shard)

    def path(self, split: str, number: int) -> Path:
        return self.folder / f"{self.name}-{split}.array_record-{number:05}-of-{self.count(split):05}"

    def part_path(self, split: str, number: int) -> Path:
        return self.folder / "parts" / f"{split}-{number:05}.json"

    def sums(self, number: int) -> Sums:
        """Of the pictures of a shard of the split train."""
        with np.load(self.part_path("train", number).with_suffix(".npz")) as saved:
            return Sums(int(saved["images"]), saved["total"], saved["products"])

    def write(self, threads: int) -> None:
        """Writes those that are missing."""
        jobs = [(split, number) for split in self.data.splits for number in range(self.count(split))]
        todo = [job for job in jobs if not self.path(*job).exists()]
        total = sum(len(source) for source in self.data.splits.values())
        sizes = [len(self._records(*job)) for job in todo]
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo):,} of {len(jobs):,} shards are finished already: resuming with the others")
        for _ in counted(lambda n: self._write_one(*todo[n]), sizes, threads, self.name, done=total - sum(sizes)):
            pass

    def _records(self, split: str, number: int) -> range:
        size = self.layout.images_per_shard
        return range(number * size, min((number + 1) * size, len(self.data.splits[split])))

    def _write_one(self, split: str, number: int) -> Path:
        from array_record.python.array_record_module import ArrayRecordWriter

        source, path = self.data.splits[split], self.path(split, number)
        growing = path.with_name(path.name + ".tmp")
        refused: list[tuple[str, str]] = []
        labels: list[int] = []
        sums = Sums.zero(self.layout.statistics_pixels)
        # One record a group, so that each can be read alone; a JPEG does not compress any further.
        writer = ArrayRecordWriter(str(growing), "group_size:1,uncompressed")
        for i in self._records(split, number):
            try:
                record = source[i]
                data, pixels = self.layout.picture(record["image"], own=self.data.own)
            except (ValueError, OSError) as error:
                key = source.references[i].key if isinstance(source, Files) else f"{split}[{i}]"
                refused.append((key, str(error).splitlines()[0]))
                continue
            writer.write(_example(record["key"], record["label"], data))
            labels.append(record["label"])
            if split == "train":
                sums.add(pixels)
        writer.close()
        with growing.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        part = {
            "images": len(labels),
            "bytes": growing.stat().st_size,
            "sha256": sha256,
            "refused": refused,
            "labels": sorted(set(labels)),
        }
        files.write_text(self.part_path(split, number), json.dumps(part))
        if split == "train":
            np.savez(self.part_path(split, number).with_suffix(".npz"), **vars(sums))
        return growing.replace(path)  # the last of all: a shard that is there has its parts


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


def _encoded(pixels: np.ndarray, *, quality: int, subsampling: bool = True) -> bytes:
    """uint8 [H, W, 3] RGB -> JPEG, its chroma at half the resolution with `subsampling`."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsampling else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    return bytes(cv2.imencode(".jpg", pixels[:, :, ::-1], options)[1].tobytes())
