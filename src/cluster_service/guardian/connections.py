"""What a worker's connections are doing, as the kernel knows it: for programs that end without finishing anything.

A request that is being worked on leaves no trace in the queues of its connection. What tells is who sent last (TCP_INFO
of tcp(7)): if it was the client, an answer is outstanding; if it was the worker, the connection waits for the next
request.

A connection between two requests is ended as if the client had closed it: shutdown(2) of its receiving side. The
program reads the end of the data, and closes. All of this is a duty of the helper, on copies of the worker's sockets.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from . import posix, strangers
from .apart import Result

if TYPE_CHECKING:
    from collections.abc import Iterator


BUDGET_SECONDS = 0.25
"""How long one look may take; further connections are left to the next one, which begins elsewhere."""

_INFO = struct.Struct("=B43xI4xI12xI56xQ8xI4xII")
"""struct tcp_info of linux/tcp.h, its first 160 bytes: state, last_data_sent, last_data_recv, rtt, bytes_received,
notsent_bytes, data_segs_in, data_segs_out."""
_ESTABLISHED, _CLOSE_WAIT = 1, 8
_FIONREAD = 0x541B  # asm-generic/ioctls.h
_LONG_ANSWER = 1000
"""Milliseconds after its request from which on an answer is taken for a stream, of which more may come."""


class Info(NamedTuple):
    """One connection, as TCP_INFO has it. Times are milliseconds ago."""

    state: int
    sent: int
    """When the worker last sent data."""
    received: int
    """When it last received some."""
    rtt: int
    """Round-trip time, microseconds."""
    bytes_received: int
    unsent: int
    """Bytes that the client has no room for yet."""
    segments_in: int
    segments_out: int
    unread: int = 0
    """Bytes that the worker has not read yet."""

    @property
    def quiet(self) -> int:
        """For how many milliseconds no data has gone either way."""
        return min(self.sent, self.received)


def kind_of(info: Info) -> str:
    """Return what a connection is doing.

    ``busy``: a request is being answered. ``fresh``: there was none yet. ``answered``: it waits for the next request.
    ``stream``: the answer came, or still comes, long after its request. ``unsure``: one of these.
    """
    if info.unread or info.unsent:
        return "busy"
    if not info.bytes_received:
        return "fresh"
    if info.sent == info.received:
        return _kind_by_segments(info.segments_in, info.segments_out)
    if info.sent > info.received:
        return "busy"
    return "answered" if info.received - info.sent < _LONG_ANSWER else "stream"


def _kind_by_segments(requests: int, answers: int) -> str:
    """Return the kind where a request and an answer came in the same tick: which was the last?

    Where each request was one segment and all answers had the same number of them, the numbers of segments tell.
    """
    if not answers:
        return "busy"
    all_answered = requests > 0 and answers % requests == 0
    one_open = requests > 1 and answers % (requests - 1) == 0
    if all_answered == one_open:
        return "unsure"
    return "answered" if all_answered else "busy"


def read_info(sock: socket.socket) -> Info:
    """Return what the kernel knows of a connection. Raises OSError."""
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size).ljust(_INFO.size, b"\0")
    unread = int.from_bytes(fcntl.ioctl(sock, _FIONREAD, b"\0" * 4), sys.byteorder)
    return Info._make((*_INFO.unpack(data), unread))


def queue_of(sock: socket.socket) -> int:
    """Return how many connections wait to be accepted: tcpi_unacked of a socket that listens."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28], sys.byteorder)


def look(values: dict[str, Any], descriptors: list[int]) -> Result:
    """Look at the connections of process ``pid``, and of those below it, to ``ports``. Raises OSError.

    *descriptors*: the sockets that it accepts from. ``quiet``: kinds of connections that are ended, and for how many
    milliseconds they must have been quiet for that.

    Returns the numbers of connections that are ``queued``, ``busy``, ``idle`` (or may be), and ``ended``; ``rtt``: the
    longest round trip, in seconds; ``handled``: whether the program handles ``signal``.
    """
    queued = sum(queues({}, descriptors).values["queues"])
    quiet: dict[str, int] = values["quiet"]
    found = {"busy": 0, "unsure": 0, "idle": 0, "ended": 0}
    longest = 0
    end = time.monotonic() + BUDGET_SECONDS
    for sock in connections_of(values["pid"], frozenset(values["ports"])):
        with sock:
            if time.monotonic() > end:
                found["busy"] += 1  # it was not looked at
                break
            try:
                info = read_info(sock)
                if info.state not in (_ESTABLISHED, _CLOSE_WAIT):
                    continue
                longest = max(longest, info.rtt)
                kind = kind_of(info)
                ends = kind in quiet and info.quiet >= quiet[kind]
                if ends:
                    sock.shutdown(socket.SHUT_RD)
                found["busy" if kind == "busy" else "ended" if ends else "unsure" if kind == "unsure" else "idle"] += 1
            except OSError:  # it has just been closed
                continue
    handled = handles(values["pid"], values["signal"])
    return Result({"queued": queued, "rtt": longest / 1e6, "handled": handled, **found})


def connections_of(pid: int, ports: frozenset[int]) -> Iterator[socket.socket]:
    """Yield copies of the connections to *ports* that process *pid*, or one below it, has. Raises OSError."""
    seen: set[str] = set()
    for each in strangers.below(pid):
        try:
            process = posix.pidfd_open(each)
        except ProcessLookupError:
            continue
        try:
            yield from _of_process(each, process, ports, seen)
        finally:
            os.close(process)


def _of_process(pid: int, process: int, ports: frozenset[int], seen: set[str]) -> Iterator[socket.socket]:
    directory = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(directory)
    except FileNotFoundError:
        return
    first = time.monotonic_ns() % (len(numbers) or 1)  # so that all are looked at in time, if some are left out
    for number in numbers[first:] + numbers[:first]:
        try:
            link = os.readlink(f"{directory}/{number}")
            if not link.startswith("socket:") or link in seen:
                continue
            seen.add(link)
            sock = socket.socket(fileno=posix.pidfd_getfd(process, int(number)))
        except OSError as error:
            if error.errno in _CLOSED:
                continue
            raise
        if _is_to(sock, ports):
            yield sock
        else:
            sock.close()


_CLOSED = (errno.ENOENT, errno.ESRCH, errno.EBADF, errno.ENOTSOCK)
"""The process has closed the descriptor meanwhile, or has ended."""


def _is_to(sock: socket.socket, ports: frozenset[int]) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    try:
        return sock.getsockname()[1] in ports
    except OSError:
        return False


def handles(pid: int, number: int) -> bool:
    """Whether process *pid* handles signal *number*, or ignores it: so it does not end without its knowing."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        masks = {line.partition(":")[0]: line.split()[1] for line in file if line.startswith(("SigCgt:", "SigIgn:"))}
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks.values())


def queues(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Return how many connections wait at each socket."""
    found = []
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            found.append(queue_of(sock))
    return Result({"queues": found})


