"""Whatever a person hands over as a picture becomes the square that evaluation would see, or is one sentence."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import pictures, preprocess
from alexnet_jax.errors import AlexNetError

_UPRIGHT = 1
# EXIF's orientation marks, and what a camera did to the upright picture (PIL's own table is the inverse).
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _one(image: Any, pixels: int = 67) -> np.ndarray:
    found, several = pictures.batches(image, pixels, 8)
    assert not several
    (batch,) = found
    return batch[0]


def _many(several_images: Any, size: int = 8) -> list[np.ndarray]:
    found, several = pictures.batches(several_images, 67, size)
    assert several
    return list(found)


def _file(path: Path, pixels: np.ndarray, *, mark: int = _UPRIGHT, **options: Any) -> Path:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    exif = Image.Exif()
    exif[0x0112] = mark
    picture.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("name", ["picture.jpg", "picture.png", "picture.webp"])
def test_path_pil_image_and_array_give_the_same_square(name: str, tmp_path: Path) -> None:
    path = _file(tmp_path / name, cv2.resize(_noise(9, 12, 3), (120, 90)))
    with Image.open(path) as picture:
        array = np.asarray(picture)
        expected = preprocess.crop_resized(array, 67, 67)
        for same in (path, str(path), picture, array, jnp.asarray(array)):
            np.testing.assert_array_equal(_one(same), expected)
    assert expected.std() > 10


@pytest.mark.parametrize("size", [(90, 120), (150, 200), (700, 500)])
@pytest.mark.parametrize("gray", [False, True])
def test_file_is_decoded_as_the_feed_does(size: tuple[int, int], gray: bool, tmp_path: Path) -> None:
    """Large JPEGs are decoded at a half, a quarter, ... as the feed does, those that a mark turns as well."""
    pixels = _noise(*size) if gray else _noise(*size, 3)
    path = _file(tmp_path / "upright.jpg", pixels)
    np.testing.assert_array_equal(_one(path), preprocess.Crop(67, 67)(path.read_bytes()))
    turned = _file(tmp_path / "turned.jpg", pixels, mark=3)
    scaled = preprocess.decode(turned.read_bytes(), at_least=67)
    assert (scaled.shape[:2] == size) == (size == (90, 120))
    np.testing.assert_array_equal(_one(turned), _one(scaled[::-1, ::-1]))


@pytest.mark.parametrize("mark", _TURNS)
def test_orientation_mark_is_applied(mark: int, tmp_path: Path) -> None:
    """To the bit, from a file and as a PIL image; lossless, so that the files hold the same pixels."""
    upright = _noise(90, 120, 3)
    turned = _file(tmp_path / "turned.png", _TURNS[mark](upright), mark=mark)
    expected = _one(upright)
    np.testing.assert_array_equal(_one(turned), expected)
    with Image.open(turned) as picture:
        np.testing.assert_array_equal(_one(picture), expected)
    assert not np.array_equal(_one(_TURNS[mark](upright)), expected), "the mark changes nothing"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_pil_image_of_any_mode(mode: str) -> None:
    assert _one(Image.new(mode, (80, 70))).shape == (67, 67, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (67, 67), (66, 5000)])
def test_picture_of_any_size(shape: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.broadcast_to(np.uint8([10, 20, 30]), (*shape, 3))
    path = _file(tmp_path / "plain.png", pixels)
    for image in (pixels, path):
        np.testing.assert_array_equal(_one(image), np.broadcast_to(np.uint8([10, 20, 30]), (67, 67, 3)))


def test_several_pictures_of_any_kind(tmp_path: Path) -> None:
    """A list of anything, a tuple, a generator, a set, an array of pictures or of paths: in order."""
    array = _noise(3, 80, 90, 3)
    paths = [_file(tmp_path / f"{i}.png", one) for i, one in enumerate(array)]
    expected = np.stack([_one(one) for one in array])
    mixed = [str(paths[0]), array[1], Image.fromarray(array[2])]
    for same in (mixed, tuple(mixed), (one for one in mixed), array, list(array), paths, np.array(paths, object)):
        np.testing.assert_array_equal(np.concatenate(_many(same)), expected)
    np.testing.assert_array_equal(np.concatenate(_many(np.array([str(path) for path in paths]))), expected)
    assert np.concatenate(_many(set(paths))).shape == expected.shape
    np.testing.assert_array_equal(np.concatenate(_many([array[0]])), expected[:1])


def test_pictures_are_read_a_batch_ahead() -> None:
    read: list[int] = []

    def noise() -> Iterator[np.ndarray]:
        for i in range(7):
            read.append(i)
            yield _noise(70, 70, 3, seed=i)

    found, _ = pictures.batches(noise(), 67, 3)
    assert [len(next(found)), len(read)] == [3, 6]
    assert [len(next(found)), len(read)] == [3, 7]
    assert [len(next(found)), len(read)] == [1, 7]
    assert list(found) == []
    assert _many([]) == _many(np.zeros((0, 9, 9, 3), np.uint8)) == []


def test_damaged_file_or_pil_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"no picture")
    (tmp_path / "empty.jpg").touch()
    cut = _file(tmp_path / "cut.jpg", _noise(90, 90, 3))
    cut.write_bytes(cut.read_bytes()[:-2000])
    for name in ("missing.jpg", "", "text.txt", "empty.jpg", "cut.jpg", "a\0b.jpg"):
        path = tmp_path / name
        for given in (path, str(path), [_noise(9, 9, 3), path]):
            with pytest.raises(AlexNetError, match=re.escape(str(path).rstrip("/"))) as error:
                list(pictures.batches(given, 67, 8)[0])
            assert "\n" not in str(error.value)
    with Image.open(cut) as picture:
        for image, called in ((picture, "images"), ([picture], r"images\[0\]")):
            with pytest.raises(AlexNetError, match=f"^{called} is"):
                list(pictures.batches(image, 67, 8)[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "images .*NoneType"),
        (3, "images .*int"),
        (b"\xff\xd8", "images .*bytes"),
        ({"cat.jpg": 1}, "images .*dict"),
        ([None], r"images\[0\] .*NoneType"),
        ([_noise(9, 9, 3), 3.5], r"images\[1\] .*float"),
        ([_noise(2, 9, 9, 3)], r"images\[0\] .*\(2, 9, 9, 3\)"),
        (_noise(9, 9), r"images .*\(9, 9\)"),
        (_noise(2, 9, 9, 4), r"images\[0\] .*\(9, 9, 4\)"),
        (_noise(3, 224, 224), r"\(3, 224, 224\).* x.transpose\(1, 2, 0\)"),
        (np.zeros((0, 9, 3), np.uint8), r"images .*\(0, 9, 3\)"),
        (np.zeros((9, 9, 3), np.float32), r"float32 .* 0.0 to 0.0, .*\(255 \* x\)"),
        (np.full((9, 9, 3), 200.0), r"float64 .* 200.0 to 200.0, .* x.astype\('uint8'\)"),
        (np.full((9, 9, 3), np.nan), "nan to nan"),
        (np.full((9, 9, 3), None), "images .*object"),
        (jnp.zeros((9, 9, 3)), "images .*float32"),
        ([[1, 2], [3]], r"images\[0\] .*\(2,\)"),
    ],
)  # fmt: skip
def test_value_that_is_not_a_picture_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(AlexNetError, match=message) as error:
        list(pictures.batches(wrong, 67, 8)[0])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
