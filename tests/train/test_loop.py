"""The run as a person has it: stopped anywhere, resumed, evaluated, and told what is wrong."""

import dataclasses
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest
from conftest import without_speed
from ml_collections import ConfigDict

from alexnet_jax import builder, config as configs, exits
from alexnet_jax.cli import prepare
from alexnet_jax.data import sources
from alexnet_jax.errors import AlexNetError
from alexnet_jax.evaluate import evaluate_checkpoint
from alexnet_jax.model import placement
from alexnet_jax.train import loop, speed
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.distributed import ProcessGroup
from alexnet_jax.train.metrics import MetricsWriter

ROOT = Path(__file__).resolve().parent.parent.parent
_FEW = {"train": 40, "test": 20}
Devices = Callable[[int], None]


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 digits to train on, which are five steps an epoch, and 20 to evaluate."""
    whole = {split: sources.open_split("digits", split, "") for split in ("train", "test")}
    few = {name: dataclasses.replace(whole[name], source=whole[name].source[:n]) for name, n in _FEW.items()}
    monkeypatch.setattr(sources, "_digits", lambda split: few[split])


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    """`devices(n)`: from now on there are n of them."""
    there = jax.devices()
    return lambda count: monkeypatch.setattr(jax, "devices", lambda: there[:count])


def _train(config: ConfigDict, workdir: Path, *, group: ProcessGroup | None = None, **fields: Any) -> loop.Run:
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({"log.every_steps": 2, "checkpoint.every_steps": 100} | fields)
    return loop.train(config, workdir, command="the same command", eval_command="the evaluation", group=group)


def _state(setup: builder.TrainSetup, workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every leaf of a checkpoint, keys as their bits."""
    target = placement.on_mesh(setup.model, setup.shapes(), setup.mesh)
    state = Checkpoints(workdir, read_only=True).restore(step, target)
    leaves = jax.tree_util.tree_leaves_with_path(state.replace(key=jax.random.key_data(state.key)))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _assert_same_state(setup: builder.TrainSetup, one: Path, other: Path, step: int) -> None:
    """To the bit."""
    left, right = _state(setup, one, step), _state(setup, other, step)
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        np.testing.assert_array_equal(leaf, right[name], err_msg=name)


def _lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _evaluations(workdir: Path) -> list[dict[str, Any]]:
    return [entry for entry in _lines(workdir) if "eval_top1" in entry]


@pytest.mark.usefixtures("few_digits")
def test_resume_equals_undisturbed_run(small_config: ConfigDict, tmp_path: Path, devices: Devices) -> None:
    """6 steps at once and 3 + 3 end in the same parameters, momentum, average and key, to the bit."""
    devices(2)
    c = small_config.train
    c.accumulate, c.ema_decay, c.lars, c.label_smoothing = 2, 0.5, 0.02, 0.1
    c.schedule, c.warmup_epochs, c.batch_size, c.learning_rate = "constant", 2, 32, 1.0
    whole = _train(small_config, tmp_path / "whole", **{"train.steps": 6})
    _train(small_config, tmp_path / "parts", **{"train.steps": 3})
    parts = _train(small_config, tmp_path / "parts", **{"train.steps": 6})
    assert parts.first_step == 3
    state = _state(whole.setup, whole.workdir, 6)
    assert [sum(part in name for name in state) for part in ("velocity", "average")] == [16, 16]
    _assert_same_state(whole.setup, whole.workdir, parts.workdir, 6)
    losses = [{e["step"]: e["loss"] for e in _lines(r.workdir) if "loss" in e} for r in (whole, parts)]
    assert losses[0].items() <= losses[1].items()
    last, again = (without_speed(_evaluations(run.workdir)[-1]) for run in (whole, parts))
    assert last == again
    assert last["eval_average_loss"] != last["eval_loss"]
    entry = evaluate_checkpoint(tmp_path / "whole", which="latest:average")
    assert entry["eval_loss"] == pytest.approx(last["eval_average_loss"], rel=1e-6)


