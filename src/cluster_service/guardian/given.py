"""Sockets that a service manager made and passed to us (sd_listen_fds(3), systemd.socket(5)).

They are held like those that we made, but for three things: they are held to the end, used or not, since whoever
connects waits in their queue for the next service that is started on them; their files stay when we go; and one covers
whatever overlaps with it in its address family, because its unit, and not the program, says where the service listens.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from cluster_service.wire.addresses import Address

from . import opening
from .holdings import Held
from .paths import Kept, Place, begin, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .holdings import Holdings
    from .paths import Paths

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
    return Held(address=address, key=key_of(address), socket=sock, inode=inode, listening=listening, given=name)


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


class Given:
    """Those that this service was given."""

    def __init__(self, holdings: Holdings, paths: Paths, log: Callable[[str], None]) -> None:
        self._holdings = holdings
        self._paths = paths
        self._log = log
        self._told_unused = False

    def __iter__(self) -> Iterator[Held]:
        return (each for each in self._holdings.held.values() if each.given is not None)

    def adopt(self, names: list[str]) -> None:
        """Hold what was passed to us, by its *names*: descriptors 3 and up."""
        for descriptor, name in enumerate(names, FIRST):
            new = held(descriptor, name)
            if new is None or new.key in self._holdings.held:
                what = "is no socket that workers can share" if new is None else f"is {new.address} once more"
                self._log(f"descriptor {descriptor} ({name}), which was passed to the service, {what}; it is held")
                if new is not None:
                    new.socket.detach()
                continue
            self._holdings.add_held(new)
            kept = file_of(new, self._paths.open())
            if kept is not None:
                self._paths.keep(new, kept)  # where that cannot be, we may not write there, nor may a worker

    def covering(self, wanted: Address) -> Held | None:
        """Return the socket that whoever wants *wanted* is to have, though its address is another."""
        if wanted.kind == "unix":
            return None
        for each in self:
            there = each.address
            same = (there.kind, there.port, there.family) == (wanted.kind, wanted.port, wanted.family)
            if same and (there.wildcard or wanted.wildcard):
                return each
        return None

    def clash(self, wanted: Address) -> str:
        """Return why *wanted* cannot be opened, where a socket that takes IPv4 too stands in the way; else "".

        It could stand in, but whoever accepts from it as from a socket of IPv4 would misread who has called.
        """
        for each in self:
            there = each.address
            if there.dual and (there.kind, there.port) == (wanted.kind, wanted.port) and ":" not in wanted.host:
                name = f"{there} ({each.given}), which was passed to the service, takes IPv4 too"
                remedy = f"bind [::]:{wanted.port}, or write ListenStream={wanted.host}:{wanted.port} in its unit"
                return f"{wanted} cannot be opened: {name}; {remedy}"
        return ""

    def tell_unused(self) -> None:
        """Once every worker serves: tell which of them no worker has asked for."""
        if self._told_unused:
            return
        self._told_unused = True
        for each in self:
            if not each.users:
                name = f"{each.address} ({each.given}), which was passed to the service,"
                self._log(f"{name} is used by no worker; it is held, and whoever connects there waits")


def file_of(socket_held: Held, inotify: int | None) -> Kept | None:
    """Return the file of a Unix socket, to be kept where it is; None when there is none, or not any more."""
    path = socket_held.address.path
    if path is None:
        return None
    try:
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    place = Place(directory, os.fsencode(os.path.basename(path)), (0, 0), None)
    try:
        found = begin(place, -1 if inotify is None else inotify)
    except OSError:
        os.close(directory)
        return None
    device, inode = found["identity"]
    return Kept(place._replace(identity=(device, inode)), found["watch"], given=True)
