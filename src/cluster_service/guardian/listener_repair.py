"""Revival of listening sockets that a worker has shut down.

All workers of a group share one open socket. shutdown(2) by one of them (the way in which Twisted, Tornado and many C
servers stop) ends it for all: a TCP socket leaves the state LISTEN, and the kernel refuses connections. epoll(7)
reports this as EPOLLHUP. The guardian waits for EPOLLHUP on every socket on which workers listen and calls listen(2)
again, which restores the socket in every process. A Unix socket cannot listen again after shutdown(2): the guardian
replaces it at its path, and the workers that have the old socket must be replaced.

Workers receive EPOLLHUP too, and some (Twisted) then close their socket. Shortly afterwards the guardian checks which
workers still have the socket open, and reports those that do not.

For a worker that repeatedly shuts down the socket, the guardian makes at most ``REVIVALS_PER_SECOND`` calls; in
between, it reports the socket as not accepting.
"""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

from cluster_service.machine import shortage

from .helper_client import ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from .event_loop import Loop
    from .helper_client import Steps, Tasks
    from .holdings import Held, Holdings, Worker
    from .port_service import Ports

REVIVAL_BURST, REVIVALS_PER_SECOND = 100.0, 10.0
"""Revivals allowed per socket: burst, and per second from then on. A whole group may stop simultaneously."""

RETRY_SECONDS = 1.0
"""Seconds until a failed revival is retried."""

LOOK_SECONDS = 0.5
"""Seconds after a revival until the guardian checks which workers have closed the socket meanwhile."""

SHUT_DOWN = select.EPOLLHUP | select.EPOLLRDHUP
"""EPOLLRDHUP is all that a Unix socket reports after SHUT_RD. A new connection causes neither."""


