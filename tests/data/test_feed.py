"""The feed: every record once, and a batch that is a function of (seed, step) and of nothing else."""

import dataclasses
import hashlib
import itertools
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alexnet_jax.data import feed as data, preprocess, sources
from alexnet_jax.errors import AlexNetError, LostError

TFDS_DIR = Path(__file__).resolve().parents[3] / "shared" / "data" / "tfds"
CROP = preprocess.Crop(resize_pixels=16, crop_pixels=8)  # nine places for a crop in each direction


def _split(records: int) -> data.Split:
    """Images whose pixels say where they are, (row, column, record), labelled with the record's number."""
    rows, columns = np.mgrid[:16, :16].astype(np.uint8)
    images = [np.stack([rows, columns, np.full_like(rows, i)], -1) for i in range(records)]
    classes = tuple(f"class {i}" for i in range(records))
    return data.Split(
        [{"image": image, "label": i, "key": f"picture {i}"} for i, image in enumerate(images)], "train", classes
    )


def _stream(split: data.Split, crop: preprocess.Crop, feed: data.Feed, **options: Any) -> Iterator[data.Batch]:
    return data.train_batches(split, crop, feed, **({"batch_size": 4, "seed": 0, "step": 0, "share": (0, 1)} | options))


def _train(records: int = 10, *, batches: int, **options: Any) -> list[data.Batch]:
    return list(itertools.islice(_stream(_split(records), CROP, data.Feed(1), **options), batches))


def _labels(batches: list[data.Batch]) -> list[int]:
    return np.concatenate([batch["label"] for batch in batches]).tolist()


def _places(batches: list[data.Batch]) -> list[list[int]]:
    """Where each example's crop begins: its first pixel says so."""
    return np.concatenate([batch["image"][:, 0, 0, :2] for batch in batches]).tolist()


def _assert_same(got: list[data.Batch], wanted: list[data.Batch]) -> None:
    assert len(got) == len(wanted) > 0
    for a, b in zip(got, wanted, strict=True):
        assert a.keys() == b.keys() == {"image", "label", "place"}
        for name, part in a.items():
            np.testing.assert_array_equal(part, b[name])


# ---------------------------------------------------------------- training batches


def test_train_batch_has_crops_of_its_labels() -> None:
    """Crops of the records of their labels, in the shapes and dtypes of the docstring."""
    (batch,) = _train(batches=1)
    assert {name: (part.shape, part.dtype) for name, part in batch.items()} == {
        "image": ((4, 8, 8, 3), np.uint8),
        "label": ((4,), np.int32),
        "place": ((4,), np.int32),
    }
    assert batch["place"].tolist() == [0, 1, 2, 3]
    for image, label, (top, left) in zip(batch["image"], batch["label"], _places([batch]), strict=True):
        whole = _split(10).source[int(label)]["image"]
        np.testing.assert_array_equal(image, whole[top : top + 8, left : left + 8])


