"""Activity of a worker's connections, from kernel data: for programs that exit without finishing their requests.

A request that is being processed is not visible in the queues of its connection. The side that sent last is (TCP_INFO
of tcp(7)): if it was the client, a response is outstanding; if it was the worker, the connection is idle.

An idle connection is ended as if the client had closed it: shutdown(2) of its receiving side. The program then reads
end of file and closes it. The helper does all of this, on copies of the worker's sockets.
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
"""Time limit of one scan; the next scan, which starts at another connection, covers the rest."""

_INFO = struct.Struct("=B43xI4xI12xI56xQ8xI4xII")
"""First 160 bytes of struct tcp_info in linux/tcp.h: state, last_data_sent, last_data_recv, rtt, bytes_received,
notsent_bytes, data_segs_in, data_segs_out."""
_ESTABLISHED, _CLOSE_WAIT = 1, 8
_FIONREAD = 0x541B  # asm-generic/ioctls.h
_LONG_ANSWER = 1000
"""Milliseconds between a request and response data from which the response counts as a stream that may continue."""


class Info(NamedTuple):
    """TCP_INFO of one connection. ``sent`` and ``received`` are ages in milliseconds."""

    state: int
    sent: int
    """Time since the worker last sent data."""
    received: int
    """Time since it last received data."""
    rtt: int
    """Round-trip time, microseconds."""
    bytes_received: int
    unsent: int
    """Bytes that have not been sent yet, because the client has no room for them."""
    segments_in: int
    segments_out: int
    unread: int = 0
    """Bytes that the worker has not read yet."""

    @property
    def quiet(self) -> int:
        """Milliseconds since data was last transferred in either direction."""
        return min(self.sent, self.received)


def kind_of(info: Info) -> str:
    """Return the kind of a connection.

    ``busy``: a request is being processed. ``fresh``: no request has arrived yet. ``answered``: waiting for the next
    request. ``stream``: response data came, or still comes, long after the request. ``unsure``: ``busy`` or
    ``answered``.
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
    """Return the kind if a request and a response fall into the same tick, so that their times do not tell their order.

    If each request is one segment and all responses have the same number of segments, the segment counts decide.
    """
    if not answers:
        return "busy"
    all_answered = requests > 0 and answers % requests == 0
    one_open = requests > 1 and answers % (requests - 1) == 0
    if all_answered == one_open:
        return "unsure"
    return "answered" if all_answered else "busy"


def read_info(sock: socket.socket) -> Info:
    """Return the ``Info`` of a connection. Raises OSError."""
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size).ljust(_INFO.size, b"\0")
    unread = int.from_bytes(fcntl.ioctl(sock, _FIONREAD, b"\0" * 4), sys.byteorder)
    return Info._make((*_INFO.unpack(data), unread))


def queue_of(sock: socket.socket) -> int:
    """Return the length of the accept queue: tcpi_unacked of a listening socket."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28], sys.byteorder)


def look(values: dict[str, Any], descriptors: list[int]) -> Result:
    """Inspect the connections to ``ports`` of process ``pid`` and its descendants; end idle ones. Raises OSError.

    *descriptors*: the sockets that the process accepts from. ``quiet``: the kinds of connections to end, each with the
    milliseconds for which such a connection must have been quiet.

    The result has the numbers of connections that are ``queued``, ``busy``, ``unsure``, ``idle`` and ``ended``;
    ``rtt``: the longest round-trip time, in seconds; ``handled``: whether the program handles or ignores ``signal``.
    """
    queued = sum(queues({}, descriptors).values["queues"])
    quiet: dict[str, int] = values["quiet"]
    found = {"busy": 0, "unsure": 0, "idle": 0, "ended": 0}
    longest = 0
    end = time.monotonic() + BUDGET_SECONDS
    for sock in connections_of(values["pid"], frozenset(values["ports"])):
        with sock:
            if time.monotonic() > end:
                found["busy"] += 1  # not inspected, so assumed to be busy
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
            except OSError:  # the connection has just been closed
                continue
    handled = handles(values["pid"], values["signal"])
    return Result({"queued": queued, "rtt": longest / 1e6, "handled": handled, **found})


def connections_of(pid: int, ports: frozenset[int]) -> Iterator[socket.socket]:
    """Yield copies of the connections to *ports* of process *pid* and its descendants. Raises OSError."""
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
    first = time.monotonic_ns() % (len(numbers) or 1)  # varies, so that repeated scans cover all within the time limit
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
"""Errors that mean that the process has closed the descriptor meanwhile, or has exited."""


def _is_to(sock: socket.socket, ports: frozenset[int]) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    try:
        return sock.getsockname()[1] in ports
    except OSError:
        return False


def handles(pid: int, number: int) -> bool:
    """Return whether process *pid* handles or ignores signal *number*, so that the signal does not terminate it."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        masks = {line.partition(":")[0]: line.split()[1] for line in file if line.startswith(("SigCgt:", "SigIgn:"))}
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks.values())


def queues(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Return the length of the accept queue of each socket."""
    found = []
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            found.append(queue_of(sock))
    return Result({"queues": found})


