"""The run as a person has it: stopped anywhere, resumed, evaluated, and told in words what is wrong."""

import io
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

from alexnet_jax import allowed, builder, config as configs
from alexnet_jax.builder import Plan
from alexnet_jax.cli import prepare
from alexnet_jax.data import sources
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import placement
from alexnet_jax.train import evaluation, loop
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.metrics import Report
from alexnet_jax.train.resume import Resume, resume
from alexnet_jax.train.signals import StopRequest
from tools import bench_input

ROOT = Path(__file__).resolve().parent.parent.parent
Devices = Callable[[int], None]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    """`devices(n)`: from now on there are n of them."""
    there = jax.devices()
    return lambda count: monkeypatch.setattr(jax, "devices", lambda: there[:count])


def _train(config: ConfigDict, workdir: Path, **fields: Any) -> loop.Run:
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({"log.every_steps": 2, "checkpoint.every_steps": 100} | fields)
    allowed.check(config)
    return loop.train(config, workdir, command="the same command", eval_command="the evaluation")


def _state(training: loop.Run, step: int) -> dict[str, np.ndarray]:
    """Every leaf of a checkpoint, keys as their bits."""
    return _state_of(training.parts, training.workdir, step)


def _state_of(opened: builder.TrainSetup, workdir: Path, step: int) -> dict[str, np.ndarray]:
    target = placement.on_mesh(opened.model, opened.shapes(), opened.mesh)
    state = Checkpoints(workdir, read_only=True).restore(step, target)
    leaves = jax.tree_util.tree_leaves_with_path(state.replace(key=jax.random.key_data(state.key)))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_going_on_is_the_run_that_never_stopped(small_config: ConfigDict, tmp_path: Path, devices: Devices) -> None:
    """12 steps at once and 5 + 7 end in the same parameters, momentum and key, to the bit."""
    devices(2)
    whole = _train(small_config, tmp_path / "whole", **{"train.steps": 12})
    _train(small_config, tmp_path / "parts", **{"train.steps": 5})
    parts = _train(small_config, tmp_path / "parts", **{"train.steps": 12})
    assert parts.first_step == 5
    left, right = _state(whole, 12), _state(parts, 12)
    assert left.keys() == right.keys()
    assert sum("velocity" in name for name in left) == 16
    for name, leaf in left.items():
        np.testing.assert_array_equal(leaf, right[name], err_msg=name)
    losses = [{e["step"]: e["loss"] for e in _lines(r.workdir) if "loss" in e} for r in (whole, parts)]
    assert losses[0].items() <= losses[1].items()