@pytest.mark.usefixtures("few_digits")
def test_resume_at_an_evaluation_equals_undisturbed_run(
    small_config: ConfigDict, tmp_path: Path, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after an evaluation was written down, or stopped right at one: the plateau takes it once."""
    devices(1)
    small_config.train.schedule, small_config.train.drop_factor = "plateau", 3.0
    fields = {"train.steps": 12, "checkpoint.every_steps": 4, "train.learning_rate": 1e-6}
    whole = _train(small_config, tmp_path / "whole", **fields)  # it evaluates after 5, 10 and 12 steps
    drops = next(leaf for name, leaf in _state(whole.setup, whole.workdir, 12).items() if "drops" in name)
    assert drops > 0, "it never dropped: nothing is tested"
    evaluation = MetricsWriter.evaluation

    def dies_after(self: MetricsWriter, entry: dict[str, Any]) -> None:
        evaluation(self, entry)
        if entry["step"] == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(MetricsWriter, "evaluation", dies_after)
        _train(small_config, tmp_path / "after", **fields)
    _train(small_config, tmp_path / "at", **fields | {"train.steps": 10})
    for name in ("after", "at"):
        resumed = _train(small_config, tmp_path / name, **fields)
        _assert_same_state(whole.setup, whole.workdir, resumed.workdir, 12)


class _StoppedAt(ProcessGroup):
    """A process that is asked to stop when it looks for the n-th time: before each step, and each batch evaluated."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.calls_left = call

    def stop_requested(self) -> int:
        self.calls_left -= 1
        return 0 if self.calls_left else signal.SIGINT


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize(("call", "at"), [(7, 5), (17, 10)], ids=["epoch's end", "run's end"])
def test_stop_saves_and_resume_evaluates_first(
    call: int, at: int, small_config: ConfigDict, tmp_path: Path, devices: Devices
) -> None:
    """In the second batch of an evaluation, which is not waited for; there are five. An epoch has five steps."""
    devices(1)
    fields = {"eval.batch_size": 4, "train.steps": 10}
    with pytest.raises(exits.Stopped) as stopped:
        _train(small_config, tmp_path, group=_StoppedAt(call), **fields)
    assert stopped.value.signal == signal.SIGINT
    assert f"saved at step {at} of 10; to resume: the same command" in (tmp_path / "train.log").read_text()
    assert Checkpoints(tmp_path, read_only=True).latest() == at
    assert [entry["step"] for entry in _evaluations(tmp_path)] == ([5] if at == 10 else [])
    _train(small_config, tmp_path, **fields)
    assert [entry["step"] for entry in _evaluations(tmp_path)] == [5, 10]


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 4, marks=pytest.mark.slow)])
def test_resume_on_other_devices(
    before: int, after: int, small_config: ConfigDict, tmp_path: Path, devices: Devices
) -> None:
    """Saved on some devices, it continues and evaluates on others, with the numbers it would have had."""
    devices(before)
    _train(small_config, tmp_path, **{"train.steps": 3})
    devices(after)
    moved = _train(small_config, tmp_path, **{"train.steps": 6})
    devices(before)
    stayed = _train(small_config, tmp_path / "stayed", **{"train.steps": 6})
    left, right = (_state(run.setup, run.workdir, 6) for run in (stayed, moved))
    for name, leaf in left.items():
        np.testing.assert_allclose(right[name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)
    trained = _evaluations(tmp_path)[-1]
    for count in (before, after):
        devices(count)
        entry = evaluate_checkpoint(tmp_path, which="6")
        assert entry["eval_images"] == 299
        assert entry["eval_loss"] == pytest.approx(trained["eval_loss"], rel=1e-5)


@pytest.mark.slow
def test_resume_in_another_precision(small_config: ConfigDict, tmp_path: Path) -> None:
    """Trained in bfloat16, resumed in float32: nothing but a line says so."""
    _train(small_config, tmp_path, **{"precision": "bfloat16", "train.steps": 2})
    _train(small_config, tmp_path, **{"precision": "float32", "train.steps": 4})
    log = (tmp_path / "train.log").read_text()
    assert "config.precision: 'bfloat16' so far, 'float32' from now on" in log


def test_resume_refuses_another_run_and_names_changed_fields(small_config: ConfigDict, tmp_path: Path) -> None:
    """Which fields make another run is in the schema."""
    now = ConfigDict(small_config.to_dict())
    assert loop.check_resume(now, small_config, 9, 9, tmp_path) == []
    with pytest.raises(AlexNetError, match="at step 10, past the 9"):
        loop.check_resume(now, small_config, 10, 9, tmp_path)
    now.train.learning_rate, now.precision = 0.5, "bfloat16"  # whose checkpoints are those of float32
    assert sorted(loop.check_resume(now, small_config, 9, 9, tmp_path)) == [
        "changed  config.precision: 'float32' so far, 'bfloat16' from now on",
        "changed  config.train.learning_rate: 0.003 so far, 0.5 from now on",
    ]
    now.train.seed = 5
    with pytest.raises(AlexNetError, match=r"config\.train\.seed=0, not 5"):
        loop.check_resume(now, small_config, 9, 9, tmp_path)


@pytest.mark.usefixtures("few_digits")
def test_run_writes_config_start_metrics_and_keeps_the_best_checkpoint(
    small_config: ConfigDict, tmp_path: Path, devices: Devices
) -> None:
    devices(1)
    run = _train(small_config, tmp_path, **{"train.epochs": 2, "checkpoint.every_steps": 4})
    assert run.setup.plan.steps == 10
    assert configs.differences(configs.load(tmp_path), run.setup.config) == []
    start = json.loads((tmp_path / "starts.jsonl").read_text())
    assert start["packages"]["jax"] == jax.__version__
    assert len(start["devices"]) == 1
    evaluations = _evaluations(tmp_path)
    assert [entry["step"] for entry in evaluations] == [5, 10]
    assert {"eval_top5", "eval_loss", "eval_images"} <= evaluations[0].keys()
    entry = _lines(tmp_path)[0]
    assert {"loss", "top1", "top5", "learning_rate", "data_wait"} <= entry.keys()
    flops = speed.flops_per_image(run.setup.model, 67)
    assert entry["teraflops_per_second"] == pytest.approx(entry["images_per_second"] * flops / 1e12)
    assert entry["share_of_peak"] > 0
    assert 0.05 < entry["device_memory_gb"] < 100
    best = max(evaluations, key=lambda entry: (entry["eval_top1"], entry["step"]))["step"]
    assert {int(folder.name) for folder in (tmp_path / "checkpoints").iterdir()} == {8, 10, best}
    assert Checkpoints(tmp_path).find("best") == best
    assert list((tmp_path / "tensorboard").iterdir())
    log = (tmp_path / "train.log").read_text()
    assert " TFLOP/s, " in log
    assert " GB for a step, " in log
    assert "done: top-1" in log.splitlines()[-1]


def test_divergence_names_steps_and_keeps_the_last_good_checkpoint(
    small_config: ConfigDict, tmp_path: Path, devices: Devices
) -> None:
    devices(1)
    _train(small_config, tmp_path, **{"train.steps": 3})
    with pytest.raises(loop.Diverged, match=r"steps \d+ to \d+.*checkpoint of step 3.*learning_rate") as error:
        _train(small_config, tmp_path, **{"train.steps": 9, "train.learning_rate": 1e30, "checkpoint.every_steps": 1})
    assert error.value.good == Checkpoints(tmp_path).latest() == 3


def test_evaluation_without_a_run_or_checkpoint_is_refused(small_config: ConfigDict, tmp_path: Path) -> None:
    with pytest.raises(AlexNetError, match="no run"):
        evaluate_checkpoint(tmp_path, which="latest")
    configs.save(small_config, tuple("0123456789"), tmp_path)
    with pytest.raises(AlexNetError, match="no checkpoint"):
        evaluate_checkpoint(tmp_path, which="latest")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A prepared data set of three classes, 24 + 6 pictures, under tmp_path/data; the folder of its files."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for class_name in ("cat", "dog", "emu"):
            folder = tmp_path / "raw" / split / class_name
            folder.mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(folder / f"{i}.jpg"), rng.integers(0, 256, (80, 90, 3), np.uint8))
    prepare.main(["folder", f"--from={tmp_path / 'raw'}", "--name=pets", f"--data_dir={tmp_path / 'data'}"])
    return tmp_path / "data" / "pets" / "1.0.0"


