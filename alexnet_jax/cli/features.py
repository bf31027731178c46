"""alexnet features: a layer's activations of many pictures in one .npz; the same command resumes after a kill."""

import argparse
import math
import sys
from pathlib import Path

from alexnet_jax import exits, features, progress as bars
from alexnet_jax.cli import app, networks
from alexnet_jax.errors import AlexNetError


def main(argv: list[str]) -> None:
    """Writes the features. Raises AlexNetError."""
    options = _parser().parse_args(argv)
    if bool(options.pictures) == (options.data is not None):
        raise AlexNetError("Give either PICTUREs, files or folders, or --data=NAME, a prepared data set.")
    if options.output.suffix != ".npz":
        raise AlexNetError(f"output={options.output} must end in .npz.")
    paths = networks.pictures(options.pictures)
    net = networks.open_network(options)
    if paths:
        pictures = features.of_files(paths, net)
    else:
        name, split = networks.split_of(options, net)
        pictures = features.of_split(split, net, name)
    if options.layer in net.layers:
        size = 4e-6 * pictures.count * math.prod(net.layers[options.layer])
        print(f"{options.layer} of {pictures.count:,} pictures: {size:,.1f} MB, twice that until it is put together")
    exits.hint = lambda: "the same command resumes where it stopped"
    rows = features.write(net, pictures, options.layer, options.output, say=_say)
    shape = " x ".join(f"{side:,}" for side in (rows, *net.layers[options.layer]))
    print(f"wrote {options.output}: {options.layer} of {rows:,} pictures, float32 {shape}")
    if left := pictures.count - rows:
        print(f"{left:,} of {pictures.count:,} pictures could not be read and are left out", file=sys.stderr)


def _say(message: str) -> None:
    bars.write(networks.text(" ".join(message.splitlines())), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = app.parser_of(__doc__)
    networks.add_pictures(parser, count="*")
    networks.add_options(parser)
    networks.add_engine(parser)
    networks.add_data_options(parser)
    parser.add_argument("--layer", default="fc7", help="any of the network, by the paper's names (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="the .npz")
    return parser
