"""Evaluation over a split as a run and `--mode=eval` do it: with a bar, each kind of views compiled once."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import config as configs, parts
from alexnet_jax.allowed import check_batches
from alexnet_jax.data import feed
from alexnet_jax.evaluate import EvalStep, evaluate, make_eval_step
from alexnet_jax.network import model as models
from alexnet_jax.network.preprocess import Input, Views
from alexnet_jax.network.towers import DATA
from alexnet_jax.training.checkpoint import restore_network
from alexnet_jax.training.report import Report, describe_classes


def evaluator(
    config: ConfigDict, model: models.AlexNet, mesh: Mesh, split: feed.Split, inputs: Input, report: Report
) -> Callable[..., dict[str, Any]]:
    """`evaluate(variables, last=False)` over the whole of `split`; it calls `check` before each batch.

    The last evaluation of a run has all views, unless config.eval.views says "center"; the others have the center.
    """
    steps: dict[Views, EvalStep] = {}

    def run(variables: Any, *, last: bool = False, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
        views = parts.views(config)
        views = views if last and config.eval.views == "all" else views[:1]
        if views not in steps:
            steps[views] = make_eval_step(models.tower_program(model), mesh, inputs=inputs, views=views)
        batches = -(-len(split.source) // config.eval.batch_size)
        what = f"evaluating {len(views)} views" if len(views) > 1 else "evaluating"
        watched = report.watch(parts.eval_batches(config, split, mesh, report.warn), total=batches, what=what)
        entry = evaluate(steps[views], variables, _checked(watched, check), mesh, split.class_names)
        count = {"eval_views": len(views)} if len(views) > 1 else {}
        return entry | count | {"eval_split": f"{config.data.name} {split.name}"}

    return run


def _checked(batches: Iterator[feed.Batch], check: Callable[[], None]) -> Iterator[feed.Batch]:
    for batch in batches:
        check()
        yield batch


def evaluate_checkpoint(workdir: Path, *, which: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluates checkpoint `which` (latest, best or a step) of `workdir` on the devices that are there.

    The config is the one saved beside it, with `overrides` ("section.field=value") set in it. Raises AlexNetError
    where there is no such checkpoint, or one of another network.
    """
    config = configs.load(workdir, ("mesh.tower=0", *overrides))
    mesh = parts.mesh(config)
    check_batches(config, mesh.shape[DATA])
    net = restore_network(workdir, which, mesh=mesh, overrides=overrides)
    split = parts.open_split(config, config.data.eval_split)
    configs.check_classes(workdir, split.class_names)
    inputs = parts.inputs(config, folder=split.folder, workdir=workdir)
    with Report(workdir, main=jax.process_index() == 0) as report:
        run = evaluator(config, net.model, mesh, split, inputs, report)
        entry = {"step": net.step, **run(net.variables, last=True), "mode": "eval"}
        report.evaluation(entry)
        report.say(describe_classes(entry))
    return entry
