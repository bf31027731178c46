"""Files that are written are there whole or not at all, and errors name the file."""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError


def test_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            files.write_text(path, "gr\u00fcn\n")
        finally:
            assert os.umask(before) == umask
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == "gr\u00fcn\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), ValueError("odd"), KeyboardInterrupt()])
def test_failed_write_keeps_the_old_file(failure: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"

    def writer(growing: Path) -> None:
        growing.write_bytes(b"half of")
        assert growing.suffix == ".npz"  # writers that go by it
        raise failure

    for there in ([], ["weights.npz"]):
        if there:
            path.write_bytes(b"old")
        with pytest.raises(AlexNetError if isinstance(failure, OSError) else type(failure)) as error:
            files.write(path, writer)
        assert not isinstance(failure, OSError) or f"{path} cannot be written: No space left" in str(error.value)
        assert os.listdir(tmp_path) == there
    assert path.read_bytes() == b"old"


def test_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is renamed before it is synced may be there and empty after a power failure."""
    path, order = tmp_path / "a.txt", list[str]()
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def replaced(growing: Path, final: Path) -> Path:
        order.append("renamed")
        return replace(growing, final)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    files.write_text(path, "text")
    assert order[0].endswith(".tmp.txt")
    assert order[1:] == ["renamed", tmp_path.name]
    order.clear()
    files.append_line(path, "more")
    assert order == ["a.txt"]
    files.append_line(path, "more", synced=False)
    assert order == ["a.txt"]


@pytest.mark.parametrize(
    ("there", "then"), [(None, "new\n"), ("", "new\n"), ("old\n", "old\nnew\n"), ("cut off", "cut off\nnew\n")]
)
def test_appended_line_starts_on_its_own(there: str | None, then: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    if there is not None:
        path.write_text(there)
    files.append_line(path, "new")
    assert path.read_text() == then
    files.append_line(path, "gr\u00fcn")
    assert path.read_bytes() == f"{then}gr\u00fcn\n".encode()


def test_line_that_does_not_fit_is_not_appended_in_part(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old\n")
    code = f"""
        import resource
        from pathlib import Path
        from alexnet_jax import files
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        files.append_line(Path({str(path)!r}), "0123456789")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert "a.txt cannot be written: No space left on device: make room." in done.stderr
    assert path.read_text() == "old\n"


def test_drop_unfinished_removes_half_written_files(tmp_path: Path) -> None:
    def writer(growing: Path) -> None:
        growing.write_bytes(b"half of")
        files.drop_unfinished()
        assert os.listdir(tmp_path) == ["whole.txt"]

    files.write_text(tmp_path / "whole.txt", "whole")
    with pytest.raises(AlexNetError, match=r"a\.txt cannot be written"):
        files.write(tmp_path / "a.txt", writer)


def test_write_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "nowhere" / "a.txt", "No such file or directory"),
        (tmp_path / "file" / "a.txt", "Not a directory"),
        (tmp_path, "Is a directory"),
        (Path("/proc/a.txt"), "No such file or directory"),
    ):
        with pytest.raises(AlexNetError, match=f"{path} cannot be written: {why}"):
            files.write_text(path, "text")
    assert os.listdir(tmp_path) == ["file"]


def test_make_folder_with_its_parents(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(AlexNetError, match="/file is a file"):
        files.make_folder(tmp_path / "file")
    with pytest.raises(AlexNetError, match="/file/below cannot be made: Not a directory"):
        files.make_folder(tmp_path / "file" / "below")
    with pytest.raises(AlexNetError, match="cannot be made: File name too long"):
        files.make_folder(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b'{"a": 1} {', "is not whole JSON"),
        (b"[" * 100_000, "is not whole JSON"),
        (b"\xff\xfe{\0}\0", "cannot be read: it is not UTF-8 text"),
    ],
)
def test_damaged_json_names_the_file(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AlexNetError) as error:
        files.read_json(path)
    assert str(error.value).startswith(f"{path} {said}")
    assert "\n" not in str(error.value)
