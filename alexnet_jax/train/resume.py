"""Whether a run may be resumed under a config, and from which step: a pure function of configs, steps and plan."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from alexnet_jax import config as configs
from alexnet_jax.builder import Plan
from alexnet_jax.errors import AlexNetError


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
    for field, ours, theirs in configs.differences(config, saved, configs.Role.RUN):
        raise AlexNetError(
            f"{workdir} holds a run with config.{field}={theirs!r}, not {ours!r}: "
            "use its value, or another workdir for a new run."
        )
    if latest > plan.steps:
        raise AlexNetError(
            f"{workdir} holds a run that is at step {latest}, past the {plan.steps} asked for: "
            "raise config.train.steps or config.train.epochs, or use another workdir."
        )
    changed = configs.differences(config, saved)
    lines = (f"changed  config.{field}: {theirs!r} so far, {ours!r} from now on" for field, ours, theirs in changed)
    return Resume(latest, is_new=False, changed=tuple(lines))


def differs_in(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """The fields by which weights trained under `theirs` mean something else under `ours`."""
    return [field for field, *_ in configs.differences(ours, theirs, configs.Role.NETWORK)]
