"""What comes in at an open door: garbage, heads that do not end, huge bodies, answers that nobody takes, wrong keys,
and thousands of connections that say nothing. Pseudo-random, the same each time; at a pace, so that it is the door
that is tried and not the machine's processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HELD = 2000
"""Connections that are held open at the same time."""
PACE = 0.02
"""Seconds between two of each kind."""
PATIENCE = 2.0
"""Seconds that one attacker stays."""

_HEAD = b"POST /cli HTTP/1.1\r\nHost: localhost\r\n"


class Attack:
    """``with Attack(port) as attack:`` goes on until the block ends. *held* is how many connections were begun to be
    held, *tried* how often anything else was. *nice*: of the attackers; 19 lets everybody else go first.
    """

    def __init__(self, port: int, *, held: int = HELD, seed: int = 1, nice: int = 0) -> None:
        self.port = port
        self._nice = nice
        self.held = 0
        self.tried = 0
        self.all_held = threading.Event()
        """Every connection that is to be held has been begun, and there was some time for it."""
        self._wanted = held
        self._random = random.Random(seed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)  # of this thread
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        kinds = (self._garbage, self._slow_head, self._huge_body, self._greedy, self._wrong_key, self._half_open)
        tasks = [asyncio.ensure_future(self._again(kind)) for kind in kinds] + [asyncio.ensure_future(self._hold())]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _hold(self) -> None:
        """Hold connections that say nothing; one in ``PACE`` is given up for another. A door that accepts no faster
        lets some wait in the kernel.
        """
        held: set[asyncio.Task[None]] = set()
        try:
            for _ in range(self._wanted):
                held.add(asyncio.ensure_future(self._hold_one()))
                await asyncio.sleep(0)
            await asyncio.sleep(PATIENCE)
            self.all_held.set()
            while True:
                await asyncio.sleep(PACE)
                held.pop().cancel()
                held.add(asyncio.ensure_future(self._hold_one()))
        finally:
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)

    async def _hold_one(self) -> None:
        self.held += 1
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                break
            except OSError:
                await asyncio.sleep(PATIENCE)
        try:
            await asyncio.Event().wait()
        finally:
            writer.close()

    async def _again(self, kind: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._once(kind))
                await asyncio.sleep(PACE)

    async def _once(self, kind: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.tried += 1
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                async with asyncio.timeout(PATIENCE):
                    await kind(reader, writer)
            finally:
                writer.close()

    async def _garbage(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._random.randbytes(self._random.randrange(1, 40000)))
        await reader.read()

    async def _slow_head(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in _HEAD + b"X-Slow: " + b"x" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(PACE)
            if writer.is_closing():
                return

    async def _huge_body(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = self._random.choice((b"Content-Length: 10000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"))
        writer.write(_HEAD + head)
        for _ in range(40):
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()

    async def _greedy(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ask much, and take no answer."""
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        await asyncio.sleep(PATIENCE)

    async def _wrong_key(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = self._random.randbytes(20).hex().encode()
        writer.write(_HEAD + b"X-Access-Key: " + key + b"\r\nContent-Length: 0\r\n\r\n")
        await reader.read(1)

    async def _half_open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD[: self._random.randrange(len(_HEAD))])
        writer.write_eof()
        await reader.read()


class BareDoor:
    """What any open port costs: a process that accepts whoever comes, and hangs up. ``with BareDoor() as door``."""

    PROGRAM = """
import socket
server = socket.create_server(("127.0.0.1", 0), backlog=128)
print(server.getsockname()[1], flush=True)
while True:
    server.accept()[0].close()
"""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, "-c", self.PROGRAM], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.pid = self._process.pid
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
