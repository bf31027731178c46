"""Checkpoints: the train state, from any mesh to any mesh, and nothing lost by a kill."""

import asyncio
import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from alexnet_jax import builder, config as configs, files, progress
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement
from alexnet_jax.train import checksums
from alexnet_jax.train.step import variables_of


class Checkpoints:
    """The checkpoints of one run, in `workdir`/checkpoints/<step>, written in the background.

    A checkpoint is there whole or not at all: it is written under another name and renamed, together with checksums,
    by which later damage is noticed. The last `keep` are kept, and the best by top-1 of those that were evaluated when
    they were saved. `read_only` writes nothing.
    """

    def __init__(self, workdir: Path, *, keep: int = 1, read_only: bool = False) -> None:
        self.workdir, self.folder = workdir, workdir.absolute() / checksums.FOLDER
        if read_only:
            if not self.folder.is_dir():
                raise AlexNetError(f"There is no checkpoint in {workdir}: train first, or name another workdir.")
            return
        options = ocp.CheckpointManagerOptions(
            best_fn=_top1,
            preservation_policy=AnyPreservationPolicy(
                [LatestN(keep), BestN(get_metric_fn=_top1, n=1, keep_checkpoints_without_metrics=False)]
            ),
            cleanup_tmp_directories=True,
            temporary_path_class=_Unfinished,
            todelete_subdir=_DELETED,
        )
        self._purge()
        with self._written(), files.named(self.folder, "written"):
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=ocp.PyTreeCheckpointHandler()
            )

    def latest(self) -> int | None:
        """The step of the last checkpoint that was finished, None without one."""
        return max(checksums.steps(self.workdir), default=None)

    def find(self, which: str, *, say: checksums.Say = progress.to_stderr) -> int:
        """The step of `latest`, `best` or a step. `latest` is the newest whole one; what is damaged is named to `say`.

        Raises AlexNetError when there is none.
        """
        newest = checksums.newest_whole(self.workdir, quarantine=False, say=say) if which == "latest" else None
        if newest is not None:
            return newest
        there = checksums.steps(self.workdir)
        if not there:
            raise AlexNetError(f"There is no checkpoint in {self.folder}: train first, or name another workdir.")
        if which == "best":
            for step in there:  # one that lost its metrics may have been the best
                _verify(self.folder / str(step), quick=True)
            evaluated = [(_top1(metrics), step) for step in there if (metrics := self.metrics(step))]
            if not evaluated:
                raise AlexNetError(f"No checkpoint in {self.folder} was evaluated yet: use checkpoint=latest.")
            return max(evaluated)[1]
        if which not in map(str, there):
            listed = ", ".join(map(str, there))
            raise AlexNetError(f"checkpoint={which} is not in {self.folder}: use latest, best or one of {listed}.")
        return int(which)

    def metrics(self, step: int) -> dict[str, Any] | None:
        """The evaluation that was saved with a checkpoint, None without one. Raises AlexNetError."""
        path = self.folder / str(step) / "metrics" / "metrics"
        return files.read_json(path) if path.parent.exists() else None

    def save(self, step: int, state: Any, metrics: dict[str, Any] | None = None) -> None:
        """Starts to save; the state may be changed or donated when this returns. Raises AlexNetError."""
        with self._written():
            self._manager.wait_until_finished()
            self._purge()
            if jax.process_index() == 0:
                self._check_room(state)
            self._manager.save(
                step, args=ocp.args.PyTreeSave(state), metrics=metrics, force=True, custom_metadata=checksums.MARK
            )

    def _check_room(self, state: Any) -> None:
        """Raises AlexNetError where the next checkpoint will not fit: random numbers hardly compress."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if (free := shutil.disk_usage(self.folder).free) < needed:
            raise AlexNetError(
                f"There is no room for a checkpoint in {self.folder}: it takes {needed:,} bytes and {free:,} are free: "
                f"make room, then start the same command again; {self.last_saved()}."
            )

    def last_saved(self) -> str:
        """What is left where a run ends before its time, for the end of a sentence."""
        with contextlib.suppress(AlexNetError):
            if (last := self.latest()) is not None:
                return f"the last whole checkpoint is of step {last:,}"
        return "no checkpoint was written yet"

    def drop(self, step: int) -> None:
        """Deletes a checkpoint that turned out to be bad, if it is there."""
        with self._written():
            self._manager.wait_until_finished()
            if step in self._manager.all_steps():
                self._manager.delete(step)

    def restore(self, step: int, target: Any) -> Any:
        """The state of a checkpoint on the shardings of `target`, a tree of ShapeDtypeStructs; verified first.

        `target` may be a part of the state, such as its parameters alone. Raises AlexNetError when
        the checkpoint is of another network or damaged.
        """
        folder = self.folder / str(step)
        before = checksums.stamps(folder)
        if jax.process_index() == 0:  # where it raises, the other processes end too
            _verify(folder)
        handler, item = ocp.PyTreeCheckpointHandler(), folder / "default"
        try:
            _compare(folder, handler.metadata(item).tree, target)
            where = ocp.checkpoint_utils.construct_restore_args(target)
            read = ocp.args.PyTreeRestore(target, restore_args=where, partial_restore=True)
            restored = handler.restore(item, args=read)
        except (OSError, ValueError, KeyError) as error:
            _verify(folder, quick=True)  # it may be deleted meanwhile
            raise _damaged(folder, "Orbax cannot read it") from error
        finally:
            handler.close()
        if checksums.stamps(folder) != before:
            raise AlexNetError(f"The checkpoint {folder} was changed or deleted while it was read: start again.")
        return restored

    def close(self) -> None:
        """Waits for what is being written. Raises AlexNetError."""
        with self._written():
            self._manager.wait_until_finished()
            self._manager.close()
        self._purge()

    def _purge(self) -> None:
        """Deletes what Orbax only renamed: a kill in the middle leaves no half of a checkpoint under its name."""
        if jax.process_index() == 0:
            shutil.rmtree(self.folder / _DELETED, ignore_errors=True)

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Raises AlexNetError for an error of the system, which Orbax raises as several types; a bug stays as it is."""
        try:
            yield
        except AlexNetError:
            raise
        except Exception as error:
            if (number := _errno(error)) is None:
                raise
            todo = f"{files.REMEDIES[number]}, then start" if number in files.REMEDIES else "start"
            raise AlexNetError(
                f"A checkpoint in {self.folder} cannot be written: {os.strerror(number)}: {todo} the same command "
                f"again; {self.last_saved()}."
            ) from error


