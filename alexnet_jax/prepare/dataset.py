"""Prepares a data set shard by shard; the same preparation resumes after a kill.

What comes out is what TFDS itself would write, as array_record, and is read by its name everywhere.
"""

import dataclasses
import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError
from alexnet_jax.prepare import statistics
from alexnet_jax.prepare.raw import Files, RawDataset
from alexnet_jax.prepare.shards import Layout, Shards

REFUSED = "refused.txt"
_Parts = dict[str, list[dict[str, Any]]]  # the metadata of the shards of each split


def default_dir() -> Path:
    """Where TFDS keeps its data."""
    return Path.home() / "tensorflow_datasets"


def prepare(data: RawDataset, layout: Layout, *, data_dir: Path, threads: int) -> None:
    """Writes what is missing of the data set in `data_dir`. Raises AlexNetError; what was finished stays then."""
    start, shards = time.monotonic(), Shards(data, layout, data_dir)
    fingerprint = _fingerprint(shards)
    if shards.finished.exists():
        _check_same(shards.finished / "metadata.json", fingerprint)
        print(f"{shards.name} is prepared already, in {shards.finished}")
    else:
        (shards.folder / "parts").mkdir(parents=True, exist_ok=True)
        plan = shards.folder / "plan.json"
        if plan.exists():
            _check_same(plan, fingerprint)
        else:
            files.write_text(plan, json.dumps({"fingerprint": fingerprint}))
        shards.write(threads)
        _finish(shards, fingerprint)
    shutil.rmtree(shards.finished / "parts", ignore_errors=True)
    print(f"done in {time.monotonic() - start:.0f} s: {shards.finished}")
    option = "" if data_dir == default_dir() else f" --config.data.data_dir={data_dir}"
    print(f"train on it with: alexnet train --config=alexnet:{shards.name}{option}")


def _fingerprint(shards: Shards) -> str:
    """Of the raw data and of the layout: only the same preparation is resumed."""
    data = shards.data
    digest = hashlib.sha256(repr((shards.name, data.version, data.class_names, shards.layout)).encode())
    for split, source in sorted(data.splits.items()):
        digest.update(f"{split} {len(source)}\n".encode())
        for reference in source.references if isinstance(source, Files) else ():
            digest.update(f"{reference.key} {reference.label} {reference.size}\n".encode())  # wherever it lies
    return digest.hexdigest()


def _check_same(path: Path, fingerprint: str) -> None:
    there = files.read_json(path) if path.exists() else {}  # TFDS's own has none
    if not isinstance(there, dict) or there.get("fingerprint") != fingerprint:
        raise AlexNetError(
            f"{path.parent} was prepared from other files or with other options: remove it to prepare it anew, or "
            "use another folder as data_dir=FOLDER."
        )


def _finish(shards: Shards, fingerprint: str) -> None:
    parts: _Parts = {
        split: [files.read_json(shards.part_path(split, n)) for n in range(shards.count(split))]
        for split in shards.data.splits
    }
    refused = [(split, *line) for split, those in parts.items() for part in those for line in part["refused"]]
    files.write_text(shards.folder / REFUSED, "".join("\t".join(line) + "\n" for line in refused))
    _check_classes(shards, parts, refused)
    _write_info(shards, parts, fingerprint, len(refused))
    sums = statistics.Sums.zero(shards.layout.statistics_pixels)
    for number in range(len(parts.get("train", ()))):
        sums.merge(shards.sums(number))
    if sums.images:
        statistics.write(sums, shards.folder)
    (shards.folder / "plan.json").unlink(missing_ok=True)
    shards.folder.rename(shards.finished)
    for split, those in parts.items():
        images, size = (sum(part[what] for part in those) for what in ("images", "bytes"))
        print(f"{split:10} {images:10,} images  {len(those):5,} shards  {size / 1e9:8.3f} GB")
    if refused:
        shown = "".join(f"\n  {split} {key}: {why}" for split, key, why in refused[:20])
        more = f"\n  and {len(refused) - 20:,} more" if len(refused) > 20 else ""
        print(f"refused    {len(refused):10,} files, listed in {shards.finished / REFUSED}:{shown}{more}")


def _check_classes(shards: Shards, parts: _Parts, refused: list[Any]) -> None:
    """Every class of a folder must have something left to train on."""
    if not shards.data.own:
        return
    there = {int(label) for part in parts["train"] for label in part["labels"]}
    if missing := [name for label, name in enumerate(shards.data.class_names) if label not in there]:
        example = next(f"{key}: {why}" for _, key, why in refused if key.startswith(f"{missing[0]}/"))
        raise AlexNetError(
            f"The class {missing[0]} has no picture to train on left, as all of its files were refused, such as "
            f"{example} ({shards.folder / REFUSED} has them all): mend or remove it, remove {shards.folder} and start "
            "again."
        )


def _write_info(shards: Shards, parts: _Parts, fingerprint: str, refused: int) -> None:
    """The metadata that TFDS reads, checksums, and how the set was prepared."""
    import tensorflow_datasets as tfds

    layout = shards.layout
    image = tfds.features.Image(shape=(None, None, 3), encoding_format=None if shards.data.own else "jpeg")
    if layout.raw:
        encoding = tfds.features.Encoding.BYTES
        image = tfds.features.Tensor(shape=(layout.pack, layout.pack, 3), dtype=np.uint8, encoding=encoding)
    label, file_name = tfds.features.ClassLabel(names=shards.data.class_names), tfds.features.Text()
    template = tfds.core.ShardedFileTemplate(
        data_dir=shards.folder, dataset_name=shards.name, filetype_suffix="array_record"
    )
    checksums = [
        f"{part['sha256']}  {shards.path(split, n).name}\n"
        for split, those in parts.items()
        for n, part in enumerate(those)
    ]
    files.write_text(shards.folder / "SHA256SUMS", "".join(checksums))
    tfds.folder_dataset.write_metadata(
        data_dir=shards.folder,
        features=tfds.features.FeaturesDict({"image": image, "label": label, "file_name": file_name}),
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
        description=shards.data.about,
        supervised_keys=("image", "label"),
        metadata=tfds.core.MetadataDict(layout=dataclasses.asdict(layout), refused=refused, fingerprint=fingerprint),
    )
