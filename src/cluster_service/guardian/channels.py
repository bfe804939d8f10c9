"""What workers say by themselves: on their channel (``wire.channel``), and by sd_notify on NOTIFY_SOCKET.

Nothing a worker sends can hold the guardian up: each turn takes a bounded number of datagrams from each, and messages
for which there is no master are kept up to a limit only.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.wire import channel, facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from .holdings import Worker

AT_ONCE = 64
"""Datagrams that are taken from one worker before the others have their turn."""
KEPT_MESSAGES = 1000
_CREDENTIALS = struct.Struct("=iII")  # struct ucred of sys/socket.h: pid, uid, gid
_DESCRIPTORS = 253  # SCM_MAX_FD: sd_notify may send some to be stored, or to learn when they are closed
_ANCILLARY = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_DESCRIPTORS * 4)


class Channels:
    """Reads what workers send. ``tell`` takes the facts, ``up`` hears that a worker says that it serves."""

    def __init__(self, tell: Callable[[Any], None], greeted: Callable[[], bool], up: Callable[[Worker], None]) -> None:
        self._tell = tell
        self._greeted = greeted
        self._up = up
        self._kept: deque[facts.Message] = deque(maxlen=KEPT_MESSAGES)

    def read_channel(self, worker: Worker) -> bool:
        """Take what the worker has sent. False when it has closed its end."""
        sock = worker.channel
        if sock is None:
            return False
        for _ in range(AT_ONCE):
            try:
                data = sock.recv(channel.LIMIT, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                return False
            if not data:
                return False
            try:
                self._message(worker, channel.decode(data))
            except channel.ChannelError:
                continue
        return True

    def _message(self, worker: Worker, message: dict[str, Any]) -> None:
        if message["type"] == "ready":
            worker.ready = message.get("ready", True) is True
            if worker.ready:
                self._up(worker)
            self._tell(facts.Ready(worker.number, worker.ready))
            return
        if message["type"] == "notify":
            self._notified(worker, channel.notify_fields(message))
            return
        fact = facts.Message(worker.number, message)
        if self._greeted():
            self._tell(fact)
        else:
            self._kept.append(fact)

    def deliver_kept(self) -> None:
        """Tell a new master what workers said while there was none."""
        kept = list(self._kept)
        self._kept.clear()
        for fact in kept:
            self._tell(fact)

    def read_notify(self, worker: Worker) -> None:
        """Take the sd_notify datagrams that have come."""
        for _ in range(AT_ONCE):
            if worker.notify is None:
                return
            try:
                data, ancillary, _flags, _address = worker.notify.recvmsg(channel.LIMIT, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                return
            if _sender(ancillary) in (worker.uid, 0, os.getuid()):
                self._notified(worker, channel.parse_notify(data))

    def _notified(self, worker: Worker, fields: dict[str, str]) -> None:
        worker.notified.update(fields)
        if fields.get("READY") == "1":
            self._up(worker)
        self._tell(facts.Notified(worker.number, fields))


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """Return the uid that sent a datagram. Descriptors that came with it are closed: we store none."""
    uid = None
    for level, kind, data in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS:
            _pid, uid, _gid = _CREDENTIALS.unpack_from(data)
        elif kind == socket.SCM_RIGHTS:
            for descriptor in array.array("i", data[: len(data) // 4 * 4]):
                os.close(descriptor)
    return uid


def send(worker: Worker, message: dict[str, Any]) -> str:
    """Send *message* on the worker's channel. Returns why it could not be sent, or an empty string."""
    if worker.channel is None:
        return "it has no channel"
    try:
        worker.channel.send(channel.encode(message), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return "it does not read its channel"
    except channel.ChannelError as error:
        return str(error)
    except OSError:
        return "it has closed its channel"
    return ""
