"""Descriptors that are sent along with a datagram, some of which make whoever closes them wait."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("null", "pipe", "directory", "socket", "epoll", "memory", "itself", "many", "lingering", "nested", "deep")
LINGER_SECONDS = 30
"""How long a close of a lingering socket takes in a process that lets itself be held up."""


def _lingering() -> list[int]:
    """A connected socket whose buffers are full and whose close waits for the peer, which never reads."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))  # the kernel chooses: no call that is shared
        listener.listen(1)
        client = socket.socket()
        client.connect(listener.getsockname())
        peer, _ = listener.accept()
    client.setblocking(False)
    try:
        while True:
            client.send(b"x" * 65536)
    except BlockingIOError:
        pass
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_SECONDS))
    _PEERS.append(peer)
    while len(_PEERS) > 64:
        _PEERS.pop(0).close()
    return [client.detach()]


_PEERS: list[socket.socket] = []


def _wrapped(inner: list[int]) -> list[int]:
    """One end of a pair in whose queue *inner* waits: whoever closes it closes them."""
    here, there = socket.socketpair()
    here.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", inner))])
    here.close()
    for descriptor in inner:
        os.close(descriptor)
    return [there.detach()]


def _deep() -> list[int]:
    found = [os.open("/dev/null", os.O_RDONLY)]
    for _ in range(4):  # the kernel allows no more than that
        found = _wrapped(found)
    return found


def _pair() -> list[int]:
    here, there = socket.socketpair()
    there.close()
    return [here.detach()]


def _pipe() -> list[int]:
    return list(os.pipe())


def _memory() -> list[int]:
    return [os.memfd_create("fuzz")]


_MAKERS: dict[str, Callable[[], list[int]]] = {
    "null": lambda: [os.open("/dev/null", os.O_RDONLY)],
    "pipe": _pipe,
    "directory": lambda: [os.open("/", os.O_RDONLY | os.O_DIRECTORY)],
    "socket": _pair,
    "epoll": lambda: [os.dup(epoll.fileno()) for epoll in [select.epoll()]],
    "memory": _memory,
    "many": lambda: [os.open("/dev/null", os.O_RDONLY) for _ in range(253)],
    "lingering": _lingering,
    "nested": lambda: _wrapped(_lingering()),
    "deep": _deep,
}


def send(sock: socket.socket, data: bytes, kind: str) -> bool:
    """Send *data* with descriptors of *kind* ("" for none). False when it was not taken. Never blocks."""
    descriptors: list[int] = []
    try:
        if kind == "itself":
            descriptors = [os.dup(sock.fileno())]
        elif kind:
            descriptors = _MAKERS[kind]()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        sock.sendmsg([data], rights, socket.MSG_DONTWAIT)
        taken = True
    except OSError:
        taken = False
    for descriptor in descriptors:
        if kind in ("lingering", "nested"):  # whoever closes it last waits, which may be this process
            threading.Thread(target=os.close, args=(descriptor,), daemon=True).start()
        else:
            os.close(descriptor)
    return taken