class Broken:
    """One socket that has been shut down, with its due times in monotonic seconds."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.left = REVIVAL_BURST
        """Revivals allowed as of ``at``."""
        self.at = 0.0
        self.retry_at: float | None = None
        self.look_at: float | None = None
        self.is_reported = False
        """Whether the shutdown was reported to the master, since the socket last listened for ``LOOK_SECONDS``."""

    def may_revive(self, now: float) -> bool:
        """Return whether the socket may be revived at *now*; if so, charge the rate limit."""
        self.left = min(REVIVAL_BURST, self.left + max(0.0, now - self.at) * REVIVALS_PER_SECOND)
        self.at = now
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


class Listeners:
    """The sockets on which workers listen, watched for shutdown(2).

    *report* sends a socket's state to the master; *report_revived* reports that a socket was shut down and listens
    again, *report_closed* that a worker has closed one.
    """

    def __init__(self, loop: Loop, holdings: Holdings, ports: Ports, tasks: Tasks, log: Callable[[str], None]) -> None:
        self._loop = loop
        self._holdings = holdings
        self._ports = ports
        self._tasks = tasks
        self._log = log
        self.report: Callable[[Held], None] = lambda _held: None
        self.report_revived: Callable[[Held], None] = lambda _held: None
        self.report_closed: Callable[[Worker, Held], None] = lambda _worker, _held: None
        self._watched: set[int] = set()
        """Watched descriptors."""
        self._broken: dict[int, Broken] = {}
        """By inode: sockets that have been shut down at least once."""
        self._logged: set[str] = set()
        """Groups of workers for which a shutdown has been logged."""

    def __repr__(self) -> str:
        return f"<Listeners: {len(self._watched)} watched, {len(self._broken)} were shut down>"

    def watch(self, held: Held) -> None:
        """Watch *held*, which listens, for shutdown."""
        if held.slots is not None:  # each worker has its own socket, which perslot watches
            return
        descriptor = held.socket.fileno()
        if held.door or held.asked or held.address.kind == "udp" or descriptor in self._watched:
            return
        self._watched.add(descriptor)
        self._loop.watch(descriptor, lambda _events: self._shut_down(held), SHUT_DOWN)

    def forget(self, held: Held) -> None:
        """Stop watching *held*, which is about to be closed.

        The epoll entry would outlive our descriptor, because workers have the socket open.
        """
        self._unwatch(held)
        self._broken.pop(held.inode, None)

    def _unwatch(self, held: Held) -> None:
        descriptor = held.socket.fileno()
        if descriptor in self._watched:
            self._watched.discard(descriptor)
            self._loop.drop(descriptor)

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next."""
        times = [at for broken in self._broken.values() for at in (broken.retry_at, broken.look_at) if at is not None]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Run everything that is due."""
        for broken in list(self._broken.values()):
            if broken.retry_at is not None and now >= broken.retry_at:
                broken.retry_at = None
                self._try(broken, now)
            if broken.look_at is not None and now >= broken.look_at:
                broken.look_at, broken.is_reported = None, False
                self._set_problem(broken.held, "")
                self._tasks.add(lambda broken=broken: self._look(broken.held))  # type: ignore[misc]

    # ------------------------------------------------------------ revival

    def _shut_down(self, held: Held) -> None:
        """Handle a shutdown(2) of *held*, or a disconnect, by any process."""
        self._unwatch(held)
        if not self._is_wanted(held):
            return
        broken = self._broken.setdefault(held.inode, Broken(held))
        broken.look_at = None
        if held.tenant is not None and held.tenant not in self._logged:
            self._logged.add(held.tenant)
            self._log(_sentence(held, self._suspects(held)))
        self._try(broken, self._loop.now())

    def _try(self, broken: Broken, now: float) -> None:
        if broken.may_revive(now):
            self._tasks.add(lambda: self._revive(broken))
            return
        broken.retry_at = now + 1.0 / REVIVALS_PER_SECOND
        self._set_problem(broken.held, f"a worker shuts it down more than {REVIVALS_PER_SECOND:g} times a second")

    def _revive(self, broken: Broken) -> Steps[None]:
        held = broken.held
        if self._holdings.by_inode.get(held.inode) is not held:
            return  # closed meanwhile
        try:
            if held.address.kind == "unix":
                yield from self._replace(held)
            else:
                yield from self._ports.listen_again(held)
        except OSError as error:
            broken.retry_at = self._loop.now() + RETRY_SECONDS
            self._set_problem(held, f"it was shut down and cannot listen again: {shortage.explain(error)}")
            return
        if held.address.kind != "unix":
            broken.look_at = self._loop.now() + LOOK_SECONDS
        if not (broken.is_reported or held.problem):
            broken.is_reported = True
            self.report_revived(held)

    def _replace(self, held: Held) -> Steps[None]:
        """Listen at the path of *held* with a new socket. Raises OSError."""
        if held.given is not None:
            raise OSError(errno.EOPNOTSUPP, "it was passed to the service; restart its socket unit")
        users = [self._holdings.workers[number] for number in sorted(held.users)]
        try:
            yield from self._ports.replace(held)
        finally:
            for worker in users if self._holdings.by_inode.get(held.inode) is not held else ():
                self.report_closed(worker, held)

    def _look(self, held: Held) -> Steps[None]:
        """Report the workers that have closed *held*."""
        users = [worker for worker in self._users(held) if "stop" not in worker.signals]
        others = [worker.pid for worker in self._holdings.alive()]
        asked = {"inode": held.inode, "guardian": os.getpid(), "pids": [each.pid for each in users], "workers": others}
        closed = set((yield from ask("closed_by", asked)).values["closed"])
        for worker in users:
            if worker.pid in closed and not worker.exited and worker.number in held.users:
                held.users.discard(worker.number)
                self.report_closed(worker, held)

    # ------------------------------------------------------------ queries

    def _users(self, held: Held) -> list[Worker]:
        return [worker for worker in self._holdings.alive() if worker.number in held.users]

    def _suspects(self, held: Held) -> list[Worker]:
        """Return the workers asked to stop that have or had the socket; one may have exited already."""
        address = str(held.address)
        asked = [worker for worker in self._holdings.workers.values() if "stop" in worker.signals]
        return [each for each in asked if each.number in held.users or (each.exited and address in each.listening)]

    def _is_wanted(self, held: Held) -> bool:
        """Return whether the socket should still listen: false if the service stops and every worker was asked to."""
        if not (self._holdings.stopping or self._holdings.status.phase == "stopping"):
            return True
        return any("stop" not in worker.signals for worker in self._users(held))

    def _set_problem(self, held: Held, problem: str) -> None:
        if held.problem != problem:
            held.problem = problem
            self.report(held)


def _sentence(held: Held, suspects: list[Worker]) -> str:
    who = f"{suspects[0]}, which is stopping," if len(suspects) == 1 else "a worker"
    cure = "it is replaced" if held.address.kind == "unix" else "it listens again"
    return (
        f"{held.address}: {who} shut down the socket that all workers share, and {cure}; connections that waited in "
        "its queue are lost (logged once for each group)"
    )
