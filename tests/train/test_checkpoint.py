"""Checkpoints on disks that are full, limited or gone: one sentence, and the last whole one is kept."""

import collections
import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import checksums as sums
from alexnet_jax.train.checkpoint import Checkpoints

_BYTES = 400_004


def _state(step: int) -> dict[str, jax.Array]:
    """As many bytes as `_BYTES`, which do not compress."""
    return {"params": jax.random.normal(jax.random.key(step), (100, 1000)), "step": jnp.int32(step)}


def _save(workdir: Path, *steps: int, keep: int = 2) -> None:
    checkpoints = Checkpoints(workdir, keep=keep)
    for step in steps:
        checkpoints.save(step, _state(step), {"eval_top1": 100.0 - step} if step % 2 else None)
    checkpoints.close()


def test_the_last_ones_and_the_best_are_kept_with_their_sums(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 3, 4, 5, 6)
    assert sums.steps(tmp_path) == [1, 5, 6]
    assert [sums.problem(tmp_path / "checkpoints" / str(step)) for step in (1, 5, 6)] == [None] * 3
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert (checkpoints.find("best"), checkpoints.find("latest"), checkpoints.find("5")) == (1, 6, 5)
    assert (checkpoints.metrics(5), checkpoints.metrics(6)) == ({"eval_top1": 95.0}, None)
    again = Checkpoints(tmp_path, keep=2)
    again.drop(6)
    again.drop(7)
    again.close()
    assert sums.steps(tmp_path) == [1, 5]
    with pytest.raises(AlexNetError, match=r"checkpoint=6 is not in .*: use latest, best or one of 1, 5\."):
        checkpoints.find("6")


def test_a_kill_while_old_ones_are_deleted_leaves_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lose their name before their files, and are deleted with the next save, at the end, or at the next start."""
    folder, deleted = tmp_path / "checkpoints", list[list[str]]()
    rmtree = shutil.rmtree

    def watched(path: Path, **options: bool) -> None:
        if Path(path).exists():
            assert Path(path) == folder / "deleted.orbax-checkpoint-tmp"
            deleted.append(os.listdir(path))
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    checkpoints = Checkpoints(tmp_path)
    for step in (2, 4, 6):
        checkpoints.save(step, _state(step))
    checkpoints.close()
    assert deleted == [["2"], ["4"]]
    assert os.listdir(folder) == ["6"]
    shutil.copytree(folder / "6", folder / "deleted.orbax-checkpoint-tmp" / "4")  # as a kill leaves it
    _save(tmp_path, 8)
    assert sorted(os.listdir(folder)) == ["6", "8"]


_Usage = collections.namedtuple("_Usage", "total used free")


def test_room_is_checked_before_a_save_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first takes at most the state's bytes, and the next what that one took."""
    free = [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(0, 0, free[0]))
    free[0] = _BYTES - 1
    with pytest.raises(AlexNetError) as error:
        _save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    assert str(error.value) == (
        f"There is no room for a checkpoint in {folder}: it takes 400,004 bytes and 400,003 are free: make room, then "
        "start the same command again."
    )
    free[0] = _BYTES
    _save(tmp_path, 1)
    took = sum(path.stat().st_size for path in (folder / "1").rglob("*") if path.is_file() and path.name != sums.SUMS)
    free[0] = took - 1
    with pytest.raises(AlexNetError, match=rf"it takes {took:,} bytes .*; the last whole checkpoint is step 1\.$"):
        _save(tmp_path, 2)
    assert os.listdir(folder) == ["1"]
    free[0] = took
    _save(tmp_path, 2)
    assert sums.steps(tmp_path) == [1, 2]


