"""Whether a run may be resumed under a config, and from which step: a pure function of configs, steps and plan."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from alexnet_jax import config as configs
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train.plan import Plan

# Fields that decide what a run is. A run is not resumed under other values of these.
_IDENTITY = (
    "data.name", "data.train_split", "data.resize_pixels", "data.crop_pixels", "data.center_square", "data.random_crop",
    "data.flip", "data.mean", "data.std", "data.bgr", "model.", "train.batch_size", "train.seed", "train.ema_decay",
    "init_from",
)  # fmt: skip

# Fields that weights were trained for: under other values they are not the same network.
_MEANING_OF_WEIGHTS = ("model.", "data.mean", "data.std", "data.bgr", "data.crop_pixels")


@dataclasses.dataclass(frozen=True)
class Resume:
    """Where a run starts. `is_new`: nothing is restored. `changed`: a line per field with another value than before."""

    first_step: int
    is_new: bool
    changed: tuple[str, ...] = ()


def resume(config: ConfigDict, saved: ConfigDict | None, *, latest: int | None, plan: Plan, workdir: Path) -> Resume:
    """Where a run of `config` starts in `workdir`, which holds the config `saved` and the checkpoint of step `latest`.

    Raises AlexNetError where the two are different runs, or the run is past its planned end.
    """
    if latest is None or saved is None:
        return Resume(0, is_new=True)  # imported weights are at step 0, and not new
    changed = configs.differences(config, saved)
    for field, ours, theirs in changed:
        if field.startswith(_IDENTITY):
            raise AlexNetError(
                f"{workdir} holds a run with config.{field}={theirs!r}, not {ours!r}: "
                "use its value, or another workdir for a new run."
            )
    if latest > plan.steps:
        raise AlexNetError(
            f"{workdir} holds a run that is at step {latest}, past the {plan.steps} asked for: "
            "raise config.train.steps or config.train.epochs, or use another workdir."
        )
    lines = (f"changed  config.{field}: {theirs!r} so far, {ours!r} from now on" for field, ours, theirs in changed)
    return Resume(latest, is_new=False, changed=tuple(lines))


def differs_in(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """The fields by which weights trained under `theirs` mean something else under `ours`."""
    return [field for field, *_ in configs.differences(ours, theirs) if field.startswith(_MEANING_OF_WEIGHTS)]
