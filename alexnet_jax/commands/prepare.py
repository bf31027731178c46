"""alexnet prepare: prepares a data set once; the same command resumes after a kill.

What comes out is what TFDS itself would write, as array_record, and is read by its name everywhere.
"""

import argparse
import os
from pathlib import Path

from alexnet_jax.commands import border
from alexnet_jax.data import originals, sources
from alexnet_jax.data.originals import Originals
from alexnet_jax.data.prepare import Preparation, compute_statistics, default_dir
from alexnet_jax.data.shards import Layout
from alexnet_jax.errors import AlexNetError


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = border.Parser(prog="alexnet prepare", description=__doc__)
    commands = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    common = border.Parser(add_help=False)
    common.add_argument("--data_dir", type=Path, default=default_dir(), help="where prepared sets lie (%(default)s)")
    common.add_argument("--threads", type=int, default=os.cpu_count(), help="that work at a time (%(default)s)")
    writing = border.Parser(add_help=False)
    writing.add_argument(
        "--pack", type=int, default=0, metavar="PIXELS", help="bring the short side to this; 2012: 256"
    )
    writing.add_argument("--keep_long_side", action="store_true", help="with --pack: not only the centre square")
    writing.add_argument("--quality", type=int, default=90, help="with --pack: of the JPEG, 1 to 100 (%(default)s)")
    writing.add_argument("--images_per_shard", type=int, default=1000, help="what a kill costs (%(default)s)")
    imagenet = commands.add_parser("imagenet2012", parents=[common, writing], help="from the two official tars")
    imagenet.add_argument("--from", dest="origin", type=Path, required=True, help="the folder of the tars")
    imagenet.add_argument("--splits", default="train,validation", help="which (%(default)s)")
    folder = commands.add_parser("folder", parents=[common, writing], help="your pictures, a folder a class")
    folder.add_argument("--from", dest="origin", type=Path, required=True, help="the folder of the class folders")
    folder.add_argument("--name", required=True, help="the new data set's name: letters, digits and _")
    folder.add_argument("--validation_percent", type=int, default=10, help="without a folder val (%(default)s)")
    prepared = commands.add_parser("tfds", parents=[common, writing], help="one that TFDS has prepared, to pack it")
    prepared.add_argument("name", help="its name")
    prepared.add_argument("--from", dest="origin", type=Path, help="where it lies, if not in --data_dir")
    means = commands.add_parser("statistics", parents=[common], help="mean and principal components of a prepared set")
    means.add_argument("name", help="its name")
    return parser.parse_args(argv)


def _originals(options: argparse.Namespace) -> Originals:
    if options.source == "imagenet2012":
        splits = tuple(options.splits.split(","))
        if not set(splits) <= {"train", "validation"}:
            raise AlexNetError(f"--splits={options.splits}: it must be of train,validation.")
        return originals.imagenet2012(options.origin, splits)
    if options.source == "folder":
        if not options.name.isidentifier() or options.name != options.name.lower():
            raise AlexNetError(f"--name={options.name}: it must be small letters, digits and _, such as my_pictures.")
        return originals.folder(options.origin, options.name, validation_percent=options.validation_percent)
    if not options.pack:
        raise AlexNetError(f"{options.name} is read as it is: give --pack=256 to write a packed copy of it.")
    return sources.as_originals(options.name, str(options.origin or options.data_dir))


def main(argv: list[str]) -> None:
    """Runs one command. Raises AlexNetError."""
    options = _arguments(argv)
    options.data_dir = options.data_dir.expanduser().absolute()
    if options.threads < 1:
        raise AlexNetError(f"--threads={options.threads}: it must be at least 1.")
    if options.source == "statistics":
        compute_statistics(options.name, options.data_dir, options.threads)
        return
    if options.pack < 0 or not 1 <= options.quality <= 100 or options.images_per_shard < 1:
        raise AlexNetError("--pack must be pixels, --quality from 1 to 100 and --images_per_shard at least 1.")
    print("listing the pictures ...", flush=True)
    layout = Layout(options.pack, options.keep_long_side, options.quality, options.images_per_shard)
    preparation = Preparation(_originals(options), layout, options.data_dir, options.threads)
    for split, source in preparation.data.splits.items():
        print(f"{split:10} {len(source):10,} pictures of {len(preparation.data.class_names):,} classes", flush=True)
    try:
        preparation.run()
    except (OSError, RuntimeError) as error:  # RuntimeError is ArrayRecord's, of a full disk
        raise AlexNetError(f"{error}: mend that, and the same command goes on where it stopped.") from error
