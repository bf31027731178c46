"""The watchdog's decisions, on a clock of the test's own; that it ends a process is in the faults."""

import contextlib
import threading

import pytest

from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import watchdog as watches
from alexnet_jax.train.watchdog import Watch


def _allowed(watch: Watch) -> float:
    return watch._allowed()


def test_what_is_allowed_follows_what_it_took_before(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(0.0)
    watch._floor = 10.0
    watch.doing("computing", " step 1")
    assert _allowed(watch) == watches._FIRST_SECONDS
    for seconds in (0.1, 3.0, 0.2):
        watch._spent = seconds
        watch.doing("computing", " another step")
    assert _allowed(watch) == pytest.approx(60.0)  # 20 times the longest
    watch.doing("evaluating")
    assert _allowed(watch) == watches._FIRST_SECONDS  # nothing is known of another kind
    watch._spent = 0.1
    watch.doing("evaluating")
    assert _allowed(watch) == 10.0  # and never less than the floor


def test_an_hour_is_for_the_first_of_a_kind_only() -> None:
    watch = Watch(0.0)
    watch._floor = 7200.0
    watch.doing("compiling")
    assert _allowed(watch) == 7200.0


def test_no_thread_where_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches.threading, "Thread", pytest.fail)
    with Watch(0.0) as watch:
        watch.doing("computing")


def test_a_run_that_failed_is_watched_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a process that lives on would be ended an hour later, as these tests were on a slow machine."""
    monkeypatch.setattr(watches, "_TICK", 0.001)
    with contextlib.suppress(AlexNetError), Watch(10.0) as watch:
        watch.doing("opening the data")
        [thread] = [thread for thread in threading.enumerate() if thread.name == "watchdog"]
        raise AlexNetError("There is no data.")
    thread.join(timeout=60)
    assert not thread.is_alive()
