"""Listening sockets of an app's server, one per address.

They are bound with a plain ``bind``, which the guardian turns into the shared socket of the service (seccomp, python);
taken from LISTEN_FDS (inherit); or private to the worker (none).
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, List

from cluster_service.wire import addresses
from cluster_service.wire.worker_protocol import CHECK_ADDRESS

from .reporting import CANNOT_SERVE, exit_with_message, warn

if TYPE_CHECKING:
    from .runtime import Runtime

_FIRST_FD = 3
"""SD_LISTEN_FDS_START."""


def open_listeners(binds: List[str], share: str) -> List[socket.socket]:
    """Return a socket bound to each of *binds*, in order, or exit with an error message."""
    inherited = _inherited() if share == "inherit" else []
    if inherited:
        return inherited
    if share == "inherit":
        warn("no inherited sockets (LISTEN_FDS); the worker binds its own")
    return [_open(bind, shared=share in ("seccomp", "python")) for bind in binds]


def _inherited() -> List[socket.socket]:
    if os.environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "0")
    fds = range(_FIRST_FD, _FIRST_FD + int(count)) if count.isdigit() else range(0)
    for fd in fds:
        os.set_inheritable(fd, False)
    return [_with_protocol(socket.socket(fileno=fd)) for fd in fds]


def _with_protocol(listener: socket.socket) -> socket.socket:
    """Return the socket with its protocol set: otherwise asyncio does not set TCP_NODELAY on accepted connections."""
    if listener.family == socket.AF_UNIX or listener.proto == socket.IPPROTO_TCP:
        return listener
    return socket.socket(listener.family, listener.type, socket.IPPROTO_TCP, fileno=listener.detach())


def _open(bind: str, *, shared: bool) -> socket.socket:
    try:
        address = addresses.parse(bind)
    except addresses.AddressError as error:
        exit_with_message(str(error), CANNOT_SERVE)
    tcp = address.kind != "unix"
    listener = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP if tcp else 0)
    if tcp:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.v6only))
    try:
        _bind(listener, address, shared=shared)
    except OSError as error:
        exit_with_message(f"cannot listen on {bind}: {error.strerror}", CANNOT_SERVE)
    return listener


def _bind(listener: socket.socket, address: addresses.Address, *, shared: bool) -> None:
    path = address.path
    if path is None or shared:  # the guardian creates and replaces the file of a shared socket
        listener.bind(address.sockaddr())
        return
    mode = 0o666  # uvicorn's default; an existing file keeps its mode
    if os.path.exists(path):
        mode = os.stat(path).st_mode & 0o777
        if _is_abandoned(path):
            os.unlink(path)
    umask = os.umask(0o777 & ~mode)
    try:
        listener.bind(path)
    finally:
        os.umask(umask)


def _is_abandoned(path: str) -> bool:
    """Return True if *path* is a stale socket, without a server."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def own_listener(runtime: Runtime) -> List[socket.socket]:
    """Return the listening socket for health checks of this worker alone, or an empty list if there are none.

    The guardian created it, so that the service need not trust the worker about the address.
    """
    if runtime.check is None:
        return []
    try:
        listener = socket.socket(fileno=runtime.check)
        name = listener.getsockname()  # bytes if it is abstract, else a path
    except OSError as error:
        warn(f"cannot open the socket for health checks: {error.strerror}")
        return []
    runtime.heartbeat.accepting.exempt.add(name)
    shown = name if isinstance(name, str) else f"@{name[1:].decode('ascii')}"
    runtime.notify({CHECK_ADDRESS: f"unix:{shown}"})
    return [listener]