def test_the_plateau_goes_on_as_if_undisturbed(
    small_config: ConfigDict, tmp_path: Path, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after an evaluation was written down, or stopped right at one: every bit as without."""
    devices(1)
    small_config.train.schedule, small_config.train.drop_factor = "plateau", 3.0
    fields = {"train.batch_size": 128, "train.steps": 36, "checkpoint.every_steps": 5, "train.learning_rate": 1e-6}
    whole = _train(small_config, tmp_path / "whole", **fields)
    left = _state(whole, 36)
    assert sum("plateau" in name for name in left) == 5
    drops = next(leaf for name, leaf in left.items() if "drops" in name)
    assert drops > 0, "it never dropped: nothing is tested"

    evaluation = Report.evaluation

    def dies_before(self: Report, entry: dict[str, Any]) -> None:
        if entry["step"] == 24:
            raise KeyboardInterrupt
        evaluation(self, entry)

    def dies_after(self: Report, entry: dict[str, Any]) -> None:
        evaluation(self, entry)
        if entry["step"] == 24:
            raise KeyboardInterrupt

    for name, dying in (("before", dies_before), ("after", dies_after), ("at", None)):
        if dying is None:
            _train(small_config, tmp_path / name, **fields | {"train.steps": 24})
        else:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
                patch.setattr(Report, "evaluation", dying)
                _train(small_config, tmp_path / name, **fields)
        right = _state(_train(small_config, tmp_path / name, **fields), 36)
        for leaf_name, leaf in left.items():
            np.testing.assert_array_equal(leaf, right[leaf_name], err_msg=f"{name}: {leaf_name}")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4), (1, 2), (4, 2)])
def test_a_run_moves_between_machines(
    before: int, after: int, small_config: ConfigDict, tmp_path: Path, devices: Devices
) -> None:
    """Saved on some devices, it goes on and evaluates on others, with the numbers it would have had."""
    devices(before)
    _train(small_config, tmp_path, **{"train.steps": 3})
    devices(after)
    moved = _train(small_config, tmp_path, **{"train.steps": 6})
    devices(before)
    stayed = _train(small_config, tmp_path / "stayed", **{"train.steps": 6})
    left, right = _state(stayed, 6), _state(moved, 6)
    for name, leaf in left.items():
        np.testing.assert_allclose(right[name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)
    trained = [entry for entry in _lines(tmp_path) if "eval_top1" in entry]
    for count in (before, after):
        devices(count)
        entry = evaluation.evaluate_checkpoint(tmp_path, which="6")
        assert entry["eval_images"] == 299
        assert entry["eval_loss"] == pytest.approx(trained[-1]["eval_loss"], rel=1e-5)


def _evaluates_right(entry: dict[str, Any]) -> bool:
    return {"step", "eval_top1", "eval_top5", "eval_loss", "eval_images"} <= entry.keys()


def test_what_a_run_leaves_behind(small_config: ConfigDict, tmp_path: Path, devices: Devices) -> None:
    """Config, start, log, metrics with an evaluation at each epoch's end, and the best checkpoint kept."""
    devices(1)
    training = _train(
        small_config, tmp_path, **{"train.batch_size": 100, "train.epochs": 2, "checkpoint.every_steps": 4}
    )
    assert training.parts.plan.steps == 30  # ceil(2 * 1498 / 100)
    assert configs.differences(configs.load(tmp_path), training.parts.config) == []
    start = json.loads((tmp_path / "starts.jsonl").read_text())
    assert start["packages"]["jax"] == jax.__version__
    assert len(start["devices"]) == 1
    lines = _lines(tmp_path)
    evaluations = [entry for entry in lines if "eval_top1" in entry]
    assert [entry["step"] for entry in evaluations] == [15, 30]
    assert all(_evaluates_right(entry) for entry in evaluations)
    assert {"loss", "top1", "top5", "learning_rate", "images_per_second"} <= lines[0].keys()
    kept = {int(folder.name) for folder in (tmp_path / "checkpoints").iterdir()}
    best = max(evaluations, key=lambda entry: (entry["eval_top1"], entry["step"]))["step"]
    assert kept == {28, 30, best}
    assert Checkpoints(tmp_path).find("best") == best
    assert list((tmp_path / "tensorboard").iterdir())
    assert "done: top-1" in (tmp_path / "train.log").read_text().splitlines()[-1]


def test_a_loss_that_is_not_finite_stops_the_run(small_config: ConfigDict, tmp_path: Path, devices: Devices) -> None:
    """The steps are named, and the last good checkpoint is the one that stays."""
    devices(1)
    _train(small_config, tmp_path, **{"train.steps": 3})
    with pytest.raises(
        AlexNetError, match=r"(at step \d+|no longer finite).*steps \d+ to \d+.*checkpoint of step 3"
    ) as error:
        _train(small_config, tmp_path, **{"train.steps": 9, "train.learning_rate": 1e30, "checkpoint.every_steps": 1})
    assert "learning_rate" in str(error.value)
    assert Checkpoints(tmp_path).latest() == 3


@pytest.mark.parametrize(
    "field",
    ["train.seed", "train.batch_size", "model.dropout.rate", "model.conv2.post_ops", "data.flip", "data.random_crop"],
)
def test_a_run_does_not_go_on_as_another(field: str, small_config: ConfigDict, tmp_path: Path) -> None:
    other = {
        "train.seed": 5,
        "train.batch_size": 4,
        "model.dropout.rate": 0.25,
        "model.conv2.post_ops": "relu pool",
        "data.flip": True,
        "data.random_crop": False,
    }
    plan, now = Plan(images=1498, batch_size=8, steps=9, eval_every_epochs=1), ConfigDict(small_config.to_dict())
    there: dict[str, Any] = {"latest": 1, "plan": plan, "workdir": tmp_path}
    assert resume(now, small_config, **there) == Resume(1, is_new=False)
    assert resume(now, None, latest=None, plan=plan, workdir=tmp_path) == Resume(0, is_new=True)
    now.update_from_flattened_dict({field: other[field]})
    with pytest.raises(AlexNetError, match=rf"config\.{field}=.* another workdir"):
        resume(now, small_config, **there)


def test_a_run_is_resumed_under_other_values_of_the_rest_and_says_which(
    small_config: ConfigDict, tmp_path: Path
) -> None:
    plan, now = Plan(images=1498, batch_size=8, steps=9, eval_every_epochs=1), ConfigDict(small_config.to_dict())
    now.train.learning_rate = 0.5
    found = resume(now, small_config, latest=9, plan=plan, workdir=tmp_path)
    assert found.first_step == 9
    assert found.changed == ("changed  config.train.learning_rate: 0.003 so far, 0.5 from now on",)
    with pytest.raises(AlexNetError, match="at step 10, past the 9 asked for"):
        resume(now, small_config, latest=10, plan=plan, workdir=tmp_path)


def test_evaluation_without_a_checkpoint_or_of_another_network(
    small_config: ConfigDict, tmp_path: Path, devices: Devices
) -> None:
    devices(1)
    with pytest.raises(AlexNetError, match="no run"):
        evaluation.evaluate_checkpoint(tmp_path, which="latest")
    configs.save(small_config, tuple("0123456789"), tmp_path)
    with pytest.raises(AlexNetError, match="no checkpoint"):
        evaluation.evaluate_checkpoint(tmp_path, which="latest")
    _train(small_config, tmp_path, **{"train.steps": 1})
    with pytest.raises(AlexNetError, match="use latest, best or one of 1"):
        evaluation.evaluate_checkpoint(tmp_path, which="7")
    with pytest.raises(AlexNetError, match=r"another network: its params/conv4/bias is \(2, 5\)"):
        evaluation.evaluate_checkpoint(tmp_path, which="latest", overrides=("model.conv4.features=6",))


# ---------------------------------------------------------------- data on its way through a run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A prepared data set of three classes, 24 + 6 pictures, under tmp_path/data; the folder of its files."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for class_name in ("cat", "dog", "emu"):
            folder = tmp_path / "originals" / split / class_name
            folder.mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(folder / f"{i}.jpg"), rng.integers(0, 256, (80, 90, 3), np.uint8))
    prepare.main(["folder", f"--from={tmp_path / 'originals'}", "--name=pets", f"--data_dir={tmp_path / 'data'}"])
    return tmp_path / "data" / "pets" / "1.0.0"


