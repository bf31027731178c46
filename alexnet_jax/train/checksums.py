"""Checksums of checkpoints: every byte that was changed, lost or added is noticed before a checkpoint is read.

It works on folders, without JAX and without Orbax, so that a run can look before either is started. Orbax itself has
checksums of chunks of arrays only.
"""

import concurrent.futures
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from alexnet_jax import config as configs, files, progress
from alexnet_jax.errors import AlexNetError

FOLDER, SUMS = "checkpoints", "sums.json"
MARK = {"sums": "xxh3_128"}  # in Orbax's own metadata: this checkpoint was written with checksums
_METADATA = "_CHECKPOINT_METADATA"
_COPIED = (configs.SAVED_AS, configs.CLASSES)  # each checkpoint keeps a copy of these files of its run
_AT_ONCE = 1 << 22  # bytes that are read at a time
_SMALL = 1 << 16  # bytes up to which a quick check reads a file
_THREADS = 4

Say = Callable[[str], None]


def write(folder: Path, workdir: Path | None = None) -> None:
    """Writes the checksums of all files of a checkpoint, and waits until these are on the disk. Raises OSError.

    `sums.json` is {"sum": of all bytes after it, "files": {path: [bytes, xxh3_128]}, "run": {name: text}}, where "run"
    holds the config and the classes of `workdir`, so that these can be restored too.
    """
    names = _files(folder)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        checksums = dict(zip(names, pool.map(lambda name: _checksum(folder / name, sync=True), names), strict=True))
    for below in {folder, *((folder / name).parent for name in names)}:
        files.sync(below)
    for log in workdir.glob("*.jsonl") if workdir else ():
        files.sync(log)  # a run that resumes from here has its history up to here
    there = [workdir / name for name in _COPIED if (workdir / name).is_file()] if workdir else []
    run = {path.name: path.read_bytes().decode(errors="surrogateescape") for path in there}
    body = json.dumps({"files": checksums, "run": run}, indent=1).removeprefix("{")
    files.write_text(folder / SUMS, _head(body.encode()) + body)


def _head(body: bytes) -> str:
    return f'{{"sum": "{xxhash.xxh3_128_hexdigest(body)}",'


