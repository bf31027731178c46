"""Batches that are left out, and the run that leaves them out: a loss that is not finite need not be its end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import loop, skipped_batches as left_out
from alexnet_jax.train.skipped_batches import LeftOut


def test_what_comes_after_the_step_of_resuming_is_met_again(tmp_path: Path) -> None:
    assert left_out.read(tmp_path, 10**9) == ()
    left_out.add(tmp_path, after_step=10, batches=3)
    left_out.add(tmp_path, after_step=20, batches=2)
    assert left_out.read(tmp_path, 20) == (LeftOut(10, 3), LeftOut(20, 2))
    assert left_out.read(tmp_path, 19) == (LeftOut(10, 3),)
    left_out.add(tmp_path, after_step=10, batches=1)  # of a run that fell back before the second one
    assert left_out.read(tmp_path, 20) == (LeftOut(10, 3), LeftOut(10, 1))


@pytest.mark.parametrize("there", ["[1]", '{"after_step": 1}', '[{"after_step": "x", "batches": 2}]', "[{}]"])
def test_another_file_is_told(there: str, tmp_path: Path) -> None:
    (tmp_path / left_out.SAVED_AS).write_text(there)
    with pytest.raises(AlexNetError, match=r"left_out\.json"):
        left_out.read(tmp_path, 0)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], list[int]]:
    """`poisoned(numbers)`: these batches make the loss infinite; gives the numbers of all that were used."""
    there = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: there)
    used: list[int] = []
    batches = builder.TrainSetup.batches

    def poison(numbers: set[int]) -> list[int]:
        def counted(parts: builder.TrainSetup, number: int, say: Any) -> Any:
            for i, batch in enumerate(batches(parts, number, say), number):
                used.append(i)
                yield batch

        compiled = loop.Run._compile

        def _compile(run: loop.Run, state: Any, batch: Any) -> Any:
            step = compiled(run, state, batch)

            def poisoning(state: Any, batch: Any) -> Any:
                state, metrics = step(state, batch)
                if used[-1] in numbers:
                    metrics = metrics | {"loss": metrics["loss"] + np.float32(np.inf)}
                return state, metrics

            return poisoning

        monkeypatch.setattr(builder.TrainSetup, "batches", counted)
        monkeypatch.setattr(loop.Run, "_compile", _compile)
        return used

    return poison


def _train(config: ConfigDict, workdir: Path, **fields: Any) -> loop.Run:
    config = config.copy_and_resolve_references()
    steps = {"train.steps": 16, "checkpoint.every_steps": 4, "log.every_steps": 2}
    config.update_from_flattened_dict(steps | fields)
    return loop.train(config, workdir, command="the same command", eval_command="the evaluation")


def test_a_run_leaves_out_the_batches_since_its_last_checkpoint(
    small_config: ConfigDict, tmp_path: Path, poisoned: Callable[[set[int]], list[int]]
) -> None:
    """Batch 9 is met at step 10, after the checkpoint of step 8: 8 and 9 are left out, and 10 is the next one."""
    used = poisoned({9})
    _train(small_config, tmp_path, **{"train.rollbacks": 1})
    assert used == [*range(10), *range(10, 18)]
    assert json.loads((tmp_path / "left_out.json").read_text()) == [{"after_step": 8, "batches": 2}]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10, 12, 14, 16, 16]
    assert "left out 2 batches after step 8" in (tmp_path / "train.log").read_text()


def test_it_does_so_as_often_as_it_may(
    small_config: ConfigDict, tmp_path: Path, poisoned: Callable[[set[int]], list[int]]
) -> None:
    poisoned({5, 8})
    with pytest.raises(AlexNetError, match=r"The loss is inf at step 7 .* the checkpoint of step 4 in .* is kept"):
        _train(small_config, tmp_path, **{"train.rollbacks": 1})
    assert len(json.loads((tmp_path / "left_out.json").read_text())) == 1


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(
    small_config: ConfigDict, tmp_path: Path, poisoned: Callable[[set[int]], list[int]]
) -> None:
    poisoned({2})
    with pytest.raises(AlexNetError, match="no checkpoint was written yet"):
        _train(small_config, tmp_path, **{"train.rollbacks": 3})
