"""Files that are written are there whole or not at all, and errors name the file."""

import os
import stat
from pathlib import Path

import pytest

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError


def test_what_is_written_is_there_with_the_permissions_of_any_other_file(tmp_path: Path) -> None:
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
def test_a_failure_leaves_nothing_and_keeps_what_was_there(failure: BaseException, tmp_path: Path) -> None:
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
        assert not isinstance(failure, OSError) or str(error.value) == (
            f"{path} cannot be written: No space left on device: make room."
        )
        assert os.listdir(tmp_path) == there
    assert path.read_bytes() == b"old"


def test_a_process_that_ends_in_the_middle_drops_what_is_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def writer(growing: Path) -> None:
        growing.write_bytes(b"half of")
        files.drop_unfinished()
        assert not os.listdir(tmp_path)

    with pytest.raises(AlexNetError, match=r"a\.txt cannot be written"):
        files.write(path, writer)
    files.write_text(path, "whole")
    files.drop_unfinished()
    assert path.read_text() == "whole"


def test_where_nothing_can_be_written_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "nowhere" / "a.txt", "No such file or directory"),
        (tmp_path / "file" / "a.txt", "Not a directory"),
        (tmp_path, "Is a directory"),
        (Path("/proc/a.txt"), "No such file or directory"),
    ):
        with pytest.raises(AlexNetError) as error:
            files.write_text(path, "text")
        assert str(error.value) == f"{path} cannot be written: {why}."
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_is_made_with_those_above_it_or_the_error_names_it(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(AlexNetError, match=r"/file is a file, not a folder\.$"):
        files.make_folder(tmp_path / "file")
    with pytest.raises(AlexNetError, match=r"/file/below cannot be made: Not a directory\.$"):
        files.make_folder(tmp_path / "file" / "below")
    with pytest.raises(AlexNetError, match=r"cannot be made: File name too long\.$"):
        files.make_folder(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty: restore it"),
        (b" \n\t", "is empty: restore it"),
        (b'{"a": 1', "is not whole JSON"),
        (b'{"a": 1} {', "is not whole JSON"),
        (b"[" * 100_000, "is not whole JSON"),
        (b"\xff\xfe{\0}\0", "cannot be read: it is not UTF-8 text"),
    ],
)
def test_what_is_not_whole_json_is_one_sentence(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AlexNetError) as error:
        files.read_json(path)
    assert str(error.value).startswith(f"{path} {said}")
    assert "\n" not in str(error.value)
