"""A load that tells the truth: requests at a constant rate, each one accounted for.

Laws of this file:

1. The schedule is absolute. Request *i* is due at ``start + i / rate`` whatever became of those before it, and its
   latency counts from the moment it was due: a stall of the server is seen by every request that fell into it. How late
   the generator itself was is reported beside it (``late``), so that a busy machine is not taken for a slow server.
2. Nothing is lost: ``sent == ok + failed``, and every failure has a name that says what the server did.
3. The client is what real clients are. ``new``: a connection for each request; one that fails is a failure and is not
   tried again. ``keepalive``: connections are kept as RFC 9112 says. After ``Connection: close`` it connects anew
   (``reconnected``). A request on a *reused* connection that is closed before the first byte of the answer is tried
   once more on a new connection, as section 9.3.1 allows for idempotent methods and every client does (``retried``);
   all else is a failure.

By hand:     python tests/tools/load.py http://127.0.0.1:8000/ --rate 200 --seconds 10 --mode keepalive
From a test: with Load(url, rate=200, mode="new") as load: ...; load.finish() -> Result
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Awaitable

Mode = Literal["new", "keepalive"]

DEADLINE = 30.0
"""Seconds for one request, from the moment that it was due."""

BODIES = 100
"""How many different bodies are counted; further ones are added up as ``other``."""


@dataclass
class Result:
    """What became of the load. Times are seconds."""

    sent: int = 0
    ok: int = 0
    failed: int = 0
    retried: int = 0
    """Answered at the second try, on a new connection; counted in ``ok`` too."""
    reconnected: int = 0
    """Connections opened in place of one that the server had closed in order."""
    reasons: dict[str, int] = field(default_factory=dict)
    """What the failures were."""
    bodies: dict[str, int] = field(default_factory=dict)
    """How often each body was answered (programs that answer with their pid show who did)."""
    longest: float = 0.0
    median: float = 0.0
    p99: float = 0.0
    """The latency that 1 request in 100 exceeds."""
    late: float = 0.0
    """The longest time by which the generator itself began a request too late."""
    seconds: float = 0.0

    def __str__(self) -> str:
        """One line for people."""
        why = "".join(f"; {count} x {reason}" for reason, count in self.reasons.items())
        return (
            f"{self.sent} sent, {self.ok} ok, {self.failed} failed ({self.retried} retried,"
            f" {self.reconnected} reconnected) in {self.seconds:.1f} s; longest {self.longest * 1000:.0f} ms,"
            f" median {self.median * 1000:.1f} ms, generator late by at most {self.late * 1000:.0f} ms{why}"
        )


class Failure(Exception):
    """A request got no good answer. The message is its reason."""


class ClosedBeforeAnswer(Failure):
    """The connection ended before the first byte of an answer."""


_ASKED: ContextVar[Connection | None] = ContextVar("asked", default=None)
"""The connection that the request of this task was last sent on; None: it got none."""


class Connection:
    """One connection to the server, and the answers that come on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.answers = 0
        self.keep = True
        self.said = ""
        """The last body that came."""
        self.opened = 0.0
        """When it was asked for, by the machine's monotonic clock."""
        self.port: int = writer.get_extra_info("sockname")[1]

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect. Raises Failure."""
        opened = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            raise Failure(f"connect: {name_of(error)}") from error
        connection = cls(reader, writer)
        connection.opened = opened
        return connection

    def stale(self) -> bool:
        """Whether the server has closed this idle connection, as far as can be seen before a request is sent."""
        return not self.keep or self.reader.at_eof() or self.reader.exception() is not None

    async def ask(self, request: bytes) -> bytes:
        """Send *request* and return the body of a 200 answer. Raises Failure."""
        _ASKED.set(self)
        try:
            self.writer.write(request)
            await self.writer.drain()
            head = await self.head()
        except OSError as error:
            raise ClosedBeforeAnswer(f"before the answer: {name_of(error)}") from error
        try:
            status, headers = parse_head(head)
            body = await self.body(status, headers)
        except asyncio.IncompleteReadError as error:
            raise Failure("in the answer: closed") from error
        except OSError as error:
            raise Failure(f"in the answer: {name_of(error)}") from error
        self.answers += 1
        self.said = body[:64].decode("latin-1")
        if status != 200:
            raise Failure(f"status {status}")
        return body

    async def head(self) -> bytes:
        """Return the head of an answer. Raises ClosedBeforeAnswer when not one byte of it came, else Failure."""
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                raise ClosedBeforeAnswer("before the answer: closed") from error
            raise Failure("in the head of the answer: closed") from error
        except OSError as error:
            if self.reader._buffer:  # type: ignore[attr-defined] # what came before a reset stays there
                raise Failure(f"in the head of the answer: {name_of(error)}") from error
            raise

    async def body(self, status: int, headers: dict[str, str]) -> bytes:
        """Return the body, by the rules of RFC 9112, section 6.3, and note whether the connection may be kept."""
        options = [option.strip() for option in headers.get("connection", "").lower().split(",")]
        self.keep = "close" not in options and (headers["version"] == "HTTP/1.1" or "keep-alive" in options)
        if status in {204, 304}:
            return b""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return await self.chunks()
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        self.keep = False
        return await self.reader.read()

    async def chunks(self) -> bytes:
        """Return a chunked body."""
        parts: list[bytes] = []
        while True:
            size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if size == 0:
                while await self.reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                return b"".join(parts)
            parts.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)

    async def close(self) -> None:
        """Close it, and wait until it is closed."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def name_of(error: OSError) -> str:
    """``ConnectionResetError`` -> ``reset``; others by the system's own words."""
    names: dict[type[OSError], str] = {
        ConnectionResetError: "reset",
        ConnectionRefusedError: "refused",
        BrokenPipeError: "broken pipe",
    }
    return names.get(type(error)) or error.strerror or str(error) or type(error).__name__


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Return status and headers (names in lower case; the version stands beside them). Raises Failure."""
    first, *rest = head.decode("latin-1").split("\r\n")[:-2]
    version, _, status = first.partition(" ")
    if version not in {"HTTP/1.0", "HTTP/1.1"} or not status[:3].isdigit():
        raise Failure(f"not an HTTP answer: {first[:40]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return int(status[:3]), {**headers, "version": version}


class Generator:
    """Sends the requests of one run."""

    def __init__(self, url: str, rate: float, mode: Mode, clients: int, trace: str | None = None) -> None:
        parts = urlsplit(url)
        self.trace = trace
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.rate = rate
        self.mode = mode
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        close = "Connection: close\r\n" if mode == "new" else ""
        self.request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: load\r\n{close}\r\n".encode()
        self.clients = clients
        self.idle: deque[Connection] = deque()
        self.connections = 0
        self.result = Result()
        self.latencies: list[float] = []
        self.reasons: Counter[str] = Counter()
        self.bodies: Counter[str] = Counter()
        self.first = asyncio.Event()

    async def run(self, until: Awaitable[Any]) -> Result:
        """Send requests until *until* is done, wait for the last answer, and return what became of them."""
        loop = asyncio.get_running_loop()
        stop = asyncio.ensure_future(until)
        start = loop.time()
        number = 0
        async with asyncio.TaskGroup() as requests:
            while not stop.done():
                due = start + number / self.rate
                delay = due - loop.time()
                if delay > 0:
                    await asyncio.wait([stop], timeout=delay)
                    continue
                self.result.late = max(self.result.late, -delay)
                requests.create_task(self.one(due))
                number += 1
                await asyncio.sleep(0)
        for connection in self.idle:
            await connection.close()
        return self.total(number, loop.time() - start)

    def total(self, number: int, seconds: float) -> Result:
        """Return the result, once every request has ended."""
        result = self.result
        result.seconds = seconds
        result.reasons = dict(self.reasons)
        result.failed = sum(self.reasons.values())
        result.sent = number
        result.bodies = dict(self.bodies.most_common(BODIES))
        if len(self.bodies) > BODIES:
            result.bodies["other"] = sum(self.bodies.values()) - sum(result.bodies.values())
        ordered = sorted(self.latencies)
        result.median = ordered[len(ordered) // 2] if ordered else 0.0
        result.p99 = ordered[len(ordered) * 99 // 100] if ordered else 0.0
        result.longest = ordered[-1] if ordered else 0.0
        if result.sent != result.ok + result.failed:
            raise AssertionError(f"the accounts do not add up: {result}")
        return result

    async def one(self, due: float) -> None:
        """One request, to its end."""
        try:
            async with asyncio.timeout_at(due + DEADLINE):
                body = await (self.once() if self.mode == "new" else self.kept())
        except Failure as failure:
            self.failed(str(failure))
        except TimeoutError:
            self.failed(f"no answer in {DEADLINE:.0f} s")
        else:
            self.result.ok += 1
            self.bodies[body[:64].decode("latin-1").strip()] += 1
        self.latencies.append(asyncio.get_running_loop().time() - due)
        self.first.set()

    def failed(self, reason: str) -> None:
        """Count the failure of this task's request, and tell of it at once where that is wanted."""
        self.reasons[reason] += 1
        if self.trace is None:
            return
        connection = _ASKED.get()
        line: dict[str, Any] = {"at": time.monotonic(), "mode": self.mode, "to": self.port, "reason": reason}
        if connection is not None:
            line |= {"port": connection.port, "opened": connection.opened, "said": connection.said}
        with open(self.trace, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    async def once(self) -> bytes:
        """A request on a connection of its own."""
        connection = await Connection.open(self.host, self.port)
        try:
            return await connection.ask(self.request)
        finally:
            await connection.close()

    async def kept(self) -> bytes:
        """A request on the connection that was idle longest, or a new one while there are too few or none is idle."""
        connection = self.idle.popleft() if self.idle and self.connections >= self.clients else None
        if connection is not None and connection.stale():
            await self.drop(connection)
            self.result.reconnected += 1
            connection = None
        if connection is None:
            return await self.ask(await self.open())
        try:
            return await self.ask(connection)
        except ClosedBeforeAnswer:
            body = await self.ask(await self.open())
            self.result.retried += 1
            return body

    async def open(self) -> Connection:
        """A new connection that will be kept."""
        self.connections += 1
        try:
            return await Connection.open(self.host, self.port)
        except BaseException:
            self.connections -= 1
            raise

    async def ask(self, connection: Connection) -> bytes:
        """Ask on *connection* and put it back among the idle, unless it is broken."""
        try:
            body = await connection.ask(self.request)
        except BaseException:
            await self.drop(connection)
            raise
        if connection.keep:
            self.idle.append(connection)
        else:
            await self.drop(connection)
            self.result.reconnected += 1
        return body

    async def drop(self, connection: Connection) -> None:
        """Close *connection* for good."""
        self.connections -= 1
        await connection.close()


class Load:
    """The same in a process of its own, so that a test's own work does not disturb the schedule.

    It begins when the block is entered (once a first answer or failure is in) and ends with ``finish`` or the block.
    """

    def __init__(
        self, url: str, *, rate: float = 200.0, mode: Mode = "new", clients: int = 10, trace: str | None = None
    ) -> None:
        options = ["--rate", str(rate), "--mode", mode, "--clients", str(clients), "--until-eof", "--json"]
        options += [] if trace is None else ["--trace", trace]
        self.command = [sys.executable, __file__, url, *options]
        self.result: Result | None = None

    def __enter__(self) -> Self:
        """Start, and wait for the first request's end."""
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "started\n":
            self.process.communicate()
            raise AssertionError(f"the load did not start: {line!r}")
        return self

    def finish(self) -> Result:
        """Send no more requests, wait for the last answer, and return what became of them."""
        if self.result is None:
            output, _ = self.process.communicate(timeout=DEADLINE + 10)
            assert self.process.returncode == 0, f"the load ended with exit code {self.process.returncode}"
            self.result = Result(**json.loads(output))
        return self.result

    def __exit__(self, *_: object) -> None:
        """End it, also when the test has failed."""
        if self.result is None:
            self.process.kill()
            self.process.communicate()


async def end_of_input() -> None:
    """Return at the end of standard input."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def read() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(done.set)

    threading.Thread(target=read, daemon=True).start()
    await done.wait()


async def main(arguments: argparse.Namespace) -> Result:
    """One run, as the command line says."""
    generator = Generator(arguments.url, arguments.rate, arguments.mode, arguments.clients, arguments.trace)
    until = end_of_input() if arguments.until_eof else asyncio.sleep(arguments.seconds)
    run = asyncio.ensure_future(generator.run(until))
    if arguments.until_eof:
        await generator.first.wait()
        print("started", flush=True)
    return await run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Send requests at a constant rate and account for each one.")
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--mode", choices=["new", "keepalive"], default="new")
    parser.add_argument("--clients", type=int, default=10, help="connections to keep (keepalive)")
    parser.add_argument("--trace", metavar="FILE", help="write each failure there at once, a JSON object a line")
    parser.add_argument("--until-eof", action="store_true", help="until standard input ends, instead of --seconds")
    parser.add_argument("--json", action="store_true")
    outcome = asyncio.run(main(parser.parse_args()))
    print(json.dumps(asdict(outcome)) if "--json" in sys.argv else outcome)
    sys.exit(0 if "--json" in sys.argv or not outcome.failed else 1)
