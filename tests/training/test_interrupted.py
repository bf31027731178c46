"""Ctrl-C in the middle of an evaluation: it is not waited for, and made when the run is resumed."""

import json
import signal
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from alexnet_jax.training import loop
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.signals import Interrupted, StopRequest


@pytest.mark.parametrize("at", [12, 24], ids=["at the end of an epoch", "at the end of the run"])
def test_an_evaluation_that_is_interrupted_is_made_when_the_run_is_resumed(
    at: int, small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: there)
    small_config.train.batch_size, small_config.train.steps, small_config.checkpoint.every_steps = 128, 24, 1000
    check, evaluations = StopRequest.check, [0]

    def interrupted(stop: StopRequest) -> None:
        evaluations[0] += 1
        if evaluations[0] == (2 if at == 12 else 7):  # in the second of five batches, of the first or second evaluation
            stop._ask(signal.SIGINT, None)
        check(stop)

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:  # noqa: PT012
        patch.setattr(StopRequest, "check", interrupted)
        loop.train(small_config, tmp_path, command="the same command", eval_command="")
    assert stopped.value.signal == signal.SIGINT
    assert f"saved at step {at} of 24; to resume: the same command" in (tmp_path / "train.log").read_text()
    assert Checkpoints(tmp_path, read_only=True).latest() == at
    assert [entry["step"] for entry in _evaluations(tmp_path)] == [12][: at // 12 - 1]
    loop.train(small_config, tmp_path, command="the same command", eval_command="")
    assert [entry["step"] for entry in _evaluations(tmp_path)] == [12, 24]


def _evaluations(workdir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in lines if "eval_top1" in entry]


def test_the_second_signal_is_that_of_the_program(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The first only asks; after the second the handler from before has it."""
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().out.count("saving after this step") == 1
    with pytest.raises(Interrupted):
        stop.check()
