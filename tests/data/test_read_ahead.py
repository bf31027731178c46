"""A prepared set is read into memory where it fits, and the run says so."""

import threading
from pathlib import Path
from typing import Any

import pytest

from alexnet_jax.data import sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        (tmp_path / f"pets-train.array_record-{number:05}-of-00003").write_bytes(bytes(1_000_000))
    (tmp_path / "mean_image.npy").write_bytes(bytes(5_000_000))
    return tmp_path


def test_read_ahead_only_where_records_fit_in_half_of_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    open_file = Path.open

    def spying(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name.endswith("00001-of-00003"):
            raise OSError("gone")  # which is left to the feed
        read.append((path.name[-14:-9], path.stat().st_size))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", spying)
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))  # noqa: PLW0108
    assert sources.read_ahead(folder, free=6_000_000).startswith("all 0.003 GB")
    assert sources.read_ahead(folder, free=5_999_998).startswith("none: ")
    assert sources.read_ahead(None, free=10**9) == sources.read_ahead(folder / "new", free=10**9) == ""
    (thread,) = started
    assert thread.daemon
    thread.run()
    assert read == [("00000", 1_000_000), ("00002", 1_000_000)]
