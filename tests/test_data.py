"""The feed: every record once, and a batch that is a function of (seed, step) and of nothing else."""

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alexnet_jax import AlexNetError, augment, data

TFDS_DIR = Path(__file__).resolve().parents[2] / "shared" / "data" / "tfds"
IMAGES = data.Images(resize_pixels=16, crop_pixels=8)  # nine places for a crop in each direction


def _split(records: int) -> data.Split:
    """Images whose pixels say where they are, (row, column, record), labelled with the record's number."""
    rows, columns = np.mgrid[:16, :16].astype(np.uint8)
    images = [np.stack([rows, columns, np.full_like(rows, i)], -1) for i in range(records)]
    return data.Split([{"image": image, "label": i} for i, image in enumerate(images)], "train", ("a", "b"))


def _train(records: int = 10, *, batches: int, **options: Any) -> list[data.Batch]:
    defaults = {"batch_size": 4, "seed": 0, "step": 0, "share": (0, 1), "threads": 1, "prefetch": 2}
    feed = data.train_batches(_split(records), IMAGES, **(defaults | options))
    return list(itertools.islice(feed, batches))


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


def test_a_training_batch_is_what_it_says() -> None:
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


@pytest.mark.parametrize("step", [1, 3, 7])
def test_starting_at_a_step_is_skipping_to_it(step: int) -> None:
    """A feed that begins at step k, in or after the first epoch, goes on as the one from 0 does."""
    _assert_same(_train(step=step, batches=4), _train(batches=step + 4)[step:])


@pytest.mark.parametrize(("threads", "prefetch"), [(2, 1), (4, 8), (0, 0)])
def test_threads_do_not_change_what_comes(threads: int, prefetch: int) -> None:
    """Neither the threads that read nor the batches made ahead have a part in any batch."""
    _assert_same(_train(batches=6, threads=threads, prefetch=prefetch), _train(batches=6))


@pytest.mark.parametrize("count", [2, 4])
def test_shares_put_together_are_the_whole_batch(count: int) -> None:
    """Every process's examples, each at its `place`, are the global batch that one process makes."""
    whole = _train(batches=6)
    merged = [{name: np.full_like(part, 99) for name, part in batch.items()} for batch in whole]
    for index in range(count):
        for step, part in enumerate(_train(batches=6, share=(index, count))):
            assert len(part["place"]) == 4 // count
            for name, values in part.items():
                merged[step][name][part["place"]] = values
    _assert_same(merged, whole)


