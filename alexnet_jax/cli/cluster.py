"""Several processes: found in the cluster, named by flags, or started here; together before JAX starts in any."""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

import alexnet_jax
from alexnet_jax import config as configs, ending
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import process_group as processes, provenance
from alexnet_jax.train.process_group import Peers
from alexnet_jax.train.signals import StopRequest

# The runtime's own patience with a silent process. It ends the others by abort(), with a dump of the C++ stack: it is
# only a second net below that of `training.peers`.
_RUNTIME_PATIENCE = 10


@contextlib.contextmanager
def joined(flags: Any, argv: Sequence[str], facts: dict[str, Any]) -> Iterator[Peers]:
    """This process among those of the run, joined by JAX until the end; alone where there are no others.

    `flags` are those of `commands.train`; `facts` are what must be the same on all. Raises AlexNetError on every
    process where one is missing or differs. An error inside ends all of them.
    """
    coordinator, count, index, local = _place(flags)
    if flags.processes > 1:
        _alone_on_the_line(flags)
        listening = processes.listen(0)
        coordinator, count, index = f"127.0.0.1:{listening.getsockname()[1]}", flags.processes, 0
        started = _start_others(argv, coordinator, count)
    elif count <= 1:
        yield processes.alone()
        return
    else:
        listening, started = None, {}
    peers = processes.join(
        coordinator, index, count,
        timeout=flags.start_timeout, patience=flags.peer_timeout, on_signal=StopRequest.ask, asked=StopRequest.asked,
        listening=listening, check=lambda: _check_started(started),
    )  # fmt: skip
    processes.compare(peers, facts | _code())
    ending.hide_native_output(_log_of(index))
    # Signals are this program's: JAX would hold back SIGTERM until it is asked for, and never tells of it meanwhile.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator, count, index, local_device_ids=local, cluster_detection_method="deactivate",
        initialization_timeout=max(60, round(flags.start_timeout)),
        heartbeat_timeout_seconds=_RUNTIME_PATIENCE * round(flags.peer_timeout),
    )  # fmt: skip
    yield peers
    peers.close()
    jax.distributed.shutdown()
    for process, said in started.values():
        process.wait()
        Path(said).unlink(missing_ok=True)
    ending.drop_native_output()


# ---------------------------------------------------------------- where this process stands


def _place(flags: Any) -> tuple[str, int, int, list[int] | None]:
    """(address of process 0, how many processes, which one this is, its devices or None for all)."""
    given = [name for name in ("coordinator", "num_processes", "process_id") if flags[name].value is not None]
    if given and len(given) < 3:
        missing = [name for name in ("coordinator", "num_processes", "process_id") if name not in given]
        raise AlexNetError(f"--{given[0]} needs --{' and --'.join(missing)} too: the three name a process of several.")
    local = _devices(flags.local_devices)
    if given:
        if flags.process_id >= flags.num_processes:
            raise AlexNetError(
                f"--process_id={flags.process_id} is not one of {flags.num_processes} processes: they count from 0."
            )
        if not flags.coordinator.rpartition(":")[2].isdigit():
            raise AlexNetError(f"--coordinator={flags.coordinator} is not HOST:PORT.")
        return flags.coordinator, flags.num_processes, flags.process_id, local
    if flags.distributed is False or flags.processes > 1:
        return "", 1, 0, None
    found = _detected(flags.start_timeout) if flags.distributed or not _is_plain_pod() else None
    if found is None and "JOB_COMPLETION_INDEX" in os.environ and not flags.distributed:
        raise AlexNetError(
            "This is a process of an indexed Kubernetes job, but JAX cannot find the others: install jax[k8s], or use "
            "--nodistributed where each is a run of its own."
        )
    if found is None:
        if flags.distributed:
            raise AlexNetError(
                "--distributed found no cluster to join: start it under Slurm, Open MPI, Kubernetes or Cloud TPU, or "
                "name the processes with --coordinator, --num_processes and --process_id."
            )
        return "", 1, 0, None
    address, count, index, theirs = found
    return address, count, index, local if flags.local_devices else theirs


