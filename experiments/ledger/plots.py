"""The plot of a claim: how its variants learned, where each seed ended, and the differences beside the prediction."""

import hashlib
import json
import math
import statistics
from typing import TYPE_CHECKING, Any

from alexnet_jax.figures import drawing
from experiments.ledger import verdicts
from experiments.ledger.rows import Row, curve, measure
from experiments.ledger.verdicts import Difference, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNDECIDED = "#5d6d7e"
_VERDICTS = {verdicts.AS_PREDICTED: drawing.GOOD, verdicts.REFUTED: drawing.BAD}


def digest(every: list[Results]) -> str:
    """Of the rows that a plot is made from; it stands in the picture's file."""
    mine = [row for results in every for rows in results.rows.values() for row in rows]
    return hashlib.blake2b(json.dumps(mine, sort_keys=True).encode(), digest_size=8).hexdigest()


def plot(every: list[Results]) -> "Figure":
    """One column of three panels on each proxy: test (thick) and training accuracy (thin), seeds, differences."""
    shown = max(len(results.rows) for results in every)
    compared = max(len(results.claim.comparisons) for results in every)
    heights = [2.2, 0.3 * shown, *([0.34 * compared] if compared else [])]
    with drawing.style():
        width = drawing.WIDTH * (1 + 0.7 * (len(every) - 1))
        figure = drawing.new(sum(heights) + 0.75 * len(heights) + 0.3, width=width)
        panels = figure.subplots(len(heights), len(every), squeeze=False, height_ratios=heights)
        for column, results in enumerate(every):
            _curves(panels[0, column], results)
            _seeds(panels[1, column], results)
            if compared:
                _differences(panels[2, column], verdicts.differences(results))
            panels[0, column].set_title(results.proxy.name, loc="left", fontweight="bold")
        panels[0, 0].set_ylabel("accuracy, %")
    return figure


def _color(results: Results, name: str) -> str:
    return drawing.SERIES[list(results.rows).index(name) % len(drawing.SERIES)]


def _curves(panel: Any, results: Results) -> None:
    """The mean over seeds: of the evaluations, and of the training batches between them."""
    for name, mine in results.rows.items():
        color = _color(results, name)
        for column, width, sign in (("curve", 2.0, 1.0), ("train_curve", 0.9, -1.0)):
            points = _mean_curve(mine, column)
            values = [value if sign > 0 else 100.0 - value for _, value in points]
            panel.plot([step for step, _ in points], values, color=color, linewidth=width)
    panel.set_xlabel("step; thick: test images, thin: training batches")
    panel.grid(visible=True, alpha=0.25)


def _mean_curve(mine: list[Row], column: str) -> list[tuple[int, float]]:
    by_step = dict[int, list[float]]()
    for row in mine:
        for step, value in curve(row[column]):
            by_step.setdefault(step, []).append(value)
    most = max((len(values) for values in by_step.values()), default=0)
    return [(step, statistics.fmean(values)) for step, values in sorted(by_step.items()) if len(values) == most]


def _seeds(panel: Any, results: Results) -> None:
    for place, name in enumerate(results.rows):
        values = [value for row in results.rows[name] if (value := measure(row, "top1")) is not None]
        color = _color(results, name)
        panel.plot(values, [place] * len(values), "o", color=color, markersize=4, alpha=0.55)
        if values:
            panel.plot([statistics.fmean(values)], [place], "|", color=color, markersize=11, markeredgewidth=2)
    _named(panel, [name.replace("_", " ") for name in results.rows], [_color(results, name) for name in results.rows])
    panel.set_xlabel("top-1 at the end, %, of each seed")


def _differences(panel: Any, differences: list[Difference]) -> None:
    """The means and intervals over what was predicted (gray)."""
    ends = (
        [end for d in differences if d.n > 1 for end in (d.low, d.high)]
        or [d.mean for d in differences if d.n]
        or [0.0]
    )
    ends += [end for d in differences for end in d.comparison.predicted if math.isfinite(end)]
    ratio = differences[0].comparison.ratio
    zero = 1.0 if ratio else 0.0
    low, high = min([zero, *ends]), max([zero, *ends])
    margin = 0.12 * (high - low) or 1.0
    panel.set_xlim(low - margin, high + margin)
    for place, d in enumerate(differences):
        begin, end = d.comparison.predicted
        left, right = max(begin, low - margin), min(end, high + margin)
        if left < right:
            panel.barh(place, right - left, left=left, height=0.34, color="#9aa7b8", alpha=0.28, linewidth=0)
        if d.n:
            color = _VERDICTS.get(d.verdict, _UNDECIDED)
            if d.n > 1:
                panel.plot([d.low, d.high], [place, place], color=color, linewidth=2)
            panel.plot([d.mean], [place], "o", color=color, markersize=5)
    panel.axvline(zero, color=_UNDECIDED, linewidth=0.8)
    _named(panel, [d.comparison.what for d in differences], [_VERDICTS.get(d.verdict, _UNDECIDED) for d in differences])
    panel.set_xlabel(f"difference, {'ratio' if ratio else 'points'}; gray is what was predicted")


def _named(panel: Any, names: list[str], colors: list[str]) -> None:
    """A row for each name, which stands above what is drawn in it: beside the panel it would take half of the width."""
    for place, (name, color) in enumerate(zip(names, colors, strict=True)):
        panel.text(
            0.008, place - 0.3, drawing.short(name, 70), color=color, fontsize=8, va="center",
            transform=panel.get_yaxis_transform(),
        )  # fmt: skip
    panel.set_yticks([])
    panel.set_ylim(len(names) - 0.5, -0.7)
    panel.grid(visible=True, axis="x", alpha=0.25)
