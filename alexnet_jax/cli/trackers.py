"""Trackers that a run reports to besides its own files: Weights & Biases and Trackio.

The run has one id, kept in its workdir, so that a resumed run continues there. Nothing depends on them:
metrics.jsonl has everything, and a tracker that fails is warned of once and left out. Without a network, or without a
login, Weights & Biases writes into the workdir, from where `wandb sync` sends it; Trackio is local by itself.
"""

import contextlib
import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import config as configs, extras, files
from alexnet_jax.train.metrics import Tracker

ID = "tracked_as.txt"
PROJECT = "alexnet_jax"

_END_SECONDS = 30  # for what is still to be sent at the end of a run; the rest stays in the workdir


def opened(config: ConfigDict, workdir: Path) -> list[Tracker]:
    """The trackers of config.log.track, with the run of `workdir` begun or resumed. Raises AlexNetError."""
    names = config.log.track.split()
    modules = {name: extras.module(name, extra=name, what=f"config.log.track={name}") for name in names}
    path = workdir / ID
    if names and not path.exists():
        files.write_text(path, f"{workdir.resolve().name[:40]}-{secrets.token_hex(4)}\n")
    fields = {name: str(value) if isinstance(value, tuple) else value for name, value in configs.flat(config)}
    begin = {"wandb": _wandb, "trackio": _trackio}
    return [begin[name](module, files.read_text(path).strip(), workdir, fields) for name, module in modules.items()]


def _wandb(wandb: Any, run: str, workdir: Path, fields: dict[str, Any]) -> Tracker:
    # A login is asked for on a terminal; a run must not wait for an answer.
    mode = os.environ.get("WANDB_MODE") or ("online" if _is_logged_in(wandb) else "offline")
    settings = wandb.Settings(silent=True, console="off", finish_timeout=_END_SECONDS)
    begun = wandb.init(
        project=PROJECT, id=run, name=run, resume="allow", dir=str(workdir), mode=mode, config=fields, settings=settings
    )
    # A resumed run begins at an earlier step than it ended with, which a step of wandb's own may not.
    begun.define_metric("*", step_metric="step")
    later = "" if mode == "online" else f"; offline: send it with wandb sync {workdir}/wandb/offline-run-*"
    where = f"wandb run {run} of project {PROJECT}{later}"
    return Tracker("wandb", lambda metrics, step: begun.log(metrics | {"step": step}), begun.finish, where)


def _is_logged_in(wandb: Any) -> bool:
    with contextlib.suppress(Exception):
        return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
    return False


def _trackio(trackio: Any, run: str, _: Path, fields: dict[str, Any]) -> Tracker:
    begun = _quiet(trackio.init, project=PROJECT, name=run, resume="allow", config=fields, embed=False)
    where = f"trackio run {run} of project {PROJECT}; look at it with: trackio show --project {PROJECT}"
    log = lambda metrics, step: begun.log(metrics, step=step)  # noqa: E731
    return Tracker("trackio", log, lambda: _quiet(trackio.finish), where)


def _quiet(call: Callable[..., Any], **given: Any) -> Any:
    """Without Trackio's greeting, a way to open the dashboard."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call(**given)