def _checksum(path: Path, *, sync: bool = False) -> list[int | str]:
    """[bytes, hash] of a file, which is then on the disk too if asked for."""
    found, block, size = xxhash.xxh3_128(), memoryview(bytearray(_AT_ONCE)), 0
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(block):
                found.update(block[:count])
                size += count
        if sync:
            files.sync(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a read does not name its file
    return [size, found.hexdigest()]


def _files(folder: Path) -> list[str]:
    """The paths of all files and links below a folder, except that of its checksums."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted({str(path.relative_to(folder)) for path in found} - {SUMS})


def damage(folder: Path, *, quick: bool = False) -> str | None:
    """The first damage to a checkpoint, with the file's name: "default/_METADATA is missing"; None if it is whole.

    One without checksums, as version 0.1 wrote them, counts as whole. `quick` reads the small files only, and compares
    the sizes of the large ones.
    """
    try:
        if not folder.is_dir():
            return "it is not a folder"
        if written := _read(folder):
            return next(_changes(folder, written["files"], quick=quick), None)
        had_some = MARK["sums"].encode() in (folder / _METADATA).read_bytes()
        return f"{SUMS} is missing" if had_some else None
    except OSError as error:
        name = os.path.relpath(error.filename, folder) if error.filename else "it"
        return f"{name} cannot be read: {error.strerror or error}"
    except ValueError as error:
        return str(error)


def _changes(folder: Path, checksums: dict[str, list[int | str]], *, quick: bool) -> Iterator[str]:
    """What is not as it was written. Raises OSError."""
    found = _files(folder)
    yield from (f"{name} is missing" for name in checksums if name not in found)
    yield from (f"{name} does not belong to it" for name in found if name not in checksums)
    yield from (f"{name} is not a plain file" for name in found if not _is_plain(folder / name))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        same = pool.map(lambda name: _is_same(folder / name, checksums[name], quick=quick), found)
        yield from (f"{name} is changed" for name, is_same in zip(found, same, strict=True) if not is_same)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is_same(path: Path, written: list[int | str], *, quick: bool) -> bool:
    size = path.stat().st_size
    return size == written[0] and ((quick and size > _SMALL) or _checksum(path) == written)


def _read(folder: Path) -> dict[str, Any] | None:
    """What `sums.json` holds, None where there is none. Raises OSError and ValueError."""
    if not os.path.lexists(folder / SUMS):
        return None
    if not _is_plain(folder / SUMS):
        raise ValueError(f"{SUMS} is not a plain file")
    data = (folder / SUMS).read_bytes()
    head, comma, body = data.partition(b",")
    if head + comma != _head(body).encode():
        raise ValueError(f"{SUMS} is changed")
    written: dict[str, Any] = json.loads(data)
    return written


def stamps(folder: Path) -> list[tuple[str, int]]:
    """[(path, ns of the last change)] of the files of a checkpoint; empty where they cannot be read."""
    try:
        return [(name, (folder / name).lstat().st_ctime_ns) for name in _files(folder)]
    except OSError:
        return []


def steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints that lie in a workdir, whole or not, sorted. Raises AlexNetError."""
    return sorted(int(name) for name in _names(workdir) if name.isascii() and name.isdigit() and str(int(name)) == name)


def _names(workdir: Path) -> list[str]:
    with files.named(workdir / FOLDER, "read"):
        return os.listdir(workdir / FOLDER) if (workdir / FOLDER).exists() else []


def newest_whole(workdir: Path, *, quarantine: bool, say: Say) -> int | None:
    """The step of the newest checkpoint that is whole, None where there is none at all.

    Damaged ones are named to `say`, and with `quarantine` renamed to "130.damaged", which nothing reads; older ones
    are checked quickly. Raises AlexNetError where all are damaged: no run starts anew over what may be restored.
    """
    folder, there = workdir / FOLDER, steps(workdir)
    damaged: dict[int, str] = {}
    for step in reversed(there):
        if not (found := damage(folder / str(step))):
            break
        damaged[step] = found
    else:
        quarantined = [name for name in sorted(_names(workdir)) if ".damaged" in name]
        if not there and not quarantined:
            return None
        what = [f"{step} is damaged ({why})" for step, why in damaged.items()]
        what += [f"{name} is in quarantine" for name in quarantined]
        raise AlexNetError(
            f"No checkpoint in {folder} is whole: {', '.join(what[:3])}{' ...' if len(what) > 3 else ''}: "
            "restore one from a copy, or use another workdir to start anew."
        )
    if quarantine:
        older = {old: damage(folder / str(old), quick=True) for old in there if old < step}
        damaged |= {old: why for old, why in older.items() if why}
    for bad, why in damaged.items():
        done = [f"renamed to {_quarantine(folder / str(bad), f'{bad}.damaged')}"] if quarantine else []
        done += [f"step {step:,} is used instead"] if bad > step else []
        say(f"checkpoint {folder / str(bad)} is damaged: {why}; {', and '.join(done)}")
    if not (folder / str(step) / SUMS).exists():
        say(f"checkpoint {folder / str(step)} has no checksums (version 0.1): a change in it would not be noticed")
    return step


def _quarantine(path: Path, name: str) -> str:
    """Renames a file or folder to a name beside it, or that with a number; the name it got. Raises AlexNetError."""
    wanted, number = name, 1
    while os.path.lexists(path.with_name(name)):
        number += 1
        name = wanted.replace(".damaged", f".damaged-{number}")
    with files.named(path, f"renamed to {name}"):
        path.rename(path.with_name(name))
        files.sync(path.parent)
    return name


def restore_files(workdir: Path, *, say: Say = progress.to_stderr) -> None:
    """Restores the config and the classes of a run from its newest checkpoint where they are damaged or missing.

    What was there is kept beside them. It changes nothing where no checkpoint has a copy. Raises AlexNetError.
    """
    for name, load in ((configs.SAVED_AS, configs.load), (configs.CLASSES, configs.load_classes)):
        path = workdir / name
        step, text = _copy(workdir, name)
        try:
            found = load(workdir)
            if text is None or name != configs.CLASSES or not _lacks_classes(tuple(found), text):
                continue
        except AlexNetError as error:
            if text is None or isinstance(error.__cause__, PermissionError):
                continue
            if path.is_file() and path.read_bytes() == text.encode(errors="surrogateescape"):
                continue  # the copy is damaged, too
        what, kept = "missing", ""
        if os.path.lexists(path):
            aside = _quarantine(path, f"{path.stem}.damaged{path.suffix}")
            what, kept = "damaged", f"; what was there is kept as {aside}"
        files.write_text(path, text)
        say(f"{path} was {what} and is restored from the copy in checkpoint {step:,}{kept}")


def _lacks_classes(names: tuple[str, ...], copy: str) -> bool:
    """Whether a list of classes is one that was cut; other names for as many classes are a person's own."""
    whole = tuple(copy.splitlines())
    return len(names) < len(whole) or (names[:-1] == whole[:-1] and whole[-1].startswith(names[-1]) and names != whole)


def _copy(workdir: Path, name: str) -> tuple[int, str | None]:
    """(the step, the text) of the newest copy of a run's file, (0, None) without one."""
    for step in reversed(steps(workdir)):
        try:
            written = _read(workdir / FOLDER / str(step))
        except (OSError, ValueError):
            continue
        if written and name in written["run"]:
            return step, written["run"][name]
    return 0, None
