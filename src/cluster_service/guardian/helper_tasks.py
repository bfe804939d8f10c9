"""Duties of the helper for ports: all operations on sockets, paths and processes that can block.

A process that uses a socket holds the socket's lock, even while it copies from memory whose pages never arrive. The
guardian therefore leaves ``listen`` and setting options, on sockets that workers have, to the helper. Descriptors are
lent: no duty closes them.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster_service.wire.addresses import Address

from . import bind_requests, socket_factory, syscalls, unix_sockets
from .forked_child import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .forked_child import Duty


@contextmanager
def lent(descriptor: int) -> Iterator[socket.socket]:
    """Yield *descriptor* as a socket object, without closing it afterwards. Raises OSError."""
    sock = socket.socket(fileno=descriptor)
    try:
        yield sock
    finally:
        sock.detach()


class SideBySide:
    """Context manager within which *sock* may be bound, or listen, beside sockets of ours that overlap with it.

    A release that binds ``127.0.0.1:8000`` can thus replace one that binds ``0.0.0.0:8000`` while the latter serves.
    SO_REUSEPORT permits this for sockets of the same user. It is set only within the block; otherwise any process of
    this user could bind the address later.
    """

    def __init__(self, sock: socket.socket, others: list[int]) -> None:
        self._sockets = [sock.fileno(), *others] if others else []

    def __enter__(self) -> None:
        self._sockets = [descriptor for descriptor in self._sockets if not _reuses(descriptor)]  # if set, it stays set
        _set_reuse(self._sockets, 1)

    def __exit__(self, *exception: object) -> None:
        _set_reuse(self._sockets, 0)


def _reuses(descriptor: int) -> bool:
    with lent(descriptor) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) != 0


def _set_reuse(descriptors: list[int], value: int) -> None:
    for descriptor in descriptors:
        with lent(descriptor) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, value)


def part(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Clear SO_REUSEPORT, which a helper that was killed within ``SideBySide`` has left set."""
    _set_reuse(descriptors, 0)
    return Result({})


def open_socket(values: dict[str, Any], descriptors: list[int]) -> Result:
    """Return a new, bound socket.

    *descriptors*: the directory and the inotify instance for a Unix socket, otherwise the sockets that it overlaps
    with. Raises OSError with a message that names the process in the way.
    """
    address = Address(*values["address"])
    try:
        sock = socket_factory.new_socket(address, values["type"])
        try:
            socket_factory.set_options(sock, values["options"])
            if values.get("joins"):
                _set_reuse([sock.fileno()], 1)
            if values.get("private"):
                sock.bind((address.host, 0) if address.port else b"")
                found = _own_name(address, sock)
            elif address.path is not None:
                found = _bind_path(sock, values, *descriptors)
            else:
                with SideBySide(sock, descriptors):
                    sock.bind(address.sockaddr())
                found = {}
            found["inode"] = os.fstat(sock.fileno()).st_ino
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise OSError(error.errno, socket_factory.explain(address, error)) from None
    return Result(found, [sock.detach()])


def _own_name(address: Address, sock: socket.socket) -> dict[str, Any]:
    """Return the address that the kernel has assigned to a private socket."""
    name = sock.getsockname()
    return {"host": "@" + os.fsdecode(name[1:]), "port": 0} if address.kind == "unix" else {"port": name[1]}


def _bind_path(sock: socket.socket, values: dict[str, Any], directory: int, inotify: int = -1) -> dict[str, Any]:
    """Bind *sock* with the credentials of the binder. Its file is the resulting entry in *directory*, if a socket."""
    binder, written = _binder(values["binder"]), os.fsencode(values["written"])
    name = os.path.basename(written)
    with socket_factory.InTheNameOf(binder):
        sock.bind(written)
    place = unix_sockets.Place(directory, name, (0, 0), binder)
    return unix_sockets.begin(place, inotify)


def listen(values: dict[str, Any], descriptors: list[int]) -> Result:
    """Let the first socket listen beside the others. Raises OSError with a message that explains the error."""
    try:
        # Clients of a Unix socket see the credentials of the process that has called listen (unix(7), SO_PEERCRED).
        in_the_name = socket_factory.InTheNameOf(_binder(values["binder"]))
        with lent(descriptors[0]) as sock, SideBySide(sock, descriptors[1:]), in_the_name:
            if values["again"] and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                # A second shutdown(2) marks the closed socket as shut down, and new connections inherit the mark: each
                # would read end of file immediately. Disconnecting clears the mark; the socket stays bound.
                syscalls.disconnect(sock.fileno())
            sock.listen(values["backlog"])
    except OSError as error:
        raise OSError(error.errno, socket_factory.explain(Address(*values["address"]), error)) from None
    return Result({})


