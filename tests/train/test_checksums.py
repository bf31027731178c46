"""Checksums of checkpoints: whatever is changed, cut, lost or added is named, and the one before is used."""

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from alexnet_jax import config as configs
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import checksums
from alexnet_jax.train.checkpoint import Checkpoints


def _state(step: int) -> dict[str, jax.Array]:
    return {"params": jax.random.normal(jax.random.key(step), (40, 50)), "step": jnp.int32(step)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with the checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("run")
    (workdir / configs.CLASSES).write_text("cat\nkäfer\n", encoding="utf-8")
    checkpoints = Checkpoints(workdir, keep=2)
    for step in (1, 2):
        checkpoints.save(step, _state(step), {"eval_top1": 50.0 + step})
    checkpoints.close()
    return workdir


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def _parts(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _newest(workdir: Path, *, quarantine: bool = False) -> tuple[int | None, list[str]]:
    """The newest whole checkpoint, and the lines for people."""
    lines: list[str] = []
    return checksums.newest_whole(workdir, quarantine=quarantine, say=lines.append), lines


def _restored(workdir: Path, step: int) -> jax.Array:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {"params": jax.ShapeDtypeStruct((40, 50), jnp.float32, sharding=device)}
    return Checkpoints(workdir, read_only=True).restore(step, target)["params"]


def test_saved_checkpoint_is_whole(run: Path) -> None:
    assert _newest(run) == (2, [])
    assert "sums.json" in _parts(run / "checkpoints" / "2")
    written = json.loads((run / "checkpoints" / "2" / "sums.json").read_text())
    assert sorted([*written["files"], "sums.json"]) == _parts(run / "checkpoints" / "2")
    for step in (1, 2):
        assert np.array_equal(_restored(run, step), _state(step)["params"])


def test_any_changed_byte_is_noticed(damaged: Path) -> None:
    """At random places of every file, three times each, one bit or all of them."""
    rng = random.Random(0)
    folder = damaged / "checkpoints" / "2"
    parts = _parts(folder)
    assert len(parts) > 10
    for part in 3 * parts:
        path = folder / part
        data = path.read_bytes()
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ rng.choice([1, 255, rng.randrange(1, 256)])]) + data[at + 1 :])
        assert checksums.damage(folder) == f"{part} is changed", at
        path.write_bytes(data)
    assert _newest(damaged) == (2, [])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    """The same bytes, but elsewhere."""
    path.rename(other := path.parent.parent.parent.parent / f"elsewhere-{path.name}")
    path.symlink_to(other)


def _pipe(path: Path) -> None:
    """Whoever opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [_cut, Path.unlink, _folder, _link, _pipe])
def test_damage_to_any_file_is_noticed(change: Callable[[Path], None], damaged: Path) -> None:
    pristine = Path(shutil.copytree(damaged / "checkpoints" / "2", damaged / "pristine"))
    for part in _parts(pristine):
        change(damaged / "checkpoints" / "2" / part)
        step, said = _newest(damaged)
        assert (step, len(said)) == (1, 1), part
        assert Path(part).name in said[0]
        shutil.rmtree(damaged / "checkpoints" / "2")
        shutil.copytree(pristine, damaged / "checkpoints" / "2")


def _added(folder: Path) -> None:
    (folder / "default" / "d" / "0123").write_bytes(b"data")


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("2")


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("default/d/0123 does not belong to it", _added),
        ("_CHECKPOINT_METADATA cannot be read: No such file or directory", _emptied),
        ("it is not a folder", _a_file),
        ("sums.json is missing", lambda folder: (folder / checksums.SUMS).unlink()),
    ],
)
def test_damage_to_a_folder_is_noticed(said: str, change: Callable[[Path], None], damaged: Path) -> None:
    change(damaged / "checkpoints" / "2")
    assert checksums.damage(damaged / "checkpoints" / "2") == said


def test_damaged_checkpoint_is_quarantined(damaged: Path) -> None:
    """Orbax goes on with the one before, and may write the same step again."""
    folder = damaged / "checkpoints"
    _added(folder / "2")
    step, [line] = _newest(damaged, quarantine=True)
    assert step == 1
    assert f"{folder / '2'} is damaged: default/d/0123 does not belong to it; renamed to 2.damaged" in line
    assert sorted(os.listdir(folder)) == ["1", "2.damaged"]
    assert _newest(damaged, quarantine=True) == (1, [])
    with contextlib.closing(Checkpoints(damaged, keep=2)) as checkpoints:
        checkpoints.save(2, _state(3))
    assert np.array_equal(_restored(damaged, 2), _state(3)["params"])
    # An older one that Orbax would fail to read is quarantined too.
    (folder / "1" / "metrics" / "metrics").write_text("{")
    step, [line] = _newest(damaged, quarantine=True)
    assert step == 2
    assert "checkpoints/1 is damaged: metrics/metrics is changed; renamed to 1.damaged" in line
    shutil.copytree(folder / "2", folder / "1")
    shutil.rmtree(folder / "2" / "default")
    assert "renamed to 2.damaged-2" in _newest(damaged, quarantine=True)[1][0]
    assert sorted(os.listdir(folder)) == ["1", "1.damaged", "2.damaged", "2.damaged-2"]
    assert ocp.CheckpointManager(folder).all_steps() == [1]


def test_without_a_whole_checkpoint_nothing_is_touched(damaged: Path) -> None:
    folder = damaged / "checkpoints"
    for step in (1, 2):
        _added(folder / str(step))
    with pytest.raises(AlexNetError, match=r"No checkpoint .* 2 is damaged \(default/d/0123 .* 1 is damaged"):
        _newest(damaged, quarantine=True)
    assert sorted(os.listdir(folder)) == ["1", "2"]
    for step in (1, 2):
        (folder / str(step)).rename(folder / f"{step}.damaged")
    with pytest.raises(AlexNetError, match=r"1\.damaged .* 2\.damaged"):
        _newest(damaged, quarantine=True)
    shutil.rmtree(folder)
    assert _newest(damaged, quarantine=True) == (None, [])


def test_checkpoint_without_checksums_is_read_with_a_warning(damaged: Path) -> None:
    folder = damaged / "checkpoints" / "2"
    (folder / checksums.SUMS).unlink()
    metadata = json.loads((folder / "_CHECKPOINT_METADATA").read_text())
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(metadata | {"custom_metadata": {}}))
    step, said = _newest(damaged, quarantine=True)
    assert (step, len(said)) == (2, 1)
    assert "has no checksums" in said[0]
    assert np.array_equal(_restored(damaged, 2), _state(2)["params"])


def test_unfinished_checkpoint_is_removed(damaged: Path) -> None:
    """Killed before Orbax finished, and between that and the checksums."""
    folder = damaged / "checkpoints"
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp-summing")
    shutil.copytree(folder / "1", folder / "3.orbax-checkpoint-tmp-summing.orbax-checkpoint-tmp")
    assert _newest(damaged, quarantine=True) == (1, [])
    with contextlib.closing(Checkpoints(damaged, keep=2)) as checkpoints:
        checkpoints.save(2, _state(2))
    assert sorted(os.listdir(folder)) == ["1", "2"]
    assert _newest(damaged) == (2, [])


def test_checksums_are_written_before_the_checkpoint_is_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure to write them is one of the save."""
    write, seen = checksums.write, list[list[str]]()

    def watched(folder: Path, workdir: Path) -> None:
        seen.append(os.listdir(tmp_path / "checkpoints"))
        write(folder, workdir)

    monkeypatch.setattr(checksums, "write", watched)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, _state(1))
    checkpoints.close()
    assert seen == [["1.orbax-checkpoint-tmp-summing"]]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "sums.json")

    monkeypatch.setattr(checksums, "write", full)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, _state(2))
    with pytest.raises(AlexNetError, match=r"No space left on device.*last whole checkpoint is of step 1"):
        checkpoints.close()
    assert _newest(tmp_path) == (1, [])


