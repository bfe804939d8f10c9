"""A closed-loop client: as many requests per second as the server answers, on persistent connections.

``wrk`` is used if it is installed (it takes little of the CPU time that the server needs); otherwise a client in
Python, whose figures are lower for every server alike, so that the ratios are still valid.

The arrival of connections matters if workers share a socket: of many that arrive at the same instant, the worker that
wakes first accepts and keeps nearly all. ``spread`` opens one group after another, as real clients do; ``burst`` opens
all at the same time.
"""

from __future__ import annotations

import multiprocessing
import re
import select
import shutil
import socket
import subprocess
import time
from typing import Literal

Arrival = Literal["spread", "burst"]

CONNECTIONS = 32
GROUPS = 8
GAP = 0.05
"""Seconds between two groups of connections."""

WRK = shutil.which("wrk")

NAME = "wrk" if WRK else "the built-in client"


def throughput(port: int, seconds: float, arrival: Arrival = "spread") -> float:
    """Return the requests answered per second. Raises RuntimeError if any failed."""
    if arrival == "burst":
        return with_wrk(port, seconds, 1) if WRK else with_python(port, seconds, 1)
    return with_wrk(port, seconds, GROUPS) if WRK else with_python(port, seconds, GROUPS)


def with_wrk(port: int, seconds: float, groups: int) -> float:
    """Measure with *groups* processes of wrk, as ``throughput`` does."""
    command = [WRK or "wrk", "-t1", f"-c{CONNECTIONS // groups}", f"-d{seconds:.0f}s", f"http://127.0.0.1:{port}/"]
    running = []
    for _ in range(groups):
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        time.sleep(GAP)
    return sum(figure(process.communicate()[0]) for process in running)


def figure(output: str) -> float:
    """Return the requests per second that wrk reports. Raises RuntimeError if it reports an error."""
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if found is None or "Socket errors" in output or "Non-2xx" in output:
        raise RuntimeError(output)
    return float(found[1])


def with_python(port: int, seconds: float, groups: int) -> float:
    """Measure with processes of Python, as ``throughput`` does."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        shares = [(port, CONNECTIONS // 2, seconds, max(1, groups // 2))] * 2
        return sum(pool.starmap(hammer, shares))


def hammer(port: int, connections: int, seconds: float, groups: int) -> float:
    """Run one process's share: send a request on each connection as soon as the previous one is answered."""
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    sockets: dict[int, socket.socket] = {}
    poll = select.epoll()
    answered, joined = 0, 0
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        if joined < groups and now >= start + joined * GAP:
            joined += 1
            for _ in range(connections // groups):
                connection = socket.create_connection(("127.0.0.1", port))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                connection.sendall(request)
        for number, _ in poll.poll(GAP):
            answer = sockets[number].recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"invalid HTTP response: {answer[:60]!r}")
            answered += 1
            sockets[number].sendall(request)
    for connection in sockets.values():
        connection.close()
    poll.close()
    return answered / (now - start)
