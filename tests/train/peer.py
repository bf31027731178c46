"""One process of several that meet, without JAX: python tests/train/peer.py INDEX COUNT PORT WHAT_HAPPENS"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from alexnet_jax import ending
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import process_group as processes

_OTHER = 2  # the process to which it happens; process 0 and 1 look on


def _at(index: int, *, of: int = _OTHER) -> bool:
    return index == of


def _stopped(index: int) -> None:
    if _at(index):
        os.kill(os.getpid(), signal.SIGSTOP)


def _killed(index: int) -> None:
    if _at(index):
        os.kill(os.getpid(), signal.SIGKILL)


def _hub_killed(index: int) -> None:
    if _at(index, of=0):
        os.kill(os.getpid(), signal.SIGKILL)


def _failed(index: int) -> None:
    if _at(index):
        ending.leave("error: The disk is full.", status=ending.FAILED)


_HAPPENINGS: dict[str, Callable[[int], None]] = {
    "stopped": _stopped,
    "killed": _killed,
    "hub killed": _hub_killed,
    "failed": _failed,
}


def main() -> None:
    """Meets the others, has it happen, and meets them again."""
    index, count, port, what = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    heard = list[int]()
    asked = signal.SIGTERM if what == "asked to stop" and index == _OTHER else 0
    told = count + 1 if what == "told of another count" and index == _OTHER else count
    known = 1 if what == "twice" and index == _OTHER else index
    peers = processes.join(
        f"localhost:{port}", known, told, timeout=4.0 if what in ("missing", "twice") else 30.0, patience=2.0,
        on_signal=heard.append, asked=lambda: asked,
    )  # fmt: skip
    processes.compare(peers, {"config.train.seed": 7 if what == "differs" and index == _OTHER else 0})
    shared = Path(tempfile.gettempdir()) / f"alexnet-peer-{port}"
    own = shared / str(index) if what == "elsewhere" and index == _OTHER else shared
    own.mkdir(parents=True, exist_ok=True)
    processes.same_folder(peers, own, timeout=1.0)
    for step in range(100):
        assert peers.meet(f"step {step}", index * step) == [other * step for other in range(count)]
    if what in _HAPPENINGS:
        _HAPPENINGS[what](index)
    if what == "asked to stop":
        while not (heard or asked):
            pass
    where = "the evaluation" if what == "is elsewhere in the run" and index == _OTHER else "step 100"
    peers.meet(where)
    peers.close()
    print("together to the end", *heard)


if __name__ == "__main__":
    try:
        main()
    except AlexNetError as error:
        ending.leave(f"error: {error}", status=ending.FAILED)
