"""A prepared set is read ahead where it fits, and the run says what it does."""

from pathlib import Path
from typing import Any

import pytest

from alexnet_jax.data import cache


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be started, without starting it."""
    started: list[Any] = []

    class Thread:
        def __init__(self, target: Any, args: Any, daemon: bool) -> None:
            assert daemon, "it must not keep a process that is done"
            started.append((target, args))

        def start(self) -> None:
            pass

    monkeypatch.setattr(cache.threading, "Thread", Thread)
    return started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        (tmp_path / f"pets-train.array_record-{number:05}-of-00003").write_bytes(bytes(1_000_000))
    (tmp_path / "mean_image.npy").write_bytes(bytes(5_000_000))
    return tmp_path


def test_the_records_are_read_where_they_are_half_of_the_free_memory(folder: Path, threads: list[Any]) -> None:
    assert cache.read_ahead(folder, free=6_000_000) == "all 0.003 GB of records are read into memory meanwhile"
    ((target, (paths,)),) = threads
    assert [path.name[-14:-9] for path in paths] == ["00000", "00001", "00002"]
    paths[1].unlink()
    target(paths)  # what is gone is left to the feed


def test_records_that_do_not_fit_are_left_on_the_disk(folder: Path, threads: list[Any]) -> None:
    said = cache.read_ahead(folder, free=5_999_998)
    assert said == "none: half of the free memory is 0.003 GB, and the records take 0.003 GB"
    assert not threads


def test_what_lies_in_no_folder_is_not_mentioned(tmp_path: Path, threads: list[Any]) -> None:
    assert cache.read_ahead(None, free=10**9) == cache.read_ahead(tmp_path, free=10**9) == ""
    assert not threads


def test_a_chunk_after_the_other_to_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read to their last byte, in whatever chunks."""
    sizes: list[int] = []

    class File:
        def __init__(self, path: Path) -> None:
            self.file = open(path, "rb")  # noqa: SIM115

        def __enter__(self) -> "File":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def readinto(self, chunk: bytearray) -> int:
            sizes.append(self.file.readinto(chunk))
            return sizes[-1]

    monkeypatch.setattr(cache, "_CHUNK", 300_000)
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: File(path))
    cache._read(sorted(folder.glob("*record*")))
    assert sizes == [300_000, 300_000, 300_000, 100_000, 0] * 3
