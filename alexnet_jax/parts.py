"""From the config to the parts of a network and its data: the one reader of these sections. It changes no config."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax.data import feed, sources, statistics as pixel_statistics
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, towers
from alexnet_jax.model.preprocess import Input, Views, views_of


def network(config: ConfigDict, classes: int) -> models.AlexNet:
    """The network of the config's model section, with a share of the classes for each tower, for the devices here."""
    c, dtype = config.model, compute_dtype(config)
    stack: list[models.ConvLayer | models.DenseLayer] = []
    for name in c.layers:
        fields = dict(c[name]) | {"name": name, "post_ops": tuple(c[name].post_ops.split())}
        fields |= {"init_kind": c.init, "weight_norm": c.weight_norm}
        if "kernel_size" in fields:
            stack.append(models.ConvLayer(**fields))
        else:
            fields["features"] = fields["features"] or -(-classes // c.towers)
            stack.append(models.DenseLayer(**fields))
    last = stack[-1]
    if not isinstance(last, models.DenseLayer) or last.features * c.towers < classes:
        raise AlexNetError(
            f"config.model.{last.name}.features={last.features} is too small for {classes} classes: "
            "use 0, which is each tower's share of them."
        )
    return models.AlexNet(
        classes=classes,
        towers=c.towers,
        stack=tuple(stack),
        exchange=frozenset(c.exchange),
        norm=models.ChannelNorm(**c.norm),
        spatial_norm=models.SpatialNorm(**c.spatial_norm),
        batch_norm=models.BatchNorm(**c.batch_norm),
        pool=models.Pool(**c.pool),
        dropout=models.Dropout(**c.dropout),
        compute_dtype=dtype,
        exchange_dtype=config.mesh.exchange_dtype if dtype == "float32" else dtype,
        hybrid=config.mesh.hybrid,
    )


def compute_dtype(config: ConfigDict) -> str:
    """What the devices here compute in by config.precision: "float32" or "bfloat16"."""
    if config.precision != "auto":
        return str(config.precision)
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return "bfloat16" if "amx_bf16" in _cpu_features() else "float32"
    # GPUs before NVIDIA's Ampere compute bfloat16 as float32.
    generation, dot, _ = str(getattr(device, "compute_capability", "")).partition(".")  # "7.5"; of AMD's "gfx942"
    return "float32" if dot and int(generation) < 8 else "bfloat16"


@functools.cache
def _cpu_features() -> frozenset[str]:
    """What the kernel says that this CPU has; nothing where it does not say."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def mesh(config: ConfigDict) -> Mesh:
    """The mesh of the config over all devices. Raises AlexNetError."""
    return towers.make_mesh(towers=config.model.towers, tower=1 if config.mesh.hybrid else config.mesh.tower)


def inputs(config: ConfigDict, *, folder: Path | None = None, workdir: Path | None = None) -> Input:
    """What the network is given; the mean image is the one in `workdir`, else that of the data set in `folder`.

    Raises AlexNetError where the config leaves the mean to a data set that is not there.
    """
    c = config.data
    if not c.mean:
        c = with_statistics(config, folder).data
    mean = np.asarray(c.mean, np.float32)
    if c.mean_image:
        kept = workdir / pixel_statistics.MEAN_IMAGE if workdir else None
        if kept and kept.exists():
            mean = np.load(kept)
        else:
            mean = pixel_statistics.mean_image_of(folder, c.name, c.resize_pixels, c.crop_pixels)
    return Input(c.crop_pixels, mean, tuple(c.std), c.bgr)


def open_split(config: ConfigDict, split: str) -> feed.Split:
    """A split of the config's data set. Raises AlexNetError."""
    return sources.open_split(config.data.name, split, config.data.data_dir)


def with_statistics(config: ConfigDict, folder: Path | None) -> ConfigDict:
    """A copy of the config with what it leaves to the data set in `folder` filled in: mean, principal components.

    Raises AlexNetError where there are no statistics.
    """
    filled = ConfigDict(config.to_dict())
    c = filled.data
    if not c.mean:
        c.mean = pixel_statistics.mean_of(folder, c.name)
    if not c.color_std and c.color_noise:
        c.color_std, c.color_vectors = pixel_statistics.components_of(folder, c.name)
    return filled.lock()


def make_feed(config: ConfigDict, say: Callable[[str], None]) -> feed.Feed:
    """How this process computes its batches, with what the config leaves to the machine filled in."""
    c = config.data
    threads, workers = feed.parallelism(c.threads, c.workers)
    return feed.Feed(threads, workers, c.prefetch_batches, c.max_bad_records, say)


def views(config: ConfigDict) -> Views:
    """The views of a test image, the center first."""
    c = config.data
    return views_of(c.resize_pixels, c.crop_pixels, flip=c.flip)


def eval_batches(config: ConfigDict, split: feed.Split, mesh: Mesh, say: Callable[[str], None]) -> Iterator[feed.Batch]:
    """Every image of the split once, as squares that all views fit into, for this process."""
    pixels = config.data.resize_pixels
    return feed.eval_batches(
        split,
        feed.Images(pixels, pixels),
        make_feed(config, say),
        batch_size=config.eval.batch_size,
        share=towers.feed_share(mesh),
    )
