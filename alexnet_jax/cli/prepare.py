"""alexnet prepare: prepares a data set once; the same command resumes after a kill.

What comes out is what TFDS itself would write, as array_record, and is read by its name everywhere.
"""

import argparse
import os
import re
from pathlib import Path

from alexnet_jax import exits
from alexnet_jax.cli import app
from alexnet_jax.data import datasets
from alexnet_jax.errors import AlexNetError
from alexnet_jax.prepare import raw, statistics
from alexnet_jax.prepare.dataset import default_dir, prepare
from alexnet_jax.prepare.raw import RawDataset
from alexnet_jax.prepare.shards import Layout


def _arguments(argv: list[str]) -> argparse.Namespace:
    whole = app.whole
    parser = app.parser_of(__doc__)
    commands = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    common = app.Parser(add_help=False)
    common.add_argument("--data_dir", type=Path, default=default_dir(), help="where prepared sets lie (%(default)s)")
    threads = min(os.cpu_count() or 1, 256)
    common.add_argument("--threads", type=whole(1, 256), default=threads, help="that work at a time (%(default)s)")
    writing = app.Parser(add_help=False)
    pack = "bring the short side to this; 2012: 256"
    writing.add_argument("--pack", type=whole(1, 4096), default=0, metavar="PIXELS", help=pack)
    writing.add_argument("--keep_long_side", action="store_true", help="with --pack: keep more than the center square")
    writing.add_argument("--raw", action="store_true", help="with --pack: store pixels, ten times as large as JPEGs")
    writing.add_argument("--quality", type=whole(1, 100), default=90, help="with --pack: of the JPEG (%(default)s)")
    writing.add_argument(
        "--images_per_shard", type=whole(1, 1_000_000), default=1000, help="what a kill costs (%(default)s)"
    )
    imagenet = commands.add_parser("imagenet2012", parents=[common, writing], help="from the two official tars")
    imagenet.add_argument("--from", dest="origin", type=Path, required=True, help="the folder of the tars")
    imagenet.add_argument("--splits", default="train,validation", help="which (%(default)s)")
    folder = commands.add_parser("folder", parents=[common, writing], help="your pictures, a folder per class")
    folder.add_argument("--from", dest="origin", type=Path, required=True, help="the folder of the class folders")
    folder.add_argument("--name", required=True, help="the new data set's name: letters, digits and _")
    folder.add_argument(
        "--validation_percent", type=whole(0, 100), default=10, help="without a folder val (%(default)s)"
    )
    prepared = commands.add_parser("tfds", parents=[common, writing], help="one that TFDS has prepared, to pack it")
    prepared.add_argument("name", help="its name")
    prepared.add_argument("--from", dest="origin", type=Path, help="where it lies, if not in --data_dir")
    means = commands.add_parser("statistics", parents=[common], help="mean and principal components of a prepared set")
    means.add_argument("name", help="its name")
    return parser.parse_args(argv)


def _raw_dataset(options: argparse.Namespace) -> RawDataset:
    if options.source == "imagenet2012":
        splits = tuple(options.splits.split(","))
        if not set(splits) <= {"train", "validation"}:
            raise AlexNetError(f"--splits={options.splits}: it must be of train,validation.")
        return raw.imagenet2012(options.origin, splits)
    if options.source == "folder":
        _check_name(options.name)
        return raw.folder(options.origin, options.name, validation_percent=options.validation_percent)
    if not options.pack:
        raise AlexNetError(f"{options.name} is read as it is: give --pack=256 to write a packed copy of it.")
    return raw.prepared(options.name, str(options.origin or options.data_dir))


def _check_name(name: str) -> None:
    """A set of that name must be nobody else's: it would get the recipe, or the definition, of the other one."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise AlexNetError(f"--name={name}: it must be lowercase letters, digits and _, such as my_pictures.")
    import tensorflow_datasets as tfds

    for taken, whose in (
        (datasets.known(), "a data set that the recipes know"),
        (tfds.list_builders(with_community_datasets=False), "a data set of TFDS's catalogue"),
    ):
        if datasets.base_name(name) in taken:
            raise AlexNetError(f"--name={name} is the name of {whose}: use another name, such as my_{name}.")


def main(argv: list[str]) -> None:
    """Runs one command. Raises AlexNetError."""
    options = _arguments(argv)
    options.data_dir = options.data_dir.expanduser().absolute()
    if options.source == "statistics":
        statistics.compute(options.name, options.data_dir, options.threads)
        return
    if options.raw and (not options.pack or options.keep_long_side):
        raise AlexNetError("--raw stores squares of equal size: give --pack=256, and leave --keep_long_side out.")
    print("listing the pictures ...", flush=True)
    layout = Layout(options.pack, options.keep_long_side, options.quality, options.images_per_shard, options.raw)
    data = _raw_dataset(options)
    for split, source in data.splits.items():
        print(f"{split:10} {len(source):10,} pictures of {len(data.class_names):,} classes", flush=True)
    exits.hint = lambda: "the same command resumes where it stopped"
    try:
        prepare(data, layout, data_dir=options.data_dir, threads=options.threads)
    except (OSError, RuntimeError) as error:  # RuntimeError is ArrayRecord's, of a full disk
        has_name = isinstance(error, OSError) and error.filename
        why = f"{error.filename}: {error.strerror}" if has_name else str(error).splitlines()[0]  # type: ignore[union-attr]
        raise AlexNetError(f"{why}: fix that, and the same command resumes where it stopped.") from error
