"""The processes of one run: who is there, whether all run the same, where they meet, and what the end of one means.

JAX's runtime moves the numbers between them. What it lacks is here, over plain TCP connections of every process to
process 0: a start that names who is missing or differs, a meeting before each step so that nobody waits in a
collective for one who compiles (XLA:CPU's gives up after 30 s, jax-ml/jax#40831), one answer to a signal that only
one of them got, and an end of all as soon as one is gone.
"""

import contextlib
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_jax import ending, files
from alexnet_jax.errors import AlexNetError

_TICK = 0.5  # seconds between signs of life
_HELLO = "alexnet_jax"


class Peers:
    """This process among the `count` of a run; process 0 is the hub that every other one is connected to.

    It is longer than other classes: what is said between processes stays in one place.
    """

    def __init__(
        self, index: int, count: int, links: dict[int, socket.socket], *, patience: float,
        on_signal: Callable[[int], None], asked: Callable[[], int],
    ) -> None:  # fmt: skip
        """`links`: {process: the connection to it}. `patience`: seconds of silence after which a process is lost.

        `on_signal` is called with the number of a signal that another process got; `asked()` is that of this one, or 0.
        """
        self.index, self.count, self.patience = index, count, patience
        self._links, self._on_signal, self._asked = links, on_signal, asked
        self._heard = dict.fromkeys(links, time.monotonic())
        self._met = threading.Condition()
        self._meetings: dict[int, list[str]] = {}  # at the hub: {process: [the meeting it waits at, its value]}
        self._result: dict[str, list[Any]] = {}
        self._told = 0  # the signal that the others know of
        self._sending = threading.RLock()  # a signal's handler may leave in the middle of sending
        self._over = False
        if count > 1:
            ending.before_leaving(self._say_goodbye)
            threading.Thread(target=self._listen, daemon=True).start()

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    def meet(self, where: str, value: Any = None) -> list[Any]:
        """Waits until every process has come to `where`, and gives what each brought, by process. JSON values.

        Raises AlexNetError on all of them where they do not meet at the same place.
        """
        if self.count == 1:
            return [value]
        with self._met:
            if self.main:
                self._arrive(0, where, value)
            else:
                self._send(0, {"meet": where, "value": value})
            self._met.wait_for(lambda: where in self._result)
            return self._result.pop(where)

    def close(self) -> None:
        """The run is over, on all of them: from here on nobody is missed."""
        if self.count > 1 and not self._over:
            self.meet("the end")
            self._over = True

    # ------------------------------------------------------------ the thread that listens

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for other, link in self._links.items():
                selector.register(link, selectors.EVENT_READ, other)
            buffers = dict.fromkeys(self._links, b"")
            next_tick = before = time.monotonic()
            while not self._over:
                for key, _ in selector.select(timeout=_TICK):
                    data = self._received(key.data)
                    if not data:
                        if not self._over:
                            self._lose(key.data, "is gone")
                        return
                    self._heard[key.data] = time.monotonic()
                    *lines, buffers[key.data] = (buffers[key.data] + data).split(b"\n")
                    for line in lines:
                        self._take(key.data, json.loads(line))
                now = time.monotonic()
                if now - before > 3 * _TICK:  # this process itself was stopped, not the others
                    self._heard = {other: heard + now - before for other, heard in self._heard.items()}
                before = now
                if now >= next_tick:
                    next_tick = now + _TICK
                    self._look_around(now)

    def _received(self, other: int) -> bytes:
        try:
            return self._links[other].recv(1 << 20)
        except OSError:
            return b""

    def _look_around(self, now: float) -> None:
        number = 0 if self._told else self._asked()
        self._told = self._told or number
        for other in self._links:
            self._send(other, {"signal": number} if number else {})
            if now - self._heard[other] > self.patience:
                self._lose(other, f"has not been heard of for {self.patience:.0f} s")

    def _take(self, other: int, message: dict[str, Any]) -> None:
        if "meet" in message:
            with self._met:
                self._arrive(other, message["meet"], message["value"])
        elif "met" in message:
            with self._met:
                self._result[message["met"]] = message["values"]
                self._met.notify_all()
        elif "signal" in message:
            for third in self._links.keys() - {other}:
                self._send(third, message)
            self._told = message["signal"]
            self._on_signal(message["signal"])
        elif "left" in message:
            stopped = message["left"] > ending.SIGNALED  # what is saved is told in this process's own words
            ending.leave("" if stopped else message["why"], status=message["left"])

    def _arrive(self, process: int, where: str, value: Any) -> None:
        """At the hub: a process waits at a meeting. The last one to come sends what all brought to all."""
        self._meetings[process] = [where, value]
        if len(self._meetings) < self.count:
            return
        for other in range(1, self.count):
            if (theirs := self._meetings[other][0]) != (ours := self._meetings[0][0]):
                ending.leave(
                    f"error: process {other} is at {theirs!r} and process 0 at {ours!r}: start all of them with the "
                    "same command, code and data.",
                    status=ending.FAILED,
                )
        values = [self._meetings[each][1] for each in range(self.count)]
        self._meetings.clear()
        self._result[where] = values
        for other in self._links:
            self._send(other, {"met": where, "values": values})
        self._met.notify_all()

    # ------------------------------------------------------------ the end of one

    def _lose(self, other: int, what: str) -> None:
        ending.leave(
            f"error: process {other} of {self.count} {what}, and the run cannot continue without it: start the same "
            "command again on all of them, and it resumes from the last checkpoint.",
            status=ending.LOST,
        )

    def _say_goodbye(self, status: int, message: str) -> None:
        """This process ends before its time: so must the others, for the same reason."""
        if self._over:
            return
        self._over = True
        if message.startswith("error: ") and not message.startswith(("error: process", "error: Process")):
            message = f"error: process {self.index}: {message.removeprefix('error: ')}"
        for other in self._links:
            self._send(other, {"left": status, "why": message})
        # The hub is the host of JAX's service, whose end aborts the others: they go first.
        _wait_until_gone(list(self._links.values()))

    def _send(self, other: int, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._sending, contextlib.suppress(OSError):  # who is gone is found out by the thread that listens
            self._links[other].sendall(line)


# ---------------------------------------------------------------- the beginning


def join(
    coordinator: str,
    index: int,
    count: int,
    *,
    timeout: float,
    patience: float,
    on_signal: Callable[[int], None],
    asked: Callable[[], int],
    listening: socket.socket | None = None,
    check: Callable[[], None] = lambda: None,
) -> Peers:
    """Waits until all `count` processes have come to `coordinator`, HOST:PORT of process 0, at most `timeout` seconds.

    `listening` is where process 0 is waiting already; it calls `check` meanwhile, which may raise. Raises AlexNetError,
    which names who is missing.
    """
    host, _, port = coordinator.rpartition(":")
    if index == 0:
        links = _welcome(listening or listen(int(port)), coordinator, count, timeout, check)
    else:
        links = {0: _call(host, int(port), index, count, timeout)}
    for link in links.values():
        link.settimeout(max(30.0, patience))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Peers(index, count, links, patience=patience, on_signal=on_signal, asked=asked)


def listen(port: int) -> socket.socket:
    """A socket that listens on `port` of all addresses, 0 for any free one. Raises AlexNetError where it is taken."""
    dual = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=1024
        )
    except OSError as error:
        raise AlexNetError(
            f"Process 0 cannot listen on port {port} ({error.strerror}): another job may use it; end that one, or give "
            "all processes another port in coordinator=HOST:PORT."
        ) from error


