"""The HTML report of a run: one page that needs nothing else, neither a network nor another file.

It holds no script, forbids any (Content-Security-Policy), and escapes every name.
"""

import base64
import datetime
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from alexnet_jax import config as configs, files, summary
from alexnet_jax.classifier import Classifier
from alexnet_jax.errors import AlexNetError
from alexnet_jax.evaluate import Predictions
from alexnet_jax.figures.blueprint import architecture
from alexnet_jax.figures.history import curves, history
from alexnet_jax.figures.kernels import filters, specialization
from alexnet_jax.figures.pictures import center_square, confusion
from alexnet_jax.train import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISTAKES, _CLASSES = 12, 50  # so many pictures, and rows of classes, at most
_SIDE = 168  # pixels of such a picture
_PIXELS_PER_INCH = 120

# Light or dark, as the reader has it: the browser's own colors, and grays that suit both.
_STYLE = """
:root { color-scheme: light dark }
* { box-sizing: border-box }
body { margin: 0; font: 16px/1.5 system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 1.25rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .6rem; padding-top: .6rem; border-top: 1px solid #8884 }
p { margin: .4rem 0 }
.soft, th { opacity: .7 }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1rem 0 }
.number { background: #8882; border-radius: .5rem; padding: .6rem .75rem }
.number b { display: block; font-size: 1.45rem; line-height: 1.2 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .22rem .6rem .22rem 0; text-align: left; border-bottom: 1px solid #8884; white-space: nowrap }
.right { text-align: right }
td.name { white-space: normal; overflow-wrap: anywhere; min-width: 7rem }
.facts td:last-child { white-space: normal; overflow-wrap: anywhere }
img { max-width: 100%; height: auto }
.drawn { width: 100%; max-width: 44rem; border-radius: .5rem }
pre { background: #8882; border-radius: .5rem; padding: .7rem .8rem; overflow-x: auto; font-size: .85rem }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .9rem }
figure { margin: 0 }
figure img { width: 100%; border-radius: .35rem }
@media (max-width: 30rem) { table { font-size: .8rem } th, td { padding-right: .38rem } td.name { min-width: 5rem } }
figcaption { font-size: .82rem; line-height: 1.35; overflow-wrap: anywhere }
"""


def write(workdir: Path, output: Path, net: Classifier, predictions: Predictions | None) -> None:
    """Writes the HTML report of the run in `workdir`; without `predictions` it has no evaluation by class.

    Raises AlexNetError.
    """
    if output.suffix != ".html" or output.is_dir():
        raise AlexNetError(f"output={output} must be a file whose name ends in .html.")
    page = _page(workdir, net, predictions)
    files.make_folder(output.absolute().parent)
    files.write_text(output, page.encode("utf-8", "backslashreplace").decode())