def _fails(workdir: Path, before: str) -> str:
    """What saving step 2 says in a process of its own that ran the lines `before` first; the screen must be clean."""
    code = f"""
        import resource, shutil
        from pathlib import Path
        import jax, jax.numpy as jnp
        from absl import logging
        from alexnet_jax.cli import app
        from alexnet_jax.errors import AlexNetError
        from alexnet_jax.train.checkpoint import Checkpoints
        workdir = Path({str(workdir)!r})
        logging.set_verbosity(logging.FATAL)
        try:
            with app._threads_held_back():
                state = {{"params": jax.random.normal(jax.random.key(2), (100, 1000)), "step": jnp.int32(2)}}
                checkpoints = Checkpoints(workdir)
                {before}
                checkpoints.save(2, state)
                checkpoints.close()
        except AlexNetError as error:
            print(error)
            raise SystemExit(1)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    return done.stdout


def test_a_limit_on_files_is_told_and_the_last_whole_one_is_kept(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    assert _fails(tmp_path, "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))") == (
        f"A checkpoint in {tmp_path}/checkpoints cannot be written: File too large: raise the limit on the size of "
        "files (ulimit -f), then start the same command again; the last whole checkpoint is step 1.\n"
    )
    _save(tmp_path, 2)
    assert sums.newest_whole(tmp_path, set_aside=False, say=pytest.fail) == 2


def test_a_folder_that_vanishes_is_told(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    assert "cannot be written: No such file or directory: see that its folder is there" in _fails(
        tmp_path, "shutil.rmtree(workdir)"
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("only root can make a small disk, and not in every container")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(small_disk: Path) -> None:
    _save(small_disk, 1)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "other").write_bytes(b"\1" * (free - 420_000))
    # What was free when it was looked at is taken meanwhile.
    take = '(workdir / "more").write_bytes(bytes(200_000)); Checkpoints._check_room = lambda *_: None'
    assert _fails(small_disk, take) == (
        f"A checkpoint in {small_disk}/checkpoints cannot be written: No space left on device: make room, then start "
        "the same command again; the last whole checkpoint is step 1.\n"
    )
    assert sums.steps(small_disk) == [1]
    (small_disk / "other").unlink()
    _save(small_disk, 2, keep=1)
    assert sums.newest_whole(small_disk, set_aside=True, say=pytest.fail) == 2


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        (errno.EDQUOT, "make room in your quota, then start"),
        (errno.EROFS, "make it writable, or name another place, then start"),
        (errno.ESTALE, "mount its disk again, then start"),
        (errno.EIO, "look after its disk, then start"),
        (errno.ENODATA, "start"),
    ],
)
@pytest.mark.parametrize("kind", ["an error of the system", "behind another", "in its text"])
def test_whatever_the_disk_says_is_one_sentence_with_what_to_do(
    kind: str, number: int, todo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax and TensorStore raise errors of several types."""

    def fail(*_: object, **__: object) -> None:
        why = OSError(number, os.strerror(number))
        if kind == "an error of the system":
            raise why
        if kind == "behind another":
            raise RuntimeError("the commit failed\nin many lines") from why
        raise ValueError(f'UNKNOWN: Error writing "a" [OS error {number}: {os.strerror(number)}]\n[source locations]')

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(AlexNetError) as error:
        checkpoints.save(1, _state(1))
    said = str(error.value)
    assert said.endswith(f": {todo} the same command again.")
    assert os.strerror(number) in said
    assert "\n" not in said


@pytest.mark.parametrize("what", ["a file", "read-only"])
def test_where_no_checkpoint_can_be_made_the_folder_is_named(what: str, tmp_path: Path) -> None:
    if what == "a file":
        (tmp_path / "checkpoints").write_text("")
        workdir, said = tmp_path, "Not a directory|File exists"
    else:
        workdir, said = Path("/proc"), "No such file or directory"
    with pytest.raises(AlexNetError, match=rf"{workdir}/checkpoints.* cannot be (read|written): ({said})"):
        _save(workdir, 1)


def test_it_is_restored_in_part_and_not_as_another_network(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"params": {"conv1": jnp.ones((3, 4))}, "momentum": jnp.zeros((3, 4))})
    checkpoints.close()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    target = {"params": {"conv1": jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=device)}}
    restored = checkpoints.restore(1, target)["params"]["conv1"]
    assert (np.asarray(restored) == 1).all()
    assert restored.sharding == device
    target["params"]["conv1"] = jax.ShapeDtypeStruct((3, 5), jnp.float32, sharding=device)
    with pytest.raises(AlexNetError, match=r"is of another network: its params/conv1 is \(3, 4\), and this one's is"):
        checkpoints.restore(1, target)