@pytest.fixture
def pets(small_config: ConfigDict, pictures: Path, devices: Devices) -> ConfigDict:
    devices(1)
    small_config.data.name, small_config.data.data_dir = "pets", str(pictures.parents[1])
    small_config.data.eval_split, small_config.data.mean = "", ()
    return small_config


def test_prepared_folder_trains_with_its_own_mean_and_class_names(
    pets: ConfigDict, pictures: Path, tmp_path: Path
) -> None:
    """The mean of its statistics is saved with the run, its classes are in log and metrics; other ones are refused."""
    run = tmp_path / "run"
    _train(pets, run, **{"train.steps": 2})
    statistics = json.loads((pictures / "statistics.json").read_text())
    assert configs.load(run).data.mean == tuple(statistics["mean"])
    last = _evaluations(run)[-1]
    assert last["eval_classes"].keys() == {"cat", "dog", "emu"}
    assert np.mean(list(last["eval_classes"].values())) == pytest.approx(last["eval_top1"])
    assert evaluate_checkpoint(run, which="latest")["eval_images"] == 6
    log = (run / "train.log").read_text()
    assert "data     pets: 24 images of train, 6 of validation for evaluation" in log
    assert "classes  3: cat, dog, emu" in log
    assert "by class, in percent" in log
    labels = pictures / "label.labels.txt"
    labels.write_text(labels.read_text().replace("emu", "yak"))
    with pytest.raises(AlexNetError, match="label 2 is emu in the run and yak in the data"):
        evaluate_checkpoint(run, which="latest")
    with pytest.raises(AlexNetError, match="label 2 is emu"):
        _train(pets, run, **{"train.steps": 2})
    with pytest.raises(AlexNetError, match="3 classes and the data set 10"):
        evaluate_checkpoint(run, which="latest", overrides=("data.name=digits",))


