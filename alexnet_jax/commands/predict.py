"""alexnet predict: the most probable classes of pictures, as a table, CSV or JSON."""

import argparse
import csv
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from alexnet_jax.classifier import load
from alexnet_jax.commands import border, devices
from alexnet_jax.data import images
from alexnet_jax.errors import AlexNetError

Prediction = tuple[Path, list[tuple[str, float]]]
_MANY = 32  # pictures from which on a progress bar is worth its line
_COLUMNS = 80


def main(argv: list[str]) -> None:
    """Prints the top classes of each picture. Raises AlexNetError, after the others, for pictures that are not read."""
    options = _parser().parse_args(argv)
    paths = [path for given in options.pictures for path in _pictures(given)]
    devices.settle()
    net = load(
        options.workdir or options.weights,
        checkpoint=options.checkpoint,
        recipe=options.recipe,
        classes=options.classes,
        channels=options.channels,
    )
    good: list[Path] = []
    pictures = _readable(paths, good, at_least=net.config.data.resize_pixels)
    first = next(pictures, None)
    if first is None:
        raise AlexNetError("None of the pictures could be read.")
    found = net.predict(itertools.chain([first], pictures), top=options.top, views=options.views)
    _print(list(zip(good, found, strict=True)), options.format)
    if bad := len(paths) - len(good):
        raise AlexNetError(f"{bad:,} of {len(paths):,} pictures could not be read.")


def _parser() -> argparse.ArgumentParser:
    parser = border.Parser(prog="alexnet predict", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="files, or folders of them")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", type=Path, help="the run whose network it is")
    network.add_argument("--weights", type=Path, help="or a .safetensors, .npz or .pth file, or hf://OWNER/NAME")
    parser.add_argument("--checkpoint", default="latest", help="of the run: latest, best or a step (%(default)s)")
    parser.add_argument("--recipe", help="which network it is, for a file that does not say so")
    parser.add_argument("--classes", type=Path, help="such a file's classes, one per line")
    parser.add_argument("--channels", choices=["rgb", "bgr"], help="the order of colors in such a file")
    parser.add_argument("--top", type=border.whole(1, 1_000_000), default=5, help="so many classes (%(default)s)")
    parser.add_argument("--views", choices=["center", "all"], default="center", help="all: the average over ten views")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", dest="format", action="store_const", const="csv", help="picture,rank,class,probability")
    form.add_argument("--json", dest="format", action="store_const", const="json", help="a list of objects")
    return parser


def _pictures(given: Path) -> Iterator[Path]:
    """The files below a folder, sorted and without hidden ones; a file itself. Raises AlexNetError."""
    if not given.is_dir():
        yield given
        return

    def fail(error: OSError) -> None:
        raise AlexNetError(f"{error.filename} cannot be read: {error.strerror}.") from error

    found: list[Path] = []
    for folder, folders, names in os.walk(given, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]  # os.walk visits these
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    if not found:
        raise AlexNetError(f"The folder {given} holds no pictures.")
    yield from sorted(found)


def _readable(paths: list[Path], good: list[Path], *, at_least: int) -> Iterator[np.ndarray]:
    """The pictures that can be read, whose paths go to `good`; a warning on stderr for each of the others."""
    bar = tqdm(paths, unit="picture", disable=None if len(paths) >= _MANY else True, dynamic_ncols=True, leave=False)
    for path in bar:
        try:
            picture = images.read(path, at_least=at_least)
        except AlexNetError as error:
            bar.write(f"warning: {_text(' '.join(str(error).splitlines()))}", file=sys.stderr)
            continue
        good.append(path)
        yield picture


# ---------------------------------------------------------------- out


def _print(predictions: list[Prediction], form: str | None) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal without the letters of a name
    if form == "json":
        rows = [
            {"picture": _text(path), "predictions": [{"class": _text(name), "probability": p} for name, p in top]}
            for path, top in predictions
        ]
        print(json.dumps(rows, indent=1))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("picture", "rank", "class", "probability"))
        for path, top in predictions:
            writer.writerows((_text(path), rank, _text(name), f"{p:.7g}") for rank, (name, p) in enumerate(top, 1))
    else:
        for path, top in predictions:
            print(_shown(path))
            for name, p in top:
                line = f"  {100 * p:5.1f} %  {_shown(name)}"
                print(line if len(line) <= _COLUMNS else f"{line[: _COLUMNS - 3]}...")


def _text(name: str | Path) -> str:
    """A name as valid Unicode: bytes of a file's name that are not UTF-8 become \\xNN."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _shown(name: str | Path) -> str:
    """A name on one line of a terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in _text(name))