def _of_pictures(config: ConfigDict, pictures: Path) -> ConfigDict:
    config.data.name, config.data.data_dir = "pets", str(pictures.parents[1])
    config.data.eval_split, config.data.mean = "", ()
    return config


def test_a_prepared_folder_trains_with_its_own_means_and_class_names(
    small_config: ConfigDict, pictures: Path, tmp_path: Path, devices: Devices
) -> None:
    """The means of its statistics are saved with the run, its classes are in log and metrics, and it goes on."""
    devices(1)
    config = _of_pictures(small_config, pictures)
    _train(config, tmp_path / "run", **{"train.steps": 2})
    saved = configs.load(tmp_path / "run")
    assert saved.data.mean == tuple(json.loads((pictures / "statistics.json").read_text())["mean"])
    assert _train(config, tmp_path / "run", **{"train.steps": 3}).first_step == 2
    log = (tmp_path / "run" / "train.log").read_text()
    assert "data     pets: 24 images of train, 6 of validation for evaluation" in log
    assert "classes  3: cat, dog, emu" in log
    assert "waiting for data " in log
    lines = _lines(tmp_path / "run")
    assert all(0 <= entry["data_wait"] <= 1 for entry in lines if "loss" in entry)
    evaluated = [entry for entry in lines if "eval_top1" in entry]
    assert evaluated[-1]["eval_classes"].keys() == {"cat", "dog", "emu"}
    assert np.mean(list(evaluated[-1]["eval_classes"].values())) == pytest.approx(evaluated[-1]["eval_top1"])
    assert evaluation.evaluate_checkpoint(tmp_path / "run", which="latest")["eval_images"] == 6
    assert "by class, in percent" in (tmp_path / "run" / "train.log").read_text()


