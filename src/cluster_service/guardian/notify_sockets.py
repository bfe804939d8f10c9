"""The sockets behind the workers' NOTIFY_SOCKET, and those for their health checks.

Each worker has its own notify socket, a file to which only its user (and root) may write: the kernel rejects every
other sender, so no datagram of another user can reach the guardian or fill the queue. Only the service's user (and
root) may connect to a worker's check socket: the program answers every request there, even if it otherwise serves an
address that other users cannot reach. If no directory can be created (a read-only file system), the socket has an
abstract name instead, which any user of the network namespace can use; datagrams of other users are discarded.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from cluster_service.machine import files, notify_place

if TYPE_CHECKING:
    from collections.abc import Callable

_PATH_LIMIT = 107  # sun_path of sockaddr_un, without its last byte


class NotifySockets:
    """Opens and removes these sockets.

    *locked*: the service holds the lock of its name, so any existing files are stale.
    """

    def __init__(self, run_dir: str, name: str, *, locked: bool) -> None:
        self._run_dir = run_dir
        self._name = name if locked else f"{name}.{os.getpid()}"
        if locked:
            notify_place.remove_all(run_dir, self._name)

    def open(self, worker: int, uid: int) -> tuple[socket.socket, str]:
        """Return a new socket for *worker*, to which user *uid* may send, and its name. Raises OSError."""
        return self._open(_notify_socket, str(worker), uid)

    def open_check(self, worker: int) -> tuple[socket.socket, str]:
        """Return a new socket for health checks of *worker*, and its name. Raises OSError."""
        return self._open(_check_socket, f"{worker}.check", os.geteuid())

    def _open(self, create: Callable[[], socket.socket], file_name: str, uid: int) -> tuple[socket.socket, str]:
        for directory, mode in notify_place.directories(self._run_dir, self._name, own=uid == os.geteuid()):
            path = os.path.join(directory, file_name)
            if len(os.fsencode(path)) <= _PATH_LIMIT:
                with contextlib.suppress(OSError):
                    return _at_path(create(), directory, mode, path, uid), path
        sock, name = create(), f"cservice-{os.urandom(16).hex()}"
        try:
            sock.bind(f"\0{name}")
        except OSError:
            sock.close()
            raise
        return sock, f"@{name}"

    def remove(self, name: str) -> None:
        """Remove the file of the socket *name*; an abstract name has none."""
        if name.startswith("/"):
            with contextlib.suppress(OSError):
                files.remove(name)

    def close(self) -> None:
        """Remove the directories."""
        notify_place.remove_all(self._run_dir, self._name)


def _notify_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # before any datagram can arrive
    return sock


def _check_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _at_path(sock: socket.socket, directory: str, mode: int, path: str, uid: int) -> socket.socket:
    """Bind *sock* to *path*, writable only by *uid* from its creation. Raises OSError after closing it."""
    before = os.umask(0o177)
    try:
        notify_place.make(directory, mode)
        sock.bind(path)
        if uid != os.geteuid():
            try:
                os.chown(path, uid, -1, follow_symlinks=False)
            except OSError:
                files.remove(path)
                raise
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock
