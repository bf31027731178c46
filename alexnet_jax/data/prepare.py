"""Prepares a data set shard by shard; the same preparation resumes after a kill.

What comes out is what TFDS itself would write, as array_record, and is read by its name everywhere.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from alexnet_jax.data import augment, originals, pictures, pixel_statistics, sources
from alexnet_jax.data.originals import Originals
from alexnet_jax.errors import AlexNetError

REFUSED = "refused.txt"


def default_dir() -> Path:
    """Where TFDS keeps its data."""
    return Path.home() / "tensorflow_datasets"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is written of each picture: it as it is, or its short side brought to `pack` pixels."""

    pack: int = 0
    keep_long_side: bool = False
    quality: int = 90
    images_per_shard: int = 1000

    def suffix(self) -> str:
        """What a packed set's name ends with."""
        return f"_pack{self.pack}{'_long' if self.keep_long_side else ''}" if self.pack else ""

    def picture(self, data: bytes, *, own: bool) -> tuple[bytes, np.ndarray]:
        """The bytes to store and the pixels in them (before their compression). Raises ValueError."""
        data, pixels = pictures.checked(data, own=own)
        if self.pack:
            pixels = augment.resize_short_side(pixels, self.pack)
            if not self.keep_long_side:
                pixels = augment.crop_resized(pixels, self.pack, self.pack, None)
            data = pictures.encode(pixels, quality=self.quality)
        return data, pixels

    def __str__(self) -> str:
        if not self.pack:
            return "Pictures as they are."
        shape = "the long side kept" if self.keep_long_side else f"the centre {self.pack} x {self.pack}"
        return f"Short side {self.pack} pixels, {shape}, JPEG of quality {self.quality}."


