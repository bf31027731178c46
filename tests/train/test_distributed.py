"""Processes that meet: what happens to one is the end of all, in one sentence, and none waits for ever."""

import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet_jax import exits
from alexnet_jax.train import distributed
from alexnet_jax.train.distributed import ProcessGroup

ROOT = Path(__file__).resolve().parents[2]
LOST, KILLED = exits.LOST, -signal.SIGKILL


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _run(event: str, folder: Path, *, count: int = 2, start: int = 2, port: int = 0) -> list[tuple[int, list[str]]]:
    """[(status, the lines it printed)] of the first `start` of `count` processes."""
    port = port or _port()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.peer", str(index), str(count), str(port), event, str(folder)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(start)
    ]  # fmt: skip
    stopped = {"SIGSTOP": running[-1], "SIGSTOP of process 0": running[0]}.get(event)
    try:
        for process in running:
            if process is not stopped:
                process.wait(240)
        if stopped:
            stopped.kill()  # it would wait for ever
        return [(process.wait(), process.communicate()[0].splitlines()) for process in running]
    finally:
        for process in running:
            process.kill()


@pytest.mark.parametrize(
    ("event", "statuses", "named"),
    [
        ("another seed", (1, 1), "config.train.seed: 7 there, 0 here"),
        ("another count", (1, 1), "num_processes: 3 there, 2 here"),
        ("another workdir", (1, 1), "Process 1 has another workdir than process 0"),
        ("failure", (1, 1), "The disk is full."),
        ("failure of process 0", (1, 1), "The disk is full."),
        ("SIGKILL", (LOST, KILLED), "process 1 of 2 is gone or hangs"),
        pytest.param("SIGSTOP", (LOST, KILLED), "process 1 of 2 is gone or hangs", marks=pytest.mark.slow),
        ("SIGKILL of process 0", (KILLED, LOST), "where process 0 is gone"),
        pytest.param("SIGSTOP of process 0", (KILLED, LOST), "where process 0 is gone", marks=pytest.mark.slow),
    ],
)
def test_group_ends_together_in_one_sentence(event: str, statuses: tuple[int, ...], named: str, tmp_path: Path) -> None:
    ended = _run(event, tmp_path)
    assert tuple(status for status, _ in ended) == statuses, ended
    for status, lines in ended:
        if status != KILLED:
            assert len(lines) == 1, lines
            assert named in lines[0]


@pytest.mark.slow
def test_group_of_three_names_the_lost_process(tmp_path: Path) -> None:
    ended = _run("SIGKILL", tmp_path, count=3, start=3)
    assert [status for status, _ in ended] == [LOST, LOST, KILLED]
    assert all("process 2 of 3 is gone" in lines[0] for _, lines in ended[:2]), ended


@pytest.mark.parametrize("event", ["none", "abort at the end"])
def test_group_without_events_ends_well(event: str, tmp_path: Path) -> None:
    assert _run(event, tmp_path) == [(0, ["through, stopped by 0"])] * 2
    assert not list(tmp_path.glob("native-*"))  # what C++ wrote was Gloo's and the runtime's greeting


@pytest.mark.parametrize("event", ["SIGTERM", "SIGINT", "SIGTERM of process 0"])
def test_signal_to_one_process_stops_all_at_the_same_call(event: str, tmp_path: Path) -> None:
    number = getattr(signal, event.split(maxsplit=1)[0])
    ended = _run(event, tmp_path)
    assert [status for status, _ in ended] == [0, 0], ended
    (ours,), (theirs,) = ([line for line in lines if line.startswith("stopped at call")] for _, lines in ended)
    assert ours == theirs
    assert ours.endswith(f" by {number.value}")


@pytest.mark.parametrize("index", [0, 1])
def test_missing_process_ends_those_who_came(index: int, tmp_path: Path) -> None:
    port = _port()
    process = subprocess.run(
        [sys.executable, "-m", "tests.train.peer", str(index), "2", str(port), "missing", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    (line,) = (process.stdout + process.stderr).splitlines()
    assert f"not all 2 processes had come to process 0 at 127.0.0.1:{port}" in line


def test_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ((status, (line,)),) = _run("none", tmp_path, start=1, port=port)
    assert (status, f"port {port}" in line) == (1, True), line


@pytest.mark.parametrize("count", [2, 64, 256])
def test_step_asks_nothing_of_the_hub(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many processes there are: a thread asks twice a second, and the step reads what it found."""

    class Client:
        def __getattr__(self, name: str) -> object:
            pytest.fail(f"{name} was called")

    monkeypatch.setattr(distributed.threading, "Thread", lambda **_: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(exits, "hooks", [])
    group = ProcessGroup(1, count, Client())
    assert [group.stop_requested() for _ in range(1000)] == [0] * 1000


def test_group_of_one_exchanges_nothing(tmp_path: Path) -> None:
    group = ProcessGroup()
    assert group.gather("anything", 7) == [7]
    group.compare({"seed": 0})
    distributed.check_shared(group, tmp_path)
    assert (group.main, group.stop_requested(), list(tmp_path.iterdir())) == (True, 0, [])
    group.close()
