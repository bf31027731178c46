"""Evaluation: every image of a split once, by its center crop and by all its views, counted exactly."""

import csv
import dataclasses
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from alexnet_jax import builder, config as configs, files
from alexnet_jax.data import feed
from alexnet_jax.data.preprocess import Input, Views, crop_view
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import placement, towers
from alexnet_jax.model.alexnet import AlexNet, in_top_k, logits_fn
from alexnet_jax.model.towers import BATCH_SHARDED, DATA, REPLICATED
from alexnet_jax.train.distributed import ProcessGroup
from alexnet_jax.train.metrics import MetricsWriter, format_classes
from alexnet_jax.train.watchdog import Watchdog

Array = np.ndarray[Any, np.dtype[Any]]
Counts = dict[str, jax.Array]
PerImage = dict[str, Array]  # of a batch: the fields of `Predictions` that are arrays
EvalStep = Callable[[Any, dict[str, jax.Array]], tuple[Counts, jax.Array]]

TOP_CLASSES = 5  # so many classes of an image are kept


def make_eval_step(model: AlexNet, mesh: Mesh, *, inputs: Input, views: Views) -> EvalStep:
    """The jitted `step(variables, batch)` -> (counts over the whole batch, probabilities [2, B, K]).

    The counts are by class: images [K], predicted [K] (how often the class is the center crop's first), and for the
    center crop and for all views: loss (a sum), top1 [K], top5 [K]. With one view there are none of "views_". The
    probabilities are those by the center crop, and the mean of all views. The variables lie as `placement.specs` says.

    The images of a batch are squares that all views fit into; a label of -1 is padding. The probabilities of the views
    are averaged (2012 source, `layer.cu`:1804).
    """
    logits_of = towers.over_towers(logits_fn(placement.for_mesh(model, mesh)), mesh=mesh)

    def step(variables: Any, batch: dict[str, jax.Array]) -> tuple[Counts, jax.Array]:
        def of_view(view: jax.Array) -> jax.Array:
            crops = crop_view(batch["image"], view, inputs.crop_pixels)
            return jax.nn.softmax(logits_of(variables, inputs(crops)))

        # One view after the other, so that memory holds one.
        probabilities_VBK = jax.lax.map(of_view, jnp.asarray(np.asarray(views, np.int32)))
        center_BK, mean_BK = probabilities_VBK[0], probabilities_VBK.mean(axis=0)
        real_B = batch["label"] >= 0
        labels_B = jnp.where(real_B, batch["label"], 0)
        counts, classes = _counts(center_BK, labels_B, real_B, ""), center_BK.shape[-1]
        if len(views) > 1:
            counts |= _counts(mean_BK, labels_B, real_B, "views_")
        counts["images"] = _by_class(real_B, labels_B, classes)
        counts["predicted"] = _by_class(real_B, jnp.argmax(center_BK, axis=1), classes)
        return towers.sum_over_data(counts, mesh, "metrics"), jnp.stack([center_BK, mean_BK])

    specs = placement.specs(model, placement.variables(model, inputs.crop_pixels), mesh)
    return towers.sharded(
        step, mesh=mesh, in_specs=(specs, BATCH_SHARDED), out_specs=(REPLICATED, PartitionSpec(None, DATA))
    )


def _counts(probabilities_BK: jax.Array, labels_B: jax.Array, real_B: jax.Array, prefix: str) -> Counts:
    of_labels_B = jnp.take_along_axis(probabilities_BK, labels_B[:, None], axis=1)[:, 0]
    losses_B = -jnp.log(jnp.maximum(of_labels_B, np.float32(1e-37)))
    counts = {f"{prefix}loss": jnp.where(real_B, losses_B, 0.0).sum()}
    for k in (1, 5):
        hit_B = real_B & in_top_k(probabilities_BK, labels_B, k)
        counts[f"{prefix}top{k}"] = _by_class(hit_B, labels_B, probabilities_BK.shape[-1])
    return counts


def _by_class(counted_B: jax.Array, labels_B: jax.Array, classes: int) -> jax.Array:
    return jnp.zeros(classes, jnp.int32).at[labels_B].add(counted_B.astype(jnp.int32))


