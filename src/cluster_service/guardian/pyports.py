"""Port sharing by the Python runtime: the worker's ``socket.bind`` asks on the ports pair (``wire.channel``).

For hosts without seccomp. The rules are those of ``ports``; only the way that a bind comes, and its socket goes,
differs. What seccomp sees of the worker's own socket the request must say: its options are not copied.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

from cluster_service.machine import passing, shortage
from cluster_service.wire import addresses, channel

from . import opening
from .ports import Refused, Want
from .receiving import receive

if TYPE_CHECKING:
    from .holdings import Holdings, Worker
    from .ports import Ports

_KINDS = {
    "tcp": (socket.SOCK_STREAM,),
    "udp": (socket.SOCK_DGRAM,),
    "unix": (socket.SOCK_STREAM, socket.SOCK_SEQPACKET),
}
_NOT_OURS: dict[str, Any] = {"ok": True, "shared": False}


class Service:
    """Answers the requests of workers whose share is ``python``."""

    def __init__(self, holdings: Holdings, ports: Ports) -> None:
        self._holdings = holdings
        self._ports = ports

    def answer_one(self, worker: Worker) -> bool:
        """Receive and answer one request. False when the worker has closed its end."""
        pair = worker.ports
        if pair is None:
            return False
        try:
            data, _uid, descriptors = receive(pair, channel.LIMIT)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data or descriptors:  # it must send none: see receiving
            return False
        reply, shared = self._answer(worker, data)
        try:
            _send(pair, reply, shared)
        except OSError:  # it has died, or does not read its replies: its pair is closed, and it shares no further ports
            return False
        return True

    def _answer(self, worker: Worker, data: bytes) -> tuple[dict[str, Any], list[int]]:
        try:
            request = channel.decode(data)
            if request["type"] == "bind":
                return self._bind(worker, request)
            if request["type"] == "listen":
                return self._listen(worker, request)
            return _failed(errno.EINVAL, f"no request of type {request['type']!r}"), []
        except Refused as refusal:
            return _failed(refusal.number, refusal.sentence), []
        except (channel.ChannelError, KeyError, TypeError, ValueError) as error:
            return _failed(errno.EINVAL, f"a request that is none: {error}"), []
        except OSError as error:
            return _failed(error.errno or errno.EINVAL, str(error)), []

    def _bind(self, worker: Worker, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        text = str(request["address"])
        if text == "unix:" or text.partition("+")[0].endswith(":0"):
            return _NOT_OURS, []  # the kernel is to choose the name or the port
        address, path = _address(worker, text)
        if address.host == "::" and not request.get("v6only", True):
            address = dataclasses.replace(address, dual=True)
        kind = int(request["kind"]) & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if kind not in _KINDS[address.kind] or opening.multicast(address):
            return _NOT_OURS, []
        binder = opening.binder_of(worker.pid) if path is not None else None
        held = self._ports.bind(worker, Want(address, kind, bool(request.get("nonblocking")), binder, path))
        return {"ok": True, "shared": True}, [held.socket.fileno()]

    def _listen(self, worker: Worker, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        held = self._holdings.by_inode.get(int(request["inode"]))
        if held is None:
            return _NOT_OURS, []
        binder = opening.binder_of(worker.pid) if held.address.kind == "unix" else None
        self._ports.listen(worker, held, int(request.get("backlog", 0)), binder)
        return {"ok": True, "shared": True}, []


def _address(worker: Worker, text: str) -> tuple[addresses.Address, bytes | None]:
    """Return the address, and for a Unix socket the path as the worker wrote it, which may be a relative one."""
    if not text.startswith("unix:") or text.startswith("unix:@"):
        return addresses.parse(text), None
    path = text[len("unix:") :]
    directory = os.readlink(f"/proc/{worker.pid}/cwd")
    return addresses.parse(f"unix:{os.path.normpath(os.path.join(directory, path))}"), os.fsencode(path)


def _send(pair: socket.socket, reply: dict[str, Any], descriptors: list[int]) -> None:
    """Send *reply* without waiting. Raises OSError, BlockingIOError too: the worker has not read earlier replies."""
    try:
        passing.send(pair, channel.encode(reply), descriptors)
    except OSError as error:
        if not descriptors or error.errno not in passing.SHORTAGES:
            raise
        passing.send(pair, channel.encode(_failed(errno.ENOBUFS, shortage.explain(error))))


def _failed(number: int, sentence: str) -> dict[str, Any]:
    return {"ok": False, "errno": number, "error": sentence}
