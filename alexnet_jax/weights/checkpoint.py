"""A file's weights as the checkpoint of step 0 of a new run, which trains on from there."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import builder, config as configs, files
from alexnet_jax.data import statistics as pixel_statistics
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train.checkpoint import Checkpoints
from alexnet_jax.train.step import TrainState
from alexnet_jax.weights import load
from alexnet_jax.weights.identify import own_config


def to_run(
    path: Path, config: ConfigDict, workdir: Path, *, classes: Path | None = None, channels: str | None = None
) -> str:
    """Makes `workdir` a run of `config` whose checkpoint of step 0 has the file's weights; says what was done.

    `channels` and `classes` give the order of colors and of classes in the file where it does not say.
    A failure leaves no workdir. Raises AlexNetError.
    """
    files.check_free(workdir, "workdir")
    file = load.open_file(path)
    count = load.outputs_of(file, config)
    names = load.classes_of(file, classes, count)
    if names is None:
        raise AlexNetError(
            f"{path} does not say which its {count} classes are: name them, one per line, in classes=FILE."
        )
    order = _order_of_classes(config, names)
    variables = load.variables_of(file, config, names, order=order, channels=channels)
    warning = ""
    if "model" in file.about:
        own = own_config(file)
        if not config.data.mean:
            config = ConfigDict(config.to_dict())
            config.data.mean = own.data.mean
            config.lock()
        own.data.bgr = config.data.bgr  # conv1 was turned
        if fields := [name for name, *_ in configs.differences(config, own, configs.Role.NETWORK)]:
            warning = f"\nwarning: these weights were trained with other values of config.{', config.'.join(fields)}"
    with files.new_folder(workdir) as run:
        checkpoints = Checkpoints(run)
        try:
            checkpoints.save(0, jax.device_put(_first_state(config, variables)))
        finally:
            checkpoints.close()
        configs.save(config, order, run)
        if config.data.mean_image and file.mean_image is not None:
            np.save(run / pixel_statistics.MEAN_IMAGE, file.mean_image)
    ours, theirs = "BGR" if config.data.bgr else "RGB", load.channels_of(file, channels)
    turned = ours if theirs == ours else f"{theirs} turned into {ours}"
    place = "in the data set's order" if order != names else "in the file's order"
    return f"{workdir}: step 0 from {path}, {turned}, {count:,} classes {place}{warning}"


def _first_state(config: ConfigDict, variables: dict[str, Any]) -> TrainState:
    """The state of step 0, as `make_state` makes it, but with these weights."""
    params = variables["params"]
    optimizer, _ = builder.optimizer(config, images=1, steps=1)
    _, key = jax.random.split(jax.random.key(config.train.seed))
    statistics, average = variables.get("batch_stats", {}), variables if config.train.ema_decay else {}
    return TrainState(jnp.zeros((), jnp.int32), params, statistics, optimizer.init(params), average, key)


def _order_of_classes(config: ConfigDict, names: tuple[str, ...]) -> tuple[str, ...]:
    """The data set's order where it has these classes, and the file's otherwise."""
    try:
        theirs = builder.open_split(config, config.data.eval_split).class_names
    except AlexNetError:
        return names  # it is not prepared here
    return theirs if set(theirs) == set(names) else names
