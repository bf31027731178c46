"""Checkpoints: which are kept, their layout, and disks that are full, limited or gone."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import checksums
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


def test_last_and_best_checkpoints_are_kept(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 3, 4, 5, 6)
    assert checksums.steps(tmp_path) == [1, 5, 6]
    assert [checksums.damage(tmp_path / "checkpoints" / str(step)) for step in (1, 5, 6)] == [None] * 3
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert (checkpoints.find("best"), checkpoints.find("latest"), checkpoints.find("5")) == (1, 6, 5)
    assert (checkpoints.metrics(5), checkpoints.metrics(6)) == ({"eval_top1": 95.0}, None)
    again = Checkpoints(tmp_path, keep=2)
    again.drop(6)
    again.drop(7)
    again.close()
    assert checksums.steps(tmp_path) == [1, 5]
    with pytest.raises(AlexNetError, match=r"checkpoint=6 is not in .*: use latest, best or one of 1, 5\."):
        checkpoints.find("6")


def test_deleted_checkpoint_loses_its_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill leaves no half of one; it is deleted with the next save, at the end, or at the next start."""
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


def test_room_is_checked_before_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 1)
    free = [_BYTES - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free[0]))
    with pytest.raises(AlexNetError, match=r"takes 400,004 bytes and 400,003 are free: .*step 1\.$"):
        _save(tmp_path, 2)
    free[0] = _BYTES
    _save(tmp_path, 3)
    assert checksums.steps(tmp_path) == [1, 3]


def _save_fails(workdir: Path, before: str) -> str:
    """The error of a save in a process of its own, after the statement `before`: Orbax's threads die with it."""
    code = f"""
        import resource
        from pathlib import Path
        import jax
        from absl import logging
        from alexnet_jax.errors import AlexNetError
        from alexnet_jax.train.checkpoint import Checkpoints
        logging.set_verbosity(logging.FATAL)
        checkpoints = Checkpoints(Path({str(workdir)!r}))
        {before}
        try:
            checkpoints.save(2, {{"params": jax.random.normal(jax.random.key(2), (100, 1000))}})
            checkpoints.close()
        except AlexNetError as error:
            print(error)
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def test_limit_on_file_size_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    error = _save_fails(tmp_path, "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))")
    assert f"{tmp_path}/checkpoints cannot be written: File too large" in error
    assert "last whole checkpoint is of step 1" in error
    _save(tmp_path, 2)
    assert checksums.newest_whole(tmp_path, quarantine=False, say=pytest.fail) == 2


def test_vanished_folder_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(AlexNetError, match="No such file or directory"):
        checkpoints.save(1, _state(1))


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


def test_full_disk_keeps_the_last_checkpoint(small_disk: Path) -> None:
    _save(small_disk, 1)
    (small_disk / "other").write_bytes(b"\1" * (shutil.disk_usage(small_disk).free - 200_000))
    taken_meanwhile = "Checkpoints._check_room = lambda *_: None"
    assert f"{small_disk}/checkpoints cannot be written: No space left on device" in _save_fails(
        small_disk, taken_meanwhile
    )
    assert checksums.steps(small_disk) == [1]
    (small_disk / "other").unlink()
    _save(small_disk, 2, keep=1)
    assert checksums.newest_whole(small_disk, quarantine=True, say=pytest.fail) == 2


@pytest.mark.parametrize("kind", ["an error of the system", "behind another", "in its text", "a bug"])
def test_errors_of_the_disk_are_sentences_and_bugs_are_not(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax and TensorStore raise errors of several types."""
    number = errno.EDQUOT

    def fail(*_: object, **__: object) -> None:
        why = OSError(number, os.strerror(number))
        if kind == "an error of the system":
            raise why
        if kind == "behind another":
            raise RuntimeError("the commit failed\nin many lines") from why
        text = f'UNKNOWN: Error writing "a" [OS error {number}: {os.strerror(number)}]\n[source locations]'
        raise ValueError(text if kind == "in its text" else "a bug")

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(ValueError if kind == "a bug" else AlexNetError) as error:
        checkpoints.save(1, _state(1))
    assert kind == "a bug" or f"{tmp_path}/checkpoints cannot be written: {os.strerror(number)}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["a file", "read-only"])
def test_folder_that_cannot_be_made_is_named(what: str, tmp_path: Path) -> None:
    if what == "a file":
        (tmp_path / "checkpoints").write_text("")
        workdir, said = tmp_path, "Not a directory|File exists"
    else:
        workdir, said = Path("/proc"), "No such file or directory"
    with pytest.raises(AlexNetError, match=rf"{workdir}/checkpoints.* cannot be (read|written): ({said})"):
        _save(workdir, 1)


def test_restore_of_a_part_and_of_another_network(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"params": {"conv1": jnp.ones((3, 4))}, "momentum": jnp.zeros((3, 4))})
    checkpoints.close()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    target = {"params": {"conv1": jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=device)}}
    restored = checkpoints.restore(1, target)["params"]["conv1"]
    assert (np.asarray(restored) == 1).all()
    assert restored.sharding == device
    target["params"]["conv1"] = jax.ShapeDtypeStruct((3, 5), jnp.float32, sharding=device)
    with pytest.raises(AlexNetError, match=r"another network: its params/conv1 is \(3, 4\)"):
        checkpoints.restore(1, target)


def test_layout_is_that_of_version_0_2(small_config: ConfigDict, tmp_path: Path) -> None:
    """Names, shapes and dtypes of all arrays, so that a run that 0.2 began is resumed; in bfloat16 too."""
    small_config.precision = "bfloat16"
    small_config.model.conv3.post_ops, small_config.train.ema_decay = "batch_norm relu", 0.5
    setup = builder.train_setup(small_config)
    checkpoints = Checkpoints(tmp_path)
    state = jax.jit(setup.new_state)()
    checkpoints.save(0, state)
    checkpoints.close()
    handler = ocp.PyTreeCheckpointHandler()
    saved = jax.tree_util.tree_leaves_with_path(handler.metadata(tmp_path / "checkpoints" / "0" / "default").tree)
    handler.close()
    found = {"/".join(str(key.key) for key in path): (leaf.shape, str(leaf.dtype)) for path, leaf in saved}
    scalars = dict.fromkeys(("step", "opt_state/updates"), ((), "int32"))
    scalars |= {f"opt_state/plateau/{name}": ((), "float32") for name in ("scale", "best")}
    scalars |= {f"opt_state/plateau/{name}": ((), "int32") for name in ("waited", "drops", "step")}
    wanted = scalars | {"key": found.get("key")}
    for layer, leaves in state.params.items():
        for name, leaf in leaves.items():
            for tree in ("params", "opt_state/velocity", "average/params"):
                wanted[f"{tree}/{layer}/{name}"] = (leaf.shape, "float32")
    for tree in ("statistics", "average/batch_stats"):
        for name in ("mean", "var"):
            wanted[f"{tree}/bn3/{name}"] = ((2, 5), "float32")
    assert found == wanted
