"""The processes of one run: joined by JAX's runtime, compared, stopped together, and none waits for one that is gone.

Everything goes through the runtime's coordination service, which process 0 hosts: its key-value store, barriers and
heartbeats. A thread asks it twice a second; a training step exchanges nothing on the host.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from alexnet_jax import exits, files
from alexnet_jax.errors import AlexNetError

_TICK = 0.5  # seconds
_DAY_MS = 24 * 3600 * 1000  # a barrier waits for a process that compiles or evaluates


class ProcessGroup:
    """This process among the `count` of a run; process 0 writes and prints. By default the only one."""

    def __init__(self, index: int = 0, count: int = 1, client: Any = None) -> None:
        """`client`: of the coordination service, None for a single process."""
        self.index, self.count, self._client = index, count, client
        self._barriers = 0
        self._over = threading.Event()
        self._exiting = False
        # Agreement on where to stop: calls of `stop_requested` so far, and those at the time a signal was heard of.
        self._lock = threading.Lock()
        self._calls, self._calls_heard = 0, -1
        self._agreed, self._stop_after, self._signal = threading.Event(), 0, 0
        if client is not None:
            exits.hooks.append(self._say_goodbye)
            threading.Thread(target=self._watch, daemon=True).start()

    @property
    def main(self) -> bool:
        """Whether this is process 0, which writes and prints."""
        return self.index == 0

    def barrier(self, what: str) -> None:
        """Waits until every process has come here; one that is gone ends the run."""
        if self._client is not None:
            self._barriers += 1  # a name serves once
            self._client.wait_at_barrier(f"{self._barriers} {what}", _DAY_MS)

    def gather(self, what: str, value: Any) -> list[Any]:
        """What each process brought, by process; a JSON value."""
        if self._client is None:
            return [value]
        folder = f"gather/{self._barriers} {what}/"
        self._client.key_value_set(f"{folder}{self.index}", json.dumps(value))
        self.barrier(what)
        values = {int(key.rpartition("/")[2]): json.loads(text) for key, text in self._client.key_value_dir_get(folder)}
        self.barrier(f"{what}, read by all")  # before one of them may end the run for what it read
        return [values[process] for process in sorted(values)]

    def compare(self, facts: dict[str, Any]) -> None:
        """Raises AlexNetError on every process where one has other `facts` than process 0: it names both values."""
        ours, *others = self.gather("the comparison", facts)
        for process, theirs in enumerate(others, 1):
            for name in sorted(theirs.keys() | ours.keys()):
                if theirs.get(name) != ours.get(name):
                    raise AlexNetError(
                        f"Process {process} differs from process 0 in {name}: {theirs.get(name)!r} there, "
                        f"{ours.get(name)!r} here. Start all processes with the same command, code and data."
                    )

    def stop_requested(self) -> int:
        """The signal that asks the run to stop, or 0: the same on every process at the same call.

        All processes must call it equally often: before each step and each batch of an evaluation.
        """
        if self._client is None:
            return exits.requested()
        with self._lock:
            self._calls += 1
            if self._calls_heard < 0:
                return 0
        self._agreed.wait()  # at most two ticks; up to here no process has passed the last call of any other
        return self._signal if self._calls > self._stop_after else 0

    def close(self) -> None:
        """The run is over on all of them: from here on nobody is missed."""
        if self._client is None or self._over.is_set():
            return
        self.barrier("the end")
        self._over.set()
        exits.hooks.remove(self._say_goodbye)
        exits.abort_is_expected = True  # process 0 may end before this one
        # Not jax.distributed.shutdown(): the thread may still be asking, and the process ends by `exits.exit_now`.
        self._leave(60.0)

    def _watch(self) -> None:
        while not self._over.wait(_TICK):
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone: the runtime aborts at once
                self._agree_to_stop()
                # It returns when all that live have asked, so each asks to its end; the lost are missing.
                live = self._client.get_live_nodes(list(range(self.count)))
                lost = [process for process in range(self.count) if process not in live]
                self._follow()
                if lost and not self._exiting and not self._over.is_set():
                    exits.exit_now(
                        f"error: process {lost[0]} of {self.count} is gone or hangs, and the run cannot continue "
                        "without it: start the same command again on all of them, and it resumes from the last "
                        "checkpoint.",
                        status=exits.LOST,
                    )

    def _follow(self) -> None:
        """Another process ended before its time: so does this one, for the same reason."""
        found = dict(self._client.key_value_dir_get("left/"))
        if found and not self._exiting:
            process, status, message = json.loads(found["left/first"])
            reason = f"error: process {process}: {message.removeprefix('error: ')}"
            exits.exit_now("" if status > exits.SIGNALED else reason, status=status)

    def _agree_to_stop(self) -> None:
        """All stop after the same call: the last one that any of them had made when it heard of the signal."""
        found = dict(self._client.key_value_dir_get("stop/"))
        number = int(found.get("stop/signal", exits.requested()))
        if number and self._calls_heard < 0:
            self._set("stop/signal", str(number))
            with self._lock:
                self._calls_heard = self._calls
            self._set(f"stop/calls/{self.index}", str(self._calls_heard))
        calls = [int(value) for key, value in found.items() if key != "stop/signal"]
        if len(calls) == self.count:
            self._signal, self._stop_after = number, max(calls)
            self._agreed.set()

    def _say_goodbye(self, status: int, message: str) -> None:
        self._exiting = True
        self._set("left/first", json.dumps([self.index, status, message]))
        self._leave(5.0)

    def _leave(self, seconds: float) -> None:
        """Process 0 hosts the service: its end aborts the others, so it waits until they need it no more."""
        self._set(f"gone/{self.index}", "")
        end = time.monotonic() + seconds
        while self.main and len(self._client.key_value_dir_get("gone/")) < self.count and time.monotonic() < end:
            time.sleep(0.05)

    def _set(self, key: str, value: str) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # it is set already: the first one counts
            self._client.key_value_set(key, value)


def join(
    coordinator: str, index: int, count: int, *, facts: dict[str, Any], start_timeout: float, peer_timeout: float,
    native_log: str, local_devices: list[int] | None = None, check: Callable[[], None] = lambda: None,
) -> ProcessGroup:  # fmt: skip
    """Joins the `count` processes of a run at `coordinator`, HOST:PORT of process 0, and compares their `facts`.

    `start_timeout` seconds are left for all of them to come, `peer_timeout` until a silent one is lost. `check` is
    called while this process waits, and may end it. Raises AlexNetError.
    """
    # The thread above names a process that is gone; without this JAX would end this one by abort().
    jax.config.update("jax_enable_recoverability", True)
    # Signals are this program's: JAX would hold back SIGTERM until it is asked for.
    jax.config.update("jax_enable_preemption_service", False)
    host, _, port = coordinator.rpartition(":")
    own_machine = host in ("localhost", "127.0.0.1")
    if index == 0:
        _check_free("127.0.0.1" if own_machine else "", int(port))
    exits.redirect_native_output(native_log)
    exits.patience = peer_timeout + 2 * _TICK
    joined = threading.Event()
    threading.Thread(target=_expect_all, args=(joined, coordinator, count, start_timeout, check), daemon=True).start()
    jax.distributed.initialize(
        coordinator, count, index, local_device_ids=local_devices, cluster_detection_method="deactivate",
        initialization_timeout=round(start_timeout) + 60, heartbeat_timeout_seconds=round(peer_timeout),
        coordinator_bind_address=f"127.0.0.1:{port}" if own_machine else None,
    )  # fmt: skip
    joined.set()
    from orbax.checkpoint import multihost  # its public way to JAX's client

    group = ProcessGroup(index, count, multihost.get_jax_distributed_client())
    group.compare({"num_processes": count} | facts)
    return group


def check_shared(group: ProcessGroup, folder: Path, *, timeout: float = 20.0) -> None:
    """Raises AlexNetError on every process where `folder` is not the same one for all of them.

    Process 0 leaves a file there; on a network's file system it may take seconds until the others see it.
    """
    if group.count == 1:
        return
    token = folder / f".shared-{os.urandom(4).hex()}"
    if group.main:
        files.write_text(token, "process 0 was here\n")
    name, end = group.gather("the token", token.name)[0], time.monotonic() + timeout
    while not (seen := (folder / name).exists()) and time.monotonic() < end:
        time.sleep(0.1)
    everyone = group.gather("the workdir", [seen, str(folder.absolute()), socket.gethostname()])
    if group.main:
        token.unlink(missing_ok=True)
    for process, (sees, path, host) in enumerate(everyone):
        if not sees:
            raise AlexNetError(
                f"Process {process} has another workdir than process 0: {path} on {host} is not {everyone[0][1]} "
                f"on {everyone[0][2]}. Name a folder on a file system that all processes share."
            )


def _check_free(host: str, port: int) -> None:
    """Raises AlexNetError where process 0 cannot listen: JAX 0.10 crashes there."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise AlexNetError(
            f"Process 0 cannot listen on port {port} ({os.strerror(error.errno or 0)}): another job may use it; end "
            "that one, or give all processes another port in coordinator=HOST:PORT."
        ) from error


def _expect_all(
    joined: threading.Event, coordinator: str, count: int, timeout: float, check: Callable[[], None]
) -> None:
    """Ends the process with a sentence where not all have come in time: JAX would end it by abort()."""
    end = time.monotonic() + timeout
    while not joined.wait(_TICK):
        check()
        if time.monotonic() > end:
            exits.exit_now(
                f"error: After {timeout:.0f} s not all {count} processes had come to process 0 at {coordinator}: start "
                "all of them, on hosts that reach that address, or allow more time with start_timeout.",
                status=exits.FAILED,
            )
