"""Batches that a run skips after a loss that is not finite."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from alexnet_jax import builder
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import loop, skipped_batches as skips
from alexnet_jax.train.skipped_batches import Skip


def test_skips_after_the_step_of_resuming_are_forgotten(tmp_path: Path) -> None:
    assert skips.read(tmp_path, 10**9) == ()
    skips.add(tmp_path, after_step=10, batches=3)
    skips.add(tmp_path, after_step=20, batches=2)
    assert skips.read(tmp_path, 20) == (Skip(10, 3), Skip(20, 2))
    assert skips.read(tmp_path, 19) == (Skip(10, 3),)
    skips.add(tmp_path, after_step=10, batches=1)  # of a run that fell back before the second one
    assert skips.read(tmp_path, 20) == (Skip(10, 3), Skip(10, 1))


@pytest.mark.parametrize("there", ["[1]", '{"after_step": 1}', '[{"after_step": "x", "batches": 2}]', "[{}]"])
def test_damaged_file_of_skips_is_named(there: str, tmp_path: Path) -> None:
    (tmp_path / skips.SAVED_AS).write_text(there)
    with pytest.raises(AlexNetError, match=r"left_out\.json"):
        skips.read(tmp_path, 0)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], list[int]]:
    """`poisoned(numbers)`: the loss of these batches is not a number; gives the numbers of all that were used."""
    there = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: there)
    used: list[int] = []
    batches = builder.TrainSetup.batches

    def poison(numbers: set[int]) -> list[int]:
        def counted(setup: builder.TrainSetup, number: int, say: Any) -> Any:
            for i, batch in enumerate(batches(setup, number, say), number):
                used.append(i)
                yield batch | {"label": batch["label"] + 99 * (i in numbers)}  # there are ten classes

        monkeypatch.setattr(builder.TrainSetup, "batches", counted)
        return used

    return poison


def _train(config: ConfigDict, workdir: Path, **fields: Any) -> loop.Run:
    config = config.copy_and_resolve_references()
    steps = {"train.steps": 8, "checkpoint.every_steps": 2, "log.every_steps": 1}
    config.update_from_flattened_dict(steps | fields)
    return loop.train(config, workdir, command="the same command", eval_command="the evaluation")


def test_rollback_skips_batches_since_the_last_checkpoint(
    small_config: ConfigDict, tmp_path: Path, poisoned: Callable[[set[int]], list[int]]
) -> None:
    """Batch 5 is used at step 6, after the checkpoint of step 4: 4 and 5 are skipped, and 6 is the next one."""
    used = poisoned({5})
    _train(small_config, tmp_path, **{"train.rollbacks": 1})
    assert used == list(range(10))
    assert json.loads((tmp_path / "left_out.json").read_text()) == [{"after_step": 4, "batches": 2}]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 9), 8]
    assert "2 batches after step 4" in (tmp_path / "train.log").read_text()


def test_rollbacks_are_bounded(
    small_config: ConfigDict, tmp_path: Path, poisoned: Callable[[set[int]], list[int]]
) -> None:
    poisoned({5, 8})
    with pytest.raises(AlexNetError, match=r"loss is nan at step 7 .* step 4"):
        _train(small_config, tmp_path, **{"train.rollbacks": 1})
    assert len(json.loads((tmp_path / "left_out.json").read_text())) == 1


def test_rollback_needs_a_checkpoint(
    small_config: ConfigDict, tmp_path: Path, poisoned: Callable[[set[int]], list[int]]
) -> None:
    poisoned({0})
    with pytest.raises(AlexNetError, match="no checkpoint"):
        _train(small_config, tmp_path, **{"train.rollbacks": 3})