def evaluate(
    step: EvalStep,
    variables: Any,
    batches: Iterable[feed.Batch],
    mesh: Mesh,
    class_names: tuple[str, ...],
    *,
    each: Callable[[PerImage], None] | None = None,
) -> dict[str, Any]:
    """{eval_top1, eval_top5 (percent), eval_loss (nats), eval_images, ...} over all the batches.

    With several views also eval_views_top1, eval_views_top5 and eval_views_loss; all else is of the center crop.
    `eval_classes` is {name: top-1 in percent} of every class that has images. `eval_by_class` is {name: images, top1,
    top5, precision} of all, in percent: `top1` is the class's recall, and `precision` 0 where it is never predicted.
    eval_recall and eval_precision are their means over the classes that have images. `each` is given the predictions
    for every batch, with its labels and without padding; in one process.
    """
    total: dict[str, Any] = {}
    pending: list[tuple[Array, Counts, jax.Array]] = []

    def take(labels_B: Array, counts: Counts, probabilities_2BK: jax.Array) -> None:
        for name, value in counts.items():
            total[name] = total.get(name, 0) + np.asarray(value, np.float64 if name.endswith("loss") else np.int64)
        if each is not None:
            each(_per_image(labels_B, np.asarray(probabilities_2BK[0])))

    for batch in batches:
        pending.append((batch["label"], *step(variables, towers.to_devices(batch, mesh))))
        if len(pending) > 1:  # one batch ahead of the device, and no more in its memory
            take(*pending.pop(0))
    for waiting in pending:
        take(*waiting)
    images = int(total["images"].sum())
    entry: dict[str, Any] = {}
    for prefix in ("", "views_") if "views_loss" in total else ("",):
        for k in ("top1", "top5"):
            entry[f"eval_{prefix}{k}"] = 100.0 * int(total[prefix + k].sum()) / images
        entry[f"eval_{prefix}loss"] = float(total[prefix + "loss"]) / images
    return entry | {"eval_images": images} | _of_classes(total, class_names)


def _per_image(labels_B: Array, probabilities_BK: Array) -> PerImage:
    labels, rows = labels_B[labels_B >= 0], probabilities_BK[labels_B >= 0]
    top_classes = np.argsort(-rows, axis=1, kind="stable")[:, :TOP_CLASSES].astype(np.int32)  # ties: as `in_top_k`
    return {
        "labels": labels,
        "top_classes": top_classes,
        "top_probabilities": np.take_along_axis(rows, top_classes, axis=1),
        "label_probability": rows[np.arange(len(rows)), labels],
    }


