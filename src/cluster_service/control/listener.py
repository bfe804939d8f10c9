"""Accepting connections at a door, no faster than is good for the workers beside it.

Everything that costs the master work before a key is known costs whoever wants that work a connection: an answer to
somebody without a key ends it. So the pace at which connections are accepted bounds what strangers can make the master
do. Those who come faster wait in the kernel's queue. The owner's door has no pace.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

QUEUE = 128
"""Connections that wait in the kernel, and that are accepted in one turn of the loop."""
RATE = 500.0
"""Connections a second that the TCP door accepts in the long run: more than consoles, monitors and probes need ..."""
BURST = 1000
"""... and how many at once."""
PAUSE = 0.5
"""Seconds before another try when there are no descriptors left."""


class Pace:
    """A bucket of tokens: *burst* at first, *rate* more a second. Pure: the time is an argument."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Return how many seconds are to be waited for the next token; 0: it has been taken."""
        since = 0.0 if self._at is None else now - self._at
        self._left = min(self._burst, self._left + since * self._rate)
        self._at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self._rate
        self._left -= 1.0
        return 0.0


class Listener:
    """Accepts at *sock*, and gives each connection a protocol of *arrival*. *pace*: None: at once, always."""

    def __init__(self, sock: socket.socket, arrival: Callable[[], asyncio.BaseProtocol], pace: Pace | None) -> None:
        self._sock = sock
        self._arrival = arrival
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[object]] = set()
        self._open = True
        sock.listen(QUEUE)
        self._resume()

    def _resume(self) -> None:
        self._timer = None
        if self._open:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._timer = self._loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        for _ in range(QUEUE):
            wait = 0.0 if self._pace is None else self._pace.wait(self._loop.time())
            if wait:
                self._pause(wait)
                return
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors, or no memory: it may be better in a moment
                self._pause(PAUSE)
                return
            connection.setblocking(False)  # noqa: FBT003
            task = self._loop.create_task(self._arrive(connection))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _arrive(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._arrival, connection)
        except OSError:  # it has gone already
            connection.close()

    def close(self) -> None:
        """Accept no more."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        if self._timer is not None:
            self._timer.cancel()

    async def wait_closed(self) -> None:
        """Return when the last one that was accepted has its protocol."""
        if self._arriving:
            await asyncio.wait(self._arriving)
