"""alexnet weights: weights in and out of files, and which AlexNet a file holds."""

import argparse
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import config as configs, files, parts
from alexnet_jax.cli import border
from alexnet_jax.cli.overrides import split_overrides
from alexnet_jax.data import statistics as pixel_statistics
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import towers
from alexnet_jax.train.checkpoint import Checkpoints, restore_network
from alexnet_jax.train.metrics import fitted
from alexnet_jax.train.plan import build_optimizer
from alexnet_jax.train.resume import differs_in
from alexnet_jax.train.step import TrainState
from alexnet_jax.weights import pretrained as weights
from alexnet_jax.weights.layout import factors


def export_weights(workdir: Path, which: str, output: Path) -> str:
    """Writes the weights of a checkpoint; what was written, in words. Raises AlexNetError."""
    net = restore_network(workdir, which, mesh=towers.make_mesh(towers=1, tower=1, devices=jax.devices()[:1]))
    config = net.config
    known = config.data.mean or config.data.mean_image
    inputs = parts.inputs(config, workdir=workdir) if known else None
    arrays = weights.to_arrays(net.model, jax.device_get(net.variables))
    about = weights.about(config, net.class_names, inputs) | {"step": net.step}
    weights.write(output, arrays, about, net.model)
    numbers = sum(array.size for array in arrays.values())
    by_layer = [f"{by:g} in {name}" for name, by in factors(net.model).items()]
    folded = f"; the factor of the dropout is folded into the weights ({', '.join(by_layer)})" if by_layer else ""
    return f"{output}: step {net.step} of {workdir}, {numbers:,} numbers, {about['channels']}{folded}"


# ---------------------------------------------------------------- in


def import_weights(
    path: Path, config: ConfigDict, workdir: Path, *, classes: Path | None = None, channels: str | None = None
) -> str:
    """Makes `workdir` a run of `config` whose checkpoint of step 0 has the file's weights; says what was done.

    `channels` and `classes` give the order of colors and of classes in the file where it does not say.
    A failure leaves no workdir. Raises AlexNetError.
    """
    _check_free(workdir)
    file = weights.open_file(path)
    count = weights.outputs_of(file, config)
    names = weights.classes_of(file, classes, count)
    if names is None:
        raise AlexNetError(
            f"{path} does not say which its {count} classes are: name them, one per line, in classes=FILE."
        )
    order = _order_of_classes(config, names)
    variables = weights.variables_of(file, config, names, order=order, channels=channels)
    warning = ""
    if "model" in file.about:
        own = weights.own_config(file)
        if not config.data.mean:
            config = ConfigDict(config.to_dict())
            config.data.mean = own.data.mean
            config.lock()
        own.data.bgr = config.data.bgr  # conv1 was turned
        if fields := differs_in(config, own):
            warning = f"\nwarning: these weights were trained with other values of config.{', config.'.join(fields)}"
    _write_run(
        workdir, config, order, _first_state(config, variables), file.mean_image if config.data.mean_image else None
    )
    ours, theirs = "BGR" if config.data.bgr else "RGB", weights.channels_of(file, channels)
    turned = ours if theirs == ours else f"{theirs} turned into {ours}"
    place = "in the data set's order" if order != names else "in the file's order"
    return f"{workdir}: step 0 from {path}, {turned}, {count:,} classes {place}{warning}"


def _check_free(workdir: Path) -> None:
    if (workdir / "checkpoints").exists() or (workdir / configs.SAVED_AS).exists():
        raise AlexNetError(f"workdir={workdir} holds a run already: name another one.")
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise AlexNetError(f"workdir={workdir} is not an empty folder: name another one.")


def _first_state(config: ConfigDict, variables: dict[str, Any]) -> TrainState:
    """The state of step 0, as `make_state` makes it, but with these weights."""
    params = variables["params"]
    optimizer, _ = build_optimizer(config, images=1, steps=1)
    _, key = jax.random.split(jax.random.key(config.train.seed))
    statistics, average = variables.get("batch_stats", {}), variables if config.train.ema_decay else {}
    return TrainState(jnp.zeros((), jnp.int32), params, statistics, optimizer.init(params), average, key)


def _write_run(
    workdir: Path, config: ConfigDict, class_names: tuple[str, ...], state: TrainState, mean_image: np.ndarray | None
) -> None:
    """Makes the run under another name and renames it when it is whole. Raises AlexNetError."""
    files.make_folder(workdir.absolute().parent)
    with files.named(workdir, "written"):
        growing = Path(tempfile.mkdtemp(prefix=f".{workdir.name}.", dir=workdir.absolute().parent))
        run = growing / "run"
        run.mkdir()
        checkpoints = Checkpoints(run)
        try:
            checkpoints.save(0, jax.device_put(state))
            checkpoints.close()
            configs.save(config, class_names, run)
            if mean_image is not None:
                files.write(run / pixel_statistics.MEAN_IMAGE, lambda path: np.save(path, mean_image))
            os.replace(run, workdir)  # an empty folder may be there
        finally:
            shutil.rmtree(growing, ignore_errors=True)
            with contextlib.suppress(AlexNetError):  # interrupted, it is being written still, and fails soon
                checkpoints.close()
            shutil.rmtree(growing, ignore_errors=True)


def _order_of_classes(config: ConfigDict, names: tuple[str, ...]) -> tuple[str, ...]:
    """The data set's order where it has these classes, and the file's otherwise."""
    try:
        theirs = parts.open_split(config, config.data.eval_split).class_names
    except AlexNetError:
        return names  # it is not prepared here
    return theirs if set(theirs) == set(names) else names


# ---------------------------------------------------------------- the command line


def main(argv: list[str]) -> None:
    """Runs one command. Raises AlexNetError."""
    overrides, rest = split_overrides(argv)
    options = _parser().parse_args(rest)
    if overrides and options.command != "import":
        raise AlexNetError(f"config.{overrides[0]} is an option of import, not of {options.command}.")
    if options.command == "export":
        print(fitted(export_weights(options.workdir, options.checkpoint, options.output)))
    elif options.command == "import":
        config = configs.load_recipe(options.config, overrides)
        said = import_weights(
            options.input, config, options.workdir, classes=options.classes, channels=options.channels
        )
        print(fitted(said))
    else:
        print(weights.identify(options.input))


def _parser() -> argparse.ArgumentParser:
    parser = border.Parser(prog="alexnet weights", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="a checkpoint's weights as .npz or .safetensors", allow_abbrev=False)
    out.add_argument("--workdir", type=Path, required=True)
    out.add_argument("--checkpoint", default="latest", help="latest, best or a step (%(default)s)")
    out.add_argument("--output", type=Path, required=True)
    into = commands.add_parser(
        "import", help="a file's weights as a checkpoint; --config.section.field=value too", allow_abbrev=False
    )
    into.add_argument("--input", type=Path, required=True)
    into.add_argument("--config", required=True, metavar="RECIPE[:DATA]", help="the recipe that the weights are of")
    into.add_argument("--workdir", type=Path, required=True)
    into.add_argument("--classes", type=Path, help="the classes, one per line, in the order of the file's outputs")
    into.add_argument("--channels", choices=["rgb", "bgr"], help="the order of colors in the file")
    which = commands.add_parser("identify", help="which AlexNet a file holds", allow_abbrev=False)
    which.add_argument("--input", type=Path, required=True)
    return parser