def _of_classes(total: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
    def percent(count: int, of: int) -> float:
        return 100.0 * count / of if of else 0.0

    counts = zip(*(total[name].tolist() for name in ("images", "top1", "top5", "predicted")), strict=True)
    by_class = {
        name: {
            "images": images,
            "top1": percent(top1, images),
            "top5": percent(top5, images),
            "precision": percent(top1, predicted),
        }
        for name, (images, top1, top5, predicted) in zip(class_names, counts, strict=True)
    }
    present = {name: row for name, row in by_class.items() if row["images"]}
    return {
        "eval_recall": sum(row["top1"] for row in present.values()) / len(present),
        "eval_precision": sum(row["precision"] for row in present.values()) / len(present),
        "eval_classes": {name: row["top1"] for name, row in present.items()},
        "eval_by_class": by_class,
    }


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions for the N images of a split, in its order, by the center crop.

    `labels` [N] int32; `top_classes` [N, A] int32 and `top_probabilities` [N, A] float32: the most probable classes
    (five, or all where there are fewer), in order; `label_probability` [N] float32. `evaluation` is what `evaluate`
    returned.
    """

    split: feed.Split
    evaluation: dict[str, Any]
    labels: Array
    top_classes: Array
    top_probabilities: Array
    label_probability: Array

    @classmethod
    def of(cls, split: feed.Split, evaluation: dict[str, Any], batches: Sequence[PerImage]) -> "Predictions":
        """From what `each` of `evaluate` was given, batch by batch."""
        arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        return cls(split, evaluation, **arrays)

    def confusion(self) -> Array:
        """[K, K] int64: how many images of class row are predicted to be of class column."""
        classes = len(self.split.class_names)
        found = np.zeros((classes, classes), np.int64)
        np.add.at(found, (self.labels, self.top_classes[:, 0]), 1)
        return found

    def most_confused(self, count: int = 10) -> list[tuple[str, str, int]]:
        """[(class, predicted class, images)], the most frequent first; pairs that occur."""
        off = self.confusion()
        np.fill_diagonal(off, 0)
        order = np.argsort(-off, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(order, off.shape)
        names = self.split.class_names
        return [(names[r], names[c], int(off[r, c])) for r, c in zip(rows, columns, strict=True) if off[r, c]]

    def worst(self) -> Array:
        """[N]: the mistakes first, then the others, each by the probability of the label, the smallest first."""
        return np.lexsort((self.label_probability, self.top_classes[:, 0] == self.labels))

    def key(self, i: int) -> str:
        """The name of image `i`: its file's, or its split and number."""
        return str(self.split.source[i]["key"])

    def write_csv(self, path: Path) -> None:
        """One line per image, the worst mistakes first: image, label, its probability, five classes with theirs.

        Raises AlexNetError where it cannot be written.
        """
        names, text = self.split.class_names, io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        pairs = [(f"answer_{i}", f"probability_{i}") for i in range(1, self.top_classes.shape[1] + 1)]
        table.writerow(["image", "class", "is_right", "probability", *(name for pair in pairs for name in pair)])
        for i in self.worst().tolist():
            label, classes = int(self.labels[i]), self.top_classes[i].tolist()
            top = zip((names[k] for k in classes), (f"{p:.6g}" for p in self.top_probabilities[i]), strict=True)
            row = (self.key(i), names[label], int(classes[0] == label), f"{self.label_probability[i]:.6g}")
            table.writerow([*row, *(part for pair in top for part in pair)])
        files.make_folder(path.absolute().parent)
        files.write_text(path, text.getvalue())


def evaluator(
    setup: builder.Evaluation, watched: Callable[..., Iterable[feed.Batch]], warn: Callable[[str], None]
) -> Callable[..., dict[str, Any]]:
    """`run(variables, average, last=False)` over the whole split, compiled once for each views.

    `watched` shows the progress over the batches, as `progress.bar` does, and `warn` gets the bad records.
    `average` is the moving average of the variables, {} without one: it is evaluated too, as eval_average_top1 and so
    on. The last evaluation of a run has all views of `setup`; the others have the center. `check` is called with the
    number of each batch, for the first one after compiling: processes meet there, and one may need longer. `each` is as
    in `evaluate`, for the variables themselves.
    """
    compiled: dict[Views, Any] = {}
    total = -(-len(setup.split.source) // setup.batch_size)

    def over_split(variables: Any, views: Views, what: str, check: Callable[[int], None], each: Any) -> dict[str, Any]:
        number = itertools.count()

        def step(variables: Any, batch: dict[str, jax.Array]) -> Any:
            if views not in compiled:
                jitted: Any = make_eval_step(setup.model, setup.mesh, inputs=setup.inputs, views=views)
                compiled[views] = jitted.lower(variables, batch).compile()
            check(next(number))
            return compiled[views](variables, batch)

        what = f"evaluating{what}" + (f" {len(views)} views" if len(views) > 1 else "")
        batches = watched(setup.batches(warn), total=total, what=what)
        return evaluate(step, variables, batches, setup.mesh, setup.split.class_names, each=each)

    def run(
        variables: Any,
        average: Any,
        *,
        last: bool = False,
        check: Callable[[int], None] = lambda _: None,
        each: Callable[[PerImage], None] | None = None,
    ) -> dict[str, Any]:
        views = setup.views if last else setup.views[:1]
        entry = over_split(variables, views, "", check, each)
        if not last:
            del entry["eval_by_class"]  # of 1,000 classes, 100 kB per evaluation
        if average:
            for name, value in over_split(average, views, " the average", check, None).items():
                if name.endswith(("top1", "top5", "loss")):
                    entry[f"eval_average_{name.removeprefix('eval_')}"] = value
        count = {"eval_views": len(views)} if len(views) > 1 else {}
        return entry | count | {"eval_split": f"{setup.data_name} {setup.split.name}"}

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

    The config is the one saved beside it, with `overrides` ("section.field=value") set in it. `predictions` is a CSV
    to write, in one process. Raises AlexNetError where there is no such checkpoint, or one of another network.
    """
    from alexnet_jax.train.checkpoint import restore_network  # Orbax takes a second to import

    if predictions and jax.process_count() > 1:
        raise AlexNetError(f"predictions={predictions} is written in one process: evaluate without --distributed.")
    if predictions and (predictions.is_dir() or not predictions.absolute().parent.is_dir()):
        raise AlexNetError(f"predictions={predictions} cannot be written: name a file in a folder that is there.")
    group, watchdog = group or ProcessGroup(), watchdog or Watchdog()
    config = configs.load(workdir, ("mesh.tower=0", *overrides))
    setup = builder.evaluation(config, classes=len(configs.load_classes(workdir)), workdir=workdir)
    watchdog.phase("restoring a checkpoint")
    net = restore_network(workdir, which, mesh=setup.mesh, overrides=overrides)
    configs.check_classes(workdir, setup.split.class_names)
    group.compare(feed.fingerprint(setup.split) | {"the step of the checkpoint": net.step})

    def check(batch: int) -> None:
        if not batch:  # it was compiled just now, in which some take longer
            group.barrier("the evaluation")
        watchdog.phase("evaluating", f" batch {batch}")

    with MetricsWriter(workdir, main=group.main) as metrics:
        per_image: list[PerImage] = []
        each = per_image.append if predictions else None
        found = evaluator(setup, metrics.progress, metrics.warn)(
            net.variables, net.average, last=True, check=check, each=each
        )
        entry = {"step": net.step, **found, "mode": "eval"}
        metrics.evaluation(entry)
        metrics.say(format_classes(entry))
        if predictions:
            Predictions.of(setup.split, entry, per_image).write_csv(predictions)
            metrics.say(f"wrote {predictions}: every image with its five best classes, the worst mistakes first")
    return entry
