"""A watchdog: a run in which nothing moves any more ends, so that its cluster starts it again.

JAX notices a process that is gone, not one that hangs (jax-ml/jax#38503): a dead link, a file server that does not
answer, a device that never finishes.
"""

import threading
import time
from typing import Self

from alexnet_jax import exits

_TICK = 0.5  # seconds
_FACTOR = 20  # times the longest so far of the same phase
_FIRST_SECONDS = 3600.0  # for the first of a phase: it compiles, or reads from a cold disk


class Watchdog:
    """Ends the process with status 75 where a phase takes far longer than ever before.

    That is 20 times the longest so far, an hour for the first, and never less than `floor` seconds. Time in which this
    process itself was stopped, as by Ctrl-Z, does not count. It watches for as long as it is entered.
    """

    def __init__(self, floor: float = 0.0) -> None:
        """`floor` in seconds; 0 turns it off."""
        self._floor = floor
        self._longest: dict[str, float] = {}
        self._phase, self._where, self._spent = "", "", 0.0
        self._lock = threading.Lock()
        self._over = False

    def __enter__(self) -> Self:
        if self._floor:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Of a run that ended in an error, too: a process that lives on must not be ended for it an hour later."""
        with self._lock:
            self._over = True

    def phase(self, name: str, where: str = "") -> None:
        """A phase begins: "computing", and where in the run for people, " step 41". "" watches nothing."""
        with self._lock:
            if self._phase:
                self._longest[self._phase] = max(self._spent, self._longest.get(self._phase, 0.0))
            self._phase, self._where, self._spent = name, where, 0.0

    def _limit(self) -> float:
        longest = self._longest.get(self._phase)
        return max(self._floor, _FIRST_SECONDS if longest is None else _FACTOR * longest)

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(_TICK)
            with self._lock:
                if self._over:
                    return
                self._spent += min(time.monotonic() - before, 3 * _TICK)
                if self._phase and self._spent > self._limit():
                    break
        exits.exit_now(
            f"error: nothing has moved for {self._spent:.0f} s while {self._phase}{self._where}: a device, a disk or a "
            "process hangs. Start the same command again, and it resumes from the last checkpoint.",
            status=exits.LOST,
        )