def install(values: dict[str, Any], descriptors: list[int]) -> Result:
    """Replace a descriptor of the waiting thread with a socket. May block on the thread. Raises OSError."""
    listener, ours = descriptors
    syscalls.notif_replace(listener, values["id"], ours, values["number"], close_on_exec=values["close_on_exec"])
    return Result({})


def directory_of(values: dict[str, Any], _descriptors: list[int]) -> Result:
    """Return a descriptor of the directory of a path that the owner of the service configured. Raises OSError."""
    path = values["path"]
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return Result({}, [directory])


def _binder(values: Any) -> socket_factory.Binder | None:
    return None if values is None else bind_requests.binder_from(values)


def _place(values: dict[str, Any], descriptors: list[int]) -> unix_sockets.Place:
    identity = (values["device"], values["inode"])
    return unix_sockets.Place(descriptors[0], os.fsencode(values["name"]), identity, _binder(values["binder"]))


def restore(values: dict[str, Any], descriptors: list[int]) -> Result:
    """Restore the file of a Unix socket; return what its path refers to afterwards."""
    return Result({"state": _place(values, descriptors).restore()})


def look(values: dict[str, Any], descriptors: list[int]) -> Result:
    """Return what the path of a Unix socket refers to."""
    return Result({"state": _place(values, descriptors).state()})


def remove(values: dict[str, Any], descriptors: list[int]) -> Result:
    """Remove the names of a Unix socket, except one that a service manager created."""
    _place(values, descriptors).remove(given=values["given"])
    return Result({})


def in_use(values: dict[str, Any], _descriptors: list[int]) -> Result:
    """Return whether a process other than the guardian and its helper has the socket *inode* open.

    The search of /proc has a time limit (``socket_factory.SECONDS``), after which a process can be missed.
    """
    wanted = {f"socket:[{values['inode']}]"}
    first = any(socket_factory.holds(pid, wanted) for pid in values["workers"])
    others = socket_factory.holders_of({values["inode"]}, but=values["guardian"])
    return Result({"used": first or next(others, None) is not None})


def closed_by(values: dict[str, Any], _descriptors: list[int]) -> Result:
    """Return which of *pids* do not have the socket *inode* open, in the process or a descendant.

    Return none of them if an orphan has it open, since the orphan may descend from any worker.
    """
    guardian, wanted = values["guardian"], {f"socket:[{values['inode']}]"}
    orphans = socket_factory.below(guardian, {*values["workers"], os.getpid()}) - {guardian}
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children") or any(
        socket_factory.holds(pid, wanted) for pid in orphans
    ):
        return Result({"closed": []})

    def has(pid: int) -> bool:
        below = socket_factory.below(pid)
        return any(not socket_factory.is_visible(each) or socket_factory.holds(each, wanted) for each in below)

    return Result({"closed": [pid for pid in values["pids"] if not has(pid)]})


def open_sockets(values: dict[str, Any], _descriptors: list[int]) -> Result:
    """Return which of *inodes* are open in the process *root*, a descendant of it, or an orphan of the guardian.

    Return all of them if this cannot be determined.
    """
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):  # a kernel without CONFIG_PROC_CHILDREN
        return Result({"open": values["inodes"]})
    guardian = values["guardian"]
    pids = socket_factory.below(values["root"]) | socket_factory.below(guardian, {*values["without"], os.getpid()})
    wanted = {f"socket:[{inode}]": inode for inode in values["inodes"]}
    try:
        found = {wanted[link] for pid in pids - {guardian} for link in socket_factory.links_seen(pid) if link in wanted}
    except PermissionError:  # a process that has changed its user, for example: any of them may be open there
        return Result({"open": values["inodes"]})
    return Result({"open": sorted(found)})


def _late(module: str, name: str) -> Duty:
    """Return the duty *name* of *module*. Only the helper imports the module, to save memory in the guardian."""

    def duty(values: dict[str, Any], descriptors: list[int]) -> Result:
        __import__(f"{__package__}.{module}")
        found: Duty = getattr(sys.modules[f"{__package__}.{module}"], name)
        return found(values, descriptors)

    return duty


DUTIES: Mapping[str, Duty] = {
    "join": _late("connection_steering", "join"),
    "steer": _late("connection_steering", "steer"),
    "withdraw": _late("connection_steering", "withdraw"),
    "probe_steering": _late("connection_steering", "probe"),
    "look_at_connections": _late("connection_steering", "look"),
    "queues": _late("connection_steering", "queues"),
    "read_bind": bind_requests.read_bind,
    "read_listen": bind_requests.read_listen,
    "describe": bind_requests.describe,
    "open": open_socket,
    "listen": listen,
    "part": part,
    "install": install,
    "directory_of": directory_of,
    "restore": restore,
    "look": look,
    "remove": remove,
    "in_use": in_use,
    "open_sockets": open_sockets,
    "closed_by": closed_by,
}
