"""Activated sockets: created by a service manager and passed to the service (sd_listen_fds(3), systemd.socket(5)).

They are held like the guardian's own, with three exceptions:

- They are held until the service ends, used or not, since clients wait in their queues for the next service to start.
- Their files remain when the service ends.
- An activated socket covers every overlapping address of its address family, because its unit, not the program,
  defines where the service listens.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from cluster_service.wire.addresses import Address

from . import socket_factory
from .holdings import Held
from .unix_sockets import Kept, Place, begin, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .holdings import Holdings
    from .unix_sockets import Paths

FIRST = 3
"""SD_LISTEN_FDS_START of sd-daemon.h."""


def held(descriptor: int, name: str) -> Held | None:
    """Return the ``Held`` of *descriptor*, or None if it is not a socket that workers can share. It stays open."""
    os.set_inheritable(descriptor, False)
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return None
    kind = socket_factory.shareable(sock)
    address = None if kind is None else _address(sock, kind)
    if address is None:
        sock.detach()
        return None
    if kind == "tcp":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as for sockets that the guardian creates
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
    """Activated sockets of this service."""

    def __init__(self, holdings: Holdings, paths: Paths, log: Callable[[str], None]) -> None:
        self._holdings = holdings
        self._paths = paths
        self._log = log
        self._told_unused = False

    def __iter__(self) -> Iterator[Held]:
        return (each for each in self._holdings.held.values() if each.given is not None)

    def adopt(self, names: list[str]) -> None:
        """Hold the activated sockets, called *names*: the descriptors from 3 on."""
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
                self._paths.keep(new, kept)  # else it has no file, or neither the guardian nor workers may access it

    def covering(self, wanted: Address) -> Held | None:
        """Return the activated socket to use for *wanted* although its address differs, or None."""
        if wanted.kind == "unix":
            return None
        for each in self:
            there = each.address
            same = (there.kind, there.port, there.family) == (wanted.kind, wanted.port, wanted.family)
            if same and (there.wildcard or wanted.wildcard):
                return each
        return None

    def clash(self, wanted: Address) -> str:
        """Return why *wanted* cannot be opened, if a dual-stack activated socket is in the way; otherwise "".

        Its use for an IPv4 address is refused, since a program that expects an IPv4 socket would misread the addresses
        of its clients.
        """
        for each in self:
            there = each.address
            if there.dual and (there.kind, there.port) == (wanted.kind, wanted.port) and ":" not in wanted.host:
                name = f"{there} ({each.given}), which was passed to the service, takes IPv4 too"
                remedy = f"bind [::]:{wanted.port}, or write ListenStream={wanted.host}:{wanted.port} in its unit"
                return f"{wanted} cannot be opened: {name}; {remedy}"
        return ""

    def tell_unused(self) -> None:
        """Log, once, the activated sockets that no worker uses. To be called when every worker is ready."""
        if self._told_unused:
            return
        self._told_unused = True
        for each in self:
            if not each.users:
                name = f"{each.address} ({each.given}), which was passed to the service,"
                self._log(f"{name} is used by no worker; it is held, and whoever connects there waits")


def file_of(socket_held: Held, inotify: int | None) -> Kept | None:
    """Return the file of a Unix socket, for the guardian to keep in place; None if it has no file, or lost it."""
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
