"""What several commands have in common: the options of a network, a data set and pictures, and names on a terminal."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from alexnet_jax.classifier import Classifier
from alexnet_jax.cli import devices
from alexnet_jax.data import feed, sources
from alexnet_jax.errors import AlexNetError
from alexnet_jax.export.onnx_engine import onnxruntime
from alexnet_jax.weights.load import load


def add_options(parser: argparse.ArgumentParser, *, file_flag: str = "--weights") -> None:
    """--workdir or a file of weights, and what either needs."""
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", type=Path, help="the run whose network it is")
    words = "or a .safetensors, .npz or .pth file, or hf://OWNER/NAME"
    network.add_argument(file_flag, dest="weights", metavar="FILE", type=Path, help=words)
    parser.add_argument("--checkpoint", default="latest", help="of the run: latest, best or a step (%(default)s)")
    parser.add_argument("--recipe", help="which network it is, for a file that does not say so")
    add_file_options(parser)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--engine and --precision: what computes the network."""
    words = "onnxruntime: the faster of the two on a CPU in float32; needs the extra export"
    parser.add_argument("--engine", choices=["jax", "onnxruntime"], default="jax", help=words)
    words = "bfloat16: less exact, and faster where the device has units for it; of jax alone"
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help=words)


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """What a file of weights may not say of itself."""
    parser.add_argument("--classes", type=Path, help="the file's classes, one per line, in the order of its outputs")
    parser.add_argument("--channels", choices=["rgb", "bgr"], help="the order of colors in the file")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--data, --split and --data_dir of a prepared data set."""
    parser.add_argument("--data", help="a prepared data set (default: the run's)")
    parser.add_argument("--split", default="", help="of it (default: validation, or test if there is none)")
    parser.add_argument("--data_dir", default="", help="where it lies (default: where the run had it)")


def add_pictures(parser: argparse.ArgumentParser, *, count: str = "+") -> None:
    """PICTURE ..., files or folders; `count` as nargs of argparse."""
    parser.add_argument("pictures", nargs=count, type=Path, metavar="PICTURE", help="files, or folders of them")


def open_network(options: argparse.Namespace) -> Classifier:
    """The network of these options, on the first device. Raises AlexNetError."""
    devices.settle()
    net = load(
        options.workdir or options.weights,
        checkpoint=options.checkpoint,
        recipe=options.recipe,
        classes=options.classes,
        channels=options.channels,
    )
    engine = onnxruntime if getattr(options, "engine", "jax") == "onnxruntime" else None
    return net.using(engine=engine, precision=getattr(options, "precision", "float32"))


def data_of(options: argparse.Namespace, net: Classifier) -> tuple[str, str, str]:
    """(the data set, its split, where it lies) by the options, or what the run is evaluated on. Raises AlexNetError."""
    own = net.config.data
    if options.data is None and options.workdir is None:
        raise AlexNetError("A weight file has no data set of its own: name one with --data.")
    name, is_own = options.data or own.name, options.data in (None, own.name)
    split = options.split or (own.eval_split if is_own else "")
    return name, split, str(options.data_dir or (own.data_dir if is_own else ""))


def split_of(options: argparse.Namespace, net: Classifier) -> tuple[str, feed.Split]:
    """(the data set's name, its split) by the options. Raises AlexNetError."""
    name, split, data_dir = data_of(options, net)
    return name, sources.open_split(name, split, data_dir)


def pictures(given: Iterable[Path]) -> list[Path]:
    """Files as they are, and of folders all files below, sorted and without hidden ones. Raises AlexNetError."""
    return [path for name in given for path in (_below(name) if name.is_dir() else [name])]


def _below(given: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise AlexNetError(f"{error.filename} cannot be read: {error.strerror}.") from error

    found: list[Path] = []
    for folder, folders, names in os.walk(given, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]  # os.walk visits these
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    if not found:
        raise AlexNetError(f"The folder {given} holds no pictures.")
    return sorted(found)


def text(name: str | Path) -> str:
    """A name as valid Unicode: bytes of a file's name that are not UTF-8 become \\xNN."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shown(name: str | Path) -> str:
    """A name on one line of a terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text(name))
