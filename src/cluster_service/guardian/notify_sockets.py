"""The sockets behind the workers' NOTIFY_SOCKET.

Each worker has its own, a file that only its user (and root) may write to: the kernel refuses every other sender, so
no other user's datagram can reach the guardian or fill the queue. Where no directory can be had (a read-only file
system), the socket has an abstract name instead: any user of the network namespace can send to that one; their
datagrams are discarded.
"""

from __future__ import annotations

import contextlib
import os
import socket

from cluster_service.machine import files, notify_place

_PATH_LIMIT = 107  # sun_path of sockaddr_un, without its last byte


class NotifySockets:
    """Opens and removes them. *locked*: the service holds the lock of its name, so what it finds there is stale."""

    def __init__(self, run_dir: str, name: str, *, locked: bool) -> None:
        self._run_dir = run_dir
        self._name = name if locked else f"{name}.{os.getpid()}"
        if locked:
            notify_place.remove_all(run_dir, self._name)

    def open(self, worker: int, uid: int) -> tuple[socket.socket, str]:
        """Return a new socket for *worker*, to which user *uid* may send, and its name. Raises OSError."""
        for directory, mode in notify_place.directories(self._run_dir, self._name, own=uid == os.geteuid()):
            path = os.path.join(directory, str(worker))
            if len(os.fsencode(path)) <= _PATH_LIMIT:
                with contextlib.suppress(OSError):
                    return _at_path(directory, mode, path, uid), path
        sock, name = _new_socket(), f"cservice-{os.urandom(16).hex()}"
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


def _new_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # before any datagram can come
    return sock


def _at_path(directory: str, mode: int, path: str, uid: int) -> socket.socket:
    """Return a new socket at *path*, to which *uid* alone may write from the first moment on. Raises OSError."""
    sock = _new_socket()
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
