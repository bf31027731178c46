"""alexnet report: a run on one page of HTML, which needs no network and no other file."""

import argparse
import shlex
import sys
from pathlib import Path

import jax

from alexnet_jax import extras
from alexnet_jax.classifier import Classifier, load_run
from alexnet_jax.cli import app, devices
from alexnet_jax.errors import AlexNetError
from alexnet_jax.evaluate import Predictions
from alexnet_jax.figures import html_report
from alexnet_jax.progress import wrap
from alexnet_jax.train.loop import Run

FILE = "report.html"


def main(argv: list[str]) -> None:
    """Writes the page. Raises AlexNetError."""
    options = _parser().parse_args(argv)
    extras.module("matplotlib", extra="figures", what="a report")
    devices.settle()
    net = load_run(options.workdir, options.checkpoint)
    output = options.output or options.workdir / FILE
    answers = None
    try:
        answers = _answers(net, options.data_dir, options.views)
    except AlexNetError as error:
        print(f"without the evaluation by class: {error}", file=sys.stderr)
    html_report.write(options.workdir, output, net, answers)
    print(f"wrote {output}")


def after(run: Run) -> None:
    """The page of a run that has just ended, in its workdir; why there is none, in a line."""
    if jax.process_count() > 1:
        if run.group.main:
            print(f"report   alexnet report --workdir={shlex.quote(str(run.workdir))} makes a page of this run")
        return
    output = run.workdir / FILE
    try:
        extras.module("matplotlib", extra="figures", what="the page of this run")
        net = load_run(run.workdir)
        answers = run.answers or _answers(net)
        html_report.write(run.workdir, output, net, answers)
    except Exception as error:  # whatever it is, such as no memory left: the run is done and saved
        why = str(error) if isinstance(error, AlexNetError) else f"{type(error).__name__}: {error}"
        print(wrap(f"report   none: {why.splitlines()[0]}"))
        return
    print(f"report   {output}")


def _answers(net: Classifier, data_dir: str = "", views: str = "center") -> Predictions:
    """To the split that the run is evaluated on. Raises AlexNetError where it is not here."""
    c = net.config.data
    return net.answers(c.name, split=c.eval_split, data_dir=data_dir, views=views)


def _parser() -> argparse.ArgumentParser:
    parser = app.parser_of(__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="the run")
    parser.add_argument("--checkpoint", default="latest", help="latest, best or a step (%(default)s)")
    parser.add_argument("--output", type=Path, help=f"the page (default: {FILE} in the workdir)")
    parser.add_argument("--views", choices=["center", "all"], default="center", help="all: ten views too")
    parser.add_argument("--data_dir", default="", help="where the data lie, if not where the run had them")
    return parser
