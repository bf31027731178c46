"""alexnet predict: the most probable classes of pictures, as a table, CSV or JSON."""

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_jax import progress as bars
from alexnet_jax.cli import app, networks
from alexnet_jax.cli.networks import shown, text
from alexnet_jax.data import pictures
from alexnet_jax.errors import AlexNetError

Prediction = tuple[Path, list[tuple[str, float]]]
_COLUMNS, _AHEAD = 80, 64  # of a terminal; pictures that are read while others are computed


def main(argv: list[str]) -> None:
    """Prints the top classes of each picture. Raises AlexNetError, after the others, for pictures that are not read."""
    options = _parser().parse_args(argv)
    paths = networks.pictures(options.pictures)
    net = networks.open_network(options)
    good: list[Path] = []
    squares = _readable(paths, good, net.config.data.resize_pixels)
    first = next(squares, None)
    if first is None:
        raise AlexNetError("None of the pictures could be read.")
    found = net.predict(itertools.chain([first], squares), top=options.top, views=options.views)
    _print(list(zip(good, found, strict=True)), options.format)
    if bad := len(paths) - len(good):
        raise AlexNetError(f"{bad:,} of {len(paths):,} pictures could not be read.")


def _parser() -> argparse.ArgumentParser:
    parser = app.parser_of(__doc__)
    networks.add_pictures(parser)
    networks.add_options(parser)
    networks.add_engine(parser)
    parser.add_argument("--top", type=app.whole(1, 1_000_000), default=5, help="so many classes (%(default)s)")
    parser.add_argument("--views", choices=["center", "all"], default="center", help="all: the average over ten views")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", dest="format", action="store_const", const="csv", help="picture,rank,class,probability")
    form.add_argument("--json", dest="format", action="store_const", const="json", help="a list of objects")
    return parser


def _readable(paths: list[Path], good: list[Path], pixels: int) -> Iterator[np.ndarray]:
    """The squares of the pictures that can be read, paths to `good`; a warning on stderr for each of the others."""

    def read(path: Path) -> np.ndarray | AlexNetError:
        try:
            return pictures.square(path, pixels)
        except AlexNetError as error:
            return error

    squares = pictures.in_threads(read, paths, ahead=_AHEAD)
    for path, square in zip(bars.bar(paths, total=len(paths), unit="picture"), squares, strict=True):
        if isinstance(square, AlexNetError):
            bars.write(f"warning: {text(' '.join(str(square).splitlines()))}", file=sys.stderr)
            continue
        good.append(path)
        yield square


def _print(predictions: list[Prediction], form: str | None) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal without the letters of a name
    if form == "json":
        rows = [
            {"picture": text(path), "predictions": [{"class": text(name), "probability": p} for name, p in top]}
            for path, top in predictions
        ]
        print(json.dumps(rows, indent=1))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("picture", "rank", "class", "probability"))
        for path, top in predictions:
            writer.writerows((text(path), rank, text(name), f"{p:.7g}") for rank, (name, p) in enumerate(top, 1))
    else:
        for path, top in predictions:
            print(shown(path))
            for name, p in top:
                line = f"  {100 * p:5.1f} %  {shown(name)}"
                print(line if len(line) <= _COLUMNS else f"{line[: _COLUMNS - 3]}...")
