"""The private directory where a user's running services are found, and who runs a name.

    directory(explicit=None, environ=os.environ) -> str       made, 0700, checked: to start a service
    existing(explicit=None, environ=os.environ) -> str | None checked, not made: to find one
    lock_path(directory, name) · socket_path(directory, name) · key_path(directory, name) -> str
    take_lock(directory, name) -> int                        the locked descriptor; raises Held
    clean_up(directory, name)                                what a killed service has left
    write_lock(fd, name, pid)                                who holds it, for others to read
    holder(directory, name) -> Holder | None                 who runs *name*
    find(name, explicit=None, environ=os.environ) -> tuple[str, Holder] | None
    check_name(name) -> str

Invariants: a service runs exactly as long as somebody holds its lock, and what the lock file or the socket say without
a held lock is a dead service's. The directory is ours, 0700 and no symlink, so nothing in it needs checking twice.
Every function raises CommandError with a sentence when the machine's state is not as it should be.
"""

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

from .control.errors import CommandError
from .machine import notify_place, shortage

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = re.compile(r"[A-Za-z][\w.-]{0,63}\Z", re.ASCII)
SOCKET_LIMIT = 107
"""The longest path of a Unix socket, in bytes (sockaddr_un)."""


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


class Nowhere(CommandError):
    """No directory can be made or written where it would be by default; one that was chosen must be there."""


def check_name(name: str) -> str:
    """Return *name* if a service can have it. Raises CommandError bad_request."""
    if not NAME.match(name):
        raise CommandError(
            "bad_request",
            f"{name!r} cannot be a name",
            "A name is a letter and then up to 63 letters, digits, '.', '-' or '_'.",
        )
    return name


def place(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return where the directory is, whether it is there or not.

    One place for each environment, and no looking further: who keeps his services apart by a variable must not reach
    others. A place in a directory of somebody else is passed over (sudo keeps variables).
    """
    chosen = explicit or environ.get("CSERVICE_RUN_DIR")
    if chosen:
        return os.path.abspath(chosen)
    uid = os.geteuid()
    systemd = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if systemd and _is_ours(systemd):
        private = stat.S_IMODE(os.stat(systemd).st_mode) & 0o077 == 0
        return systemd if private else os.path.join(systemd, "cluster-service")
    for runtime in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if runtime and _is_ours(runtime):
            return os.path.join(runtime, "cluster-service")
    return os.path.join(os.path.abspath(environ.get("TMPDIR") or "/tmp"), f"cluster-service-{uid}")  # noqa: S108 - checked


def _is_ours(path: str) -> bool:
    try:
        return os.path.isabs(path) and os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


def directory(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the directory of the services, made if need be. *explicit*: the user's own choice.

    Raises CommandError bad_request when it cannot be made or written to (Nowhere, unless it was somebody's choice), is
    not ours, or is not private.
    """
    path = place(explicit, environ)
    kind = CommandError if explicit or environ.get("CSERVICE_RUN_DIR") else Nowhere
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise kind(
            "bad_request",
            f"the run directory {path} cannot be made: {error.strerror}",
            "Name another one with --run-dir or CSERVICE_RUN_DIR.",
        ) from None
    _check(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise kind(
            "bad_request",
            f"the run directory {path} cannot be written to",
            "Name another one with --run-dir or CSERVICE_RUN_DIR.",
        )
    return path


def existing(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the directory of the services, or None when there is none yet.

    Raises CommandError when it is not ours: what answers there is not to be trusted.
    """
    path = place(explicit, environ)
    if not os.path.lexists(path):
        return None
    _check(path)
    return path


def _check(path: str) -> None:
    """Raise CommandError unless *path* is a directory of ours that nobody else can enter."""
    found = os.lstat(path)
    remedy = "Remove it, or name another one with --run-dir or CSERVICE_RUN_DIR."
    if stat.S_ISLNK(found.st_mode):
        raise CommandError("bad_request", f"the run directory {path} is a symbolic link, which could be moved", remedy)
    if not stat.S_ISDIR(found.st_mode):
        raise CommandError("bad_request", f"the run directory {path} is not a directory", remedy)
    if found.st_uid != os.geteuid():
        raise CommandError(
            "bad_request",
            f"the run directory {path} belongs to user {found.st_uid}, not to you ({os.geteuid()})",
            remedy,
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise CommandError(
            "bad_request",
            f"the run directory {path} can be entered by others (mode {mode:04o})",
            f"chmod 700 {path}",
        )


def lock_path(directory: str, name: str) -> str:
    """Return the file whose lock the running service of that name holds."""
    return os.path.join(directory, f"{name}.lock")


def key_path(directory: str, name: str) -> str:
    """Return the file that keeps the key that ``--access-key auto`` made."""
    return os.path.join(directory, f"{name}.key")


def state_home(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the directory of what outlives a service: ``$XDG_STATE_HOME/cluster-service``, else below the home
    directory; None where this user has no place for it. It need not exist.
    """
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        state = os.path.join(home, ".local", "state")
    return os.path.join(state, "cluster-service")


def audit_path(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return where the commands given to the service *name* are written down, where nobody has chosen a file.

    systemd's own directories (``LogsDirectory=``, ``StateDirectory=``) come first. None: there is no place.
    """
    for variable in ("LOGS_DIRECTORY", "STATE_DIRECTORY"):
        given = environ.get(variable, "").split(":")[0]
        if os.path.isabs(given):
            return os.path.join(given, f"{name}.audit")
    state = state_home(environ)
    return None if state is None else os.path.join(state, f"{name}.audit")


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
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
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
    for left in (path, hidden, lock_path(directory, name)):  # the lock last, while it is held
        with contextlib.suppress(OSError):
            os.unlink(left)
    notify_place.remove_all(directory, name)
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
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
            return None
        raise
    try:
        return _read(fd, name) if _is_held(fd) else None
    finally:
        os.close(fd)


def find(name: str, explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> tuple[str, Holder] | None:
    """Return the directory of the running service *name* and its holder, or None."""
    path = existing(explicit, environ)
    found = holder(path, name) if path is not None else None
    return None if path is None or found is None else (path, found)


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
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
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
    path = existing(explicit, environ)
    names = [os.path.splitext(entry) for entry in sorted(os.listdir(path))] if path is not None else []
    found = [holder(str(path), name) for name, suffix in names if suffix == ".lock" and NAME.match(name)]
    return [held for held in found if held is not None]
