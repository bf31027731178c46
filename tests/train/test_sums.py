"""Checkpoints that notice: whatever is changed, cut, lost or added is named, and the one before is used."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from alexnet_jax import config as configs
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import checksums as sums
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


def _newest(workdir: Path, *, set_aside: bool = False) -> tuple[int | None, list[str]]:
    said: list[str] = []
    return sums.newest_whole(workdir, set_aside=set_aside, say=said.append), said


def _restored(workdir: Path, step: int) -> jax.Array:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {"params": jax.ShapeDtypeStruct((40, 50), jnp.float32, sharding=device)}
    return Checkpoints(workdir, read_only=True).restore(step, target)["params"]


def test_what_was_saved_is_whole_and_restored_as_it_was(run: Path) -> None:
    assert _newest(run) == (2, [])
    assert "sums.json" in _parts(run / "checkpoints" / "2")
    written = json.loads((run / "checkpoints" / "2" / "sums.json").read_text())
    assert sorted([*written["files"], "sums.json"]) == _parts(run / "checkpoints" / "2")
    for step in (1, 2):
        assert np.array_equal(_restored(run, step), _state(step)["params"])


def test_400_bytes_changed_in_all_files_are_400_noticed(damaged: Path) -> None:
    """At random places of every file, each time one bit or all of them: no one of them is restored from."""
    rng = random.Random(0)
    folder = damaged / "checkpoints" / "2"
    parts = _parts(folder)
    assert len(parts) > 10
    for i in range(400):
        path = folder / parts[i % len(parts)]
        data = path.read_bytes()
        place = rng.randrange(len(data))
        other = data[place] ^ (rng.choice([1, 255]) if i % 2 else rng.randrange(1, 256))
        path.write_bytes(data[:place] + bytes([other]) + data[place + 1 :])
        step, said = _newest(damaged)
        assert step == 1, (path, place)
        assert f"{parts[i % len(parts)]} is changed; step 1 is used instead" in said[0]
        with pytest.raises(AlexNetError, match=r"checkpoints/2 is damaged: .* is changed: use another one"):
            _restored(damaged, 2)
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


@pytest.mark.parametrize("change", [_cut, lambda path: path.write_bytes(b""), Path.unlink, _folder, _link, _pipe],
                         ids=["cut", "emptied", "removed", "a folder", "a link", "a pipe"])  # fmt: skip
def test_whatever_happens_to_any_file_is_noticed(change: Callable[[Path], None], damaged: Path) -> None:
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


def _all_empty(folder: Path) -> None:
    for part in _parts(folder):
        (folder / part).write_bytes(b"")


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("2")


def _without_sums(folder: Path) -> None:
    (folder / sums.SUMS).unlink()


FOLDERS = {
    "default/d/0123 does not belong to it": _added,
    "it is empty": _emptied,
    "sums.json is changed": _all_empty,
    "it is not a folder": _a_file,
    "sums.json is missing": _without_sums,
    "_CHECKPOINT_METADATA is missing": lambda folder: [(folder / part).unlink() for part in _parts(folder)[:2]],
}


@pytest.mark.parametrize("said", FOLDERS)
def test_a_damaged_checkpoint_is_set_aside_and_orbax_goes_on_with_the_one_before(said: str, damaged: Path) -> None:
    folder = damaged / "checkpoints"
    if said.startswith("_CHECK"):
        _without_sums(folder / "2")
    FOLDERS[said](folder / "2")
    assert _newest(damaged, set_aside=True) == (
        1, [f"checkpoint {folder / '2'} is damaged: {said}; set aside as 2.damaged, and step 1 is used instead"]
    )  # fmt: skip
    assert sorted(os.listdir(folder)) == ["1", "2.damaged"]
    assert _newest(damaged, set_aside=True) == (1, [])
    checkpoints = Checkpoints(damaged, keep=2)
    checkpoints.save(2, _state(3))
    checkpoints.close()
    assert np.array_equal(_restored(damaged, 2), _state(3)["params"])
    shutil.rmtree(folder / "2" / "default")
    assert "set aside as 2.damaged-2, and step 1 is used" in _newest(damaged, set_aside=True)[1][0]
    assert sorted(os.listdir(folder)) == ["1", "2.damaged", "2.damaged-2"]
    assert ocp.CheckpointManager(folder).all_steps() == [1]


def test_where_none_is_whole_nothing_is_touched_and_no_run_starts_anew(damaged: Path) -> None:
    folder = damaged / "checkpoints"
    for step in (1, 2):
        _added(folder / str(step))
    with pytest.raises(AlexNetError) as error:
        _newest(damaged, set_aside=True)
    assert str(error.value) == (
        f"No checkpoint in {folder} is whole: 2 is damaged (default/d/0123 does not belong to it), 1 is damaged "
        "(default/d/0123 does not belong to it): restore one from a copy, or use another workdir to start anew."
    )
    assert sorted(os.listdir(folder)) == ["1", "2"]
    for step in (1, 2):
        (folder / str(step)).rename(folder / f"{step}.damaged")
    with pytest.raises(AlexNetError, match=r"is whole: 1\.damaged was set aside, 2\.damaged was set aside: restore"):
        _newest(damaged, set_aside=True)
    shutil.rmtree(folder)
    assert _newest(damaged, set_aside=True) == (None, [])


def test_an_older_one_that_is_damaged_is_set_aside_before_orbax_reads_its_metrics(damaged: Path) -> None:
    (damaged / "checkpoints" / "1" / "metrics" / "metrics").write_text("{")
    step, said = _newest(damaged, set_aside=True)
    assert step == 2
    assert "checkpoints/1 is damaged: metrics/metrics is changed; set aside as 1.damaged" in said[0]
    Checkpoints(damaged).close()


def test_one_of_an_older_version_is_read_with_a_warning(damaged: Path) -> None:
    folder = damaged / "checkpoints" / "2"
    (folder / sums.SUMS).unlink()
    metadata = json.loads((folder / "_CHECKPOINT_METADATA").read_text())
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(metadata | {"custom_metadata": {}}))
    step, said = _newest(damaged, set_aside=True)
    assert (step, len(said)) == (2, 1)
    assert "has no sums, as in older versions" in said[0]
    assert np.array_equal(_restored(damaged, 2), _state(2)["params"])
    (folder / "default" / "manifest.ocdbt").write_bytes(b"")
    assert "default/manifest.ocdbt is empty" in _newest(damaged, set_aside=True)[1][0]


def test_what_is_unfinished_after_a_kill_is_no_checkpoint_and_is_removed(damaged: Path) -> None:
    """Killed before Orbax finished, and between that and the sums."""
    folder = damaged / "checkpoints"
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp-summing")
    shutil.copytree(folder / "1", folder / "3.orbax-checkpoint-tmp-summing.orbax-checkpoint-tmp")
    assert _newest(damaged, set_aside=True) == (1, [])
    checkpoints = Checkpoints(damaged, keep=2)
    checkpoints.save(2, _state(2))
    checkpoints.close()
    assert sorted(os.listdir(folder)) == ["1", "2"]
    assert _newest(damaged) == (2, [])


def test_it_is_verified_before_it_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums of a checkpoint are there when its name is, and a failure to write them is told as that of a save."""
    write, seen = sums.write, list[list[str]]()

    def watched(folder: Path, workdir: Path) -> None:
        seen.append(os.listdir(tmp_path / "checkpoints"))
        write(folder, workdir)

    monkeypatch.setattr(sums, "write", watched)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, _state(1))
    checkpoints.close()
    assert seen == [["1.orbax-checkpoint-tmp-summing"]]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "sums.json")

    monkeypatch.setattr(sums, "write", full)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, _state(2))
    with pytest.raises(AlexNetError, match="No space left on device: make room, then start the same command again; "
                       "the last whole checkpoint is step 1"):  # fmt: skip
        checkpoints.close()
    assert _newest(tmp_path) == (1, [])


