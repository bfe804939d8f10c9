"""Connections of a worker as the kernel reports them, and the choice of the socket that gets a new one.

Only the helper imports this module.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from . import socket_factory, syscalls
from .forked_child import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    for each in socket_factory.below(pid):
        try:
            process = syscalls.pidfd_open(each)
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
            sock = socket.socket(fileno=syscalls.pidfd_getfd(process, int(number)))
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


VARIABLE = "CSERVICE_NO_STEERING"
"""If 1 in the guardian's environment, steering is reported as unavailable. For tests, like CSERVICE_NO_SECCOMP."""

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM: a random 32-bit number


def program(weights: Sequence[int]) -> bytes:
    """Return the program that selects each index in proportion to its weight. Raises ValueError if all are 0."""
    drawn = [(index, weight) for index, weight in enumerate(weights) if weight > 0]
    if not drawn:
        raise ValueError("no socket has a weight")
    total, below = sum(weight for _, weight in drawn), 0
    code = [(_LOAD_WORD, 0, 0, _RANDOM)]
    for index, weight in drawn[:-1]:
        below += weight
        code += [(_JUMP_IF_AT_LEAST, 1, 0, (below << 32) // total), (_RETURN, 0, 0, index)]
    code.append((_RETURN, 0, 0, drawn[-1][0]))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def _borrowed(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))


def join(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Permit other sockets of this user to be bound to the same address."""
    for descriptor in descriptors:
        with _borrowed(descriptor) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return Result({})


def steer(values: dict[str, Any], descriptors: list[int]) -> Result:
    """Distribute new connections by ``weights`` from now on. *descriptors*: one socket of the group."""
    with _borrowed(descriptors[0]) as sock:
        syscalls.attach_reuseport(sock, program(values["weights"]))
    return Result({})


def withdraw(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Stop a socket from listening, whichever processes still have it. Connections in its queue are reset."""
    with _borrowed(descriptors[0]) as sock:
        sock.shutdown(socket.SHUT_RDWR)
    return Result({})


_TRIES = 8
_TRIAL_SECONDS = 0.5


def probe(_values: dict[str, Any], _descriptors: list[int]) -> Result:
    """Return in ``problem`` why connections cannot be steered here; empty if they can.

    Tests the actual behavior: gVisor accepts the option and ignores it. Several connections must all arrive at the
    second of two sockets, then all at the first.
    """
    if os.environ.get(VARIABLE) == "1":
        return Result({"problem": f"it was switched off with {VARIABLE}=1"})
    try:
        reached = _reached()
    except OSError as error:
        return Result({"problem": f"the trial failed: {error.strerror or error}"})
    return Result({"problem": "" if reached else "the kernel accepts the program and does not run it"})


def _reached() -> bool:
    first, second = socket.socket(), socket.socket()
    with first, second:
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(first.getsockname() if sock is second else ("127.0.0.1", 0))
            sock.listen(2 * _TRIES)
            sock.setblocking(False)
        for taker, weights in ((second, (0, 1)), (first, (1, 0))):
            syscalls.attach_reuseport(first, program(weights))
            for _ in range(_TRIES):
                with socket.create_connection(first.getsockname(), _TRIAL_SECONDS):
                    arrived, _, _ = select.select([first, second], [], [], _TRIAL_SECONDS)
                    if arrived != [taker]:
                        return False
                    taker.accept()[0].close()
    return True
