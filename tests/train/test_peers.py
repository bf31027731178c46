"""Three processes that meet: what happens to one, all say in the same sentence, and none waits for ever."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from alexnet_jax import ending
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import process_group as processes

ROOT = Path(__file__).resolve().parent.parent.parent
_LOST, _KILLED = ending.LOST, -signal.SIGKILL
_GONE = "process 2 of 3 is gone, and the run cannot continue without it"
_SILENT = "process 2 of 3 has not been heard of for 2 s"


def _port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return int(server.getsockname()[1])


def _three(what: str, *, count: int = 3) -> list[tuple[int | None, str]]:
    """(status, what it said) of each; the one that is stopped for good is ended by hand."""
    port = _port()
    command = [sys.executable, "tests/train/peer.py"]
    running = [
        subprocess.Popen(
            [*command, str(index), "3", str(port), what],
            cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(count)
    ]  # fmt: skip
    try:
        if what == "stopped":
            running[0].wait(60)
            running[2].send_signal(signal.SIGKILL)
        return [(process.wait(60), process.communicate()[0]) for process in running]
    finally:
        for process in running:
            process.kill()
        shutil.rmtree(Path(tempfile.gettempdir()) / f"alexnet-peer-{port}", ignore_errors=True)


@pytest.mark.parametrize(
    ("what", "statuses", "sentence"),
    [
        ("nothing", (0, 0, 0), "together to the end"),
        ("asked to stop", (0, 0, 0), "together to the end"),
        ("differs", (1, 1, 1), "Process 2 differs from process 0 in config.train.seed: 7 there, 0 here."),
        ("elsewhere", (1, 1, 1), "Process 2 has another workdir than process 0"),
        ("is elsewhere in the run", (1, 1, 1), "process 2 is at 'the evaluation' and process 0 at 'step 100'"),
        ("told of another count", (1, 1, 1), "Process 2 was told of 4 processes and process 0 of 3"),
        ("failed", (1, 1, 1), "The disk is full."),
        ("killed", (_LOST, _LOST, _KILLED), _GONE),
        ("stopped", (_LOST, _LOST, _KILLED), _SILENT),
        ("hub killed", (_KILLED, _LOST, _LOST), "process 0 of 3 is gone"),
    ],
)
def test_what_happens_to_one_is_the_end_of_all(what: str, statuses: tuple[int, ...], sentence: str) -> None:
    ended = _three(what)
    assert tuple(status for status, _ in ended) == statuses, ended
    for status, said in ended:
        if status != _KILLED:
            assert sentence in said
            assert len(said.splitlines()) == 1, said


def test_a_signal_to_one_is_heard_by_all() -> None:
    heard = [said.split()[4:] for _, said in _three("asked to stop")]
    assert heard == [["15"], ["15"], []]


def test_who_is_missing_is_named_to_those_who_came() -> None:
    for status, said in _three("missing", count=2):
        assert status == 1
        assert "After 4 s process 2 of 3 did not come to process 0 at localhost:" in said
        assert len(said.splitlines()) == 1, said


def test_who_comes_twice_is_sent_away() -> None:
    ended = _three("twice")
    assert sum("There are two processes with process_id=1" in said for _, said in ended) == 1, ended
    assert sum("After 4 s process 2 of 3 did not come" in said for _, said in ended) == 2, ended


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("", 0)) as server, pytest.raises(AlexNetError, match="another job may use it"):
        processes.listen(server.getsockname()[1])


def test_another_program_at_the_address_is_told_and_left_alone() -> None:
    """Such as the service of a job that runs already: nothing is sent to it but a line that it does not know."""
    with socket.create_server(("localhost", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                link, _ = server.accept()
                link.sendall(b"HTTP/1.1 400 Bad Request\r\n\n")
                link.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(AlexNetError, match=r"did not reach process 0 .*another program, or another job, answers"):
            processes._call("localhost", server.getsockname()[1], 1, 2, 0.3)


def test_one_alone_meets_itself() -> None:
    peers = processes.alone()
    assert peers.meet("anywhere", 7) == [7]
    processes.compare(peers, {"seed": 0})
    peers.close()
