"""Preparing: what comes out is what went in, whatever happened on the way, and what cannot be is said."""

import hashlib
import io
import json
import pickle
import re
import signal
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import hashing

from alexnet_jax.cli import prepare as cli
from alexnet_jax.data import feed, pictures, preprocess, sources, statistics as pixel_statistics
from alexnet_jax.errors import AlexNetError
from alexnet_jax.prepare import raw, shards

ROOT = Path(__file__).resolve().parent.parent.parent
PHOTOGRAPHS = sorted((ROOT.parent / "shared" / "data" / "imagenet_originals").glob("*.JPEG"))
RNG = np.random.default_rng(0)


def _pixels(height: int = 60, width: int = 50, color: tuple[int, int, int] | None = None) -> np.ndarray:
    """Smooth, so that a JPEG keeps it: a color, or a gradient of four random ones."""
    if color:
        return np.full((height, width, 3), color, np.uint8)
    return cv2.resize(RNG.integers(0, 256, (2, 2, 3), np.uint8), (width, height))


def _encoded(kind: str, image: np.ndarray | Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def _photographs(count: int) -> list[bytes]:
    """ImageNet's where they are, else gradients."""
    found = [path.read_bytes() for path in PHOTOGRAPHS[:count]]
    return (found * -(-count // len(found)))[:count] if found else [_encoded("JPEG", _pixels()) for _ in range(count)]


def _read(name: str, split: str, data_dir: Path) -> dict[str, dict[str, Any]]:
    source = sources.open_split(name, split, str(data_dir)).source
    records = [source[i] for i in range(len(source))]
    return {record["key"]: record for record in records}


def _prepare(*arguments: object) -> None:
    cli.main([str(argument) for argument in arguments])


# ---------------------------------------------------------------- ImageNet's tars

CMYK = _encoded("JPEG", Image.new("CMYK", (40, 30), (0, 200, 200, 20)))
PNG = _encoded("PNG", _pixels(30, 40, (10, 20, 200)))


def _tar(members: dict[str, bytes], *, times: int = 1) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [*members.items()] * times:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _images(wnids: tuple[str, ...], each: int) -> dict[str, dict[str, bytes]]:
    photographs = iter(_photographs(len(wnids) * each))
    images = {wnid: {f"{wnid}_{i}.JPEG": next(photographs) for i in range(each)} for wnid in wnids}
    images[wnids[0]] |= {f"{wnids[0]}_900.JPEG": CMYK, f"{wnids[0]}_901.JPEG": PNG}
    return images


TRAIN = _images(("n01440764", "n02102040", "n15075141"), 30)
VALIDATION = {f"ILSVRC2012_val_{i + 1:08}.JPEG": data for i, data in enumerate(_photographs(12))}


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    inner = {f"{wnid}.tar": _tar(images) for wnid, images in TRAIN.items()}
    (folder / raw.TRAIN_TAR).write_bytes(_tar(inner))
    (folder / raw.VALIDATION_TAR).write_bytes(_tar(VALIDATION))
    return folder


@pytest.fixture(scope="module")
def imagenet(tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data_dir of the prepared tars."""
    data_dir = tmp_path_factory.mktemp("data")
    _prepare("imagenet2012", f"--from={tars}", f"--data_dir={data_dir}", "--images_per_shard=5")
    return data_dir


def test_tfds_reads_prepared_imagenet_as_its_own(imagenet: Path) -> None:
    """Every record with its label, the bytes of the tar, in the order of TFDS's own shuffling; CMYK and PNG as JPEG."""
    skip = {"image": tfds.decode.SkipDecoding()}
    builder = tfds.builder("imagenet2012", data_dir=imagenet)
    names = builder.info.features["label"].names
    wnids = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    train = {key: data for images in TRAIN.values() for key, data in images.items()}
    class_of = {key: key[:9] for key in train} | dict(zip(VALIDATION, wnids, strict=False))
    for split, images in (("train", train), ("validation", VALIDATION)):
        records = list(tfds.data_source("imagenet2012", split=split, data_dir=imagenet, download=False, decoders=skip))
        keys = [record["file_name"].decode() for record in records]
        assert sorted(keys) == sorted(images)
        assert keys == sorted(keys, key=hashing.Hasher(split).hash_key)
        assert builder.info.splits[split].num_examples == len(images)
        ours = _read("imagenet2012", split, imagenet)
        for key, record in zip(keys, records, strict=True):
            assert names[record["label"]] == names[ours[key]["label"]] == class_of[key]
            assert record["image"] == ours[key]["image"]
            if images[key] not in (CMYK, PNG):
                assert record["image"] == images[key]
                continue
            assert record["image"][:2] == b"\xff\xd8"
            wanted = np.asarray(Image.open(io.BytesIO(images[key])).convert("RGB")).astype(int)
            assert np.abs(preprocess.decode(record["image"]) - wanted).max() <= 4


def _files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_killed_preparation_resumes_to_the_same_bytes(tars: Path, tmp_path: Path, capsys: Any) -> None:
    """kill -9 on the way: the same files to the byte, and no finished shard is written twice."""
    command = [sys.executable, "-m", "alexnet_jax", "prepare", "imagenet2012", f"--from={tars}", "--threads=1"]
    command += ["--images_per_shard=4", "--pack=64"]
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    _prepare(*command[4:], f"--data_dir={calm}")
    (finished,) = calm.glob("imagenet2012*/5.*")
    growing = killed / finished.parent.name / f"{finished.name}.incomplete"
    process = subprocess.Popen([*command, f"--data_dir={killed}"], cwd=ROOT, stdout=subprocess.DEVNULL)
    while len(list(growing.glob("*-of-*[0-9]"))) < 5 and process.poll() is None:
        pass
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"
    written = {path.name: path.stat().st_mtime_ns for path in growing.glob("*-of-*[0-9]")}
    _prepare(*command[4:], f"--data_dir={killed}")
    assert f"{len(written)} of 26 shards are finished already" in capsys.readouterr().out
    assert not growing.exists()
    again = killed / finished.relative_to(calm)
    assert written.items() <= {path.name: path.stat().st_mtime_ns for path in again.iterdir()}.items()
    assert _files(again) == _files(finished)


def test_packed_pictures_are_resized_center_squares(tars: Path, imagenet: Path, tmp_path: Path) -> None:
    """The center square of the resized picture; from the tars and from the prepared set alike; checksums hold."""
    _prepare("imagenet2012", f"--from={tars}", f"--data_dir={tmp_path}", "--pack=48")
    _prepare("tfds", "imagenet2012", f"--from={imagenet}", f"--data_dir={tmp_path / 'again'}", "--pack=48")
    packed = _read("imagenet2012_pack48", "train", tmp_path)
    assert packed == _read("imagenet2012_pack48", "train", tmp_path / "again")
    whole = _read("imagenet2012", "train", imagenet)
    assert packed.keys() == whole.keys()
    for key, record in packed.items():
        assert record["label"] == whole[key]["label"]
        resized = preprocess.resize_short_side(preprocess.decode(whole[key]["image"]), 48)
        top, left = (np.asarray(resized.shape[:2]) - 48) // 2
        error = preprocess.decode(record["image"]).astype(int) - resized[top : top + 48, left : left + 48]
        assert error.shape == (48, 48, 3)
        assert np.abs(error).mean() < 12
    folder = tmp_path / "imagenet2012_pack48" / "5.1.0"
    info = tfds.builder_from_directory(folder).info
    assert info.metadata["layout"]["pack"] == 48
    assert {split: one.num_examples for split, one in info.splits.items()} == {"train": 92, "validation": 12}
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    shards = list(folder.glob("*.array_record-*"))
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards}
    assert sum(one.num_bytes for one in info.splits.values()) == sum(path.stat().st_size for path in shards)
    _prepare("tfds", "imagenet2012", f"--from={imagenet}", f"--data_dir={tmp_path}", "--pack=48", "--keep_long_side")
    for record in _read("imagenet2012_pack48_long", "validation", tmp_path).values():
        assert min(preprocess.decode(record["image"]).shape[:2]) == 48


def test_raw_pixels_are_those_before_the_jpeg(imagenet: Path, tmp_path: Path) -> None:
    """TFDS reads them too; nothing is decoded, and a batch of the feed holds crops of them to the bit."""
    arguments = ("tfds", "imagenet2012", f"--from={imagenet}", f"--data_dir={tmp_path}", "--pack=48", "--raw")
    _prepare(*arguments)
    raw, whole = _read("imagenet2012_pack48_raw", "train", tmp_path), _read("imagenet2012", "train", imagenet)
    assert raw.keys() == whole.keys()
    for key, record in raw.items():
        pixels, _ = pictures.decode(whole[key]["image"], own=False)
        wanted = preprocess.crop_resized(preprocess.resize_short_side(pixels, 48), 48, 48)
        np.testing.assert_array_equal(record["image"], wanted)
        assert record["label"] == whole[key]["label"]
    folder = tmp_path / "imagenet2012_pack48_raw" / "5.1.0"
    for record in tfds.builder_from_directory(folder).as_data_source("train"):
        np.testing.assert_array_equal(record["image"], raw[record["file_name"].decode()]["image"])
    mean = pixel_statistics.mean_of(folder, "imagenet2012_pack48_raw")
    np.testing.assert_allclose(mean, np.mean([r["image"] for r in raw.values()], axis=(0, 1, 2)), atol=0.01)

    split = sources.open_split("imagenet2012_pack48_raw", "validation", str(tmp_path))
    batches = feed.eval_batches(split, preprocess.Crop(48, 40), feed.Feed(1), batch_size=12, share=(0, 1))
    centers = [split.source[i]["image"][4:44, 4:44] for i in range(12)]
    np.testing.assert_array_equal(next(batches)["image"], centers)
    with pytest.raises(AlexNetError, match="imagenet2012_pack48_raw"):
        _prepare("tfds", "imagenet2012_pack48_raw", f"--data_dir={tmp_path}", "--pack=32")


def test_prepared_set_is_left_alone(tars: Path, imagenet: Path, capsys: Any) -> None:
    before = _files(imagenet / "imagenet2012" / "5.1.0")
    _prepare("imagenet2012", f"--from={tars}", f"--data_dir={imagenet}", "--images_per_shard=5")
    assert "imagenet2012 is prepared already" in capsys.readouterr().out
    with pytest.raises(AlexNetError, match=r"imagenet2012/5\.1\.0"):
        _prepare("imagenet2012", f"--from={tars}", f"--data_dir={imagenet}", "--images_per_shard=6")
    assert _files(imagenet / "imagenet2012" / "5.1.0") == before


# ---------------------------------------------------------------- folders of pictures


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def _good(*classes: str) -> dict[str, bytes]:
    """Four pictures to train on and one to evaluate on for each class."""
    return {
        f"{split}/{name}/good{i}.jpg": _encoded("JPEG", _pixels())
        for name in classes
        for split, count in (("train", 4), ("val", 1))
        for i in range(count)
    }


def _rotated() -> bytes:
    """A camera held upright: its pixels lie on their side, red on the right, and a mark says so."""
    image = np.concatenate([_pixels(40, 20, (0, 0, 250)), _pixels(40, 20, (250, 0, 0))], axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what lies on the left comes to the top
    return _encoded("JPEG", image[:30], exif=exif, quality=95)


def _palette() -> bytes:
    image = Image.new("P", (40, 30), 1)
    image.putpalette([9, 9, 9, 0, 200, 0])
    return _encoded("PNG", image, transparency=0)


_JPEG = _encoded("JPEG", RNG.integers(0, 256, (60, 50, 3), np.uint8))
_GRAY = _encoded("PNG", Image.fromarray(np.full((30, 40), 200 << 8, np.uint16)))
_RGBA = np.dstack([_pixels(30, 40, (250, 0, 0)), np.full((30, 40), 0, np.uint8)])

_HUGE = PNG[12:16] + struct.pack(">II", 200_000, 200_000) + PNG[24:29]

# Pictures that are not whole: what `refused.txt` says of each.
REFUSED = {
    "zero bytes": (b"", "zero bytes"),
    "text": (b"This is no picture.\n", "no image"),
    "a JPEG without its end": (_JPEG[:-30], "damaged: .*truncated"),
    "a truncated PNG": (_encoded("PNG", RNG.integers(0, 256, (60, 50, 3), np.uint8))[:5000], "damaged"),
    "a truncated WebP": (_encoded("WEBP", _pixels())[:100], "no image|damaged"),
    "a PNG with a wrong checksum": (PNG[:50] + bytes([PNG[50] ^ 1]) + PNG[51:], "damaged"),
    "a PNG of 40 gigapixels": (PNG[:12] + _HUGE + struct.pack(">I", zlib.crc32(_HUGE)) + PNG[33:], "more pixels"),
}
# Pictures that are odd but whole: (bytes, shape, a color that is at the top left, whether the bytes are kept).
ODD = {
    "a gray JPEG": (_encoded("JPEG", Image.new("L", (40, 30), 90)), (30, 40), (90, 90, 90), True),
    "a CMYK JPEG": (CMYK, (30, 40), tuple(Image.open(io.BytesIO(CMYK)).convert("RGB").getpixel((0, 0))), False),
    "a PNG": (PNG, (30, 40), (10, 20, 200), True),
    "a PNG of 16 bits": (_GRAY, (30, 40), (200, 200, 200), False),
    "a PNG with a palette": (_palette(), (30, 40), (0, 200, 0), False),
    "a PNG with alpha": (_encoded("PNG", _RGBA), (30, 40), (255, 255, 255), False),
    "a WebP": (_encoded("WEBP", _pixels(30, 40, (10, 200, 20)), quality=95), (30, 40), (10, 200, 20), False),
    "a GIF": (_encoded("GIF", _pixels(30, 40, (0, 0, 255))), (30, 40), (0, 0, 255), False),
    "a turned JPEG": (_rotated(), (40, 30), (0, 0, 250), False),
    "a picture of one pixel": (_encoded("PNG", _pixels(1, 1, (9, 8, 7))), (1, 1), (9, 8, 7), True),
}


def test_damaged_pictures_are_refused_and_odd_ones_stored_as_they_look(tmp_path: Path, capsys: Any) -> None:
    """A damaged one is listed with its reason. An odd one keeps its look; plain JPEGs and PNGs keep their bytes."""
    given = {what: data for what, (data, *_) in (REFUSED | ODD).items()}
    files = _good("cat", "dog") | {f"train/cat/{what}.jpg": data for what, data in given.items()}
    _prepare("folder", f"--from={_folder(tmp_path / 'in', files)}", "--name=pets", f"--data_dir={tmp_path}")
    lines = (tmp_path / "pets" / "1.0.0" / "refused.txt").read_text().splitlines()
    reasons = {key: why for _, key, why in (line.split("\t") for line in lines)}
    assert reasons.keys() == {f"cat/{what}.jpg" for what in REFUSED}
    printed = capsys.readouterr().out
    for what, (_, reason) in REFUSED.items():
        assert re.search(reason, reasons[f"cat/{what}.jpg"]), what
        assert f"train cat/{what}.jpg: {reasons[f'cat/{what}.jpg']}" in printed
    assert tfds.builder("pets", data_dir=tmp_path).info.metadata["refused"] == len(REFUSED)

    records = _read("pets", "train", tmp_path)
    assert len(records) == 8 + len(ODD)
    for what, (data, shape, color, kept) in ODD.items():
        stored = records[f"cat/{what}.jpg"]["image"]
        pixels = preprocess.decode(stored)
        assert pixels.shape == (*shape, 3), what
        assert np.abs(pixels[0, 0].astype(int) - color).max() <= 8, what
        assert (stored == data) == kept, what


def test_keys_are_paths_below_the_folder(tmp_path: Path) -> None:
    """The same name in two classes, in other letters, in folders of folders, with spaces; hidden ones are not there."""
    picture = _encoded("JPEG", _pixels())
    names = {"cat/a.jpg", "dog/a.jpg", "cat/A.JPG", "cat/deep/er/a.jpg", "dog/ein Ärger 猫.jpg", "cat/no_ending"}
    hidden = {"train/cat/.DS_Store": b"x", "train/.git/config": b"x", "train/cat/.hidden.jpg": picture}
    files = {f"train/{name}": picture for name in names} | hidden | {"val/cat/v.jpg": picture, "train/readme.txt": b"x"}
    _prepare("folder", f"--from={_folder(tmp_path / 'in', files)}", "--name=pets", f"--data_dir={tmp_path}")
    assert _read("pets", "train", tmp_path).keys() == names
    assert _read("pets", "", tmp_path).keys() == {"cat/v.jpg"}
    assert sources.open_split("pets", "train", str(tmp_path)).class_names == ("cat", "dog")


def test_drawn_split_stays_when_pictures_are_added(tmp_path: Path) -> None:
    picture = _encoded("JPEG", _pixels(8, 8))
    drawn = []
    for count in (40, 60):
        root = _folder(tmp_path / str(count), {f"{c}/{i}.jpg": picture for c in ("a", "b") for i in range(count)})
        opened = raw.folder(root, "x", validation_percent=10)
        assert sum(len(source) for source in opened.splits.values()) == 2 * count
        drawn.append({ref.key for ref in opened.splits["validation"].references})  # type: ignore[attr-defined]
    assert 2 <= len(drawn[0]) <= 16
    assert drawn[0] == {key for key in drawn[1] if int(key[2:-4]) < 40}


# ---------------------------------------------------------------- what cannot be

_CLASS = _tar(TRAIN["n01440764"])
_TRAIN_TAR = _tar({"n01440764.tar": _CLASS, "n02102040.tar": _tar(TRAIN["n02102040"])})
_VALIDATION_TAR = _tar(VALIDATION)
_TARS = {raw.TRAIN_TAR: _TRAIN_TAR, raw.VALIDATION_TAR: _VALIDATION_TAR}
_SECOND = 512 + -(-len(_CLASS) // 512) * 512  # where the second class begins
_TWICE = _tar({"n01440764.tar": _tar({"n01440764_1.JPEG": _JPEG}, times=2)})

_T, _V = raw.TRAIN_TAR, raw.VALIDATION_TAR
_P = _encoded("JPEG", _pixels(8, 8))
_IMAGENET, _FOLDER = ("imagenet2012",), ("folder", "--name=pets")
# What is wrong, the command, the files in the folder that it reads, and the sentence; more are in command_lines.py.
WRONG: list[tuple[str, tuple[str, ...], dict[str, bytes], str]] = [
    ("neither tar", _IMAGENET, {}, rf"{_T} .*{_V} .*image-net\.org"),
    ("no train tar", _IMAGENET, {_V: _VALIDATION_TAR}, rf"{_T} .*--splits=validation"),
    ("no validation tar", _IMAGENET, {_T: _TRAIN_TAR}, rf"{_V} "),
    ("cut in a class", _IMAGENET, _TARS | {_T: _TRAIN_TAR[: _SECOND // 2]}, rf"{_T} is truncated .*147,897"),
    ("cut after a class", _IMAGENET, _TARS | {_T: _TRAIN_TAR[:_SECOND]}, rf"{_T} is truncated .* 1 files"),
    ("a class cut", _IMAGENET, _TARS | {_T: _tar({"n01440764.tar": _CLASS[:5000]})}, r"n01440764\.tar in .*truncated"),
    ("validation cut", _IMAGENET, _TARS | {_V: _VALIDATION_TAR[:9000]}, rf"{_V} is truncated .*6,744"),
    ("an empty tar file", _IMAGENET, _TARS | {_V: b""}, rf"{_V} is truncated .* 0 files"),
    ("a class that is none", _IMAGENET, _TARS | {_T: _tar({"n99999999.tar": _tar(VALIDATION)})}, "n99999999.tar"),
    ("a name twice", _IMAGENET, _TARS | {_T: _TWICE}, r"n01440764_1\.JPEG .* train"),
    ("no class folders", _FOLDER, {"a.jpg": _P}, "in holds no folders"),
    ("one class", _FOLDER, {"cat/a.jpg": _P}, "one class, cat"),
    ("a class without a picture", _FOLDER, {"cat/a.jpg": _P, "dog/.hidden": b""}, "dog has no picture"),
    ("a class refused whole", _FOLDER, _good("cat", "dog") | {"train/emu/1.jpg": b"x"}, "emu .*emu/1.jpg: "),
    ("a class only in val", _FOLDER, _good("cat", "dog") | {"val/emu/a.jpg": _P}, "emu is in .*val .*train"),
    ("val without train", _FOLDER, {"val/cat/a.jpg": _P, "val/dog/a.jpg": _P}, "validation but no train"),
    ("nothing to evaluate on", _FOLDER, {"cat/b.jpg": _P, "dog/b.jpg": _P}, "--validation_percent=10"),
    ("nothing to train on", _FOLDER, {"cat/a.jpg": _P, "dog/b.jpg": _P}, "class cat .*--validation_percent=10"),
    ("no threads", (*_FOLDER, "--threads=0"), {}, "--threads: 0 is not a whole number"),
    ("raw with long sides", (*_FOLDER, "--pack=9", "--raw", "--keep_long_side"), {}, "--raw .*--keep_long_side"),
]


@pytest.mark.parametrize(("arguments", "files", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_cannot_be_prepared_is_one_sentence(
    arguments: tuple[str, ...], files: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    _folder(tmp_path / "in", files).mkdir(exist_ok=True)
    with pytest.raises(AlexNetError, match=message) as error:
        _prepare(*arguments, f"--from={tmp_path / 'in'}", f"--data_dir={tmp_path / 'out'}")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").glob("*/?.?.?"))


# ---------------------------------------------------------------- statistics


def test_statistics_are_those_of_the_pixels(tmp_path: Path, capsys: Any) -> None:
    """Against float64 over all pixels of the training split; the command gives the same for a set that is there."""
    _folder(tmp_path / "in", _good("cat", "dog"))
    _prepare("folder", f"--from={tmp_path / 'in'}", "--name=pets", f"--data_dir={tmp_path}", "--images_per_shard=3")
    folder = tmp_path / "pets" / "1.0.0"
    images = []
    for record in _read("pets", "train", tmp_path).values():
        resized = preprocess.resize_short_side(preprocess.decode(record["image"]), 256)
        top, left = (np.asarray(resized.shape[:2]) - 256) // 2
        images.append(resized[top : top + 256, left : left + 256].astype(np.float64))
    stored = json.loads((folder / pixel_statistics.JSON).read_text())
    assert (stored["split"], stored["images"], stored["pixels"]) == ("train", 8, 256)
    np.testing.assert_allclose(stored["mean"], np.mean(images, axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(np.load(folder / pixel_statistics.MEAN_IMAGE), np.mean(images, axis=0), atol=1e-4)
    covariance = np.cov(np.concatenate([image.reshape(-1, 3) for image in images]).T, bias=True)
    vectors = np.asarray(stored["vectors"])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(vectors @ covariance @ vectors.T, np.diag(stored["std"]) ** 2, atol=0.1)
    assert stored["std"] == sorted(stored["std"], reverse=True)
    before = _files(folder)
    (folder / pixel_statistics.JSON).unlink()
    (folder / pixel_statistics.MEAN_IMAGE).unlink()
    _prepare("statistics", "pets", f"--data_dir={tmp_path}")
    assert _files(folder) == before
    assert capsys.readouterr().out.count("statistics.json: channel means (") == 1


# ---------------------------------------------------------------- TFRecord


@pytest.fixture
def tfrecord(imagenet: Path, tmp_path: Path) -> Path:
    """The train split of imagenet2012 as another TFDS data set, `old`, in two TFRecord files; its folder."""
    serialized: Any = sources.open_split("imagenet2012", "train", str(imagenet)).source
    examples = [serialized.serialized[i] for i in range(len(serialized))]
    out = tmp_path / "old" / "1.0.0"
    out.mkdir(parents=True)
    for number, part in enumerate((examples[:40], examples[40:])):
        frames = (struct.pack("<QI", len(data), 0) + data + struct.pack("<I", 0) for data in part)
        (out / f"old-train.tfrecord-{number:05}-of-00002").write_bytes(b"".join(frames))
    template = tfds.core.ShardedFileTemplate(data_dir=out, dataset_name="old", filetype_suffix="tfrecord")
    train = tfds.core.SplitInfo(
        name="train", shard_lengths=[40, 52], num_bytes=1, filename_template=template.replace(split="train")
    )
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=tfds.builder("imagenet2012", data_dir=imagenet).info.features,
        version="1.0.0",
        filename_template=template,
        split_infos=[train],
        check_data=False,
        supervised_keys=("image", "label"),
    )
    return out


def test_tfrecord_gives_the_records_of_array_record(imagenet: Path, tmp_path: Path, tfrecord: Path) -> None:
    """At random, the same records as array_record has, in parts too, and in worker processes."""
    for split in ("train", "train[38:45]", "train[50:]+train[:5]"):
        new = sources.open_split("imagenet2012", split, str(imagenet)).source
        old = pickle.loads(pickle.dumps(sources.open_split("old", split, str(tmp_path)).source))
        assert len(new) == len(old) > 4
        assert all(new[i] == old[i] for i in reversed(range(len(old))))
    with pytest.raises(AlexNetError, match=r"'train\[:0\]'"):
        sources.open_split("old", "train[:0]", str(tmp_path))
    path = tfrecord / "old-train.tfrecord-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(AlexNetError, match=r"tfrecord-00001-of-00002 .* 51 records"):
        sources.open_split("old", "train", str(tmp_path))


def test_tfrecord_is_packed_like_any_other(imagenet: Path, tmp_path: Path, tfrecord: Path) -> None:
    """But not over a folder of that name which `prepare` did not write."""
    _prepare("tfds", "old", f"--data_dir={tmp_path}", "--pack=32")
    assert _read("old_pack32", "train", tmp_path).keys() == _read("imagenet2012", "train", imagenet).keys()
    (tmp_path / "old_pack16" / "1.0.0").mkdir(parents=True)
    with pytest.raises(AlexNetError, match=r"old_pack16/1\.0\.0"):
        _prepare("tfds", "old", f"--data_dir={tmp_path}", "--pack=16")


def test_full_disk_loses_nothing(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written stays, and the same command ends it."""
    write: Callable[..., None] = shards.Shards._write_one

    def full(self: Any, split: str, number: int, *rest: Any) -> None:
        if (split, number) == ("train", 3):
            raise RuntimeError("No space left on device")
        write(self, split, number, *rest)

    arguments = ("imagenet2012", f"--from={tars}", f"--data_dir={tmp_path}", "--images_per_shard=10", "--threads=1")
    monkeypatch.setattr(shards.Shards, "_write_one", full)
    with pytest.raises(AlexNetError, match="No space left on device"):
        _prepare(*arguments)
    monkeypatch.undo()
    _prepare(*arguments)
    assert len(_read("imagenet2012", "train", tmp_path)) == 92