def test_data_set_without_statistics_is_refused(pets: ConfigDict, pictures: Path, tmp_path: Path) -> None:
    (pictures / "statistics.json").unlink()
    with pytest.raises(AlexNetError, match="prepare statistics pets"):
        _train(pets, tmp_path / "run", **{"train.steps": 1})


def test_bad_records_are_logged_and_too_many_end_the_run(
    pets: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = sources._Examples.__getitem__

    def damaged(source: Any, i: int) -> dict[str, Any]:
        record = opened(source, i)
        return record | ({"image": record["image"][:500]} if record["key"] in ("cat/1.jpg", "emu/3.jpg") else {})

    monkeypatch.setattr(sources._Examples, "__getitem__", damaged)
    _train(pets, tmp_path / "run", **{"train.steps": 6, "data.max_bad_records": 2})
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("cat/1.jpg does not decode (500 bytes") == 3  # train, and validation twice
    assert log.count("emu/3.jpg does not decode") == 1
    assert _evaluations(tmp_path / "run")[-1]["eval_images"] == 6
    with pytest.raises(AlexNetError, match=r"config\.data\.max_bad_records=1: .*; .*\.jpg does"):
        _train(pets, tmp_path / "other", **{"train.steps": 6, "data.max_bad_records": 1})


def _command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), *arguments]


def _run_until(command: list[str], step: int, number: signal.Signals) -> tuple[int, str]:
    """Starts the command, sends the signal when it has printed `step`; (exit status, output)."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        output = ""
        assert process.stdout is not None
        for line in process.stdout:
            output += line
            if line.startswith(f"step {step}/"):
                process.send_signal(number)
        return process.wait(), output


def test_resume_after_kill_equals_undisturbed_run(
    small_flags: list[str], small_config: ConfigDict, tmp_path: Path, devices: Devices
) -> None:
    """kill -9 at a random step, then SIGTERM, then the same command: the same run to the bit."""
    devices(1)  # as in the processes that are started here
    fields = {"train.steps": 30, "checkpoint.every_steps": 4, "log.every_steps": 1}
    flags = [*small_flags, *(f"--config.{name}={value}" for name, value in fields.items())]
    small_config.update_from_flattened_dict(fields)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    calm = subprocess.run(_command(f"--workdir={undisturbed}", *flags), cwd=ROOT, capture_output=True, text=True)
    assert calm.returncode == 0, calm.stderr
    command, steps = _command(f"--workdir={killed}", *flags), sorted(random.sample(range(5, 20), 2))
    print("killed after steps", steps)
    for step, number in zip(steps, (signal.SIGKILL, signal.SIGTERM), strict=True):
        status, output = _run_until(command, step, number)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM), output
    assert "to resume:" in output
    assert "--config.train.steps=30" in output
    last = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert "resumed after step" in last.stdout
    _assert_same_state(builder.train_setup(small_config), undisturbed, killed, 30)
    timeless = [[without_speed(entry) for entry in _lines(workdir)] for workdir in (undisturbed, killed)]
    assert timeless[0] == timeless[1]
    done = [re.findall(r"^done: ([^;]+)", run.stdout, re.MULTILINE) for run in (calm, last)]
    assert done[0] == done[1]
    assert len(done[0]) == 1
    assert (killed / "report.html").stat().st_size > 100_000
