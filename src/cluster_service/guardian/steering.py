"""Steering: selection of the socket of an SO_REUSEPORT group that gets a new connection.

The kernel keeps the listening sockets of a group in an array, in the order in which they started to listen; when one
leaves, the last takes its place (net/core/sock_reuseport.c). A classic BPF program returns an index into that array for
each SYN. If the index is out of range, or without a program, the kernel selects by hash among all of them. Attaching a
program requires no privilege.

All functions here except ``program`` are duties of the helper: a system call on a socket blocks while a worker holds
its lock.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Any

from . import posix
from .apart import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        posix.attach_reuseport(sock, program(values["weights"]))
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
            sock.setblocking(False)  # noqa: FBT003 - positional only
        for taker, weights in ((second, (0, 1)), (first, (1, 0))):
            posix.attach_reuseport(first, program(weights))
            for _ in range(_TRIES):
                with socket.create_connection(first.getsockname(), _TRIAL_SECONDS):
                    arrived, _, _ = select.select([first, second], [], [], _TRIAL_SECONDS)
                    if arrived != [taker]:
                        return False
                    taker.accept()[0].close()
    return True
