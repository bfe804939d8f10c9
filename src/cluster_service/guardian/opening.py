"""Creation of the held sockets: options, bound names, and for Unix sockets the identity used.

A socket made here replaces one that a program made for itself, so it gets the options that the program had set.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from cluster_service.machine import shortage

from . import strangers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cluster_service.wire.addresses import Address

IPPROTO_MPTCP = 262
_STREAMS = (0, socket.IPPROTO_TCP, IPPROTO_MPTCP)
_DATAGRAMS = (0, socket.IPPROTO_UDP)
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h

_COPIED = (
    # Options that a program may set before it binds, and that its connections inherit or its address depends on.
    # Numbers without a name in Python are those of linux/in.h, linux/in6.h and linux/tcp.h.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.SOL_SOCKET, socket.SO_BROADCAST),
    (socket.SOL_SOCKET, socket.SO_PASSCRED),
    (socket.IPPROTO_IP, socket.IP_TOS),
    (socket.IPPROTO_IP, 8),  # IP_PKTINFO
    (socket.IPPROTO_IP, 10),  # IP_MTU_DISCOVER
    (socket.IPPROTO_IP, 13),  # IP_RECVTOS
    (socket.IPPROTO_IP, 15),  # IP_FREEBIND
    (socket.IPPROTO_IP, 19),  # IP_TRANSPARENT
    (socket.IPPROTO_IPV6, 23),  # IPV6_MTU_DISCOVER
    (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
    (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS),
    (socket.IPPROTO_IPV6, 75),  # IPV6_TRANSPARENT
    (socket.IPPROTO_IPV6, 78),  # IPV6_FREEBIND
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    (socket.IPPROTO_TCP, socket.TCP_FASTOPEN),
)
_BUFFERS = ((socket.SOL_SOCKET, socket.SO_RCVBUF), (socket.SOL_SOCKET, socket.SO_SNDBUF))

_EXPLAINED = {
    errno.EACCES: "permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine does not speak that protocol",
}


def shareable(sock: socket.socket) -> str | None:
    """Return the kind of address on which *sock* can be shared (tcp, udp or unix); None if it cannot be shared."""
    family, kind, protocol = sock.family, sock.type, sock.proto
    if family == socket.AF_UNIX:
        return "unix" if kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET) else None
    if family not in (socket.AF_INET, socket.AF_INET6) or _bound_to_device(sock):
        return None
    if kind == socket.SOCK_STREAM and protocol in _STREAMS:
        return "tcp"
    return "udp" if kind == socket.SOCK_DGRAM and protocol in _DATAGRAMS else None


def _bound_to_device(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") != b""


def network(sock: socket.socket) -> int:
    """Return a number that identifies the network namespace of a socket (always 0 before Linux 5.14)."""
    try:
        (cookie,) = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))
    except OSError:
        return 0
    return int(cookie)


def multicast(address: Address) -> bool:
    """Return whether *address* is a multicast group: each member needs a socket of its own."""
    if address.kind != "udp":
        return False
    first = socket.inet_pton(address.family, address.host.partition("%")[0])[0]
    return first == 0xFF if address.family == socket.AF_INET6 else first >> 4 == 0xE


def new_socket(address: Address, kind: int) -> socket.socket:
    """Return an unbound socket with our options. *kind*: SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET. Raises OSError."""
    sock = socket.socket(address.family, kind)
    try:
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.v6only)
        if address.kind == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted sockets inherit TCP_NODELAY. A server that receives its listener does not set it, and without it
            # each request on a keep-alive connection waits 40 ms for a delayed acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def options_of(source: socket.socket) -> list[tuple[int, int, int]]:
    """Return the options that the worker set on *source*: (level, option, value) that differ from a fresh socket's."""
    found = []
    with socket.socket(source.family, source.type, source.proto) as fresh:
        for level, option in (*_COPIED, *_BUFFERS):
            try:
                value = source.getsockopt(level, option)
                if value != fresh.getsockopt(level, option):
                    halved = (level, option) in _BUFFERS  # the kernel doubles the value set: socket(7)
                    found.append((level, option, value // 2 if halved else value))
            except OSError:  # not an option of this protocol
                continue
    return found


def set_options(target: socket.socket, options: Iterable[Sequence[int]]) -> None:
    """Set on *target* the options returned by ``options_of``, as far as permitted."""
    for level, option, value in options:
        with contextlib.suppress(OSError):
            target.setsockopt(level, option, value)


class Binder(NamedTuple):
    """The identity with which a Unix socket's file is created: ids of user, group and supplementary groups.

    *cwd* is a directory.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int
    cwd: str
    capabilities: int = 0
    """The effective capabilities, as a bit mask."""


def status_of(pid: int) -> dict[str, list[str]]:
    """Return the fields of /proc/PID/status. Raises OSError if the process or thread is gone."""
    fields: dict[str, list[str]] = {}
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition(":")
            fields[name] = rest.split()
    return fields


def binder_of(pid: int) -> Binder:
    """Return the file system identity of process or thread *pid*. Raises OSError if it is gone."""
    fields = status_of(pid)
    groups = tuple(int(group) for group in fields.get("Groups", ()))
    umask, held = int(fields["Umask"][0], 8), int(fields["CapEff"][0], 16)
    return Binder(int(fields["Uid"][3]), int(fields["Gid"][3]), groups, umask, f"/proc/{pid}/cwd", held)


class InTheNameOf:
    """Context manager in which files are created with the identity of *binder*.

    Only root can change identity; otherwise the service and the binder are the same user. Only the effective ids
    change: workers may send signals to a process whose real or saved id matches theirs.
    """

    def __init__(self, binder: Binder | None) -> None:
        self._binder = binder
        self._umask = 0
        self._ids: tuple[int, int, list[int]] | None = None

    def __enter__(self) -> None:
        binder = self._binder
        if binder is None:
            return
        os.chdir(binder.cwd)
        self._umask = os.umask(binder.umask)
        try:
            if os.geteuid() == 0 and (binder.uid, binder.gid) != (0, os.getegid()):
                ids = (os.geteuid(), os.getegid(), os.getgroups())
                os.setgroups(binder.groups)
                self._ids = ids
                os.setegid(binder.gid)
                os.seteuid(binder.uid)
        except OSError:
            self._restore()
            raise

    def __exit__(self, *exception: object) -> None:
        if self._binder is not None:
            self._restore()

    def _restore(self) -> None:
        if self._ids is not None:
            uid, gid, groups = self._ids
            os.seteuid(uid)
            os.setegid(gid)
            os.setgroups(groups)
        os.umask(self._umask)
        os.chdir("/")


def explain(address: Address, error: OSError) -> str:
    """Return why *address* could not be opened, as a sentence."""
    if error.errno == errno.EADDRINUSE:
        return strangers.describe(address)
    if address.kind == "unix":
        return f"{address}: {shortage.explain(error)}"
    return f"{address}: {_EXPLAINED.get(error.errno or 0) or shortage.explain(error)}"


def remove_stale(path: str) -> None:
    """Remove the stale Unix socket *path*: only if it is a socket, owned by us, and no process accepts on it.

    Raises OSError (EADDRINUSE or EEXIST) if it must not be removed.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise OSError(errno.EEXIST, f"unix:{path}: the file is there already, and is not a socket of this user")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # noqa: FBT003 - positional only
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:  # in use: BlockingIOError, its queue is full; EPROTOTYPE, another kind
            pass
    raise OSError(errno.EADDRINUSE, f"unix:{path}: a process answers there")