class _Stopped(Exception):
    """Another thread failed, or the user stopped the program."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """One data set on its way into `folder`, shard by shard; each is there whole or not at all."""

    data: Originals
    layout: Layout
    data_dir: Path
    threads: int

    @property
    def name(self) -> str:
        """The data set's name for TFDS and for --config=configs/alexnet.py:NAME."""
        return self.data.name + self.layout.suffix()

    @property
    def folder(self) -> Path:
        """Where the finished data set lies."""
        return self.data_dir / self.name / self.data.version

    @property
    def unfinished(self) -> Path:
        """Where it grows."""
        return self.folder.with_name(self.folder.name + ".incomplete")

    def run(self) -> None:
        """Writes what is missing. Raises AlexNetError; nothing that was finished is lost by it."""
        start = time.monotonic()
        fingerprint = self._fingerprint()
        if self.folder.exists():
            self._check_same(self.folder / "metadata.json", fingerprint)
            shutil.rmtree(self.folder / "parts", ignore_errors=True)
            print(f"{self.name} is prepared already, in {self.folder}")
            return
        plan = self.unfinished / "plan.json"
        if plan.exists():
            self._check_same(plan, fingerprint)
        (self.unfinished / "parts").mkdir(parents=True, exist_ok=True)
        _replace(plan, json.dumps({"fingerprint": fingerprint}).encode())
        self._write_shards()
        self._finish(fingerprint)
        print(f"done in {time.monotonic() - start:.0f} s: {self.folder}")
        option = "" if self.data_dir == default_dir() else f" --config.data.data_dir={self.data_dir}"
        print(f"train on it with: python main.py --config=configs/alexnet.py:{self.name}{option}")

    def _fingerprint(self) -> str:
        """Of the originals and of the layout: a preparation only goes on with the same."""
        digest = hashlib.sha256(repr((self.name, self.data.version, self.data.class_names, self.layout)).encode())
        for split, source in sorted(self.data.splits.items()):
            digest.update(f"{split} {len(source)}\n".encode())
            for place in source.places if isinstance(source, originals.Files) else ():
                digest.update(f"{place.key} {place.label} {place.size}\n".encode())  # wherever it lies
        return digest.hexdigest()

    def _check_same(self, path: Path, fingerprint: str) -> None:
        there = json.loads(path.read_text()) if path.exists() else {}  # TFDS's own has none
        if there.get("fingerprint") != fingerprint:
            raise AlexNetError(
                f"{path.parent} was prepared from other files or with other options: remove it to prepare it anew, or "
                "use another --data_dir."
            )

    # ------------------------------------------------------------ shards

    def _shards(self, split: str) -> int:
        return -(-len(self.data.splits[split]) // self.layout.images_per_shard)

    def _shard_path(self, split: str, number: int) -> Path:
        return self.unfinished / f"{self.name}-{split}.array_record-{number:05}-of-{self._shards(split):05}"

    def _part_path(self, split: str, number: int, ending: str) -> Path:
        return self.unfinished / "parts" / f"{split}-{number:05}.{ending}"

    def _write_shards(self) -> None:
        jobs = [(split, number) for split in self.data.splits for number in range(self._shards(split))]
        todo = [job for job in jobs if not self._shard_path(*job).exists()]
        total = sum(len(source) for source in self.data.splits.values())
        left = sum(len(self._records(*job)) for job in todo)
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo):,} of {len(jobs):,} shards are finished already: going on with the others")
        stop = threading.Event()
        with _bar(total, total - left, f"{self.name}") as tick, ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(self._write_shard, *job, tick, stop) for job in todo]
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

    def _write_shard(self, split: str, number: int, tick: Callable[[], None], stop: threading.Event) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        path = self._shard_path(split, number)
        growing = path.with_name(path.name + ".tmp")
        sums = pixel_statistics.Sums.zero(self.layout.pack or 256)
        refused: list[tuple[str, str]] = []
        labels: Counter[int] = Counter()
        # One record a group, so that each can be read alone; a JPEG does not compress any further.
        writer = ArrayRecordWriter(str(growing), "group_size:1,uncompressed")
        for i in self._records(split, number):
            if stop.is_set():
                raise _Stopped
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
            sums.save(self._part_path(split, number, "npz"))
        part = {
            "images": sum(labels.values()),
            "bytes": growing.stat().st_size,
            "sha256": _sha256(growing),
            "refused": refused,
            "labels": dict(labels),
        }
        _replace(self._part_path(split, number, "json"), json.dumps(part).encode())
        growing.replace(path)  # the last of all: a shard that is there has its parts

    def _key(self, split: str, i: int) -> str:
        source = self.data.splits[split]
        return source.places[i].key if isinstance(source, originals.Files) else f"{split}[{i}]"

    # ------------------------------------------------------------ the whole

    def _finish(self, fingerprint: str) -> None:
        parts = {
            split: [json.loads(self._part_path(split, n, "json").read_text()) for n in range(self._shards(split))]
            for split in self.data.splits
        }
        refused = [(split, *line) for split, those in parts.items() for part in those for line in part["refused"]]
        (self.unfinished / REFUSED).write_text("".join("\t".join(line) + "\n" for line in refused))
        self._check_classes(parts, refused)
        self._write_info(parts, fingerprint, len(refused))
        sums = pixel_statistics.Sums.zero(self.layout.pack or 256)
        for number in range(self._shards("train") if "train" in parts else 0):
            sums.merge(pixel_statistics.Sums.load(self._part_path("train", number, "npz")))
        if sums.images:
            pixel_statistics.write(sums, "train", self.unfinished)
        (self.unfinished / "plan.json").unlink(missing_ok=True)
        self.unfinished.rename(self.folder)
        shutil.rmtree(self.folder / "parts")
        for split, those in parts.items():
            images, size = (sum(part[what] for part in those) for what in ("images", "bytes"))
            print(f"{split:10} {images:10,} images  {len(those):5,} shards  {size / 1e9:8.3f} GB")
        if refused:
            shown = "".join(f"\n  {split} {key}: {why}" for split, key, why in refused[:20])
            more = f"\n  and {len(refused) - 20:,} more" if len(refused) > 20 else ""
            print(f"refused    {len(refused):10,} files, listed in {self.folder / REFUSED}:{shown}{more}")

    def _check_classes(self, parts: dict[str, Any], refused: list[Any]) -> None:
        """Every class of a folder must have something left to train on."""
        if not self.data.own:
            return
        there = {int(label) for part in parts["train"] for label in part["labels"]}
        for label, class_name in enumerate(self.data.class_names):
            if label not in there:
                example = next(f"{key}: {why}" for _, key, why in refused if key.startswith(f"{class_name}/"))
                raise AlexNetError(
                    f"The class {class_name} has no picture to train on left, as all of its files were refused, such "
                    f"as {example} ({self.unfinished / REFUSED} has them all): mend or remove it, remove "
                    f"{self.unfinished} and start again."
                )

    def _write_info(self, parts: dict[str, Any], fingerprint: str, refused: int) -> None:
        import tensorflow_datasets as tfds

        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format=None if self.data.own else "jpeg"),
                "label": tfds.features.ClassLabel(names=self.data.class_names),
                "file_name": tfds.features.Text(),
            }
        )
        template = tfds.core.ShardedFileTemplate(
            data_dir=self.unfinished, dataset_name=self.name, filetype_suffix="array_record"
        )
        sums = {
            self._shard_path(split, n).name: part["sha256"]
            for split, those in parts.items()
            for n, part in enumerate(those)
        }
        (self.unfinished / "SHA256SUMS").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))
        tfds.folder_dataset.write_metadata(
            data_dir=self.unfinished,
            features=features,
            version=self.data.version,
            filename_template=template,
            split_infos=[
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[part["images"] for part in those],
                    num_bytes=sum(part["bytes"] for part in those),
                    filename_template=template.replace(split=split),
                )
                for split, those in parts.items()
            ],
            check_data=False,
            description=f"{self.data.about} {self.layout}",
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(
                {
                    "layout": dataclasses.asdict(self.layout),
                    "images": {split: sum(part["images"] for part in those) for split, those in parts.items()},
                    "bytes": {split: sum(part["bytes"] for part in those) for split, those in parts.items()},
                    "refused": refused,
                    "sha256": sums,
                    "fingerprint": fingerprint,
                }
            ),
        )