def test_a_checkpoint_and_a_data_set_of_other_classes_are_one_sentence(
    small_config: ConfigDict, pictures: Path, tmp_path: Path, devices: Devices
) -> None:
    devices(1)
    config = _of_pictures(small_config, pictures)
    _train(config, tmp_path / "run", **{"train.steps": 1})
    labels = pictures / "label.labels.txt"
    labels.write_text(labels.read_text().replace("emu", "yak"))
    message = "has 3 classes and the data set 3, and label 2 is emu in the run and yak in the data"
    with pytest.raises(AlexNetError, match=message):
        evaluation.evaluate_checkpoint(tmp_path / "run", which="latest")
    with pytest.raises(AlexNetError, match=message):
        _train(config, tmp_path / "run", **{"train.steps": 2})
    with pytest.raises(AlexNetError, match=r"has 3 classes and the data set 10, and label 0 is cat in the run and 0"):
        evaluation.evaluate_checkpoint(tmp_path / "run", which="latest", overrides=("data.name=digits",))


def test_a_data_set_without_statistics_is_answered_with_the_command_for_them(
    small_config: ConfigDict, pictures: Path, tmp_path: Path, devices: Devices
) -> None:
    devices(1)
    (pictures / "statistics.json").unlink()
    with pytest.raises(AlexNetError, match=r"pets has no statistics: .*prepare statistics pets"):
        _train(_of_pictures(small_config, pictures), tmp_path / "run", **{"train.steps": 1})


