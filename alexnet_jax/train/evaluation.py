"""Evaluation over a split as a run and `--mode=eval` do it: with a bar, each kind of views compiled once."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from alexnet_jax import builder, config as configs
from alexnet_jax.answers import Collector
from alexnet_jax.data import feed
from alexnet_jax.errors import AlexNetError
from alexnet_jax.evaluate import PerImage, evaluate, make_eval_step
from alexnet_jax.model import towers
from alexnet_jax.model.preprocess import Views
from alexnet_jax.train.checkpoint import restore_network
from alexnet_jax.train.metrics import Report, describe_classes
from alexnet_jax.train.distributed import ProcessGroup
from alexnet_jax.train.watchdog import Watchdog

Each = Callable[[PerImage], None]


def evaluator(setup: builder.Evaluation, report: Report) -> Callable[..., dict[str, Any]]:
    """`evaluate(variables, average, last=False)` over the whole split; it calls `check` with each batch's number.

    `each` is as in `evaluate`, for the variables themselves.

    `average` is the moving average of the variables, {} without one: it is evaluated too, as eval_average_top1 and so
    on. The last evaluation of a run has all views, unless config.eval.views says "center"; the others have the center.
    It is compiled before the first batch is checked: several processes meet there, one of which may need longer.
    """
    mesh, split = setup.mesh, setup.split
    steps: dict[Views, Any] = {}

    def once(
        variables: Any, views: Views, whose: str, check: Callable[[int], None], each: Each | None
    ) -> dict[str, Any]:
        def checked(batches: Iterator[feed.Batch]) -> Iterator[feed.Batch]:
            for number, batch in enumerate(batches):
                if views not in steps:
                    step: Any = make_eval_step(setup.model, mesh, inputs=setup.inputs, views=views)
                    steps[views] = step.lower(variables, towers.to_devices(batch, mesh)).compile()
                check(number)
                yield batch

        batches = -(-len(split.source) // setup.batch_size)
        what = f"evaluating{whose}" + (f" {len(views)} views" if len(views) > 1 else "")
        watched = report.watch(setup.batches(report.warn), total=batches, what=what)

        def step(*given: Any) -> Any:
            return steps[views](*given)

        return evaluate(step, variables, checked(watched), mesh, split.class_names, each=each)

    def run(
        variables: Any,
        average: Any,
        *,
        last: bool = False,
        check: Callable[[int], None] = lambda _: None,
        each: Each | None = None,
    ) -> dict[str, Any]:
        views = setup.views if last else setup.views[:1]
        entry = once(variables, views, "", check, each)
        if not last:
            del entry["eval_by_class"]  # of 1,000 classes, 100 kB per evaluation
        if average:
            of_average = once(average, views, " the average", check, None)
            figures = [name for name in of_average if name.endswith(("top1", "top5", "loss"))]
            entry |= {f"eval_average_{name.removeprefix('eval_')}": of_average[name] for name in figures}
        count = {"eval_views": len(views)} if len(views) > 1 else {}
        return entry | count | {"eval_split": f"{setup.data_name} {split.name}"}

    return run


def evaluate_checkpoint(
    workdir: Path,
    *,
    which: str,
    overrides: Sequence[str] = (),
    predictions: Path | None = None,
    group: ProcessGroup | None = None,
    watchdog: Watchdog | None = None,
) -> dict[str, Any]:
    """Evaluates checkpoint `which` (latest, best or a step) of `workdir` on the devices that are there.

    The config is the one saved beside it, with `overrides` ("section.field=value") set in it. What is said of each
    image goes to `predictions`, a CSV; in one process. Raises AlexNetError where there is no such checkpoint, or one of
    another network.
    """
    if predictions and jax.process_count() > 1:
        raise AlexNetError(f"predictions={predictions} is written in one process: evaluate without --distributed.")
    if predictions and (predictions.is_dir() or not predictions.absolute().parent.is_dir()):
        raise AlexNetError(f"predictions={predictions} cannot be written: name a file in a folder that is there.")
    group, watchdog = group or ProcessGroup(), watchdog or Watchdog()
    config = configs.load(workdir, ("mesh.tower=0", *overrides))
    setup = builder.evaluation(config, classes=len(configs.load_classes(workdir)), workdir=workdir)
    watchdog.phase("restoring a checkpoint")
    net = restore_network(workdir, which, mesh=setup.mesh, overrides=overrides)
    split = setup.split
    configs.check_classes(workdir, split.class_names)
    group.compare(feed.fingerprint(split) | {"the step of the checkpoint": net.step})

    def check(batch: int) -> None:
        if not batch:  # it was compiled just now, in which some take longer
            group.barrier("the evaluation")
        watchdog.phase("evaluating", f" batch {batch}")

    with Report(workdir, main=jax.process_index() == 0) as report:
        run = evaluator(setup, report)
        each = Collector()
        found = run(net.variables, net.average, last=True, check=check, each=each if predictions else None)
        entry = {"step": net.step, **found, "mode": "eval"}
        report.evaluation(entry)
        report.say(describe_classes(entry))
        if predictions:
            each.answers(split, entry).write_csv(predictions)
            report.say(f"wrote {predictions}: every image with its five best answers, the worst mistakes first")
    return entry
