"""alexnet figures: pictures of a network, of a run, and of what it answers, as PNG or SVG."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_jax import builder, features, figures, summary
from alexnet_jax.cli import app, networks
from alexnet_jax.cli.flags import HELP, take_recipe
from alexnet_jax.evaluate import Predictions
from alexnet_jax.figures import drawing


def main(argv: list[str]) -> None:
    """Draws one figure and says where it is. Raises AlexNetError."""
    config = None
    if argv[:1] == ["architecture"]:
        _, config, argv = take_recipe(argv, data="imagenet2012")
    options = _parser().parse_args(argv, argparse.Namespace(config=config))
    output = options.output or Path(f"{options.kind}.png")
    drawing.check_name(output)
    drawing.new(1.0)  # without Matplotlib the command ends here, before it computes
    figures.save(options.draw(options), output)
    print(f"wrote {output}")


def _filters(options: argparse.Namespace) -> Any:
    net = networks.open_network(options)
    found = figures.specialization(net)
    for tower, color in enumerate(found["color"]):
        print(f"tower {tower}: color {color:.3f}  (0: gray kernels, 0.667: kernels of noise)")
    if found["chance"] is not None:
        print(f"difference {found['difference']:.3f}")
        print(f"kernels dealt to the towers at random differ as much in {100 * found['chance']:.2g} % of 10,000 deals")
    return figures.filters(net)


def _activations(options: argparse.Namespace) -> Any:
    return figures.activations(networks.open_network(options), options.picture)


def _occlusion(options: argparse.Namespace) -> Any:
    net = networks.open_network(options)
    return figures.occlusion(net, options.picture, class_name=options.class_name, side=options.side)


def _curves(options: argparse.Namespace) -> Any:
    return figures.curves(options.workdirs)


def _confusion(options: argparse.Namespace) -> Any:
    answers = _answers(options)
    for label, called, images in answers.most_confused():
        print(f"{images:6,}  {networks.shown(label)} called {networks.shown(called)}")
    return figures.confusion(answers)


def _predictions(options: argparse.Namespace) -> Any:
    answers = _answers(options)
    chosen = answers.worst()[: options.worst].tolist() if options.worst else None
    return figures.predictions(answers, chosen)


def _neighbours(options: argparse.Namespace) -> Any:
    net = networks.open_network(options)
    found = features.read(options.features)
    paths = networks.pictures(options.pictures)[: options.rows]
    rows, distances = features.nearest_to(paths, net, found, top=options.top)
    if "data" not in found.about:
        return figures.neighbours(paths, found, rows, distances, lambda row: Path(str(found.names[row])))
    options.data, options.split = found.about["data"], found.about["split"]
    _, split = networks.split_of(options, net)
    return figures.neighbours(paths, found, rows, distances, lambda row: split.source[int(found.numbers[row])]["image"])


def _architecture(options: argparse.Namespace) -> Any:
    model = builder.model(options.config, summary.classes_of(options.config))
    return figures.architecture(model, options.config.data.crop_pixels)


def _answers(options: argparse.Namespace) -> Predictions:
    net = networks.open_network(options)
    name, split, data_dir = networks.data_of(options, net)
    return net.answers(name, split=split, data_dir=data_dir)


def _parser() -> argparse.ArgumentParser:
    parser = app.parser_of(__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="FIGURE")

    def kind(name: str, words: str, draw: Callable[[argparse.Namespace], Any]) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = kinds.add_parser(name, help=words, description=words)
        made.set_defaults(draw=draw)
        made.add_argument("--output", type=Path, help=f"the file, .png or .svg (default: {name}.png in this folder)")
        if draw not in (_curves, _architecture):
            networks.add_options(made)
        if draw in (_confusion, _predictions):
            networks.add_data_options(made)
        return made

    kind("filters", "conv1's kernels by tower, and how colorful they are: the paper's figure 3", _filters)
    kind("activations", "what each layer makes of a picture", _activations).add_argument("picture", type=Path)
    occlusion = kind("occlusion", "what the answer for a picture depends on", _occlusion)
    occlusion.add_argument("picture", type=Path)
    occlusion.add_argument("--class", dest="class_name", help="of which the probability is shown (default: the answer)")
    occlusion.add_argument("--side", type=app.whole(1, 4096), default=0, help="of the square, in pixels")
    curves = kind("curves", "loss, accuracy, rate and speed of runs over each other", _curves)
    curves.add_argument("--workdirs", type=Path, nargs="+", required=True)
    kind("confusion", "which classes are taken for which", _confusion)
    panel = kind("predictions", "pictures with their five best answers: figure 4, left", _predictions)
    panel.add_argument("--worst", type=app.whole(1, 64), default=0, help="of so many worst mistakes")
    near = kind("neighbours", "the nearest pictures of a file of features: figure 4, right", _neighbours)
    networks.add_pictures(near)
    near.add_argument("--features", type=Path, required=True, help="what alexnet features wrote")
    near.add_argument("--data_dir", default="", help="where its data set lies, if not where the run had it")
    near.add_argument("--top", type=app.whole(1, 20), default=6, help="so many (%(default)s)")
    near.add_argument("--rows", type=app.whole(1, 50), default=8, help="at most so many pictures (%(default)s)")
    kind("architecture", "the towers and their exchanges, of a recipe", _architecture).epilog = HELP
    return parser