def test_bad_records_of_a_run_are_in_its_log_and_too_many_end_it(
    small_config: ConfigDict, pictures: Path, tmp_path: Path, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names of their files; the run ends as its undisturbed twin would, with as many images."""
    devices(1)
    config = _of_pictures(small_config, pictures)
    opened = sources._Examples.__getitem__

    def damaged(source: Any, i: int) -> dict[str, Any]:
        record = opened(source, i)
        return record | ({"image": record["image"][:500]} if record["key"] in ("cat/1.jpg", "emu/3.jpg") else {})

    monkeypatch.setattr(sources._Examples, "__getitem__", damaged)
    _train(config, tmp_path / "run", **{"train.steps": 6, "data.max_bad_records": 2})
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("cat/1.jpg does not decode (500 bytes") == 3  # train, and validation twice
    assert log.count("emu/3.jpg does not decode") == 1
    assert "on 6 images of pets validation" in log
    with pytest.raises(
        AlexNetError, match=r"train has more bad records than config\.data\.max_bad_records=1: .*; .*\.jpg does"
    ):
        _train(config, tmp_path / "other", **{"train.steps": 6, "data.max_bad_records": 1})


def test_bench_input_times_every_stage_and_says_what_binds(
    small_config: ConfigDict, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(1)
    monkeypatch.setattr(bench_input, "_SECONDS", 0.01)
    report = bench_input.bench_input(small_config)
    for stage in (
        "read",
        "decode",
        "crop",
        "batch",
        "all four, one thread",
        "the feed, ",
        "transfer",
        "the step, 1 cpu",
    ):
        assert f"\n{stage}" in report
    assert re.search(
        r"Of the feed's stages \w+ binds\. The step takes [\d,]+ images/s .* [\d.]+ core\(s\) can feed\.", report
    )
    assert "The run would " in report


@pytest.mark.parametrize(
    ("whole", "verdict"),
    [
        (500.0, "would be input-bound: the feed gives 50 % of that with 2 core(s). Give it 4 cores, or prepare"),
        (3000.0, "would not be input-bound: the feed gives 3.0 times that"),
    ],
)
def test_the_verdict_on_the_input(whole: float, verdict: str) -> None:
    cost = {"read": 50.0, "decode": 1500.0, "crop": 100.0, "batch": 20.0, "transfer": 1.0}
    assert verdict in " ".join(bench_input._verdict(cost, whole, 2, 1000.0))


# ---------------------------------------------------------------- the command line


def _command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), *arguments]


def _run_until(command: list[str], step: int, number: signal.Signals) -> tuple[int, str]:
    """Starts the command, sends the signal when it has said that `step` is done; (exit status, output)."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        said = ""
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if line.startswith(f"step {step}/"):
                process.send_signal(number)
        return process.wait(), said


def test_a_signal_in_the_middle_of_writing_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's buffers refuse a write within a write, so the answer to a signal may not use them."""

    class Interrupting(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, b: Any) -> int:
            if not StopRequest.asked():
                signal.raise_signal(signal.SIGTERM)
            return len(b)

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Interrupting())))
    with Report(tmp_path, main=True) as report, StopRequest():
        report.say("step 1")
        assert StopRequest.asked() == signal.SIGTERM
    assert "SIGTERM: saving after this step" in capfd.readouterr().err


def test_killed_anywhere_it_ends_as_if_undisturbed(
    small_flags: list[str], small_config: ConfigDict, tmp_path: Path, devices: Devices
) -> None:
    """kill -9 at three random moments, then SIGTERM, then the same command: the same run to the bit."""
    devices(1)  # as in the processes that are started here
    fields = ["--config.train.steps=80", "--config.checkpoint.every_steps=4", "--config.log.every_steps=1"]
    small_config.update_from_flattened_dict({"train.steps": 80, "checkpoint.every_steps": 4, "log.every_steps": 1})
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    calm = subprocess.run(
        _command(f"--workdir={undisturbed}", *small_flags, *fields), cwd=ROOT, capture_output=True, text=True
    )
    assert calm.returncode == 0, calm.stderr
    command = _command(f"--workdir={killed}", *small_flags, *fields)
    moments = sorted(random.sample(range(5, 31), 4))
    print("killed after steps", moments)
    for step, number in zip(moments, [signal.SIGKILL] * 3 + [signal.SIGTERM], strict=True):
        status, said = _run_until(command, step, number)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM), said
    assert "to resume:" in said
    assert "--config.train.steps=80" in said
    last = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert "resumed after step" in last.stdout
    left, right = (_state_of(builder.train_setup(small_config), workdir, 80) for workdir in (undisturbed, killed))
    for name, leaf in left.items():
        np.testing.assert_array_equal(leaf, right[name], err_msg=name)
    timeless = [[without_speed(entry) for entry in _lines(workdir)] for workdir in (undisturbed, killed)]
    assert timeless[0] == timeless[1]
    done = [re.findall(r"^done: ([^;]+)", run.stdout, re.MULTILINE) for run in (calm, last)]
    assert done[0] == done[1]
    assert len(done[0]) == 1
    assert (killed / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    "recipe", [["--config", "configs/alexnet.py:synthetic"], ["--config=configs/alexnet.py:synthetic"]]
)
def test_the_recipe_may_stand_anywhere_on_the_line(recipe: list[str], tmp_path: Path) -> None:
    """Behind the fields that are set in it too."""
    command = _command("--config.model.conv1.features=40", "--mode=summary", *recipe)
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "1000 classes (synthetic)" in ended.stdout
    assert "55x55x40" in ended.stdout