@pytest.mark.parametrize("batch_size", [5, 4])
def test_epoch_has_every_record_once_in_its_own_order(batch_size: int) -> None:
    """Also where an epoch ends inside a batch, none is lost or repeated."""
    labels = _labels(_train(batches=40 // batch_size, batch_size=batch_size))
    epochs = [labels[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_seed_and_epoch_decide_the_crops() -> None:
    """Of one image: elsewhere in each epoch, all over it, and at the same places when the run is made again."""
    runs = [_places(_train(1, batches=10, seed=seed)) for seed in (0, 0, 1)]  # one record: 40 epochs
    assert runs[0] == runs[1] != runs[2]
    assert len({tuple(place) for place in runs[0]}) > 20  # of 81
    assert np.min(runs[0]) == 0
    assert np.max(runs[0]) == 8
    assert _labels(_train(batches=2)) != _labels(_train(batches=2, seed=1))


def _jpegs(records: int) -> data.Split:
    """Photographs' bytes, as a prepared data set has them; some are larger, so that they are resized."""
    rng = np.random.default_rng(1)
    encoded = [
        _encoded(".jpg", cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (40 + 10 * (i % 3), 36)))
        for i in range(records)
    ]
    rows = [{"image": image, "label": i % 7, "key": str(i)} for i, image in enumerate(encoded)]
    return data.Split(rows, "train", tuple("abcdefg"))


def _batches(split: data.Split, *, step: int = 0, processes: int = 1, **feed: int) -> list[data.Batch]:
    """Batches `step` to 15, put together from the shares of several processes."""
    shares = [
        _stream(split, CROP, data.Feed(**feed), batch_size=8, seed=3, step=step, share=(index, processes))
        for index in range(processes)
    ]
    merged = []
    for parts in itertools.islice(zip(*shares, strict=True), 15 - step):
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(whole["place"])
        merged.append({name: part[order] for name, part in whole.items()})
    return merged


def test_batches_do_not_depend_on_threads_workers_or_processes() -> None:
    """And others of each after stopping at step 7, in the second epoch: the same to the bit."""
    split = _jpegs(30)
    got = _batches(split, threads=2, workers=2)[:7]
    got += _batches(split, step=7, threads=5, prefetch_batches=1, processes=4)
    _assert_same(got, _batches(split, threads=0))


def test_batches_have_their_golden_digest() -> None:
    """The order of the records and the places of the crops, for ever: a run goes on after an update."""
    digest = hashlib.sha256()
    for batch in _train(10, batches=50, seed=5):
        for name in ("label", "place", "image"):
            digest.update(np.ascontiguousarray(batch[name]).tobytes())
    assert digest.hexdigest()[:16] == "08786f3deeacdc50"


@pytest.mark.parametrize(
    ("cores", "asked", "given"),
    [
        (1, (0, -1), (1, 0)), (2, (0, -1), (2, 0)), (16, (0, -1), (16, 0)), (64, (0, -1), (8, 8)),
        (64, (0, 0), (64, 0)), (64, (4, -1), (4, 0)), (2, (3, 2), (3, 2)), (8, (0, 2), (4, 2)),
    ],
)  # fmt: skip
def test_parallelism_follows_the_cores(
    cores: int, asked: tuple[int, int], given: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert data.parallelism(*asked) == given


def test_process_reads_only_its_share() -> None:
    """Of 90 records the second of four processes reads those of its places, and no other."""
    split, read = _jpegs(90), list[int]()

    class Counting:
        def __len__(self) -> int:
            return 90

        def __getitem__(self, i: int) -> dict[str, Any]:
            read.append(i)
            return split.source[i]

    feed = data.Feed(threads=0, prefetch_batches=0)
    counted = dataclasses.replace(split, source=Counting())
    own = list(itertools.islice(_stream(counted, CROP, feed, batch_size=8, share=(1, 4)), 5))
    assert len(read) == 10
    assert [i % 7 for i in read] == _labels(own)


# ---------------------------------------------------------------- bad records


class _Broken:
    """A source of which some records cannot be used: {number: what the record is instead}."""

    def __init__(self, split: data.Split, faults: dict[int, Any]) -> None:
        self.split, self.faults = split, faults

    def __len__(self) -> int:
        return len(self.split.source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        fault = self.faults.get(i, {})
        if isinstance(fault, Exception):
            raise fault
        return self.split.source[i] | fault


def _with_faults(
    records: int, faults: dict[int, Any], limit: int, **feed: int
) -> tuple[data.Split, data.Feed, list[str]]:
    split, said = _jpegs(records), list[str]()
    broken = dataclasses.replace(split, source=_Broken(split, faults))
    return broken, data.Feed(**({"threads": 1} | feed), max_bad_records=limit, say=said.append), said


@pytest.mark.parametrize("threads", [0, 3])
def test_bad_record_is_replaced_by_the_next_good_one(threads: int) -> None:
    """All else stays as it was; three in a row all take the one after them, the last record the first."""
    faults = {4: {"image": b""}, 5: {"image": b"<html>"}, 6: OSError("the disk is gone"), 19: {"image": b"\xff\xd8"}}
    split, feed, said = _with_faults(20, faults, limit=4, threads=threads)
    batches, good = _stream(split, CROP, feed), _stream(_jpegs(20), CROP, data.Feed(1))
    stands_for = {4: 7, 5: 7, 6: 7, 19: 0}
    order = [int(data._order(0, epoch, 20)[i]) for epoch in range(2) for i in range(20)]
    for step, (batch, other) in enumerate(itertools.islice(zip(batches, good, strict=True), 10)):
        assert "bad" not in batch
        for i, number in enumerate(order[4 * step : 4 * step + 4]):
            if number not in faults:
                np.testing.assert_array_equal(batch["image"][i], other["image"][i])
            assert batch["label"][i] == stands_for.get(number, number) % 7
            assert batch["image"][i].any()
    assert sorted(line.split(": ", 1)[1] for line in said) == [
        "19 does not decode (2 bytes that are not a whole image)",
        "4 does not decode (0 bytes that are not a whole image)",
        "5 does not decode (6 bytes that are not a whole image)",
        "train[6] cannot be read (the disk is gone)",
    ]
    assert said[0].startswith("bad record 1 of train (4 allowed): ")


def test_too_many_bad_records_end_the_feed() -> None:
    faults = {number: {"image": b"x"} for number in range(20)}
    split, feed, said = _with_faults(20, faults, limit=2)
    with pytest.raises(AlexNetError, match=r"train .*config\.data\.max_bad_records=2: (\d+ does not.*){3}"):
        list(itertools.islice(_stream(split, CROP, feed), 10))
    assert len(said) == 3


def test_killed_worker_raises_lost_error() -> None:
    batches = _stream(_jpegs(20), CROP, data.Feed(threads=1, workers=1))
    next(batches)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(LostError, match="was killed") as lost:
        list(itertools.islice(batches, 100))
    assert lost.value.status == 75  # docs/faults.md: start it again


@pytest.mark.parametrize(("label", "mode"), [(-1, "train"), (7, "evaluation")])
def test_label_without_a_class_ends_the_feed(label: int, mode: str) -> None:
    split, feed, _ = _with_faults(8, {3: {"label": label}}, limit=100)
    read = _stream if mode == "train" else data.eval_batches
    batches = read(split, CROP, feed, batch_size=8, share=(0, 1))
    with pytest.raises(AlexNetError, match=rf"record 3 of train .* {label}, .* 7 classes"):
        next(batches)


def test_evaluation_counts_a_bad_record_as_black() -> None:
    """None is left out: as many labels as ever, in order."""
    split, feed, said = _with_faults(10, {2: {"image": b"x"}, 9: {"image": b""}}, limit=2)
    batches = list(data.eval_batches(split, CROP, feed, batch_size=4, share=(0, 1)))
    assert _labels(batches) == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, -1, -1]
    black = ~np.concatenate([batch["image"] for batch in batches]).any(axis=(1, 2, 3))
    assert np.flatnonzero(black).tolist() == [2, 9, 10, 11]
    assert len(said) == 2


# ---------------------------------------------------------------- evaluation batches


@pytest.mark.parametrize("records", [1, 8, 10])
@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_has_every_record_once_in_order(records: int, count: int) -> None:
    """Shares put together are the split, center cropped, and black images of label -1 up to a full batch."""
    shares = [
        list(data.eval_batches(_split(records), CROP, data.Feed(2, 0, 1), batch_size=4, share=(i, count)))
        for i in range(count)
    ]
    assert {len(share) for share in shares} == {-(-records // 4)}  # as many batches for every process
    merged: list[tuple[int, np.ndarray]] = []
    for parts in zip(*shares, strict=True):
        for k in range(4 // count):
            merged += [(int(part["label"][k]), part["image"][k]) for part in parts]
    assert [label for label, _ in merged] == [*range(records), *[-1] * (-records % 4)]
    for label, image in merged:
        wanted = np.zeros((8, 8, 3)) if label < 0 else _split(records).source[label]["image"][4:12, 4:12]
        np.testing.assert_array_equal(image, wanted)


# ---------------------------------------------------------------- one image


def _encoded(kind: str, image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(kind, image[:, :, ::-1] if image.ndim == 3 else image)[1].tobytes())


def test_decode_gives_rgb() -> None:
    """Gray and RGB arrays, and encoded images: three channels, red first, PNG to the bit."""
    rgb = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    np.testing.assert_array_equal(preprocess.decode(rgb), rgb)
    np.testing.assert_array_equal(preprocess.decode(rgb[:, :, :1]), np.stack([rgb[:, :, 0]] * 3, -1))
    np.testing.assert_array_equal(preprocess.decode(_encoded(".png", rgb)), rgb)
    np.testing.assert_array_equal(preprocess.decode(_encoded(".png", rgb[:, :, 0])), np.stack([rgb[:, :, 0]] * 3, -1))
    red = np.full((16, 24, 3), (250, 20, 10), np.uint8)
    decoded = preprocess.decode(_encoded(".jpg", red))
    assert decoded.shape == red.shape
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - red).max() < 5
    for wrong in (b"<html>404 Not Found</html>", b""):
        with pytest.raises(ValueError, match="not a whole image"):
            preprocess.decode(wrong)


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_of_the_short_side(channels: int) -> None:
    """The shape keeps its proportions, larger, smaller or as it was, and one color stays that color."""
    wanted = {
        (10, 30, 20): (15, 10), (10, 20, 30): (10, 15), (10, 20, 20): (10, 10), (10, 10, 17): (10, 17),
        (24, 8, 8): (24, 24), (24, 8, 13): (24, 39), (256, 333, 500): (256, 384), (256, 500, 375): (341, 256),
    }  # fmt: skip
    for (pixels, height, width), shape in wanted.items():
        image = preprocess.decode(np.full((height, width, channels), 77, np.uint8))
        resized = preprocess.resize_short_side(image, pixels)
        assert resized.shape == (*shape, 3)
        assert resized.dtype == np.uint8
        assert np.all(resized == 77)


def test_crop_is_the_center_or_anywhere_inside() -> None:
    """Without a generator the center; with one all places come, corners too, and each as often."""
    image = np.stack([*np.mgrid[:7, :6], np.zeros((7, 6))], -1).astype(np.uint8)
    np.testing.assert_array_equal(preprocess.crop_resized(image, 6, 4), image[1:5, 1:5])
    assert preprocess.crop_resized(image, 6, 6).shape == (6, 6, 3)
    rng = np.random.default_rng(0)
    crops = [preprocess.crop_resized(image, 6, 4, rng.random(2)) for _ in range(1200)]
    assert {crop.shape for crop in crops} == {(4, 4, 3)}
    places, counts = np.unique([crop[0, 0, :2] for crop in crops], axis=0, return_counts=True)
    assert places.tolist() == [[top, left] for top in range(4) for left in range(3)]
    assert np.all(np.abs(counts - 100) < 50)  # five deviations


# ---------------------------------------------------------------- sources


def test_digits_are_two_disjoint_splits() -> None:
    """1,498 to train on and 299 others, every class in both, gray 0..255."""
    train, test = (sources.open_split("digits", name, "") for name in ("train", "test"))
    assert (len(train.source), len(test.source)) == (1498, 299)
    assert train.class_names == test.class_names == tuple("0123456789")
    assert len(repr(train)) < 200, "with its records it takes half a second, at the start and at every evaluation"
    distinct: set[bytes] = set()
    for split in (train, test):
        records = [split.source[i] for i in range(len(split.source))]
        assert {int(record["label"]) for record in records} == set(range(10))
        images = np.stack([record["image"] for record in records])
        assert images.shape[1:] == (8, 8, 1)
        assert images.dtype == np.uint8
        assert (images.min(), images.max()) == (0, 255)
        distinct |= {image.tobytes() for image in images}
    assert len(distinct) == 1797, "an image is in both splits"


def test_synthetic_data_have_the_shape_of_imagenet() -> None:
    """1,281,167 photographs' worth of JPEGs about 110 KB and 500 pixels long, of 1000 classes, and never a file."""
    train, validation = (sources.open_split("synthetic", name, "") for name in ("train", ""))
    assert (len(train.source), len(validation.source), len(train.class_names)) == (1_281_167, 1_000, 1000)
    records = [train.source[i] for i in range(1000)]
    assert 100e3 < np.mean([len(record["image"]) for record in records]) < 130e3
    assert max(preprocess.decode(record["image"]).shape[0] for record in records[:20]) == 500
    assert np.bincount([train.source[i]["label"] for i in range(10_000)], minlength=1000).min() >= 5
    assert sources.open_split("synthetic", "train", "").source[77] == train.source[77]


@pytest.mark.skipif(not (TFDS_DIR / "cifar10").exists(), reason=f"CIFAR-10 is not prepared under {TFDS_DIR}")
def test_tfds_split_is_read() -> None:
    """CIFAR-10 as TFDS wrote it: its size, its classes, and batches of it; no split that it does not have."""
    tfds_dir = str(TFDS_DIR)
    split = sources.open_split("cifar10", "train", tfds_dir)
    assert len(split.source) == 50_000
    assert len(split.class_names) == 10
    assert {"airplane", "truck"} < set(split.class_names)
    batch = next(_stream(split, preprocess.Crop(resize_pixels=40, crop_pixels=32), data.Feed(1), batch_size=6))
    assert batch["image"].shape == (6, 32, 32, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["image"].std() > 10
    assert set(batch["label"].tolist()) <= set(range(10))
    assert len(sources.open_split("cifar10", "test[:50]", tfds_dir).source) == 50
    with pytest.raises(AlexNetError, match=r"'validation' .*train, test.*config\.data\.eval_split"):
        sources.open_split("cifar10", "validation", tfds_dir)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digits", "validation", "digits has no split 'validation' but train, test"),
        ("synthetic", "test", "synthetic has no split 'test' but train, validation"),
        ("no_such_set", "train", "'no_such_set'.*alexnet prepare folder"),
        ("my_cats_pack256", "train", r"'my_cats_pack256'.*prepare tfds my_cats --data_dir=.* --pack=256"),
        ("imagenet2012_pack64_long", "train", r"prepare imagenet2012 --from=.* --pack=64 --keep_long_side"),
        ("imagenet2012", "train", r"imagenet2012.*prepare imagenet2012 --from="),
        ("cifar10", "train", r"cifar10.*download_and_prepare\(\)"),
        ("ag_news_subset", "train", "ag_news_subset .*label, title"),
    ],
)
def test_missing_data_say_what_to_run(name: str, split: str, message: str, tmp_path: Path) -> None:
    """Each mistake in name or split is one sentence that says what can be had."""
    with pytest.raises(AlexNetError, match=message):
        sources.open_split(name, split, str(tmp_path))
    assert not list(tmp_path.iterdir()), "asking prepares nothing"


def test_crops_of_2012_are_33_by_33_in_the_center_square() -> None:
    """All places of 224 in 256 and no other, drawn alike; three of them by hand, in a wide image."""
    rows, columns = np.mgrid[:256, :400]
    image = np.stack([rows % 256, columns % 256, columns // 256], -1).astype(np.uint8)
    seen = set()
    rng = np.random.default_rng(0)
    for place in rng.random((20_000, 2)):
        crop = preprocess.crop_resized(image, 256, 224, place, in_center=True)
        seen.add((int(crop[0, 0, 0]), int(crop[0, 0, 1]) + 256 * int(crop[0, 0, 2])))
    assert seen == {(top, 72 + left) for top in range(33) for left in range(33)}
    for place, corner in (((0.0, 0.0), (0, 72)), ((0.5, 0.99), (16, 104)), ((0.999, 0.5), (32, 88))):
        crop = preprocess.crop_resized(image, 256, 224, np.asarray(place), in_center=True)
        np.testing.assert_array_equal(crop, image[corner[0] : corner[0] + 224, corner[1] : corner[1] + 224])


def test_without_random_crops_the_center_of_the_same_images() -> None:
    """Of 16 x 16 pixels the 8 x 8 in the middle; order, labels and places stay. The flip is drawn on the device."""
    crops = (preprocess.Crop(16, 8), preprocess.Crop(16, 8, random=False))
    drawn, center = (list(itertools.islice(_stream(_split(10), crop, data.Feed()), 6)) for crop in crops)
    assert len({tuple(place) for place in _places(drawn)}) > 5
    assert _places(center) == [[4, 4]] * 24
    assert _labels(center) == _labels(drawn)
    for one, other in zip(center, drawn, strict=True):
        np.testing.assert_array_equal(one["image"][..., 2], other["image"][..., 2])
        np.testing.assert_array_equal(one["place"], other["place"])


def test_chunk_of_images_shares_a_crop() -> None:
    """With chunks of 4 there are two places in a batch of 8; for one process or two."""
    split, chunked = _split(16), preprocess.Crop(16, 8, square=True, chunk=4)

    def corners(share: tuple[int, int]) -> np.ndarray:
        batches = _stream(split, chunked, data.Feed(), batch_size=8, share=share)
        return np.stack([next(batches)["image"][:, 0, 0, :2] for _ in range(6)])

    whole = corners((0, 1))
    assert np.all(whole[:, :4] == whole[:, :1])
    assert np.all(whole[:, 4:] == whole[:, 4:5])
    assert np.any(whole[:, 0] != whole[:, 4])
    parts = np.empty_like(whole)
    for index in range(2):
        parts[:, index::2] = corners((index, 2))
    np.testing.assert_array_equal(parts, whole)


def test_read_ahead_only_where_records_fit_in_half_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From end to end by a thread that ends with the process; a file that cannot be read is left to the feed."""
    for number in range(3):
        (tmp_path / f"pets-train.array_record-{number:05}-of-00003").write_bytes(bytes(1_000_000))
    (tmp_path / "mean_image.npy").write_bytes(bytes(5_000_000))
    read, open_file, started = list[str](), Path.open, list[threading.Thread]()

    def spying(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name.endswith("00001-of-00003"):
            raise OSError("gone")
        read.append(path.name[-14:-9])
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", spying)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))  # noqa: PLW0108
    assert sources.read_ahead(tmp_path, free=6_000_000).startswith("all 0.003 GB")
    assert sources.read_ahead(tmp_path, free=5_999_998).startswith("none: ")
    assert sources.read_ahead(None, free=10**9) == sources.read_ahead(tmp_path / "new", free=10**9) == ""
    (thread,) = started
    assert thread.daemon
    thread.run()
    assert read == ["00000", "00002"]
