"""The watchdog's decisions, on a clock of the test's own; that it ends a process is in the faults."""

import contextlib
import threading

import pytest

from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import watchdog
from alexnet_jax.train.watchdog import Watchdog


def test_limit_follows_the_longest_of_a_phase() -> None:
    dog = Watchdog(10.0)
    dog.phase("computing", " step 1")
    assert dog._limit() == watchdog._FIRST_SECONDS
    for seconds in (0.1, 3.0, 0.2):
        dog._spent = seconds
        dog.phase("computing", " another step")
    assert dog._limit() == pytest.approx(60.0)  # 20 times the longest
    dog.phase("evaluating")
    assert dog._limit() == watchdog._FIRST_SECONDS  # nothing is known of another phase
    dog._spent = 0.1
    dog.phase("evaluating")
    assert dog._limit() == 10.0  # and never less than the floor


def test_floor_may_be_longer_than_an_hour() -> None:
    dog = Watchdog(7200.0)
    dog.phase("compiling")
    assert dog._limit() == 7200.0


def test_no_thread_where_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog.threading, "Thread", pytest.fail)
    with Watchdog() as dog:
        dog.phase("computing")


def test_failed_run_is_watched_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a process that lives on would be ended an hour later, as these tests were on a slow machine."""
    monkeypatch.setattr(watchdog, "_TICK", 0.001)
    with contextlib.suppress(AlexNetError), Watchdog(10.0) as dog:
        dog.phase("opening the data")
        [thread] = [thread for thread in threading.enumerate() if thread.name == "watchdog"]
        raise AlexNetError("There is no data.")
    thread.join(timeout=60)
    assert not thread.is_alive()