def _welcome(
    listening: socket.socket, coordinator: str, count: int, timeout: float, check: Callable[[], None]
) -> dict[int, socket.socket]:
    """At the hub: {process: connection} of all others, who learn why where it does not come to that."""
    links: dict[int, socket.socket] = {}
    try:
        with listening:
            _collect(links, listening, coordinator, count, time.monotonic() + timeout, timeout, check)
    except AlexNetError as error:
        for link in links.values():
            with contextlib.suppress(OSError):
                link.sendall(json.dumps({"left": ending.FAILED, "why": f"error: {error}"}).encode() + b"\n")
        _wait_until_gone(list(links.values()))
        raise
    for link in links.values():
        link.sendall(b"{}\n")  # all are there
    return links


def _collect(
    links: dict[int, socket.socket], listening: socket.socket, coordinator: str, count: int, end: float, timeout: float,
    check: Callable[[], None],
) -> None:  # fmt: skip
    wrong = ""
    while len(links) < count - 1:
        check()
        listening.settimeout(min(1.0, max(0.01, end - time.monotonic())))
        try:
            link, _ = listening.accept()
            link.settimeout(5.0)
            hello = json.loads(_line(link))
            known = hello["program"] == _HELLO
        except (OSError, ValueError, KeyError, TypeError):  # nobody came, or another program
            if time.monotonic() > end:
                raise _missing(sorted(set(range(1, count)) - links.keys()), coordinator, count, timeout) from None
            continue
        if known:
            index, theirs = hello["index"], hello["count"]
            twice = index in links
            refusal = f"There are two processes with process_id={index}: give each its own, from 0 to {count - 1}."
            link.sendall(json.dumps({"refused": refusal if twice else ""}).encode() + b"\n")
            if twice:
                continue
            links[index] = link
            if theirs != count:
                wrong = f"Process {index} was told of {theirs} processes and process 0 of {count}"
    if wrong:  # told to all of them, so that none waits for a process 0 that has left
        raise AlexNetError(f"{wrong}: give all the same num_processes.")


