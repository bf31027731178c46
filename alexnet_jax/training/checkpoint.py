"""Checkpoints: the train state, from any mesh to any mesh, and nothing lost by a kill."""

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from alexnet_jax import config as configs, files, parts
from alexnet_jax.errors import AlexNetError
from alexnet_jax.network import model as models, placement
from alexnet_jax.training.step import variables_of

BEST_BY = "eval_top1"


class Checkpoints:
    """The checkpoints of one run, in `workdir`/checkpoints/<step>, written in the background.

    A checkpoint is there whole or not at all: it is written under another name and renamed. The
    last `keep` are kept, and the best by top-1 of those that were evaluated when they were saved.
    """

    def __init__(self, workdir: Path, *, keep: int = 1, read_only: bool = False) -> None:
        self.folder = workdir.absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            best_fn=_top1,
            preservation_policy=AnyPreservationPolicy(
                [LatestN(keep), BestN(get_metric_fn=_top1, n=1, keep_checkpoints_without_metrics=False)]
            ),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
        )
        if read_only and not self.folder.is_dir():
            raise AlexNetError(f"There is no checkpoint in {workdir}: train first, or name another workdir.")
        with files.named(self.folder, "used"):
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=ocp.PyTreeCheckpointHandler()
            )

    def latest(self) -> int | None:
        """The step of the last whole checkpoint, None without one."""
        return self._manager.latest_step()

    def find(self, which: str) -> int:
        """`latest`, `best` or a step, as a step that is there. Raises AlexNetError when it is not."""
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise AlexNetError(f"There is no checkpoint in {self.folder}: train first, or name another workdir.")
        if which == "latest":
            return steps[-1]
        if which == "best":
            step = self._manager.best_step()
            if step is None or not self._manager.metrics(step):
                raise AlexNetError(f"No checkpoint in {self.folder} was evaluated yet: use checkpoint=latest.")
            return step
        if not (which.isascii() and which.isdigit()) or int(which) not in steps:
            raise AlexNetError(
                f"checkpoint={which} is not in {self.folder}: use latest, best or one of {', '.join(map(str, steps))}."
            )
        return int(which)

    def metrics(self, step: int) -> dict[str, Any] | None:
        """The evaluation that was saved with a checkpoint, None without one."""
        return self._manager.metrics(step)

    def save(self, step: int, state: Any, metrics: dict[str, Any] | None = None) -> None:
        """Starts to save; the state may be changed or donated when this returns. Raises AlexNetError."""
        with self._written():
            self._manager.save(step, args=ocp.args.PyTreeSave(state), metrics=metrics, force=True)

    def drop(self, step: int) -> None:
        """Deletes a checkpoint that turned out to be bad, if it is there."""
        with self._written():
            self._manager.wait_until_finished()
        if step in self._manager.all_steps():
            self._manager.delete(step)

    def restore(self, step: int, target: Any) -> Any:
        """The state of a checkpoint on the shardings of `target`, a tree of ShapeDtypeStructs.

        `target` may be a part of the state, such as its parameters alone. Raises AlexNetError when
        the checkpoint is of another network or damaged.
        """
        damaged = AlexNetError(
            f"The checkpoint {self.folder / str(step)} is damaged: use another one (checkpoint=STEP), or remove it."
        )
        try:
            saved = self._manager.item_metadata(step)
        except (OSError, ValueError, KeyError) as error:
            raise damaged from error
        if saved is None:
            raise damaged
        self._compare(step, saved, target)
        where = ocp.checkpoint_utils.construct_restore_args(target)
        arguments = ocp.args.PyTreeRestore(target, restore_args=where, partial_restore=True)
        try:
            return self._manager.restore(step, args=arguments)
        except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
            raise damaged from error

    def _compare(self, step: int, saved: Any, target: Any) -> None:
        theirs = {_path(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(saved)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(target):
            name = _path(path)
            if not name.startswith("params/"):
                continue  # the rest follows from them
            if theirs.get(name) != tuple(leaf.shape):
                raise AlexNetError(
                    f"The checkpoint {self.folder / str(step)} is of another network: its {name} is "
                    f"{theirs.get(name, 'missing')}, and this one's is {tuple(leaf.shape)}. Use the config it was "
                    "trained with, or another workdir."
                )

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster asked all processes to stop at this step (several processes only)."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for what is being written. Raises AlexNetError."""
        with self._written():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Orbax raises errors of several types, with the one of the system somewhere in their text."""
        try:
            yield
        except Exception as error:
            known = (os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES))
            why = next((text for text in known if text in str(error)), str(error).splitlines()[0][:200])
            raise AlexNetError(f"A checkpoint in {self.folder} cannot be written: {why}.") from error


def _top1(metrics: dict[str, Any]) -> float:
    return float(metrics[BEST_BY])


def _path(path: Any) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


# ---------------------------------------------------------------- a network that was trained


@dataclasses.dataclass(frozen=True)
class Restored:
    """The network of a workdir: its config, classes in label order, variables on a mesh, and the step they are from."""

    config: ConfigDict
    class_names: tuple[str, ...]
    model: models.AlexNet
    variables: dict[str, Any]
    step: int


def restore_network(
    workdir: Path, which: str = "latest", *, mesh: Mesh | None = None, overrides: Sequence[str] = ()
) -> Restored:
    """The network of checkpoint `which` (latest, best or a step) of `workdir`, on `mesh` or on all devices.

    Raises AlexNetError where there is none.
    """
    # The devices are those of here, not those of the training.
    config = configs.load(workdir, ("mesh.tower=0", *overrides))
    class_names = configs.load_classes(workdir)
    model = parts.network(config, len(class_names))
    mesh = mesh or parts.mesh(config)
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.find(which)
    names = {"params": "params", "batch_stats": "statistics"}
    shapes = placement.variables(model, config.data.crop_pixels)
    target = {names[name]: placement.on_mesh(model, tree, mesh) for name, tree in shapes.items()}
    saved = checkpoints.restore(step, target)
    checkpoints.close()
    return Restored(config, class_names, model, variables_of(saved["params"], saved.get("statistics")), step)
