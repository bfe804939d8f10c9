"""Processes that are forked from the guardian without exec and keep one of its descriptors, such as the helper.

They have the guardian's code and share its memory (copy-on-write). They never return to the code that forked them,
receive no signals that are sent to the guardian's process group, and are killed when the guardian exits.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from cluster_service.machine import passing, shortage
from cluster_service.machine.title import Title

from . import child, limits, posix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .limits import Limits

    Duty = Callable[[dict[str, Any], list[int]], "Result"]

BATCH = 253
"""Maximum number of descriptors in one message: SCM_MAX_FD of the kernel."""
REQUEST_BYTES = 64 * 1024
CLOSE = "close"
"""Name of the duty ``close``."""


class Result(NamedTuple):
    """Result of a duty: *values*, which are sent as JSON, and *descriptors*, which the helper closes once sent."""

    values: dict[str, Any]
    descriptors: Sequence[int] = ()


def fork(kept: int, run: Callable[[int], None], found: Limits | None, title: str) -> int:
    """Fork a process that runs *run* with descriptor *kept*, the only one it inherits. Return its pid.

    The kernel kills the process when the guardian exits. Raises OSError.
    """
    guardian = os.getpid()
    # As in spawn.launch: no signal may run the guardian's handlers in the child.
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be(kept, run, guardian, found, title)
    except BlockingIOError:
        raise OSError(errno.EAGAIN, shortage.NO_PROCESS) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _be(kept: int, run: Callable[[int], None], guardian: int, found: Limits | None, title: str) -> NoReturn:
    """Run in the process that ``fork`` has created. Does not return."""
    try:
        if found is not None:
            limits.restore(found)
        gc.disable()  # a collection would write to every page, and so copy the memory shared with the guardian
        posix.prctl(posix.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:
            os._exit(1)
        os.setpgid(0, 0)  # signals that a terminal sends to the guardian's process group must not reach it
        child.reset_signals()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.dup2(kept, 3)
        os.closerange(4, 1 << 20)
        if found is not None:
            limits.put_on(found, lambda _sentence: None)
            limits.raise_descriptors()  # it holds copies of the guardian's descriptors
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if title:
            Title().set(title)
        run(3)
        os._exit(0)
    finally:
        os._exit(1)


def serve_all(kept: int, duties: Mapping[str, Duty]) -> None:
    """Run the guardian's requests, which arrive on the socket *kept*, until it closes its end."""
    with socket.socket(fileno=kept) as pair:
        while _serve(pair, duties):
            posix.prctl(posix.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of credentials clears it


def _serve(pair: socket.socket, duties: Mapping[str, Duty]) -> bool:
    """Run one request. Return False if the guardian has closed its end."""
    select.select([pair], [], [])
    data, descriptors, truncated = passing.receive(pair, REQUEST_BYTES, BATCH)
    if not data:
        return False
    result = Result({})
    try:
        request = json.loads(data)
        if request["do"] == CLOSE:
            pair.recv(REQUEST_BYTES)  # sent once the guardian has closed its copies, so that ours are the last ones
        if truncated:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        result = duties[request["do"]](request["with"], descriptors)
        reply: dict[str, Any] = {"values": result.values}
    except OSError as error:
        reply = {"errno": error.errno or errno.EIO, "error": shortage.explain(error)}
    except MemoryError as error:
        reply = {"errno": errno.ENOMEM, "error": shortage.explain(error)}
    except Exception as error:  # noqa: BLE001 - reported
        reply = {"errno": errno.EIO, "error": repr(error), "fault": repr(error)}
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # EBADF: the duty has closed it
            os.close(descriptor)
    try:
        select.select([], [pair], [])
        passing.send(pair, json.dumps(reply).encode(), list(result.descriptors))
    except OSError:  # the guardian is gone, or has closed its end
        return False
    for descriptor in result.descriptors:
        os.close(descriptor)
    return True


def close(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Disable SO_LINGER of sockets. The helper closes *descriptors* itself, as after every request."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)  # the family is irrelevant
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\0" * 8)
            finally:
                sock.detach()
    return Result({})