def _page(workdir: Path, net: Classifier, predictions: Predictions | None) -> str:
    config, (training, evaluations) = configs.load(workdir), history(workdir)
    last: dict[str, Any] = evaluations[-1] if evaluations else {}
    if predictions is not None:
        last = {"eval_split": f"{config.data.name} {predictions.split.name}"} | predictions.evaluation
    starts = provenance.starts(workdir)
    title = f"{config.data.name}: a run of AlexNet"
    sections = [
        _head(title, workdir, training, last, net),
        _section("What was run", _facts(net, training, starts, last)),
        _section("Curves", _drawn(curves([workdir]), "Loss, top-1, learning rate and images per second")),
        *(_evaluation(predictions) if predictions is not None else []),
        _section("What conv1 learned", _kernels(net)),
        _section("The network", _network(net)),
        _section("What next", _commands(workdir, starts)),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>",
            *sections,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def _head(title: str, workdir: Path, training: list[dict[str, Any]], last: dict[str, Any], net: Classifier) -> str:
    percents = {"eval_top1": "top-1, center crop", "eval_top5": "top-5", "eval_views_top1": "top-1, all views"}
    numbers = [(f"{last[name]:.2f} %", what) for name, what in percents.items() if name in last]
    numbers += [(f"{last['eval_images']:,}", "images evaluated")] if last else []
    numbers += [
        (f"{training[-1]['epoch']:.3g}", "epochs"),
        (_duration(training), "of training"),
        (f"{_median(training, 'images_per_second'):,.0f}", "images/s, median"),
    ]
    cards = "".join(f'<div class="number"><b>{escape(n)}</b>{escape(what)}</div>' for n, what in numbers)
    what = escape(f"{workdir}, {repr(net)[1:-1]}")
    return f'<h1>{escape(title)}</h1>\n<p class="soft">{what}</p>\n<div class="numbers">{cards}</div>'


def _facts(net: Classifier, training: list[dict[str, Any]], starts: list[dict[str, Any]], last: dict[str, Any]) -> str:
    c, first, final = net.config, starts[0] if starts else {}, starts[-1] if starts else {}
    packages, devices = final.get("packages", {}), final.get("devices", [])
    named = [f"{name} {packages[name]}" for name in ("jax", "flax", "orbax-checkpoint", "grain") if name in packages]
    step = (
        f"{_median(training, 'seconds_per_step'):.3g} s, {_median(training, 'teraflops_per_second'):.3g} TFLOP/s, "
        f"waiting for data {100 * _median(training, 'data_wait'):.0f} %"
    )
    rows = [
        ("command", str(final.get("command", "unknown"))),
        ("commit", str(final.get("commit") or "not of a git checkout")),
        ("begun", str(first.get("time", "unknown"))),
        ("started", f"{len(starts)} time(s), the last at step {final.get('step', 0):,}"),
        ("devices", f"{len(devices)}: {', '.join(sorted(set(devices))[:4])}" if devices else "unknown"),
        ("data", f"{c.data.name}, {c.data.train_split}"),
        ("evaluated on", str(last.get("eval_split", f"{c.data.name} {c.data.eval_split}".strip()))),
        ("batch", f"{c.train.batch_size:,} images, {training[-1]['step']:,} steps"),
        ("step", step),
        ("seed", str(c.train.seed)),
        ("versions", ", ".join(named)),
        ("report of", f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"),
    ]
    return _table(("", ""), rows, "facts")


def _evaluation(predictions: Predictions) -> list[str]:
    e = predictions.evaluation
    rows = sorted(e["eval_by_class"].items(), key=lambda item: (item[1]["top1"], item[0]))
    rows = [(name, row) for name, row in rows if row["images"]]
    cells = [
        (name, f"{row['images']:,}", *(f"{row[of]:.2f}" for of in ("top1", "top5", "precision")))
        for name, row in rows[:_CLASSES]
    ]
    mean = ("mean of the classes", f"{e['eval_images']:,}", f"{e['eval_recall']:.2f}", "", f"{e['eval_precision']:.2f}")
    left = f'<p class="soft">... and {len(rows) - _CLASSES:,} classes more.</p>' if len(rows) > _CLASSES else ""
    words = "In percent, by the center crop, the weakest class first. A class's top-1 is its recall."
    table = _table(("class", "images", "top-1", "top-5", "precision"), [*cells, mean])
    return [
        _section("By class", f'<p class="soft">{words}</p>{table}{left}'),
        _section("Confusion", _drawn(confusion(predictions), "Classes against predictions")),
        _section("The worst mistakes", _mistakes(predictions)),
    ]


def _mistakes(predictions: Predictions) -> str:
    names = predictions.split.class_names
    is_wrong = predictions.top_classes[:, 0] != predictions.labels
    wrong = [i for i in predictions.worst()[:_MISTAKES].tolist() if is_wrong[i]]
    if not wrong:
        return "<p>There are none.</p>"
    parts = []
    for i in wrong:
        record = predictions.split.source[i]
        label, called = names[int(predictions.labels[i])], names[int(predictions.top_classes[i, 0])]
        own = predictions.label_probability[i]
        caption = (
            f"<b>{escape(label)}</b>, called {escape(called)} ({100 * predictions.top_probabilities[i, 0]:.1f} %)<br>"
            f'<span class="soft">{escape(str(record["key"]))}; of its class {100 * own:.2g} %</span>'
        )
        pixels = center_square(record["image"], _SIDE)[:, :, ::-1]
        image = _data("image/jpeg", cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes())
        parts.append(f'<figure><img src="{image}" alt=""><figcaption>{caption}</figcaption></figure>')
    return f'<div class="mistakes">{"".join(parts)}</div>'


def _kernels(net: Classifier) -> str:
    try:
        found = specialization(net)
    except AlexNetError as error:
        return f"<p>{escape(str(error))}</p>"
    colors = ", ".join(f"tower {tower} {color:.2f}" for tower, color in enumerate(found["color"]))
    words = f"Color, from 0 for gray kernels to 0.67 for noise and more: {colors}."
    if found["chance"] is not None:
        words += (
            f" Kernels dealt to the towers at random differ as much in {100 * found['chance']:.2g} % of 10,000 deals."
        )
    return _drawn(filters(net), "The kernels of conv1 by tower") + f'<p class="soft">{escape(words)}</p>'


def _network(net: Classifier) -> str:
    head, *rows = summary.table_cells(net.tower, net.image_pixels)
    table = '<p class="soft">Shapes are those of one tower.</p>' + _table(head, rows)
    if net.tower.towers > 2:
        return table
    return table + _drawn(architecture(net.tower, net.image_pixels), "The towers and their exchanges")


def _commands(workdir: Path, starts: list[dict[str, Any]]) -> str:
    where, command = str(workdir), str(starts[-1]["command"]) if starts else "alexnet train --workdir=..."
    evaluate = f"alexnet train --mode=eval --workdir={where} --predictions=predictions.csv"
    lines = (
        ("Resume, or train on", command),
        ("Evaluate, with the predictions of every image", evaluate),
        ("Use", f"alexnet predict --workdir={where} PICTURE"),
        ("From Python", f"import alexnet_jax as alexnet\nnet = alexnet.load({where!r})\nnet.predict('cat.jpg')"),
        ("Take it elsewhere", f"alexnet weights export --workdir={where} --output=net.safetensors"),
    )
    return "".join(f"<p>{escape(what)}</p>\n<pre>{escape(text)}</pre>\n" for what, text in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table whose columns of numbers are aligned on the right, but for those of one without a head."""
    columns = list(zip(*rows, strict=True))
    are_numbers = [any(head) and all(re.fullmatch(r"[\d,.]*", text) for text in column) for column in columns[1:]]
    kinds = ["name", *("right" if numbers else "" for numbers in are_numbers)]

    def line(tag: str, row: Sequence[str]) -> str:
        cells = (f'<{tag} class="{c}">{escape(text)}</{tag}>' for text, c in zip(row, kinds, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    top = f"<thead>{line('th', head)}</thead>" if any(head) else ""
    body = "".join(line("td", row) for row in rows)
    return f'<div class="wide"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def _drawn(figure: "Figure", words: str) -> str:
    """A figure on white, also on a dark page."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_PIXELS_PER_INCH)
    return f'<img class="drawn" src="{_data("image/png", out.getvalue())}" alt="{escape(words)}">'


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _median(training: list[dict[str, Any]], name: str) -> float:
    values = [entry[name] for entry in training if name in entry]
    return float(np.median(values)) if values else float("nan")


def _duration(training: list[dict[str, Any]]) -> str:
    """The time that the steps took: what lies between evaluations and checkpoints."""
    steps = np.diff([0, *(entry["step"] for entry in training)])
    seconds = sum(int(n) * entry.get("seconds_per_step", 0.0) for n, entry in zip(steps, training, strict=True))
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds >= 60 else f"{seconds:.0f} s"
