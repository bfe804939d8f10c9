"""Port sharing by the Python runtime: the worker's ``socket.bind`` sends a request on the ports pair.

For hosts without seccomp; see ``wire.worker_protocol`` for the protocol. The rules are those of ``port_service``; only
the transport of requests and sockets differs. The request must contain what seccomp reads from the worker's own socket:
its options are not copied. The helper determines the identity of the worker and resolves its path.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

from cluster_service.machine import descriptor_passing, shortage
from cluster_service.wire import addresses, worker_protocol

from . import bind_requests, seccomp, socket_factory
from .bind_requests import LeaveAlone, want_from
from .helper_client import ask
from .per_slot_sockets import socket_for
from .port_access import Refused
from .untrusted_input import receive

if TYPE_CHECKING:
    from collections.abc import Callable

    from .helper_client import Steps
    from .holdings import Holdings, Worker
    from .port_service import Ports

    Reply = tuple[dict[str, Any], list[int]]

_KINDS = {
    "tcp": (socket.SOCK_STREAM,),
    "udp": (socket.SOCK_DGRAM,),
    "unix": (socket.SOCK_STREAM, socket.SOCK_SEQPACKET),
}
_NOT_OURS: dict[str, Any] = {"ok": True, "shared": False}


class Service:
    """Answers the requests of workers with share ``python``; *closed* is called when one closes its end."""

    def __init__(
        self,
        holdings: Holdings,
        ports: Ports,
        log: Callable[[str], None],
        closed: Callable[[Worker], None],
    ) -> None:
        self._holdings = holdings
        self._ports = ports
        self._log = log
        self._closed = closed

    def receive(self, worker: Worker) -> Steps[None] | None:
        """Receive one request and return the steps that answer it. The pair must be readable."""
        pair = worker.ports
        if pair is None:
            return None
        try:
            data, _uid, descriptors = receive(pair, worker_protocol.LIMIT)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data, descriptors = b"", False
        if data and not descriptors:  # it must not send descriptors: see receiving
            return seccomp.timed(worker, self._serve(worker, data))
        self._closed(worker)
        return None

    def _serve(self, worker: Worker, data: bytes) -> Steps[None]:
        reply, descriptors = yield from self._answer(worker, data)
        if worker.ports is None:  # it has ended meanwhile
            return
        try:
            _send(worker.ports, reply, descriptors)
        except OSError:  # dead, or not reading replies: close its pair, so that it shares no more ports
            self._closed(worker)

    def _answer(self, worker: Worker, data: bytes) -> Steps[Reply]:  # noqa: PLR0911 - one for each type of request and error
        try:
            request = worker_protocol.decode(data)
            if worker.unshared or worker.waited > seccomp.WAITING_LIMIT:
                return _NOT_OURS, []
            if request["type"] == "bind":
                return (yield from self._bind(worker, request))
            if request["type"] == "listen":
                return (yield from self._listen(worker, request))
            return _failed(errno.EINVAL, f"no request of type {request['type']!r}"), []
        except LeaveAlone:
            return _NOT_OURS, []
        except Refused as refusal:
            return _failed(refusal.number, refusal.sentence), []
        except (worker_protocol.ChannelError, KeyError, TypeError, ValueError) as error:
            return _failed(errno.EINVAL, f"a request that is none: {error}"), []
        except (TimeoutError, ConnectionAbortedError):
            seccomp.stop_sharing(worker, "a bind", self._log)
            return _NOT_OURS, []
        except OSError as error:
            return _failed(error.errno or errno.EINVAL, str(error)), []

    def _bind(self, worker: Worker, request: dict[str, Any]) -> Steps[Reply]:
        text = str(request["address"])
        if text == "unix:" or text.partition("+")[0].endswith(":0"):
            return _NOT_OURS, []  # the kernel chooses the name or port
        path = text.removeprefix("unix:") if text.startswith("unix:") and not text.startswith("unix:@") else None
        address = addresses.Address("unix", path) if path is not None else addresses.parse(text)
        if address.host == "::" and not request.get("v6only", True):
            address = dataclasses.replace(address, dual=True)
        kind = int(request["kind"]) & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if kind not in _KINDS[address.kind] or socket_factory.multicast(address):
            return _NOT_OURS, []
        answer = yield from ask("describe", {"thread": worker.pid, "path": path})
        directory = answer.descriptors[0] if answer.descriptors else -1
        try:
            if "leave" in answer.values:
                return _NOT_OURS, []
            found = {
                **answer.values,
                "address": [address.kind, address.host, address.port, address.dual],
                "type": kind,
                "nonblocking": bool(request.get("nonblocking")),
                "options": [],
            }
            held = yield from self._ports.bind(worker, want_from(found, directory))
        finally:
            if directory >= 0 and not self._ports.paths.keeps(directory):
                os.close(directory)
        return {"ok": True, "shared": True}, [socket_for(worker, held).fileno()]

    def _listen(self, worker: Worker, request: dict[str, Any]) -> Steps[Reply]:
        held = self._holdings.by_inode.get(int(request["inode"]))
        if held is None or worker.number not in held.users:
            return _NOT_OURS, []
        binder = None
        if held.address.kind == "unix":
            answer = yield from ask("describe", {"thread": worker.pid})
            binder = bind_requests.binder_from(answer.values["binder"]) if "binder" in answer.values else None
        yield from self._ports.listen(worker, held, int(request.get("backlog", 0)), binder)
        return {"ok": True, "shared": True}, []


def _send(pair: socket.socket, reply: dict[str, Any], descriptors: list[int]) -> None:
    """Send *reply* without blocking. Raises OSError; BlockingIOError if earlier replies were not read."""
    try:
        descriptor_passing.send(pair, worker_protocol.encode(reply), descriptors)
    except OSError as error:
        if not descriptors or error.errno not in descriptor_passing.SHORTAGES:
            raise
        descriptor_passing.send(pair, worker_protocol.encode(_failed(errno.ENOBUFS, shortage.explain(error))))


def _failed(number: int, sentence: str) -> dict[str, Any]:
    return {"ok": False, "errno": number, "error": sentence}
