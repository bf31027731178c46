"""The files of this project that a batch passes through on its way from disk to loss: python tests/disk_to_loss.py

Seen by a profiler, in the order of their first call, while one batch is loaded and the training step is traced.
"""

import itertools
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from alexnet_jax import builder, config as configs
from alexnet_jax.data import feed
from alexnet_jax.model import towers
from alexnet_jax.model.preprocess import Augmentation
from alexnet_jax.train.step import make_state, make_train_step

ROOT = Path(__file__).resolve().parent.parent


def files() -> list[str]:
    """Paths below the repository, in order."""
    config = configs.load_recipe("alexnet:synthetic", ["train.batch_size=2"])
    mesh = towers.make_mesh(towers=2, tower=1, devices=jax.devices()[:1])
    split = builder.open_split(config, "train")
    network, pixels = builder.model(config, 1000), config.data.crop_pixels
    optimizer, _ = builder.optimizer(config, images=2, steps=1)
    shapes = jax.eval_shape(lambda: make_state(network, optimizer, seed=0, image_pixels=pixels))
    step = make_train_step(
        network, optimizer, mesh, shapes, batch_size=2, inputs=builder.inputs(config),
        augmentation=Augmentation(flip=True),
    )  # fmt: skip
    seen: dict[str, None] = {}

    def called(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and ROOT in path.parents and "alexnet_jax" in path.parts:
            seen[str(path.relative_to(ROOT))] = None

    threading.setprofile(called)
    sys.setprofile(called)
    try:
        images = feed.Images(config.data.resize_pixels, pixels)
        batches = feed.train_batches(split, images, feed.Feed(1), batch_size=2, seed=0, step=0, share=(0, 1))
        step.lower(shapes, towers.to_devices(next(batches), mesh))  # type: ignore[attr-defined]
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    # The update follows the loss.
    after = ("alexnet_jax/train/optimizer.py",)
    return list(itertools.takewhile(lambda path: path not in after, seen))


if __name__ == "__main__":
    print("\n".join(files()))
