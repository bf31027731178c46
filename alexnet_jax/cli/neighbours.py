"""alexnet neighbours: the pictures of a file of features that are closest to given ones, as in the paper's figure 4."""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from alexnet_jax import features
from alexnet_jax.cli import app, networks


def main(argv: list[str]) -> None:
    """Prints the nearest pictures. Raises AlexNetError."""
    options = _parser().parse_args(argv)
    found = features.read(options.features)
    paths = networks.pictures(options.pictures)
    net = networks.open_network(options)
    given = zip(paths, *features.nearest_to(paths, net, found, top=options.top), strict=True)
    # Infinitely far is a picture from itself, where there are no others left.
    pairs = [(path, [(r, d) for r, d in zip(rows, far, strict=True) if d < np.inf]) for path, rows, far in given]
    if options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("picture", "rank", "neighbour", "class", "distance"))
        for path, nearest in pairs:
            for rank, (row, distance) in enumerate(nearest, 1):
                names = (networks.text(str(found.names[row])), networks.text(found.label(row)))
                writer.writerow((networks.text(path), rank, *names, f"{distance:.7g}"))
        return
    for path, nearest in pairs:
        print(networks.shown(path))
        for row, distance in nearest:
            label = f"  {networks.shown(found.label(row))}" if found.label(row) else ""
            print(f"  {distance:10.5g}{label}  {networks.shown(str(found.names[row]))}")


def _parser() -> argparse.ArgumentParser:
    parser = app.parser_of(__doc__)
    networks.add_pictures(parser)
    networks.add_options(parser)
    parser.add_argument("--features", type=Path, required=True, help="what alexnet features wrote")
    parser.add_argument("--top", type=app.whole(1, 1000), default=6, help="so many (%(default)s)")
    parser.add_argument("--csv", action="store_true", help="picture,rank,neighbour,class,distance")
    return parser
