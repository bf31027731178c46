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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.data import augment, sources, statistics as pixel_statistics
from alexnet_jax.errors import AlexNetError
from alexnet_jax.prepare import raw as originals
from alexnet_jax.prepare.raw import Originals
from alexnet_jax.prepare.shards import Layout, Shards, Stopped, bar, replace

REFUSED = "refused.txt"


def default_dir() -> Path:
    """Where TFDS keeps its data."""
    return Path.home() / "tensorflow_datasets"


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

    @property
    def shards(self) -> Shards:
        """What it is written as."""
        return Shards(self.data, self.layout, self.name, self.unfinished, self.threads)

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
        replace(plan, json.dumps({"fingerprint": fingerprint}).encode())
        self._check_room()
        self.shards.write()
        self._finish(fingerprint)
        print(f"done in {time.monotonic() - start:.0f} s: {self.folder}")
        option = "" if self.data_dir == default_dir() else f" --config.data.data_dir={self.data_dir}"
        print(f"train on it with: alexnet train --config=alexnet:{self.name}{option}")

    def _check_room(self) -> None:
        """Of pixels it is known before what they take."""
        if not self.layout.raw:
            return
        images = sum(len(source) for source in self.data.splits.values())
        size = images * self.layout.pack**2 * 3
        there = sum(path.stat().st_size for path in self.unfinished.glob("*.array_record*"))
        free = shutil.disk_usage(self.unfinished).free
        print(f"{images:,} pictures of {self.layout.pack} x {self.layout.pack} pixels take {size / 1e9:,.3f} GB")
        if size - there > free:
            raise AlexNetError(
                f"{self.data_dir} has {free / 1e9:,.3f} GB free, and {self.name} takes {(size - there) / 1e9:,.3f} GB"
                f"{' more' * bool(there)}: make room, use another --data_dir=FOLDER, or leave --raw out, for JPEGs of "
                "a tenth of that."
            )

    def _fingerprint(self) -> str:
        """Of the originals and of the layout: only the same preparation is resumed."""
        digest = hashlib.sha256(repr((self.name, self.data.version, self.data.class_names, self.layout)).encode())
        for split, source in sorted(self.data.splits.items()):
            digest.update(f"{split} {len(source)}\n".encode())
            for place in source.places if isinstance(source, originals.Files) else ():
                digest.update(f"{place.key} {place.label} {place.size}\n".encode())  # wherever it lies
        return digest.hexdigest()

    def _check_same(self, path: Path, fingerprint: str) -> None:
        there = files.read_json(path) if path.exists() else {}  # TFDS's own has none
        if not isinstance(there, dict) or there.get("fingerprint") != fingerprint:
            raise AlexNetError(
                f"{path.parent} was prepared from other files or with other options: remove it to prepare it anew, or "
                "use another folder as data_dir=FOLDER."
            )

    # ------------------------------------------------------------ the whole

    def _finish(self, fingerprint: str) -> None:
        shards = self.shards
        parts = {
            split: [files.read_json(self.shards.part_path(split, n, "json")) for n in range(self.shards.count(split))]
            for split in self.data.splits
        }
        refused = [(split, *line) for split, those in parts.items() for part in those for line in part["refused"]]
        files.write_text(self.unfinished / REFUSED, "".join("\t".join(line) + "\n" for line in refused))
        self._check_classes(parts, refused)
        _write_info(self.shards, parts, fingerprint, len(refused))
        sums = pixel_statistics.Sums.zero(self.layout.pack or 256)
        for number in range(shards.count("train") if "train" in parts else 0):
            sums.merge(pixel_statistics.Sums.load(shards.part_path("train", number, "npz")))
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


def _write_info(shards: Shards, parts: dict[str, Any], fingerprint: str, refused: int) -> None:
    """The metadata that TFDS reads, checksums, and how the set was prepared."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": _image_feature(shards),
            "label": tfds.features.ClassLabel(names=shards.data.class_names),
            "file_name": tfds.features.Text(),
        }
    )
    template = tfds.core.ShardedFileTemplate(
        data_dir=shards.folder, dataset_name=shards.name, filetype_suffix="array_record"
    )
    sums = {
        shards.path(split, n).name: part["sha256"] for split, those in parts.items() for n, part in enumerate(those)
    }
    files.write_text(shards.folder / "SHA256SUMS", "".join(f"{value}  {name}\n" for name, value in sums.items()))
    tfds.folder_dataset.write_metadata(
        data_dir=shards.folder,
        features=features,
        version=shards.data.version,
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
        description=f"{shards.data.about} {shards.layout}",
        supervised_keys=("image", "label"),
        metadata=tfds.core.MetadataDict(
            {
                "layout": dataclasses.asdict(shards.layout),
                "images": {split: sum(part["images"] for part in those) for split, those in parts.items()},
                "bytes": {split: sum(part["bytes"] for part in those) for split, those in parts.items()},
                "refused": refused,
                "sha256": sums,
                "fingerprint": fingerprint,
            }
        ),
    )


def _image_feature(shards: Shards) -> Any:
    """What TFDS reads the images as: encoded ones, or an array of pixels."""
    import tensorflow_datasets as tfds

    if shards.layout.raw:
        shape = (shards.layout.pack, shards.layout.pack, 3)
        return tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.Image(shape=(None, None, 3), encoding_format=None if shards.data.own else "jpeg")


# ---------------------------------------------------------------- statistics of what is there


def compute_statistics(name: str, data_dir: Path, threads: int) -> None:
    """Writes the statistics of a prepared data set's split train beside it."""
    split = sources.open_split(name, "train", str(data_dir))
    if split.folder is None:
        raise AlexNetError(f"{name} lies in no folder, and the recipes know its means: there is nothing to do.")
    stop = threading.Event()

    def part(numbers: range) -> pixel_statistics.Sums:
        sums = pixel_statistics.Sums.zero(256)
        for i in numbers:
            if stop.is_set():
                raise Stopped
            with contextlib.suppress(ValueError):  # training will name it
                sums.add(augment.decode(split.source[i]["image"]))
            tick()
        return sums

    total, size = pixel_statistics.Sums.zero(256), len(split.source)
    with bar(size, 0, name) as tick, ThreadPoolExecutor(threads) as pool:
        try:
            for sums in pool.map(part, [range(i, min(i + 1000, size)) for i in range(0, size, 1000)]):
                total.merge(sums)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if not total.images:
        raise AlexNetError(f"None of the {size:,} pictures of {name} can be decoded: prepare it again.")
    pixel_statistics.write(total, "train", split.folder)
    print(f"{split.folder / pixel_statistics.JSON}: channel means {pixel_statistics.mean_of(split.folder, name)}")
