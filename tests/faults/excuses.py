"""Which failed request is to be excused: one whose connection was held by a worker that was hurt, and no other.

The proof is exact. Before a worker is killed it is stopped, and the kernel is asked which connections it has; a worker
that does a deed of its own writes them down itself (``release/levers.py``). A connection that was refused, that waited
in a queue, or that another worker held, excuses nothing.
But what was refused, or waited, from the moment at which a listening socket was shut down until it accepted again, is
excused.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_service.guardian import syscalls
from tests.tools.processes import stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass
class Held:
    """What one worker held when it was hurt."""

    at: float
    pid: int
    deed: str
    ports: list[int]
    """Of the clients."""
    withdrawn: bool = False
    """It has gone on unharmed."""


@dataclass
class ShutDown:
    """A listening socket that was shut down. Times are monotonic seconds."""

    at: float
    to: int
    """The port."""
    held: list[int]
    """The ports of the clients whose connections a worker had accepted by then."""
    until: float = math.inf
    """When a request was answered again."""


@dataclass
class Accounts:
    """The failures of the load, and what excuses them. *ledger*: the workers' confessions; *trace*: the failures."""

    ledger: Path
    trace: Path
    bad: set[str] = field(default_factory=set)
    """Releases that answer 500 themselves."""
    held: list[Held] = field(default_factory=list)
    shut_down: list[ShutDown] = field(default_factory=list)
    excused: dict[str, int] = field(default_factory=dict)
    """Deed → how many failures it has cost."""
    _read: dict[Path, int] = field(default_factory=dict)

    def stop(self, pid: int, deed: str) -> Held:
        """SIGSTOP *pid*, and note what it holds. Raises ProcessLookupError."""
        os.kill(pid, signal.SIGSTOP)
        while (entry := stat(pid)) is not None and entry.state not in "TtZX":
            os.sched_yield()
        held = Held(time.monotonic(), pid, deed, clients_of(pid))
        self.held.append(held)
        return held

    def unexcused(self) -> list[dict[str, Any]]:
        """The failures since the last call that nobody is to be forgiven for."""
        self.held += [Held(**line) for line in self._fresh(self.ledger)]
        return [line for line in self._fresh(self.trace) if not self._excuse(line)]

    def _excuse(self, failure: dict[str, Any]) -> bool:
        why = self._why(failure)
        if why is not None:
            self.excused[why] = self.excused.get(why, 0) + 1
        return why is not None

    def _why(self, failure: dict[str, Any]) -> str | None:
        if any(_was_shut_out(failure, listener) for listener in self.shut_down):
            return "listener shut down"
        if "port" not in failure:  # it got no connection
            return None
        if failure["reason"] == "status 500" and failure["said"].split()[-1:][0] in self.bad:
            return "answers 500"
        for held in self.held:
            within = failure["opened"] <= held.at <= failure["at"]
            if within and not held.withdrawn and failure["port"] in held.ports:
                return held.deed
        return None

    def _fresh(self, path: Path) -> list[dict[str, Any]]:
        """The whole lines that were added since the last look."""
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def _was_shut_out(failure: dict[str, Any], listener: ShutDown) -> bool:
    """Whether *failure* was refused, or waited in the queue of *listener*: no worker held its connection."""
    if failure["to"] != listener.to or failure.get("port") in listener.held:
        return False
    return bool(failure["at"] >= listener.at and failure.get("opened", failure["at"]) <= listener.until)


def clients_of(pid: int) -> list[int]:
    """The ports of the peers of every TCP connection that *pid* has open.

    Each is asked itself: the kernel's table is not read in one moment, and where it is long some are left out.
    """
    ports = []
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # it is closed, or connected with nobody
                if str(entry.readlink()).startswith("socket:"):
                    with socket.socket(fileno=syscalls.pidfd_getfd(process, int(entry.name))) as connection:
                        peer = connection.getpeername()
                        if connection.family in (socket.AF_INET, socket.AF_INET6):
                            ports.append(int(peer[1]))
    finally:
        os.close(process)
    return ports


def listener_of(pids: Iterable[int], port: int) -> socket.socket:
    """Return the socket that listens on TCP *port*, as one of *pids* has it. Raises OSError where none has."""
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            for sock in _sockets_of(pid):
                if _listens(sock, port):
                    return sock
    raise OSError(errno.ENOENT, f"no worker listens on port {port}")


def _sockets_of(pid: int) -> Iterator[socket.socket]:
    """Yield copies of the sockets of *pid*; the caller closes them."""
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # it is closed
                if str(entry.readlink()).startswith("socket:"):
                    yield socket.socket(fileno=syscalls.pidfd_getfd(process, int(entry.name)))
    finally:
        os.close(process)


def _listens(sock: socket.socket, port: int) -> bool:
    """Whether *sock* listens on TCP *port*; closes it if not."""
    inet = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if inet and sock.getsockname()[1] == port and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return True
    sock.close()
    return False
