"""Ask a server who answers. Every answer is a pid; a connection is made for each question."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.tools.processes import stat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DEADLINE = 20.0
"""Seconds for one answer."""

AT_ONCE = 4
"""Questions asked at the same time: while one worker is busy with one, another gets the next."""

ROUNDS = 500

Address = tuple[str, int] | str
"""(host, port), or the path of a Unix socket."""


def connect(address: Address) -> socket.socket:
    """A connection to *address*."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        connection.connect(address)
        return connection
    return socket.create_connection(address, timeout=DEADLINE)


def raw(address: Address, question: bytes = b"") -> bytes:
    """Send *question* and return all that comes until the other side closes."""
    with connect(address) as connection:
        if question:
            connection.sendall(question)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


def http(address: Address, path: str = "/") -> str:
    """GET *path*; return the body of the answer, which must be a good one."""
    question = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    head, _, body = raw(address, question.encode()).partition(b"\r\n\r\n")
    assert head.split(b" ", 2)[1] == b"200", head
    return body.decode()


def http_pid(address: Address, path: str = "/") -> int:
    """The first number in the answer to GET *path*."""
    return first_number(http(address, path))


def raw_pid(address: Address) -> int:
    """The first number in what the server says by itself."""
    return first_number(raw(address).decode())


def udp_pid(address: tuple[str, int]) -> int:
    """The first number in the answer to a datagram."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE)
        client.connect(address)
        client.send(b"who?")
        return first_number(client.recv(100).decode())


def first_number(text: str) -> int:
    """The first number in *text*."""
    found = re.search(r"\d+", text)
    assert found, text
    return int(found[0])


def workers_that_answer(ask: Callable[[], int], workers: Iterable[int]) -> set[int]:
    """Ask until each of *workers* has answered, or ``ROUNDS`` times; return those that did.

    The process that answers may be a child of the worker (gunicorn's, granian's). An answer by anyone else is an error.
    """
    wanted, seen = set(workers), set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(ROUNDS):
            for pid in pool.map(lambda _: ask(), range(AT_ONCE)):
                seen.add(worker_of(pid, wanted))
            if seen == wanted:
                break
    return seen


def worker_of(pid: int, workers: set[int]) -> int:
    """Which of *workers* is *pid* or an ancestor of it."""
    ancestor = pid
    while ancestor not in workers:
        entry = stat(ancestor)
        assert entry is not None, f"{pid} answered, and is none of {workers} nor a child of one"
        ancestor = entry.parent
    return ancestor
