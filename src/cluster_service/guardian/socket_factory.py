"""Creation of listening sockets: options, names, ownership of Unix sockets, and who holds a port that is taken."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from cluster_service.machine import shortage

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from cluster_service.wire.addresses import Address

SECONDS = 0.5
"""Maximum seconds for a search of the machine's processes."""
_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_LISTEN, _UNCONNECTED = "0A", "07"  # TCP_LISTEN, TCP_CLOSE of net/tcp_states.h
_UNIX_PATH_COLUMN = 7


def describe(address: Address) -> str:
    """Return "127.0.0.1:8000 is taken: pid 71 (nginx) listens there", as far as known."""
    inodes = _unix_inodes(address) if address.kind == "unix" else _inet_inodes(address)
    holders = [f"pid {pid} ({name_of(pid)})" for pid in holders_of(inodes)] if inodes else []
    if holders:
        others = f" (and {len(holders) - 1} more)" if len(holders) > 1 else ""
        return f"{address} is taken: {holders[0]} listens there{others}"
    if inodes:
        return f"{address} is taken by a process that this user may not see; root can find it with: ss -lntup"
    if address.path is not None:
        return f"{address} is taken: the file is there already, and nobody listens on it; remove it if it is stale"
    return taken(address)


def taken(address: Address) -> str:
    """Return that *address* is taken, without searching for the process."""
    return f"{address} is taken by another process"


def holders_of(inodes: set[int], but: int = 0) -> Iterator[int]:
    """Yield the pids that hold one of the sockets, except ours and *but*, within ``SECONDS``."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    end = time.monotonic() + SECONDS
    for entry in os.listdir("/proc"):
        if time.monotonic() > end:
            return
        if entry.isdigit() and int(entry) not in (os.getpid(), but) and holds(int(entry), wanted):
            yield int(entry)


def holds(pid: int, wanted: set[str]) -> bool:
    """Return whether *pid* has a descriptor in *wanted* (``socket:[4711]``); False without permission."""
    return any(link in wanted for link in links_of(pid))


def is_visible(pid: int) -> bool:
    """Return whether we may list the descriptors of process *pid*; True if it has ended."""
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def links_of(pid: int) -> Iterator[str]:
    """Yield the link targets of *pid*'s descriptors (``socket:[4711]``); nothing without permission."""
    with contextlib.suppress(PermissionError):
        yield from links_seen(pid)


def links_seen(pid: int) -> Iterator[str]:
    """Yield the link targets of *pid*'s descriptors (``socket:[4711]``). Raises PermissionError."""
    directory = f"/proc/{pid}/fd"
    try:
        entries = os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return
    for entry in entries:
        try:
            yield os.readlink(f"{directory}/{entry}")
        except (FileNotFoundError, ProcessLookupError):  # closed in the meantime
            continue


def below(root: int, without: Container[int] = ()) -> set[int]:
    """Return *root* and its descendants, except those in *without* and their descendants."""
    found, left = {root}, [root]
    while left:
        left = [pid for parent in left for pid in _children_of(parent) if pid not in without and pid not in found]
        found.update(left)
    return found


def _children_of(pid: int) -> list[int]:
    """Return the children of every thread of *pid*; nothing on a kernel without CONFIG_PROC_CHILDREN."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:  # it has ended
        pass
    return found


def name_of(pid: int) -> str:
    """Return the name of the program that *pid* runs."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "gone"


def _inet_inodes(address: Address) -> set[int]:
    inodes = set()
    for table in _TABLES[address.kind]:
        for line in _lines(table):
            columns = line.split()
            host, _, port = columns[1].partition(":")
            state = columns[3]
            if int(port, 16) == address.port and state in (_LISTEN, _UNCONNECTED) and _overlap(address, host):
                inodes.add(int(columns[9]))
    inodes.discard(0)
    return inodes


def _overlap(address: Address, text: str) -> bool:
    """Return whether *text*, an address of the kernel's table (hex words in native byte order), conflicts."""
    raw = b"".join(int(text[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(text), 8))
    v6 = len(text) == 32
    host = socket.inet_ntop(socket.AF_INET6 if v6 else socket.AF_INET, raw)
    if host == "::" or (address.dual and address.host == "::"):
        return True
    if v6 != (address.family == socket.AF_INET6):
        return host.removeprefix("::ffff:") == address.host.removeprefix("::ffff:")
    return address.wildcard or host in ("0.0.0.0", address.host.partition("%")[0])


def _unix_inodes(address: Address) -> set[int]:
    name = address.host
    inodes = set()
    for line in _lines("unix"):
        columns = line.split(None, _UNIX_PATH_COLUMN)
        if len(columns) > _UNIX_PATH_COLUMN and columns[_UNIX_PATH_COLUMN].rstrip("\n") == name:
            inodes.add(int(columns[6]))
    return inodes


def _lines(table: str) -> list[str]:
    try:
        with open(f"/proc/net/{table}", encoding="utf-8", errors="surrogateescape") as file:
            return file.readlines()[1:]
    except OSError:
        return []


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
        return describe(address)
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
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:  # in use: BlockingIOError, its queue is full; EPROTOTYPE, another kind
            pass
    raise OSError(errno.EADDRINUSE, f"unix:{path}: a process answers there")
