"""Being moved: what a config may say is in schema.py, batches on a mesh in builder.py."""

from ml_collections import ConfigDict

from alexnet_jax.errors import AlexNetError
from alexnet_jax.schema import BY_LAYER as BY_LAYER, check as check  # noqa: PLC0414


def check_batches(config: ConfigDict, data_parallel: int) -> None:
    """Raises AlexNetError if a batch is not divisible by the `data_parallel` rows of the mesh."""
    for path, size in (("train", config.train.batch_size), ("eval", config.eval.batch_size)):
        if size % data_parallel:
            raise AlexNetError(
                f"config.{path}.batch_size={size} is not divisible by {data_parallel}, the size of the mesh axis data: "
                f"use a multiple of {data_parallel}."
            )
    parts = config.train.accumulate
    if config.train.batch_size // data_parallel % parts:
        raise AlexNetError(
            f"config.train.accumulate={parts} does not divide {config.train.batch_size // data_parallel}, the images "
            "of a batch that a device computes: use a divisor of it."
        )
