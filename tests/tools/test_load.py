"""The load generator, against servers that misbehave in known ways."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.tools.load import Generator, Load, Mode, Result, parse_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Server = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"


def bear(server: Server, mode: Mode, requests: int, clients: int = 1) -> Result:
    """Let *server* (called with each connection's number, from 0) bear so many requests."""

    async def run() -> Result:
        count = iter(range(1_000_000))
        seen = asyncio.Event()
        generator: Generator

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await server(next(count), reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        async def enough() -> None:
            while len(generator.latencies) < requests:
                generator.first.clear()
                await generator.first.wait()
            seen.set()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            generator = Generator(f"http://127.0.0.1:{port}/x?y", 200, mode, clients)
            return await generator.run(enough())

    return asyncio.run(run())


def answering(*answers: bytes, then: Callable[[asyncio.StreamWriter], None] = lambda _: None) -> Server:
    """A server that gives *answers* on each connection, one a request, and then does *then*."""

    async def serve(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        then(writer)

    return serve


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("mode", ["new", "keepalive"])
@pytest.mark.parametrize(
    "answer",
    [
        OK,
        CLOSE,
        b"HTTP/1.0 200 OK\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1;x\r\ni\r\n0\r\nTrailer: 1\r\n\r\n",
    ],
)
def test_good_answers_are_understood(answer: bytes, mode: Mode) -> None:
    result = bear(answering(answer), mode, 5)
    assert result.failed == 0
    assert result.sent == result.ok >= 5
    assert result.bodies == {"hi": result.ok}


def test_a_connection_closed_in_order_is_no_failure() -> None:
    result = bear(answering(OK, CLOSE), "keepalive", 6)
    assert (result.failed, result.retried) == (0, 0)
    assert result.reconnected >= 2


def test_a_reused_connection_that_closes_under_a_request_is_retried_once() -> None:
    async def serve(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")

    result = bear(serve, "keepalive", 5)
    assert result.failed == 0
    assert result.retried >= 2


@pytest.mark.parametrize("mode", ["new", "keepalive"])
@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (answering(b""), "before the answer: closed"),
        (answering(b"", then=reset), "before the answer: reset"),
        (answering(b"HTTP/1.1 200 O"), "in the head of the answer: closed"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi"), "in the answer: closed"),
        (answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "status 503"),
        (answering(b"SSH-2.0-x\r\n\r\n"), "not an HTTP answer: 'SSH-2.0-x'"),
    ],
)
def test_every_failure_has_its_name_and_is_never_retried_on_a_new_connection(
    server: Server, reason: str, mode: Mode
) -> None:
    result = bear(server, mode, 4)
    assert (result.ok, result.retried) == (0, 0)
    assert result.reasons == {reason: result.sent}


def test_nobody_there_is_a_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with Load(f"http://127.0.0.1:{taken.getsockname()[1]}/") as load:
            result = load.finish()
    assert result.reasons == {"connect: refused": result.sent}


def test_a_stall_is_seen_by_every_request_that_fell_into_it() -> None:
    release = asyncio.Event()
    held = 0

    async def serve(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal held
        await reader.readuntil(b"\r\n\r\n")
        held += 1
        if held == 20:
            release.set()
        await release.wait()
        writer.write(CLOSE)

    result = bear(serve, "new", 20)
    assert result.failed == 0
    assert result.longest >= 19 / 200, "the first request waited for the twentieth, which came 19/200 s later"


def test_heads_are_parsed_as_they_are_written() -> None:
    status, headers = parse_head(b"HTTP/1.1 204 \r\nA:b\r\nC-d:  e f \r\n\r\n")
    assert (status, headers) == (204, {"a": "b", "c-d": "e f", "version": "HTTP/1.1"})