@pytest.mark.parametrize("batch_size", [5, 4])
def test_every_epoch_has_every_record_once_in_an_order_of_its_own(batch_size: int) -> None:
    """Also where an epoch ends inside a batch, none is lost or repeated."""
    labels = _labels(_train(batches=40 // batch_size, batch_size=batch_size))
    epochs = [labels[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_another_seed_is_another_order_and_other_crops() -> None:
    first, second = _train(batches=5, batch_size=2), _train(batches=5, batch_size=2, seed=1)  # one epoch
    assert _labels(first) != _labels(second)
    by_record = [dict(zip(_labels(epoch), map(tuple, _places(epoch)), strict=True)) for epoch in (first, second)]
    assert by_record[0] != by_record[1]


def test_random_crops_differ_between_epochs_and_repeat_with_the_seed() -> None:
    """One image is cropped elsewhere in each epoch, but at the same places when the run is made again."""
    runs = [_places(_train(1, batches=10)) for _ in range(2)]  # one record: 40 epochs
    assert runs[0] == runs[1]
    assert len({tuple(place) for place in runs[0]}) > 20  # of 81
    assert np.min(runs[0]) == 0
    assert np.max(runs[0]) == 8


# ---------------------------------------------------------------- evaluation batches


@pytest.mark.parametrize("records", [1, 7, 8, 10])
@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_has_every_record_once_in_order(records: int, count: int) -> None:
    """Shares put together are the split, centre cropped, and black images of label -1 up to a full batch."""
    shares = [
        list(data.eval_batches(_split(records), IMAGES, batch_size=4, share=(i, count), threads=2, prefetch=1))
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


def test_decode_gives_rgb_of_every_kind_of_image() -> None:
    """Grey and RGB arrays, and encoded images: three channels, red first, PNG to the bit."""
    rgb = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    np.testing.assert_array_equal(augment.decode(rgb), rgb)
    np.testing.assert_array_equal(augment.decode(rgb[:, :, :1]), np.stack([rgb[:, :, 0]] * 3, -1))
    np.testing.assert_array_equal(augment.decode(_encoded(".png", rgb)), rgb)
    np.testing.assert_array_equal(augment.decode(_encoded(".png", rgb[:, :, 0])), np.stack([rgb[:, :, 0]] * 3, -1))
    red = np.full((16, 24, 3), (250, 20, 10), np.uint8)
    decoded = augment.decode(_encoded(".jpg", red))
    assert decoded.shape == red.shape
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - red).max() < 5


@pytest.mark.parametrize("data", [b"<html>404 Not Found</html>", b""])
def test_bytes_that_are_no_image_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="no image"):
        augment.decode(data)


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_brings_the_short_side(channels: int) -> None:
    """The shape keeps its proportions, larger, smaller or as it was, and one colour stays that colour."""
    wanted = {
        (10, 30, 20): (15, 10), (10, 20, 30): (10, 15), (10, 20, 20): (10, 10), (10, 10, 17): (10, 17),
        (24, 8, 8): (24, 24), (24, 8, 13): (24, 39), (256, 333, 500): (256, 384), (256, 500, 375): (341, 256),
    }  # fmt: skip
    for (pixels, height, width), shape in wanted.items():
        resized = augment.resize_short_side(augment.decode(np.full((height, width, channels), 77, np.uint8)), pixels)
        assert resized.shape == (*shape, 3)
        assert resized.dtype == np.uint8
        assert np.all(resized == 77)


def test_a_crop_is_the_centre_or_anywhere_inside() -> None:
    """Without a generator the centre; with one all places come, corners too, and each as often."""
    image = np.stack([*np.mgrid[:7, :6], np.zeros((7, 6))], -1).astype(np.uint8)
    np.testing.assert_array_equal(augment.crop(image, 4, None), image[1:5, 1:5])
    assert augment.crop(image, 6, None).shape == (6, 6, 3)
    rng = np.random.default_rng(0)
    crops = [augment.crop(image, 4, rng) for _ in range(1200)]
    assert {crop.shape for crop in crops} == {(4, 4, 3)}
    places, counts = np.unique([crop[0, 0, :2] for crop in crops], axis=0, return_counts=True)
    assert places.tolist() == [[top, left] for top in range(4) for left in range(3)]
    assert np.all(np.abs(counts - 100) < 50)  # five deviations


# ---------------------------------------------------------------- sources


def test_digits_are_two_splits_of_all_there_are() -> None:
    """1,498 to train on and 299 others, every class in both, grey 0..255."""
    train, test = (data.open_split("digits", name, "") for name in ("train", "test"))
    assert (len(train.source), len(test.source)) == (1498, 299)
    assert train.class_names == test.class_names == tuple("0123456789")
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


@pytest.fixture(scope="module")
def tfds_dir() -> str:
    if not (TFDS_DIR / "cifar10").exists():
        pytest.skip(f"CIFAR-10 is not prepared under {TFDS_DIR}")
    return str(TFDS_DIR)


def test_a_prepared_tfds_split(tfds_dir: str) -> None:
    """CIFAR-10 as TFDS wrote it: its size, its classes, and batches of it."""
    split = data.open_split("cifar10", "train", tfds_dir)
    assert len(split.source) == 50_000
    assert len(split.class_names) == 10
    assert {"airplane", "truck"} < set(split.class_names)
    images = data.Images(resize_pixels=40, crop_pixels=32)
    feed = data.train_batches(split, images, batch_size=6, seed=0, step=0, share=(0, 1), threads=1, prefetch=1)
    batch = next(feed)
    assert batch["image"].shape == (6, 32, 32, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["image"].std() > 10
    assert set(batch["label"].tolist()) <= set(range(10))
    assert len(data.open_split("cifar10", "test[:50]", tfds_dir).source) == 50


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tfds_dir: str) -> None:
    with pytest.raises(AlexNetError, match=r"no split 'validation' but train, test: .*data\.eval_split"):
        data.open_split("cifar10", "validation", tfds_dir)


def test_a_data_set_that_is_not_prepared_is_answered_with_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(AlexNetError, match=r"cifar10.* is not prepared under .*download_and_prepare\(\)") as error:
        data.open_split("cifar10", "train", str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert not list(tmp_path.iterdir()), "asking prepares nothing"


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digits", "validation", "'validation': digits has train and test"),
        ("no_such_set", "train", "no data set 'no_such_set'.*digits, imagenet2012, cifar10"),
        ("ag_news_subset", "train", "ag_news_subset is no image classification set: its features are label, title"),
    ],
)
def test_what_there_is_no_data_for(name: str, split: str, message: str, tmp_path: Path) -> None:
    """Each mistake in name or split is one sentence that says what can be had."""
    with pytest.raises(AlexNetError, match=message):
        data.open_split(name, split, str(tmp_path))