@pytest.mark.parametrize("which", ["2", "best"])
def test_one_that_is_named_and_damaged_ends_in_a_sentence(which: str, damaged: Path) -> None:
    _cut(damaged / "checkpoints" / "2" / "metrics" / "metrics")
    checkpoints, said = Checkpoints(damaged, read_only=True), list[str]()
    with pytest.raises(AlexNetError, match=r"checkpoints/2 is damaged: metrics/metrics is changed"):
        _restored(damaged, checkpoints.find(which))
    assert checkpoints.find("latest", say=said.append) == 1
    assert "; step 1 is used instead" in said[0]


def test_one_that_is_changed_while_it_is_read_is_told(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def restore(*_: object, **__: object) -> dict[str, None]:
        os.utime(damaged / "checkpoints" / "2" / "default" / "manifest.ocdbt")
        return {"params": None}

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", restore)
    with pytest.raises(AlexNetError, match=r"checkpoints/2 was changed or deleted while it was read: start again"):
        _restored(damaged, 2)


# ---------------------------------------------------------------- the files beside the checkpoints


@pytest.fixture
def mended(damaged: Path, small_config: ConfigDict) -> Iterator[Path]:
    """A run whose last checkpoint has copies of its config and classes, which are there again in the end."""
    configs.save(small_config, ("cat", "k\u00e4fer"), damaged)
    sums.write(damaged / "checkpoints" / "2", damaged)
    before = {name: (damaged / name).read_bytes() for name in (configs.SAVED_AS, configs.CLASSES)}
    yield damaged
    assert {name: (damaged / name).read_bytes() for name in before} == before
    assert _newest(damaged) == (2, [])


def _mend(workdir: Path) -> list[str]:
    said: list[str] = []
    sums.mend(workdir, say=said.append)
    return said


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


DAMAGES = {
    "missing": Path.unlink,
    "cut": _cut,
    "empty": _bytes(b""),
    "zeros": _bytes(b"\0" * 400),
    "not text": _bytes(b"\xff\xfe{"),
    "a folder": _folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [configs.SAVED_AS, configs.CLASSES])
def test_a_damaged_file_of_a_run_is_restored_from_its_copy_and_kept(name: str, damage: str, mended: Path) -> None:
    path = mended / name
    DAMAGES[damage](path)
    what, aside = ("missing" if damage == "missing" else "damaged"), f"{path.stem}.damaged{path.suffix}"
    kept = "" if damage == "missing" else f"; what was there is kept as {aside}"
    assert _mend(mended) == [f"{path} was {what} and is restored from the copy in checkpoint 2{kept}"]
    assert (mended / aside).exists() == (damage != "missing")
    assert _mend(mended) == []


def test_a_file_that_is_whole_or_has_no_copy_is_left_alone(damaged: Path, small_config: ConfigDict) -> None:
    small_config.train.learning_rate = 0.5
    names = tuple(f"our {name}" for name in configs.load_classes(damaged))
    configs.save(small_config, names, damaged)
    before = (damaged / configs.SAVED_AS).read_bytes()
    assert _mend(damaged) == []  # the checkpoint has other names for as many classes: a person's own
    assert configs.load_classes(damaged) == names
    (damaged / configs.SAVED_AS).write_bytes(before[:40])
    assert _mend(damaged) == []
    assert (damaged / configs.SAVED_AS).read_bytes() == before[:40]