def _missing(who: list[int], coordinator: str, count: int, timeout: float) -> AlexNetError:
    names = f"process {who[0]}" if len(who) == 1 else f"processes {', '.join(map(str, who[:20]))}"
    return AlexNetError(
        f"After {timeout:.0f} s {names} of {count} did not come to process 0 at {coordinator}: start all of them, on "
        "hosts that reach that address, or allow more time with start_timeout."
    )


def _call(host: str, port: int, index: int, count: int, timeout: float) -> socket.socket:
    """In another process: the connection to the hub."""
    end, why = time.monotonic() + timeout, "nothing answers there"
    while time.monotonic() < end:
        try:
            link = socket.create_connection((host, port), timeout=5.0)
        except OSError as error:
            why = error.strerror or str(error) or why
            time.sleep(0.2)
            continue
        try:
            link.sendall(json.dumps({"program": _HELLO, "index": index, "count": count}).encode() + b"\n")
            refused = json.loads(_line(link))["refused"]
        except (OSError, ValueError, KeyError, TypeError):
            link.close()
            why = "another program, or another job, answers there"
            time.sleep(0.2)
            continue
        if refused:
            raise AlexNetError(refused)
        return _admitted(link, host, port, timeout)
    raise AlexNetError(
        f"Process {index} of {count} did not reach process 0 at {host}:{port} in {timeout:.0f} s ({why}): start "
        "process 0 there, or allow more time with start_timeout."
    )


def _admitted(link: socket.socket, host: str, port: int, timeout: float) -> socket.socket:
    """The connection, once process 0 has told that all others are there. Raises AlexNetError where that fails."""
    link.settimeout(timeout + 30.0)  # process 0 may have begun to wait later
    try:
        message = json.loads(_line(link))
    except (OSError, ValueError):
        message = {"why": f"error: Process 0 at {host}:{port} ended before all processes had come: see what it says."}
    if message:
        raise AlexNetError(message["why"].removeprefix("error: "))
    return link


def _wait_until_gone(links: list[socket.socket], timeout: float = 3.0) -> None:
    """Reads until the other ends are closed: what is closed with something unread takes back what it sent."""
    end = time.monotonic() + timeout
    for link in links:
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_WR)
            while time.monotonic() < end:
                link.settimeout(max(0.05, end - time.monotonic()))
                if not link.recv(1 << 16):
                    break


def _line(link: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = link.recv(1)
        if not byte or len(line) > 10_000:
            raise ValueError("no line")
        line += byte
    return line


def alone() -> Peers:
    """The one process of a run of one."""
    return Peers(0, 1, {}, patience=0.0, on_signal=lambda _: None, asked=lambda: 0)


def same_folder(peers: Peers, folder: Path, *, timeout: float = 20.0) -> None:
    """Raises AlexNetError on every process where `folder` is not the same one for all of them.

    Process 0 leaves a file there; on a network's file system it may take seconds until the others see it.
    """
    if peers.count == 1:
        return
    token = folder / f".meeting-{os.urandom(4).hex()}"
    if peers.main:
        files.write_text(token, "process 0 was here\n")
    name, end = peers.meet("the token", token.name)[0], time.monotonic() + timeout
    while not (seen := (folder / name).exists()) and time.monotonic() < end:
        time.sleep(0.1)
    everyone = peers.meet("the workdir", [seen, str(folder.absolute()), socket.gethostname()])
    if peers.main:
        token.unlink(missing_ok=True)
    for other, (sees, path, host) in enumerate(everyone):
        if not sees:
            raise AlexNetError(
                f"Process {other} has another workdir than process 0: {path} on {host} is not {everyone[0][1]} on "
                f"{everyone[0][2]}. Name a folder on a file system that all processes share."
            )


def compare(peers: Peers, facts: dict[str, Any]) -> None:
    """Raises AlexNetError on every process where one has other `facts` than process 0: it names both values."""
    everyone = peers.meet("the comparison", facts)
    for other, theirs in enumerate(everyone):
        for name in sorted(theirs.keys() | everyone[0].keys()):
            if (its := theirs.get(name)) != (ours := everyone[0].get(name)):
                raise AlexNetError(
                    f"Process {other} differs from process 0 in {name}: {its!r} there, {ours!r} here. Start all "
                    "processes with the same command, code and data."
                )
