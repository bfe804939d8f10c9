"""Requests of workers to bind or listen: read from the memory of a thread, its descriptors and /proc."""

from __future__ import annotations

import fcntl
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.machine import identity
from cluster_service.wire import addresses
from cluster_service.wire.addresses import Address

from . import socket_factory, syscalls
from .forked_child import Result
from .socket_factory import Binder

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAVE = Result({"leave": True})
"""Not handled by the guardian: the kernel continues the call."""


def binder_from(values: Any) -> Binder:
    """Return the ``Binder`` that *values*, from JSON, describe."""
    uid, gid, groups, umask, cwd, held = values
    return Binder(uid, gid, tuple(groups), umask, cwd, held)


# ------------------------------------------------------------------ duties of the helper


def read_bind(values: dict[str, Any], _descriptors: list[int]) -> Result:
    """Return the arguments of a thread's bind and, for a Unix socket, a descriptor of its directory. Raises OSError."""
    thread, number = int(values["thread"]), int(values["number"])
    data = read_memory(thread, values["pointer"], values["length"])
    with borrow(thread, number) as theirs:
        kind = socket_factory.shareable(theirs)
        if kind is None or int.from_bytes(data[:2], "little") != theirs.family:
            return _LEAVE
        v6only = theirs.family == socket.AF_INET6 and bool(theirs.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        address = addresses.from_sockaddr(data, kind, v6only=v6only)
        if address is None or socket_factory.multicast(address) or _made_elsewhere(theirs):
            return _LEAVE
        found: dict[str, Any] = {
            "address": [address.kind, address.host, address.port, address.dual],
            "type": int(theirs.type),
            "nonblocking": bool(fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK),
            "inode": os.fstat(theirs.fileno()).st_ino,
            "bound": _is_bound(theirs),
            "options": socket_factory.options_of(theirs),
            "close_on_exec": _close_on_exec(thread, number),
        }
    return _describe(thread, address.path, found)


def read_listen(values: dict[str, Any], _descriptors: list[int]) -> Result:
    """Return the socket on which a thread calls ``listen``, and the thread's credentials. Raises OSError."""
    with borrow(values["thread"], values["number"]) as theirs:
        inode = os.fstat(theirs.fileno()).st_ino
    return Result({"inode": inode, "binder": list(socket_factory.binder_of(values["thread"]))})


def describe(values: dict[str, Any], _descriptors: list[int]) -> Result:
    """Return the credentials of ``thread`` and, with a ``path``, whether it may bind the path. Raises OSError."""
    return _describe(int(values["thread"]), values.get("path"), {})


def _describe(thread: int, path: str | None, found: dict[str, Any]) -> Result:
    """Add the thread's credentials, and its rights to *path*, to *found*."""
    if _lives_elsewhere(thread, ("user", "net", *(["mnt"] if path is not None else []))):
        return _LEAVE
    binder = socket_factory.binder_of(thread)
    found["binder"] = list(binder)
    found["capable"] = bool(binder.capabilities >> identity.CAP_NET_BIND_SERVICE & 1)
    if path is None:
        return Result(found)
    if not _same(f"/proc/{thread}/root", "/"):
        return _LEAVE
    found["written"] = path
    found["absolute"] = os.path.normpath(os.path.join(os.readlink(f"/proc/{thread}/cwd"), path))
    try:
        directory = open_directory(binder, path)
    except OSError as error:
        found["path_error"] = error.errno
        return Result(found)
    found |= _rights(binder, directory, os.path.basename(path))
    return Result(found, [directory])


# ------------------------------------------------------------------ the thread


def read_memory(thread: int, address: int, length: int) -> bytes:
    """Return memory of the process of *thread*. Blocks until the pages are present. Raises OSError."""
    descriptor = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, length, address)
    except OverflowError:
        raise OSError(14, "a pointer into the kernel") from None
    finally:
        os.close(descriptor)


def borrow(thread: int, number: int) -> socket.socket:
    """Return a copy of descriptor *number* of the process of *thread*. Raises OSError, also if it is not a socket."""
    try:
        pidfd = syscalls.pidfd_open(_leader(thread))
        try:
            copy = syscalls.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)
    except OSError:
        # The thread group leader may have exited while other threads run: it then has no descriptors.
        pidfd = syscalls.pidfd_open(thread, thread=True)
        try:
            copy = syscalls.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)
    try:
        return socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise


def _leader(thread: int) -> int:
    return int(socket_factory.status_of(thread)["Tgid"][0])


def _close_on_exec(thread: int, number: int) -> bool:
    with open(f"/proc/{thread}/fdinfo/{number}", encoding="ascii") as file:
        for line in file:
            if line.startswith("flags:"):
                return bool(int(line.split()[1], 8) & os.O_CLOEXEC)
    return False


def _is_bound(sock: socket.socket) -> bool:
    name = sock.getsockname()
    return bool(name if sock.family == socket.AF_UNIX else name[1])


# ------------------------------------------------------------------ namespaces


def _made_elsewhere(theirs: socket.socket) -> bool:
    """Return whether a socket belongs to another network namespace."""
    with socket.socket(socket.AF_UNIX) as ours:
        return socket_factory.network(theirs) != socket_factory.network(ours)


def _lives_elsewhere(thread: int, namespaces: Sequence[str]) -> bool:
    """Return whether *thread* differs from the service in any of *namespaces* (names in /proc/PID/ns)."""
    return not all(_same(f"/proc/{thread}/ns/{name}", f"/proc/self/ns/{name}") for name in namespaces)


def _same(one: str, other: str) -> bool:
    """Return whether two paths refer to the same file."""
    there, here = os.stat(one), os.stat(other)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


# ------------------------------------------------------------------ paths


def open_directory(binder: Binder, path: str) -> int:
    """Return a descriptor of the directory of *path*, if *binder* may search the whole path. Raises OSError.

    Use the descriptor from then on, not the path: it may refer to another directory when it is resolved again.
    """
    with socket_factory.InTheNameOf(binder):
        directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fchdir(directory)  # checks search permission of the directory itself, which O_PATH does not
        except OSError:
            os.close(directory)
            raise
        return directory


def _rights(binder: Binder, directory: int, name: str) -> dict[str, Any]:
    """Return what *binder* may do with *name* in *directory*, as checked by the kernel (with access control lists)."""
    here = os.readlink(f"/proc/self/fd/{directory}")
    with socket_factory.InTheNameOf(binder):
        os.fchdir(directory)
        creates = os.access(".", os.W_OK | os.X_OK, effective_ids=True)
        try:
            os.lstat(name)
        except FileNotFoundError:
            connects = True
        else:
            connects = os.access(name, os.W_OK, effective_ids=True)
    return {"key": f"unix:{os.path.join(here, name)}", "creates": creates, "connects": connects}


class LeaveAlone(Exception):
    """The call does not concern the service: the kernel may execute it."""


class Want(NamedTuple):
    """A worker's request to bind."""

    address: Address
    kind: int
    """SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET."""
    nonblocking: bool
    binder: Binder
    """The identity with which the socket is bound."""
    options: Sequence[Any] = ()
    """The options that the worker has set on its own socket (``socket_factory.options_of``)."""
    capable: bool = False
    """Whether the worker has CAP_NET_BIND_SERVICE."""
    key: str = ""
    """Identifies the path: two paths with the same key are the same file."""
    written: str = ""
    """The path as the worker wrote it, which ``getsockname`` will return."""
    directory: int = -1
    """The directory of the path, opened as the binder."""
    creates: bool = True
    """Whether the binder may create files in it."""
    connects: bool = True
    """Whether it may write to the file, if it exists."""
    path_error: int = 0
    """The errno with which the binder fails to reach the directory; 0 if it does not."""

    @property
    def uid(self) -> int:
        """The user id of the binder."""
        return self.binder.uid


def want_from(found: dict[str, Any], directory: int) -> Want:
    """Return the request that the helper has *found* (``read_bind``)."""
    kind, host, port, dual = found["address"]
    address = Address(kind, found.get("absolute", host), port, dual)
    return Want(
        address,
        found["type"],
        found["nonblocking"],
        binder_from(found["binder"]),
        options=found["options"],
        capable=found["capable"],
        key=found.get("key", ""),
        written=found.get("written", ""),
        directory=directory,
        creates=found.get("creates", True),
        connects=found.get("connects", True),
        path_error=found.get("path_error", 0),
    )
