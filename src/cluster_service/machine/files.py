"""The only module that opens files of the service for writing, renames and removes them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LINKS = 40
"""Maximum number of symbolic links in one path, as in path_resolution(7)."""
_TRIES = 10
"""Maximum number of attempts to open a file that other processes keep creating and removing."""


class Refused(OSError):
    """Another user could control the file. ``strerror`` says why and what to do."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(errno.EPERM, why, path)


class _Descriptor(Exception):
    """The path leads to a descriptor of a process, such as /dev/stdout."""

    def __init__(self, directory: int, name: str) -> None:
        super().__init__(name)
        self.directory = directory
        self.name = name


# ------------------------------------------------------------------ operations


def open_for_append(path: str, mode: int = 0o640) -> int:
    """Open the file at *path* for appending, creating it with *mode* if necessary; return its descriptor.

    It may be a FIFO with a reader, or a device: /dev/null, /dev/stdout. Raises Refused, and OSError as open(2).
    """
    try:
        with _located(path) as (directory, name):
            return _open(path, directory, name, os.O_WRONLY | os.O_APPEND, mode)
    except _Descriptor as found:
        with _closing(found.directory):
            return _open_descriptor(found)


def open_for_reading(path: str) -> int:
    """Open the file at *path* for reading; return its descriptor. Raises Refused, and OSError as open(2)."""
    with _located(path, devices=False) as (directory, name):
        return _open(path, directory, name, os.O_RDONLY)


def replace(path: str, data: bytes, mode: int, *, follow: bool, sync: bool = False) -> None:
    """Replace the file at *path* atomically by a new one with *data*.

    *follow*: follow a symbolic link at the end of *path* rather than replace it. *sync*: wait until the data is on
    disk. Raises Refused, and OSError as open(2), write(2) and rename(2).
    """
    with _located(path, follow=follow, devices=False) as (directory, name):
        new = f"{name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)  # left by a process that was killed while writing
        try:
            with open(_open(path, directory, new, os.O_WRONLY | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=directory)
            raise
        if sync:
            with _closing(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)) as opened:
                os.fsync(opened)


def create(path: str, mode: int) -> int:
    """Create the file at *path* and open it for writing. Raises Refused, and FileExistsError if it exists."""
    with _located(path, follow=False, devices=False) as (directory, name):
        return _open(path, directory, name, os.O_WRONLY | os.O_EXCL, mode)


def add_suffix(path: str, suffix: str) -> None:
    """Append *suffix* to the name of the file at *path*. Raises Refused, and OSError as rename(2)."""
    with _located(path, devices=False) as (directory, name):
        os.replace(name, name + suffix, src_dir_fd=directory, dst_dir_fd=directory)


def rotate(path: str, keep: int, opened: int) -> None:
    """Rename *path* to FILE.1, FILE.1 to FILE.2 and so on, keeping *keep* old files.

    *opened*: a descriptor of the file, to detect that another file is at *path*. Raises Refused, and OSError as
    rename(2); then *path* has not been renamed.
    """
    with _located(path, devices=False) as (directory, name):
        if not os.path.samestat(os.fstat(opened), os.stat(name, dir_fd=directory, follow_symlinks=False)):
            raise Refused(path, "another file has taken its place; remove that, and send SIGUSR1 to the service")
        if keep == 0:
            os.unlink(name, dir_fd=directory)
            return
        for number in range(keep, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{name}.{number - 1}", f"{name}.{number}", src_dir_fd=directory, dst_dir_fd=directory)
        os.replace(name, f"{name}.1", src_dir_fd=directory, dst_dir_fd=directory)


def remove(path: str) -> None:
    """Remove the file or symbolic link at *path*. Raises Refused, and OSError as unlink(2)."""
    with _located(path, follow=False, devices=False) as (directory, name):
        os.unlink(name, dir_fd=directory)


def check(path: str, users: Iterable[tuple[str, int, Iterable[int]]]) -> None:
    """Check if *path* may become a file of the service, without changing anything.

    *users*: name, uid and gids of other users that run workers. Raises Refused if one of them can write to its
    directory, or if ``open_for_append`` would refuse it; OSError if there is no such directory.
    """
    try:
        with _located(path) as (directory, name):
            found = os.fstat(directory)
            for user, uid, gids in users:
                if _may_write(found, uid, frozenset(gids)):
                    where = os.path.dirname(path)
                    raise Refused(path, f"workers run as {user}, who can write to {where}; choose another directory")
            with (
                contextlib.suppress(FileNotFoundError),
                _closing(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)) as entry,
            ):
                _check_entry(path, directory, os.fstat(entry))
    except _Descriptor as found:
        os.close(found.directory)


