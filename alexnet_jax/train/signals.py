"""Ctrl-C, SIGTERM and SIGHUP ask a run to save and stop."""

import signal
from types import FrameType

from alexnet_jax import ending

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """The run was asked to stop, and did, with everything saved. `signal` is the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class StopRequest:
    """While it is entered, the first signal asks the loop to stop after its step; the second ends it at once.

    Outside of it there is nothing to save, and the handlers of the command end it right away. One of several processes
    must not stop alone: `signal` is what it says at their next meeting, where all of them learn of it.
    """

    _entered: "StopRequest | None" = None

    def __init__(self) -> None:
        self.signal = 0
        self._own = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        ignored = [number for number in NUMBERS if signal.getsignal(number) is signal.SIG_IGN]  # as under nohup
        self._before = {number: signal.signal(number, self._ask) for number in NUMBERS if number not in ignored}
        StopRequest._entered = self
        return self

    def __exit__(self, *_: object) -> None:
        StopRequest._entered = None
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @classmethod
    def ask(cls, number: int) -> None:
        """What a signal to another process does here: it asks the loop, or ends what has nothing to save."""
        if cls._entered is None:
            ending.leave(status=ending.SIGNALED + number)
        cls._entered.signal = cls._entered.signal or number

    @classmethod
    def asked(cls) -> int:
        """The number of the signal that asked the loop which runs here, 0 without one."""
        return cls._entered.signal if cls._entered else 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._own += 1
        if self._own > 1:
            ending.leave(status=ending.SIGNALED + number)
        self.signal = self.signal or number
        ending.say_now(f"\n{signal.Signals(number).name}: saving after this step (once more ends at once, unsaved)\n")
