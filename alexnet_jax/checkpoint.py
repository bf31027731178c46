"""Checkpoints: the train state, from any mesh to any mesh, and nothing lost by a kill."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from alexnet_jax import AlexNetError

BEST_BY = "eval_top1"


class Checkpoints:
    """The checkpoints of one run, in `workdir`/checkpoints/<step>, written in the background.

    A checkpoint is there whole or not at all: it is written under another name and renamed. The
    last `keep` are kept, and the best by top-1 of those that were evaluated when they were saved.
    """

    def __init__(self, workdir: Path, *, keep: int = 1) -> None:
        self.folder = workdir.absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            best_fn=_top1,
            preservation_policy=AnyPreservationPolicy(
                [LatestN(keep), BestN(get_metric_fn=_top1, n=1, keep_checkpoints_without_metrics=False)]
            ),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=ocp.PyTreeCheckpointHandler())

    def latest(self) -> int | None:
        """The step of the last whole checkpoint, None without one."""
        return self._manager.latest_step()

    def find(self, which: str) -> int:
        """`latest`, `best` or a step, as a step that is there. Raises AlexNetError when it is not."""
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise AlexNetError(f"There is no checkpoint in {self.folder}: train first, or name another --workdir.")
        if which == "latest":
            return steps[-1]
        if which == "best":
            step = self._manager.best_step()
            if step is None or not self._manager.metrics(step):
                raise AlexNetError(f"No checkpoint in {self.folder} was evaluated yet: use --checkpoint=latest.")
            return step
        if not which.isdigit() or int(which) not in steps:
            raise AlexNetError(
                f"--checkpoint={which} is not in {self.folder}: "
                f"use latest, best or one of {', '.join(map(str, steps))}."
            )
        return int(which)

    def metrics(self, step: int) -> dict[str, Any] | None:
        """The evaluation that was saved with a checkpoint, None without one."""
        return self._manager.metrics(step)

    def save(self, step: int, state: Any, metrics: dict[str, Any] | None = None) -> None:
        """Starts to save; the state may be changed or donated when this returns."""
        self._manager.save(step, args=ocp.args.PyTreeSave(state), metrics=metrics, force=True)

    def drop(self, step: int) -> None:
        """Deletes a checkpoint that turned out to be bad, if it is there."""
        self._manager.wait_until_finished()
        if step in self._manager.all_steps():
            self._manager.delete(step)

    def restore(self, step: int, target: Any) -> Any:
        """The state of a checkpoint on the shardings of `target`, a tree of ShapeDtypeStructs.

        `target` may be a part of the state, such as its parameters alone. Raises AlexNetError when
        the checkpoint is of another network.
        """
        saved = self._manager.item_metadata(step)
        self._compare(step, saved, target)
        where = ocp.checkpoint_utils.construct_restore_args(target)
        return self._manager.restore(
            step, args=ocp.args.PyTreeRestore(target, restore_args=where, partial_restore=True)
        )

    def _compare(self, step: int, saved: Any, target: Any) -> None:
        theirs = {_path(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(saved)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(target):
            name = _path(path)
            if not name.startswith("params/"):
                continue  # the rest follows from them
            if theirs.get(name) != tuple(leaf.shape):
                raise AlexNetError(
                    f"The checkpoint {self.folder / str(step)} is of another network: its {name} is "
                    f"{theirs.get(name, 'missing')} where this one's is {tuple(leaf.shape)}. Use the config it was "
                    "trained with, or another --workdir."
                )

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster asked all processes to stop at this step (several processes only)."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _top1(metrics: dict[str, Any]) -> float:
    return float(metrics[BEST_BY])


def _path(path: Any) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