# ------------------------------------------------------------------ path resolution


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _located(path: str, *, follow: bool = True, devices: bool = True) -> Iterator[tuple[int, str]]:
    """Yield the directory of the file at *path* and its name there. *follow*: resolve a link at the end of *path*.

    Raises Refused. For a path to a descriptor raises _Descriptor, or Refused if *devices* is false.
    """
    try:
        directory, name = _walk(path, follow=follow)
    except _Descriptor as link:
        if devices:
            raise
        os.close(link.directory)
        raise Refused(path, "it is an open file of a process; name a file in a directory") from None
    with _closing(directory):
        found = os.fstat(directory)
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            where = os.path.dirname(path)
            mode = stat.S_IMODE(found.st_mode)
            raise Refused(path, f"every user can write to {where} (mode {mode:04o}); run: chmod o-w {where}")
        yield directory, name


def _walk(path: str, *, follow: bool) -> tuple[int, str]:
    """Return a descriptor of the directory of *path*, with links resolved, and the last name."""
    pending = _parts(os.path.abspath(path))
    directory = os.open("/", _DIRECTORY)
    links = 0
    try:
        while pending:
            name = pending.pop()
            if not pending and not follow:
                return directory, name
            try:
                entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            except FileNotFoundError:
                if pending:
                    raise
                return directory, name
            found = os.fstat(entry)
            if not stat.S_ISLNK(found.st_mode):
                if not pending:
                    os.close(entry)
                    return directory, name
                os.close(directory)
                directory = entry  # if it is not a directory, the next step fails
                continue
            with _closing(entry):
                if not _only_ours(os.fstat(directory), found):
                    raise Refused(path, f"{name} is a symbolic link that user {found.st_uid} can have made; remove it")
                if _is_descriptors(directory):
                    raise _Descriptor(os.dup(directory), name)
                target = os.readlink("", dir_fd=entry)
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                os.close(directory)
                directory = os.open("/", _DIRECTORY)
            pending += _parts(target)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    except BaseException:
        os.close(directory)
        raise


def _parts(path: str) -> list[str]:
    """Return the components of *path*, the last one first."""
    return [part for part in path.split("/") if part not in ("", ".")][::-1]


def _is_descriptors(directory: int) -> bool:
    """Return True for /proc/PID/fd, whose links lead to open files regardless of their text."""
    parts = os.readlink(f"/proc/self/fd/{directory}").split("/")
    return parts[1] == "proc" and parts[-1] == "fd"


def _open_descriptor(found: _Descriptor) -> int:
    flags = os.O_WRONLY | os.O_APPEND | _CAREFULLY & ~os.O_NOFOLLOW
    try:
        return os.open(found.name, flags, dir_fd=found.directory)
    except OSError as error:
        own = os.readlink(f"/proc/self/fd/{found.directory}") == f"/proc/{os.getpid()}/fd"
        if error.errno != errno.ENXIO or not own:
            raise
        return os.dup(int(found.name))  # a socket, such as that of the systemd journal, cannot be opened


# ------------------------------------------------------------------ ownership


