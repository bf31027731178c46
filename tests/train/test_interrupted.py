"""Ctrl-C in the middle of an evaluation: it is not waited for, and made when the run is resumed."""

import json
import signal
from pathlib import Path
from typing import NoReturn

import jax
import pytest
from ml_collections import ConfigDict

from alexnet_jax import ending
from alexnet_jax.train import loop
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.signals import Interrupted, StopRequest


@pytest.mark.parametrize("at", [12, 24], ids=["at the end of an epoch", "at the end of the run"])
def test_an_evaluation_that_is_interrupted_is_made_when_the_run_is_resumed(
    at: int, small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: there)
    small_config.train.batch_size, small_config.train.steps, small_config.checkpoint.every_steps = 128, 24, 1000
    asked = loop.Run._asked

    def interrupted(run: loop.Run, where: str) -> int:
        if where == f"batch 1 of the evaluation at step {at}":
            signal.raise_signal(signal.SIGINT)
        return asked(run, where)

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:  # noqa: PT012
        patch.setattr(loop.Run, "_asked", interrupted)
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_ends_the_process_and_says_what_is_saved(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The first only asks; the second does not wait for anything."""

    class Left(Exception):
        pass

    def leave(message: str = "", *, status: int) -> NoReturn:
        raise Left(status)

    monkeypatch.setattr(ending, "leave", leave)
    with StopRequest():
        signal.raise_signal(number)
        assert StopRequest.asked() == number
        with pytest.raises(Left, match=str(128 + number)):
            signal.raise_signal(number)
    assert capfd.readouterr().err.count("saving after this step") == 1
    assert StopRequest.asked() == 0


def test_a_signal_to_another_process_asks_too_and_is_not_counted_as_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "leave", pytest.fail)
    with StopRequest():
        StopRequest.ask(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert StopRequest.asked() == signal.SIGTERM
