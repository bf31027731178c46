"""One process of several, without a network: python tests/train/peer.py INDEX COUNT PORT EVENT FOLDER"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax

from alexnet_jax import exits
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import distributed

_STOP_AFTER = 20  # calls of `stop_requested`, at which the event happens to the last process, or to process 0


def main() -> None:
    """Joins the others, has the event happen, and goes on until it is told to stop or all are through."""
    jax.config.update("jax_platforms", "cpu")
    index, count, port, event, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], Path(sys.argv[5])
    last = index == count - 1
    group = distributed.join(
        f"127.0.0.1:{port}",
        0 if event == "same index" and last else index,
        count + 1 if event == "another count" and last else count,
        facts={"config.train.seed": 7 if event == "another seed" and last else 0},
        start_timeout=3.0 if event in ("missing", "same index") else 120.0,
        peer_timeout=5.0,
        native_log=str(folder / f"native-{index}"),
    )
    own = folder / str(index) if event == "another workdir" and last else folder
    own.mkdir(exist_ok=True)
    distributed.check_shared(group, own, timeout=1.0)
    assert group.gather("the indices", 10 * index) == [10 * other for other in range(count)]
    with exits.graceful():
        _run(group, event, last)
    group.close()
    if event == "abort at the end" and last:  # JAX's runtime aborts where process 0 has ended first
        threading.Thread(target=os.abort, daemon=True).start()
        threading.Event().wait(1.0)
    print(f"through, stopped by {exits.requested()}", flush=True)
    exits.exit_now(None, status=0)


def _run(group: distributed.ProcessGroup, event: str, last: bool) -> None:
    for call in range(1, 10_000):
        if number := group.stop_requested():
            print(f"stopped at call {call} by {number}", flush=True)
            return
        if event in ("none", "abort at the end") and call > 2 * _STOP_AFTER:
            return
        if call == _STOP_AFTER and (group.main if event.endswith("of process 0") else last):
            _happen(event.removesuffix(" of process 0"))
        time.sleep(0.01 * (1 + group.index))  # they are at different calls


def _happen(event: str) -> None:
    if event in ("SIGTERM", "SIGINT", "SIGKILL", "SIGSTOP"):
        os.kill(os.getpid(), getattr(signal, event))
    if event == "failure":
        raise AlexNetError("The disk is full.")


if __name__ == "__main__":
    with exits.guard():
        try:
            main()
        except AlexNetError as error:
            exits.exit_now(f"error: {error}", status=exits.FAILED)