def _open(path: str, directory: int, name: str, flags: int, mode: int | None = None) -> int:
    """Open an existing file if it is ours, or create one with *mode*."""
    for _ in range(_TRIES):
        try:
            if flags & os.O_EXCL:
                raise FileNotFoundError
            opened = os.open(name, flags | _CAREFULLY, dir_fd=directory)
        except FileNotFoundError:
            if mode is None:
                raise
            try:
                return os.open(name, flags | os.O_CREAT | os.O_EXCL | _CAREFULLY, mode, dir_fd=directory)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                continue
        try:
            _check_entry(path, directory, os.fstat(opened))
        except BaseException:
            os.close(opened)
            raise
        return opened
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def _check_entry(path: str, directory: int, found: os.stat_result) -> None:
    """Raise Refused for a file that another user can have put there, OSError for one of an unusable type."""
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)):
        what = "a directory" if stat.S_ISDIR(found.st_mode) else "not a file, FIFO or character device"
        raise OSError(errno.EINVAL, f"it is {what}", path)
    if not _only_ours(os.fstat(directory), found):
        second = "" if found.st_nlink == 1 else ", has a second name"
        raise Refused(
            path,
            f"it belongs to user {found.st_uid}{second}, and others can write to its directory; remove it,"
            " or choose another directory",
        )


def _only_ours(directory: os.stat_result, entry: os.stat_result) -> bool:
    """Return True if only root and this user can have put *entry* into *directory*."""
    ours = (0, os.geteuid())
    if directory.st_uid in ours and not directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    return entry.st_uid in ours and entry.st_nlink == 1


def _may_write(directory: os.stat_result, uid: int, gids: frozenset[int]) -> bool:
    """Return True if the user can rename files of other users in *directory*."""
    if uid == directory.st_uid:
        return uid != os.geteuid()
    if directory.st_mode & stat.S_ISVTX or uid in (0, os.geteuid()):
        return False
    return bool(directory.st_mode & stat.S_IWGRP) and directory.st_gid in gids


_SHARED = ("/run", "/tmp")  # noqa: S108 - a directory there is used only if it is ours
OWN_MODE, SHARED_MODE = 0o700, 0o711


def directories(run_dir: str, name: str, *, own: bool) -> list[tuple[str, int]]:
    """Return the directories to try, in order of preference, each with its mode.

    *own*: for workers that run as the user of the service. Workers of other users cannot traverse the run directory;
    every user can traverse theirs, and the permissions of each socket in it apply.
    """
    token = f"{_checksum(os.fsencode(run_dir)):08x}"
    shared = [(f"{base}/cluster-service-{name}-{token}.notify", SHARED_MODE) for base in _SHARED]
    return [(os.path.join(run_dir, f"{name}.notify"), OWN_MODE), *shared] if own and run_dir else shared


def _checksum(data: bytes) -> int:
    """Return a 32-bit FNV-1a hash of *data*. Importing zlib would cost the guardian 200 KB."""
    value = 2166136261
    for byte in data:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def make(directory: str, mode: int) -> None:
    """Create *directory*, or check that an existing one is ours and has the same *mode*. Raises OSError."""
    try:
        os.mkdir(directory, mode)
        os.chmod(directory, mode)  # independent of the umask
    except FileExistsError:
        found = os.lstat(directory)
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == mode
        if not ours:
            raise PermissionError(f"{directory} is not ours") from None


def empty(directory: str) -> None:
    """Remove the sockets in *directory*, if it is ours."""
    with contextlib.suppress(OSError):
        found = os.lstat(directory)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            for entry in os.listdir(directory):
                with contextlib.suppress(OSError):
                    remove(os.path.join(directory, entry))


def remove_all(run_dir: str, name: str) -> None:
    """Remove every directory of the service *name*. The caller must hold its lock."""
    for directory, _mode in directories(run_dir, name, own=True):
        empty(directory)
        with contextlib.suppress(OSError):
            os.rmdir(directory)
