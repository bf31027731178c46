"""The curves of one run, or of several over each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax.errors import AlexNetError
from alexnet_jax.figures import drawing
from alexnet_jax.train.metrics import METRICS, entries

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def history(workdir: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(the training lines, the evaluations of the run itself) of metrics.jsonl, in order. Raises AlexNetError."""
    found = [entry for entry in entries(workdir) if "mode" not in entry]  # not those of --mode=eval
    training = [entry for entry in found if "eval_top1" not in entry]
    if not training:
        raise AlexNetError(f"{workdir} has no training steps in {METRICS}: name the workdir of a run that has trained.")
    return training, [entry for entry in found if "eval_top1" in entry]


def curves(workdirs: Sequence[str | Path] | str | Path) -> "Figure":
    """Loss, top-1, learning rate and images/s against the epoch, of one run or of several over each other.

    Thin lines are training batches, thick ones with points the evaluations by the center crop. Raises AlexNetError.
    """
    runs = [Path(workdirs)] if isinstance(workdirs, str | Path) else [Path(workdir) for workdir in workdirs]
    found = [history(run) for run in runs]
    with drawing.style():
        figure = drawing.new(5.4 + 0.25 * (len(runs) > 1) * len(runs))
        panels = figure.subplots(4, 1, sharex=True, height_ratios=(2.2, 2.2, 1, 1))
        for number, (training, evaluations) in enumerate(found):
            color = drawing.SERIES[number % len(drawing.SERIES)]
            _lines(panels, training, evaluations, color)
            panels[0].plot([], [], color=color, linewidth=2.5, label=drawing.short(str(runs[number]), 60))
        panels[0].set_ylabel("loss")
        panels[1].set_ylabel("top-1, %")
        panels[2].set_ylabel("rate")
        rates = [entry["learning_rate"] for training, _ in found for entry in training if entry.get("learning_rate")]
        panels[2].set_yscale("log")
        panels[2].set_yticks(sorted({min(rates, default=1.0), max(rates, default=1.0)}))
        panels[2].minorticks_off()
        panels[2].yaxis.set_major_formatter(lambda rate, _: f"{rate:.3g}")
        panels[3].set_ylabel("images/s")
        panels[3].set_ylim(bottom=0)
        panels[3].set_xlabel("epoch")
        for panel in panels:
            panel.grid(visible=True, alpha=0.25)
        figure.suptitle("thin: training batches; points: evaluations", fontsize=9)
        if len(runs) > 1:
            figure.legend(loc="outside lower left", frameon=False)
        figure.align_ylabels(panels)
    return figure


def _lines(panels: Any, training: list[dict[str, Any]], evaluations: list[dict[str, Any]], color: str) -> None:
    epochs = [entry["epoch"] for entry in training]
    per_step = epochs[-1] / training[-1]["step"]
    at = [entry["step"] * per_step for entry in evaluations]
    for panel, name in zip(panels, ("loss", "top1", "learning_rate", "images_per_second"), strict=True):
        thin = name in ("loss", "top1")
        known = [(epoch, entry[name]) for epoch, entry in zip(epochs, training, strict=True) if name in entry]
        panel.plot(*zip(*known, strict=True), color=color, linewidth=0.9, alpha=0.45 if thin else 0.9)
    panels[0].plot(at, [entry["eval_loss"] for entry in evaluations], "o-", color=color, markersize=3, linewidth=1.8)
    panels[1].plot(at, [entry["eval_top1"] for entry in evaluations], "o-", color=color, markersize=3, linewidth=1.8)
