"""sd_notify(3): what the service reports to its service manager, and the sockets behind the workers' NOTIFY_SOCKET."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from cluster_service.machine import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from .boot_message import Manager
    from .holdings import Holdings
    from .master_supervisor import Keeper
    from .service_end import Ending

EXTENSION = 30.0
"""Seconds by which a timeout is extended, three times as often as necessary."""
_AGAIN = 0.5
"""Seconds until a failed send is retried."""

EXTENDED = ("starting", "reloading", "stopping")


class Notifier:
    """Reports the state of the service to the service manager."""

    def __init__(
        self,
        manager: Manager,
        holdings: Holdings,
        keeper: Keeper,
        ending: Ending,
        log: Callable[[str], None],
        now: float,
    ) -> None:
        self._holdings = holdings
        self._keeper = keeper
        self._ending = ending
        self._log = log
        self._address = address_of(manager.notify)
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        elif manager.notify:
            log(f"NOTIFY_SOCKET={manager.notify} is no Unix socket: the service manager is told nothing")
        self._beat = manager.watchdog / 2
        self._beat_at = now if self._beat else None
        self._beating = True
        self._extend_at = now
        self._retry_at: float | None = None
        self._was_up = False
        self._phase = "starting"
        """The phase that was sent last."""
        self._text = ""

    def __repr__(self) -> str:
        return f"<Notifier {self._address!r}: told {self._phase}, {self._text!r}>"

    # ------------------------------------------------------------ current state

    def phase(self) -> str:
        """Return starting, stalled, up, reloading or stopping."""
        status = self._holdings.status
        if self._holdings.stopping or self._ending.draining or status.phase == "stopping":
            return "stopping"
        if not self._was_up:
            return "up" if status.phase in ("serving", "reloading") else status.phase
        asked = status.hangups < self._holdings.hangups
        return "reloading" if asked or status.phase == "reloading" else "up"

    def text(self) -> str:
        """Return the status as one line."""
        if self._ending.draining:
            return f"stopping without a master; {len(self._holdings.by_pid)} workers left"
        return " ".join(self._holdings.status.text.split())

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next, unless an event occurs before."""
        if self._socket is None:
            return None
        if self._retry_at is not None:
            return self._retry_at
        if (self._phase, self._text) != (self.phase(), self.text()):
            return 0.0
        times = [self._beat_at, self._extend_at if self._phase in EXTENDED else None]
        return min((time for time in times if time is not None), default=None)

    def tick(self, now: float) -> None:
        """Send what has changed and what is due."""
        if self._socket is None or (self._retry_at is not None and now < self._retry_at):
            return
        phase, text = self.phase(), self.text()
        lines = self._transition(phase) if phase != self._phase else []
        if text != self._text:
            lines.append(f"STATUS={text}")
        answers = self._keeper.answers(now) or self._ending.draining
        extend = phase in EXTENDED and answers and (now >= self._extend_at or phase != self._phase)
        if extend:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1e6)}")
        beat = self._beat_at is not None and now >= self._beat_at
        if beat and self._lives(answers=answers):
            lines.append("WATCHDOG=1")
        if lines and not self._send(lines):
            self._retry_at = now + _AGAIN
            return
        self._retry_at = None
        self._phase, self._text = phase, text
        self._was_up = self._was_up or phase == "up"
        if extend or now >= self._extend_at:
            self._extend_at = now + EXTENSION / 3
        if beat:
            self._beat_at = now + self._beat

    def end(self) -> None:
        """Report that the service ends now, whatever was sent before."""
        if self._socket is not None:
            more = ["STOPPING=1"] if self._phase != "stopping" else []
            self._send([*more, "STATUS=ending", f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1e6)}"])
            self._socket.close()
            self._socket = None

    def _lives(self, *, answers: bool) -> bool:
        if answers != self._beating:
            self._beating = answers
            self._log(
                "a master answers again: the watchdog of the service manager hears of us"
                if answers
                else "no master answers, whatever was tried: the watchdog of the service manager hears nothing more"
            )
        return answers

    # ------------------------------------------------------------ sending

    def _transition(self, phase: str) -> list[str]:
        if phase == "up":
            # Process 1 of a container has another pid outside of it.
            return ["READY=1", *([f"MAINPID={os.getpid()}"] if os.getpid() != 1 else [])]
        if phase == "reloading":
            return ["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"]
        return ["STOPPING=1"] if phase == "stopping" else []

    def _send(self, lines: list[str]) -> bool:
        """Send *lines*. Return False if the manager's queue is full, to retry later; a dead manager is ignored."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True


def address_of(name: str) -> bytes:
    """Return the ``sendto`` address for NOTIFY_SOCKET; empty if it is neither a path nor an abstract name."""
    if name.startswith("@") and len(name) > 1:
        return b"\0" + os.fsencode(name[1:])
    return os.fsencode(name) if name.startswith("/") else b""


_PATH_LIMIT = 107  # sun_path of sockaddr_un, without its last byte


class NotifySockets:
    """Opens and removes these sockets.

    *locked*: the service holds the lock of its name, so any existing files are stale.
    """

    def __init__(self, run_dir: str, name: str, *, locked: bool) -> None:
        self._run_dir = run_dir
        self._name = name if locked else f"{name}.{os.getpid()}"
        if locked:
            files.remove_all(run_dir, self._name)

    def open(self, worker: int, uid: int) -> tuple[socket.socket, str]:
        """Return a new socket for *worker*, to which user *uid* may send, and its name. Raises OSError."""
        return self._open(_notify_socket, str(worker), uid)

    def open_check(self, worker: int) -> tuple[socket.socket, str]:
        """Return a new socket for health checks of *worker*, and its name. Raises OSError."""
        return self._open(_check_socket, f"{worker}.check", os.geteuid())

    def _open(self, create: Callable[[], socket.socket], file_name: str, uid: int) -> tuple[socket.socket, str]:
        for directory, mode in files.directories(self._run_dir, self._name, own=uid == os.geteuid()):
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
        files.remove_all(self._run_dir, self._name)


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
        files.make(directory, mode)
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