def _devices(text: str | None) -> list[int] | None:
    if text in (None, "", "all"):
        return None
    with contextlib.suppress(ValueError):
        return [int(part) for part in text.split(",")]  # type: ignore[union-attr]
    raise AlexNetError(f"--local_devices={text} is not possible: it must be all, or numbers such as 0,1.")


def _is_plain_pod() -> bool:
    """Whether this is a Kubernetes pod by itself, such as a notebook's: JAX takes any for one of several."""
    names = os.environ
    return "KUBERNETES_SERVICE_HOST" in names and not {"JOB_COMPLETION_INDEX", "TPU_WORKER_ID"} & set(names)


def _detected(timeout: float) -> tuple[str, int, int, list[int] | None] | None:
    """What `jax.distributed.initialize()` finds out by itself, None outside of a cluster it knows.

    It keeps what it finds to itself, but who is missing, and who differs, has to be known before JAX starts.
    """
    from jax._src import clusters

    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    try:
        with warnings.catch_warnings(action="ignore"):
            address, count, index, local = detect(None, None, None, None, None, round(timeout))
    except Exception as error:  # each cluster has its own
        raise AlexNetError(
            f"The cluster cannot be asked for the processes of this run ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0][:200]}): name them with --coordinator, --num_processes and "
            "--process_id, or use --nodistributed for a single process."
        ) from error
    if address is None or count is None or index is None:
        return None
    # Slurm's --gpus-per-task shows each process its own GPU alone, as number 0 (jax-ml/jax#28194).
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if local and visible and len(visible.split(",")) <= local[0]:
        local = None
    return address, count, index, list(local) if local else None


def _code() -> dict[str, Any]:
    """What is run: the same code and libraries give the same program, and another one would hang in a collective."""
    digest = hashlib.blake2b(digest_size=6)
    folder = Path(alexnet_jax.__file__).parent
    for path in sorted([*folder.rglob("*.py")]):
        digest.update(path.read_bytes())
    versions = {f"the version of {name}": version for name, version in provenance.packages().items()}
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"the code of alexnet_jax": digest.hexdigest(), "the version of Python": python} | versions


def facts_of(config: Any, **others: Any) -> dict[str, Any]:
    """What must be the same on all processes, by name: every field of the config, and `others`."""
    return {f"config.{name}": repr(value) for name, value in configs.flat(config)} | others


def _log_of(index: int) -> str:
    return str(Path(tempfile.gettempdir()) / f"alexnet-process-{index}-{os.getpid()}.log")


# ---------------------------------------------------------------- processes that are started here


def _alone_on_the_line(flags: Any) -> None:
    if flags.coordinator is not None or flags.distributed:
        raise AlexNetError("--processes starts all processes itself: leave out --coordinator and --distributed.")


def _start_others(argv: Sequence[str], coordinator: str, count: int) -> dict[int, tuple[subprocess.Popen[bytes], str]]:
    """{process: (it, the file with what it says)} of all but process 0, which is this one; they end with it."""
    root = str(Path(alexnet_jax.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    started = {}
    for index in range(1, count):
        place = ["--processes=1", f"--coordinator={coordinator}", f"--num_processes={count}", f"--process_id={index}"]
        command = [sys.executable, "-m", "alexnet_jax", "train", *argv, *place]
        log = f"{_log_of(index)}.out"
        with open(log, "wb") as said:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment)
        started[index] = process, log
    # They end by themselves as soon as this one does, unless they are stopped.
    for process, _ in started.values():
        ending.after_leaving(process.kill)
    return started


def _check_started(started: dict[int, tuple[subprocess.Popen[bytes], str]]) -> None:
    for index, (process, log) in started.items():
        if (status := process.poll()) is not None:
            said = Path(log).read_text(errors="replace").strip().splitlines()[-1:]
            raise AlexNetError(f"Process {index} ended with status {status} before it came: {said[0] if said else log}")
