"""Files that are there whole or not at all, and errors of reading and writing that name the file."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alexnet_jax.errors import AlexNetError

_growing: set[Path] = set()  # what is being written and would stay where the process ends in the middle


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text to `path`, whole or not at all. Raises AlexNetError."""
    write(path, lambda growing: growing.write_bytes(text.encode("utf-8", "surrogateescape")))


def write(path: Path, writer: Callable[[Path], Any]) -> None:
    """Has `writer` fill a file beside `path` and renames it; a failure leaves nothing and keeps what was there.

    It is on the disk when this returns, also where the power fails then. Raises AlexNetError.
    """
    with named(path, "written"):
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp" + path.suffix, dir=path.parent)
        os.close(handle)
        growing = Path(name)
        _growing.add(growing)
        try:
            writer(growing)
            # mkstemp makes a private file; this one is like any other that the user writes.
            os.umask(umask := os.umask(0))
            growing.chmod(0o666 & ~umask)
            sync(growing)
            growing.replace(path)
            sync(path.parent)
        finally:
            growing.unlink(missing_ok=True)
            _growing.discard(growing)


def append_line(path: Path, line: str, *, synced: bool = True) -> None:
    """Adds a line to a UTF-8 text file: all of it in one write, or none where the disk is full.

    It begins on a line of its own where the last one was cut off. `synced`: it is on the disk when this returns.
    Raises AlexNetError.
    """
    with named(path, "written"), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        cut = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        data = b"\n" * cut + line.encode("utf-8", "surrogateescape") + b"\n"
        if file.write(data) != len(data):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if synced:
            os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Waits until a file or the names in a folder are on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that knows no sync, such as some of FUSE
            raise
    finally:
        os.close(handle)


def drop_unfinished() -> None:
    """Removes what is only half written, before the process ends in the middle of it."""
    for growing in list(_growing):
        shutil.rmtree(growing, ignore_errors=True)
        with contextlib.suppress(OSError):
            growing.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it. Raises AlexNetError where there is a file or no permission."""
    with named(path, "made"):
        if path.exists() and not path.is_dir():
            raise AlexNetError(f"{path} is a file, not a folder: name another place.")
        path.mkdir(parents=True, exist_ok=True)


def check_free(folder: Path, argument: str) -> None:
    """Raises AlexNetError unless `folder`, the value of `argument`, is missing or empty."""
    with named(folder, "written"):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise AlexNetError(f"{argument}={folder} is not an empty folder: name another one.")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is renamed to `path` at the end of the block; a failure leaves nothing.

    `path` must be missing or empty. Raises AlexNetError.
    """
    make_folder(path.absolute().parent)
    with named(path, "written"):
        growing = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
        _growing.add(growing)
        try:
            whole = growing / "folder"  # mkdtemp makes a private one
            whole.mkdir()
            yield whole
            os.replace(whole, path)  # an empty folder may be there
        finally:
            shutil.rmtree(growing, ignore_errors=True)
            _growing.discard(growing)


def read_text(path: Path) -> str:
    """The UTF-8 text of a file. Raises AlexNetError."""
    with named(path, "read"):
        return path.read_bytes().decode("utf-8")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises AlexNetError."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "is empty" if not text.strip() else f"is not whole JSON ({error})"
        raise AlexNetError(f"{path} {what}: restore it from a copy, or remove it and start again.") from None


# What helps against an error of the file system; the one that may stand beside any other comes last.
REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "make it writable, or name another place",
    errno.EACCES: "make it yours, or name another place",
    errno.EPERM: "make it yours, or name another place",
    errno.ESTALE: "mount its disk again",
    errno.ENOTCONN: "mount its disk again",
    errno.EIO: "look after its disk",
    errno.EISDIR: "move that folder away",
    errno.ENOTDIR: "name another place",
    errno.ENAMETOOLONG: "name another place",
    errno.ENOENT: "see that its folder is there, or name another place",
}


@contextlib.contextmanager
def named(path: Path, what: str) -> Iterator[None]:
    """Turns an error of the file system into AlexNetError: "PATH cannot be `what`: why: what to do."."""
    try:
        yield
    except OSError as error:
        is_missing = what == "read" and error.errno == errno.ENOENT  # which says it all
        advice = "" if is_missing else REMEDIES.get(error.errno or 0, "")
        raise AlexNetError(f"{path} cannot be {what}: {error.strerror or error}{advice and ': '}{advice}.") from error
    except UnicodeDecodeError as error:
        raise AlexNetError(f"{path} cannot be {what}: it is not UTF-8 text ({error.reason}).") from error