# Orbax takes these for unfinished checkpoints, and removes them after a kill.
_SUMMING, _DELETED = ".orbax-checkpoint-tmp-summing", "deleted.orbax-checkpoint-tmp"


class _Unfinished(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A checkpoint being written. Orbax renames what is finished: to a name of ours, so that a second rename, after
    the checksums were written, makes the checkpoint and its checksums visible at once.
    """  # fmt: skip

    @classmethod
    def from_final(cls, final_path: Any, **options: Any) -> "_Unfinished":
        hidden = final_path.with_name(final_path.name + _SUMMING) if final_path.name.isdigit() else final_path
        return super().from_final(hidden, **options)

    def get_final(self) -> Any:
        hidden = super().get_final()
        return hidden.with_name(hidden.name.removesuffix(_SUMMING))

    async def finalize(self) -> None:
        await super().finalize()
        hidden, final = Path(super().get_final()), Path(self.get_final())
        if hidden != final:
            await asyncio.to_thread(checksums.write, hidden, workdir=final.parent.parent)
            hidden.rename(final)
            files.sync(final.parent)


def _errno(error: BaseException) -> int | None:
    """The number of the error of the system that caused another, or that its text names; None without one."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.errno:
            return behind.errno
        behind = behind.__cause__ or behind.__context__
    return next((number for number in files.REMEDIES if os.strerror(number) in str(error)), None)


def _verify(folder: Path, *, quick: bool = False) -> None:
    """Raises AlexNetError where a checkpoint is not as it was written."""
    if damage := checksums.damage(folder, quick=quick):
        raise _damaged(folder, damage)


def _damaged(folder: Path, wrong: str) -> AlexNetError:
    return AlexNetError(
        f"The checkpoint {folder} is damaged: {wrong}: use another one (checkpoint=STEP), or remove it."
    )


def _compare(folder: Path, saved: Any, target: Any) -> None:
    """Raises AlexNetError where a saved tree does not have the parameters of `target`."""
    theirs, ours = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (saved, target))
    )
    for name, shape in ours.items():
        if name.startswith("params/") and theirs.get(name) != shape:  # the rest follows from them
            raise AlexNetError(
                f"The checkpoint {folder} is of another network: its {name} is "
                f"{theirs.get(name, 'missing')}, and this one's is {shape}. Use the config it was "
                "trained with, or another workdir."
            )


def _top1(metrics: dict[str, Any]) -> float:
    return float(metrics["eval_top1"])


@dataclasses.dataclass(frozen=True)
class Restored:
    """The network of a workdir: its config, classes in label order, variables on a mesh, and the step they are from.

    `average` is the moving average of the variables that was trained beside them, {} without one.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    model: models.AlexNet
    variables: dict[str, Any]
    step: int
    average: dict[str, Any]


def restore_network(
    workdir: Path,
    which: str = "latest",
    *,
    mesh: Mesh | None = None,
    overrides: Sequence[str] = (),
    say: checksums.Say = progress.to_stderr,
) -> Restored:
    """The network of checkpoint `which` (latest, best or a step) of `workdir`, on `mesh` or on all devices.

    With ":average" behind it, as in "best:average", the variables are the moving average of a run that had one.
    `latest` is the newest whole one; what is damaged, or was restored from a checkpoint, is named to `say`. Raises
    AlexNetError where there is none, or another one is damaged.
    """
    if jax.process_index() == 0:
        checksums.restore_files(workdir, say=say)
    # The devices are those of here, not those of the training.
    config = configs.load(workdir, ("mesh.tower=0", *overrides))
    class_names = configs.load_classes(workdir)
    model = builder.model(config, len(class_names))
    mesh = mesh or builder.mesh(config)
    checkpoints = Checkpoints(workdir, read_only=True)
    which, colon, part = which.partition(":")
    averaged = config.train.ema_decay > 0
    if colon and (part != "average" or not averaged):
        raise AlexNetError(
            f"checkpoint={which}:{part}: only :average may follow a checkpoint, and only one of a run with "
            "config.train.ema_decay."
        )
    found = checkpoints.find(which, say=say) if jax.process_index() == 0 else 0
    step = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
    names = {"params": "params", "batch_stats": "statistics"}
    shapes = placement.variables(model, config.data.crop_pixels)
    target = {names[name]: placement.on_mesh(model, tree, mesh) for name, tree in shapes.items()}
    target |= {"average": placement.on_mesh(model, shapes, mesh)} if averaged else {}
    saved = checkpoints.restore(step, target)
    variables, average = variables_of(saved["params"], saved.get("statistics")), saved.get("average", {})
    return Restored(config, class_names, model, average if part else variables, step, {} if part else average)