def _example(key: str, label: int, image: bytes) -> bytes:
    """A tf.train.Example as TFDS writes it; TFDS's own way to it costs 0.5 ms an image, this one 0.02."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    feature = {
        "image": tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[image])),
        "label": tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[label])),
        "file_name": tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[key.encode()])),
    }
    features = tf_feature_pb2.Features(feature=feature)
    return bytes(tf_example_pb2.Example(features=features).SerializeToString(deterministic=True))


def _replace(path: Path, data: bytes) -> None:
    growing = path.with_name(path.name + ".tmp")
    growing.write_bytes(data)
    growing.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _bar(total: int, done: int, name: str) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, else a line every ten seconds; yields what to call after each image."""
    lock, count, said = threading.Lock(), done, time.monotonic()
    with tqdm(total=total, initial=done, desc=name, unit=" images", disable=None, dynamic_ncols=True) as bar:

        def tick() -> None:
            nonlocal count, said
            with lock:
                count += 1
                bar.update()
                if bar.disable and time.monotonic() - said > 10:
                    said = time.monotonic()
                    print(f"{name}: {count:,} of {total:,} images", flush=True)

        yield tick


# ---------------------------------------------------------------- statistics of what is there


def compute_statistics(name: str, data_dir: Path, threads: int) -> None:
    """Writes the statistics of a prepared data set's split train beside it."""
    split = sources.open_split(name, "train", str(data_dir))
    if split.folder is None:
        raise AlexNetError(
            f"{name} lies in no folder, and its means are in configs/alexnet.py: there is nothing to do."
        )
    stop = threading.Event()

    def part(numbers: range) -> pixel_statistics.Sums:
        sums = pixel_statistics.Sums.zero(256)
        for i in numbers:
            if stop.is_set():
                raise _Stopped
            with contextlib.suppress(ValueError):  # training will name it
                sums.add(augment.decode(split.source[i]["image"]))
            tick()
        return sums

    total, size = pixel_statistics.Sums.zero(256), len(split.source)
    with _bar(size, 0, name) as tick, ThreadPoolExecutor(threads) as pool:
        try:
            for sums in pool.map(part, [range(i, min(i + 1000, size)) for i in range(0, size, 1000)]):
                total.merge(sums)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    pixel_statistics.write(total, "train", split.folder)
    print(f"{split.folder / pixel_statistics.JSON}: channel means {pixel_statistics.mean_of(split.folder, name)}")
