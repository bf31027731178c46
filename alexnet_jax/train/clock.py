"""Seconds of training, without what evaluations and saves take."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Counts from a step on, and how much of the time the loop waited for data."""

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, step: int) -> None:
        """Starts counting anew at `step`."""
        self._since, self._step, self._waited = time.perf_counter(), step, 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside is not counted."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What runs inside counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def share_waited(self) -> float:
        """The share of the time, 0 to 1, in which the loop had no next batch to start."""
        return min(1.0, self._waited / (time.perf_counter() - self._since))

    def seconds_per_step(self, step: int) -> float:
        """The mean over the steps since `restart`."""
        return (time.perf_counter() - self._since) / max(1, step - self._step)
