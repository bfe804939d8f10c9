"""Who runs a service: its lock, and what else stands in the run directory beside it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster_service.control.errors import CommandError
from cluster_service.machine import notify_place, shortage

from .places import trusted

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = re.compile(r"[A-Za-z][\w.-]{0,63}\Z", re.ASCII)
SOCKET_LIMIT = 107
"""The longest path of a Unix socket, in bytes (sockaddr_un)."""
_SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""How a file is opened: no link is followed, and a FIFO holds nothing up."""


@dataclass(frozen=True)
class Holder:
    """Who holds a service's lock. *since* is ISO 8601, UTC; *pid* 0: it is just starting and has not said so yet."""

    name: str
    pid: int
    since: str

    def __str__(self) -> str:
        """``service 'web' (pid 71, since 2030-01-02T03:04:05Z)``."""
        return f"service {self.name!r} (pid {self.pid or 'not known yet'}, since {self.since or 'just now'})"


class Held(Exception):
    """The lock is held: a service of that name runs. ``holder`` says who."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(str(holder))
        self.holder = holder


def check_name(name: str) -> str:
    """Return *name* if a service can have it. Raises CommandError bad_request."""
    if not NAME.match(name):
        raise CommandError(
            "bad_request",
            f"{name!r} cannot be a name",
            "A name is a letter and then up to 63 letters, digits, '.', '-' or '_'.",
        )
    return name


def lock_path(directory: str, name: str) -> str:
    """Return the file whose lock the running service of that name holds."""
    return os.path.join(directory, f"{name}.lock")


def key_path(directory: str, name: str) -> str:
    """Return the file that keeps the key that ``--access-key auto`` made."""
    return os.path.join(directory, f"{name}.key")


def socket_path(directory: str, name: str) -> str:
    """Return the path of the owner's door. Raises CommandError when it is too long for a Unix socket."""
    path = os.path.join(directory, f"{name}.sock")
    if len(os.fsencode(path)) > SOCKET_LIMIT:
        raise CommandError(
            "bad_request",
            f"the path of the control socket, {path}, is longer than the {SOCKET_LIMIT} bytes that a socket may have",
            "Name a shorter directory with --run-dir or CSERVICE_RUN_DIR.",
        )
    return path


def take_lock(directory: str, name: str) -> int:
    """Lock *name* for a new service and return the descriptor that holds the lock (not inheritable).

    Raises Held when a service of that name runs, and CommandError failed when the file cannot be written.
    """
    path = lock_path(directory, name)
    try:
        return _take_lock(path, name)
    except OSError as error:
        hint = "Name another directory with --run-dir or CSERVICE_RUN_DIR."
        raise CommandError("failed", f"{path} cannot be written: {shortage.explain(error)}", hint) from None


def _take_lock(path: str, name: str) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _SAFELY, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            if not _try_lock(fd):
                raise Held(_read(fd, name))
            if _is_current(fd, path):
                _write_new(fd, path, name)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its last holder has just removed it: lock the new one


def _write_new(fd: int, path: str, name: str) -> None:
    try:
        write_lock(fd, name, os.getpid())
    except OSError:
        os.unlink(path)  # it says nothing, and nobody will hold it
        raise


def clean_up(directory: str, name: str) -> None:
    """Remove what a service left whose guardian was killed, unless another of that name has taken its place."""
    try:
        fd = take_lock(directory, name)
    except (Held, CommandError):
        return
    path = socket_path(directory, name)
    hidden = os.path.join(directory, f".{name}.sock.cservice")  # the guardian's own link to the socket
    notify_place.remove_all(directory, name)
    for left in (path, hidden, lock_path(directory, name)):  # the lock last, while it is held
        with contextlib.suppress(OSError):
            os.unlink(left)
    os.close(fd)


def write_lock(fd: int, name: str, pid: int) -> None:
    """Write who holds the lock into it. To be called by its holder (again, after a fork)."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = json.dumps({"pid": pid, "since": now, "name": name}).encode()
    os.pwrite(fd, text, 0)
    os.ftruncate(fd, len(text))


def holder(directory: str, name: str) -> Holder | None:
    """Return who runs *name* in *directory*, or None when nobody does."""
    path = lock_path(directory, name)
    try:
        fd = os.open(path, os.O_RDONLY | _SAFELY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
            return None
        raise
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        return _read(fd, name) if regular and _is_held(fd) else None
    finally:
        os.close(fd)


def find(name: str, explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> tuple[str, Holder] | None:
    """Return the directory of the running service *name* and its holder, or None."""
    for path in trusted(explicit, environ):
        found = holder(path, name)
        if found is not None:
            return path, found
    return None


def _try_lock(fd: int) -> bool:
    """Take the lock unless a service holds it. Those who merely look hold it shared, for an instant: they are let
    by.
    """
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _is_held(fd):
                return False
            os.sched_yield()
        else:
            return True


def _is_held(fd: int) -> bool:
    """Tell whether somebody holds the lock for himself alone, as services do."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _is_current(fd: int, path: str) -> bool:
    """Tell whether *fd* still is the file at *path*."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _read(fd: int, name: str) -> Holder:
    try:
        data = json.loads(os.pread(fd, 4096, 0))
        return Holder(str(data["name"]), int(data["pid"]), str(data["since"]))
    except (ValueError, KeyError, TypeError):
        return Holder(name, 0, "")


def wait_free(path: str, seconds: float) -> bool:
    """Wait until nobody holds the lock file at *path*, *seconds* at most; return whether that is so."""
    import threading  # noqa: PLC0415 - most callers never wait

    try:
        fd = os.open(path, os.O_RDONLY | _SAFELY)
    except OSError:
        return True
    if seconds <= 0 or not _is_held(fd):
        free = not _is_held(fd)
        os.close(fd)
        return free

    def wait() -> None:
        fcntl.flock(fd, fcntl.LOCK_SH)  # no timeout of its own: a thread that is left behind harms nobody
        os.close(fd)

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    waiter.join(seconds)
    return not waiter.is_alive()


def running(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> list[Holder]:
    """Return every service of this user that runs on this machine, by name."""
    found: dict[str, Holder] = {}
    for path in trusted(explicit, environ):
        for name, suffix in map(os.path.splitext, os.listdir(path)):
            held = holder(path, name) if suffix == ".lock" and NAME.match(name) else None
            if held is not None:
                found.setdefault(name, held)
    return [found[name] for name in sorted(found)]