@pytest.mark.parametrize("which", ["2", "best"])
def test_named_checkpoint_that_is_damaged_is_refused(which: str, damaged: Path) -> None:
    _cut(damaged / "checkpoints" / "2" / "metrics" / "metrics")
    checkpoints, said = Checkpoints(damaged, read_only=True), list[str]()
    with pytest.raises(AlexNetError, match=r"checkpoints/2 is damaged: metrics/metrics is changed"):
        _restored(damaged, checkpoints.find(which))
    assert checkpoints.find("latest", say=said.append) == 1
    assert "; step 1 is used instead" in said[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shutil.rmtree, "checkpoints/2 is damaged: it is not a folder"),
        (lambda folder: os.utime(folder / "default" / "manifest.ocdbt"), "was changed or deleted while it was read"),
    ],
    ids=["deleted", "changed"],
)
def test_checkpoint_changed_while_it_is_read_is_refused(
    change: Callable[[Path], None], said: str, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore(*_: object, **__: object) -> dict[str, None]:
        change(folder := damaged / "checkpoints" / "2")
        if not folder.exists():
            raise ValueError("NOT_FOUND")
        return {"params": None}

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", restore)
    with pytest.raises(AlexNetError, match=said):
        _restored(damaged, 2)


def _restore_files(workdir: Path) -> list[str]:
    lines: list[str] = []
    checksums.restore_files(workdir, say=lines.append)
    return lines


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        _cut,
        _folder,
        lambda path: path.write_bytes(bytes(400)),
        lambda path: path.write_bytes(b"\xff\xfe{"),  # no text
    ],
)
@pytest.mark.parametrize("name", [configs.SAVED_AS, configs.CLASSES])
def test_damaged_file_of_a_run_is_restored_from_its_copy(
    name: str, damage: Callable[[Path], None], damaged: Path, small_config: ConfigDict
) -> None:
    configs.save(small_config, ("cat", "k\u00e4fer"), damaged)
    checksums.write(damaged / "checkpoints" / "2", damaged)
    path, missing = damaged / name, damage is Path.unlink
    before, kept = path.read_bytes(), f"{path.stem}.damaged{path.suffix}"
    damage(path)
    [line] = _restore_files(damaged)
    assert f"{path} was {'missing' if missing else 'damaged'} and is restored" in line
    assert (damaged / kept).exists() == (kept in line) == (not missing)
    assert path.read_bytes() == before
    assert _restore_files(damaged) == []
    assert _newest(damaged) == (2, [])


def test_whole_file_or_one_without_copy_is_left_alone(damaged: Path, small_config: ConfigDict) -> None:
    small_config.train.learning_rate = 0.5
    names = tuple(f"our {name}" for name in configs.load_classes(damaged))
    configs.save(small_config, names, damaged)
    before = (damaged / configs.SAVED_AS).read_bytes()
    assert _restore_files(damaged) == []  # the checkpoint has other names for as many classes: a person's own
    assert configs.load_classes(damaged) == names
    (damaged / configs.SAVED_AS).write_bytes(before[:40])
    assert _restore_files(damaged) == []
    assert (damaged / configs.SAVED_AS).read_bytes() == before[:40]
