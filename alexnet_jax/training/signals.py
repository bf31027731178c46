"""Ctrl-C and SIGTERM ask a run to save and stop."""

import os
import signal
from types import FrameType

import jax


class Interrupted(Exception):
    """The run was asked to stop, and did, with everything saved. `signal` is the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class StopRequest:
    """While it is entered, the first signal asks the loop to stop after its step; the second ends it at once.

    One of several processes must not stop alone: there jax.distributed takes SIGTERM, and
    `Checkpoints.reached_preemption` says at which step all of them stop.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def check(self) -> None:
        """Raises Interrupted where the run is asked to stop: for what lasts longer than a step."""
        if self.signal:
            raise Interrupted(self.signal)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            self._restore()
            signal.raise_signal(number)
            return
        self.signal = number
        # A handler runs in the middle of anything, also of a write to the log or the terminal, and such
        # a write must not be started a second time: this goes past Python's buffers.
        line = f"\n{signal.Signals(number).name}: saving after this step (once more ends at once, unsaved)\n"
        os.write(1, line.encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
