"""A watchdog: a run in which nothing moves any more ends, so that its cluster starts it again.

JAX notices a process that is gone, not one that hangs (jax-ml/jax#38503): a dead link, a file server that does not
answer, a feed worker that the kernel killed.
"""

import threading
import time
from typing import Self

from alexnet_jax import ending

_TICK = 0.5  # seconds
_LONGER = 20  # times what the longest of its kind took so far
_FIRST_SECONDS = 3600.0  # for the first of a kind: it compiles, or reads from a cold disk


class Watch:
    """Ends the process with status 75 where what it is `doing` takes far longer than ever before.

    That is 20 times the longest of its kind so far, an hour for the first, and never less than `floor` seconds. Time
    in which this process itself was stopped, as by Ctrl-Z, does not count. It watches for as long as it is entered.
    """

    def __init__(self, floor: float) -> None:
        """`floor` in seconds; 0 turns it off."""
        self._floor = floor
        self._longest: dict[str, float] = {}
        self._kind, self._where, self._spent = "", "", 0.0
        self._lock = threading.Lock()
        self._over = False

    def __enter__(self) -> Self:
        if self._floor:
            threading.Thread(target=self._tick, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Of a run that ended in an error, too: a process that lives on must not be ended for it an hour later."""
        with self._lock:
            self._over = True

    def doing(self, kind: str, where: str = "") -> None:
        """The process now begins something: of this kind, and where in the run for people. "" watches nothing."""
        with self._lock:
            if self._kind:
                self._longest[self._kind] = max(self._spent, self._longest.get(self._kind, 0.0))
            self._kind, self._where, self._spent = kind, where, 0.0

    def _allowed(self) -> float:
        longest = self._longest.get(self._kind)
        return max(self._floor, _FIRST_SECONDS if longest is None else _LONGER * longest)

    def _tick(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(_TICK)
            with self._lock:
                if self._over:
                    return
                self._spent += min(time.monotonic() - before, 3 * _TICK)
                if self._kind and self._spent > self._allowed():
                    break
        ending.leave(
            f"error: nothing has moved for {self._spent:.0f} s while {self._kind}{self._where}: a device, a disk or a "
            "process hangs. Start the same command again, and it resumes from the last checkpoint.",
            status=ending.LOST,
        )
