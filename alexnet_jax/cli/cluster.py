"""The processes of a run, from the flags: found in the cluster, named by flags, or started here."""

import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import alexnet_jax
from alexnet_jax import config as configs, exits
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import distributed, provenance


@contextlib.contextmanager
def joined(flags: Any, argv: Sequence[str], facts: dict[str, Any]) -> Iterator[distributed.ProcessGroup]:
    """This process among those of the run, by `flags` of `cli.train`; alone where there are no others.

    `argv` is what other processes are started with, `facts` are what must be the same on all. Raises AlexNetError.
    """
    coordinator, count, index, local_devices = _place(flags)
    check: Callable[[], None] = lambda: None  # noqa: E731
    if flags.processes > 1:
        coordinator, count, index = f"127.0.0.1:{_free_port()}", flags.processes, 0
        check = _start_others(argv, coordinator, count)
    if count == 1:
        yield distributed.ProcessGroup()
        return
    log = Path(tempfile.gettempdir()) / f"alexnet-process-{index}-{os.getpid()}.log"
    group = distributed.join(
        coordinator, index, count, facts=facts | _code(), start_timeout=flags.start_timeout,
        peer_timeout=flags.peer_timeout, native_log=str(log), local_devices=local_devices, check=check,
    )  # fmt: skip
    yield group
    group.close()


def facts_of(config: Any, **others: Any) -> dict[str, Any]:
    """What must be the same on all processes, by name: every field of the config, and `others`."""
    return {f"config.{name}": repr(value) for name, value in configs.flat(config)} | others


def _code() -> dict[str, Any]:
    """Another program would hang in a collective: the code and the versions of what it runs on."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(Path(alexnet_jax.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    versions = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"} | provenance.packages()
    return {"the code of alexnet_jax": digest.hexdigest()} | {f"the version of {n}": v for n, v in versions.items()}


def _place(flags: Any) -> tuple[str, int, int, list[int] | None]:
    """(address of process 0, how many processes, which one this is, its devices or None for all)."""
    place = flags.coordinator, flags.num_processes, flags.process_id
    given = [value is not None for value in place]
    if flags.processes > 1 and (any(given) or flags.distributed):
        raise AlexNetError("--processes starts all processes itself: leave out --coordinator and --distributed.")
    local = _devices(flags.local_devices)
    if any(given):
        if not all(given):
            raise AlexNetError("--coordinator, --num_processes and --process_id name a process of several: give all.")
        if flags.process_id >= flags.num_processes:
            raise AlexNetError(
                f"--process_id={flags.process_id} is not one of {flags.num_processes} processes: they count from 0."
            )
        if not re.fullmatch(r".+:\d+", flags.coordinator):
            raise AlexNetError(f"--coordinator={flags.coordinator} is not HOST:PORT.")
        return *place, local
    if flags.distributed is False or flags.processes > 1:
        return "", 1, 0, None
    # Any pod by itself, such as a notebook's, looks like one of several to JAX.
    in_pod, in_job = "KUBERNETES_SERVICE_HOST" in os.environ, "JOB_COMPLETION_INDEX" in os.environ
    alone = in_pod and not (flags.distributed or in_job or "TPU_WORKER_ID" in os.environ)
    found = None if alone else _detected(flags.start_timeout)
    if found is None and (flags.distributed or in_job):
        raise AlexNetError(
            "JAX finds no cluster, which --distributed and an indexed job ask for: start this under Slurm, Open MPI, "
            "Cloud TPU or Kubernetes (there, install jax[k8s]), name the processes with --coordinator, --num_processes "
            "and --process_id, or use --nodistributed where each process is a run of its own."
        )
    address, count, index, theirs = found or ("", 1, 0, None)
    return address, count, index, local if flags.local_devices else theirs


def _devices(text: str | None) -> list[int] | None:
    if text in (None, "", "all"):
        return None
    with contextlib.suppress(ValueError):
        return [int(part) for part in str(text).split(",")]
    raise AlexNetError(f"--local_devices={text} is not possible: it must be all, or numbers such as 0,1.")


def _detected(timeout: float) -> tuple[str, int, int, list[int] | None] | None:
    """What `jax.distributed.initialize()` finds out by itself, None outside of a cluster it knows.

    It keeps what it finds to itself; pyproject.toml bounds jax because of this private name.
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


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _start_others(argv: Sequence[str], coordinator: str, count: int) -> Callable[[], None]:
    """Starts all but process 0, which is this one; the check that ends it where one of them has ended already."""
    root = str(Path(alexnet_jax.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    started = list[tuple[int, subprocess.Popen[bytes], Any]]()
    for index in range(1, count):
        place = ["--processes=1", f"--coordinator={coordinator}", f"--num_processes={count}", f"--process_id={index}"]
        output = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "alexnet_jax", "train", *argv, *place]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        started.append((index, process, output))
        exits.hooks.insert(0, lambda *_, process=process: process.kill())  # it ends by itself, unless it is stopped

    def check() -> None:
        for index, process, output in started:
            if (status := process.poll()) is not None:
                output.seek(0)
                last = (output.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                exits.exit_now(
                    f"error: process {index} ended with status {status} before it came: {last}", status=exits.FAILED
                )

    return check
