"""Sockets that a service manager made and passed to us (sd_listen_fds(3), systemd.socket(5)).

They are held like those that we made, but for three things: they are held to the end, used or not, since whoever
connects waits in their queue for the next service that is started on them; their files stay when we go; and one covers
whatever overlaps with it in its address family, because its unit, and not the program, says where the service listens.
"""

from __future__ import annotations

import os
import socket

from cluster_service.wire.addresses import Address

from . import opening
from .holdings import Held
from .paths import Kept

FIRST = 3
"""SD_LISTEN_FDS_START of sd-daemon.h."""


def held(descriptor: int, name: str) -> Held | None:
    """Return what *descriptor* is; None when it is no socket that workers can share. It stays open either way."""
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - positional only
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return None
    kind = opening.shareable(sock)
    address = None if kind is None else _address(sock, kind)
    if address is None:
        sock.detach()
        return None
    if kind == "tcp":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as for those that we make
    listening = kind == "udp" or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
    inode = os.fstat(descriptor).st_ino
    return Held(address=address, key=str(address), socket=sock, inode=inode, listening=listening, given=name)


def _address(sock: socket.socket, kind: str) -> Address | None:
    name = sock.getsockname()
    if kind == "unix":
        if isinstance(name, bytes):
            return Address("unix", "@" + os.fsdecode(name[1:]))
        return Address("unix", name) if name.startswith("/") else None
    if not name[1]:
        return None
    host = name[0].partition("%")[0]
    if sock.family != socket.AF_INET6:
        return Address(kind, host, name[1])
    scoped = f"{host}%{name[3]}" if name[3] else host
    both = host == "::" and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return Address(kind, scoped, name[1], dual=both)


def covers(given: Address, wanted: Address) -> bool:
    """Whether whoever wants *wanted* is to have the socket at *given*."""
    if given.kind == "unix" or (given.kind, given.port, given.family) != (wanted.kind, wanted.port, wanted.family):
        return False
    return given.wildcard or wanted.wildcard


def file_of(socket_held: Held) -> Kept | None:
    """Return the file of a Unix socket, to be kept where it is; None when there is none, or not any more."""
    path = socket_held.address.path
    if path is None:
        return None
    try:
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return Kept(directory, os.fsencode(os.path.basename(path)), given=True)
    except OSError:
        os.close(directory)
        return None
