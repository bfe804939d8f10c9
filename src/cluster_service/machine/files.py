"""The one place where files of the service are opened for writing, renamed and removed: log, pid, audit, state, key and
history files. tests/test_boundaries.py finds code that does so elsewhere.

No other user can lead such a file elsewhere, whatever he may write to:

- A path is walked from directory to directory. A symbolic link in it is followed only if none but root and this user
  can have made it, otherwise refused. What follows is done in the directory that was reached, not by the path.
- A file that exists is used only if none but root and this user can have put it there: its directory is theirs and
  nobody else can write to it, or else the file itself is theirs and has no second name (a hard link).
- A directory that every user can write to is refused, unless it is sticky, as /tmp is.

Opening never waits: not for the reader of a FIFO, nor for a device. The disk itself may keep any of this waiting; so
the guardian uses it before its first and after its last process only.
"""

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
"""Symbolic links in one path, as path_resolution(7) has it."""
_TRIES = 10
"""A file that appears and disappears that often in a moment is not worth more."""


class Refused(OSError):
    """The file is not used, since another user could have made it what it is. ``strerror`` says why and what to do."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(errno.EPERM, why, path)


class _Descriptor(Exception):
    """The path leads to a descriptor of a process, as /dev/stdout does."""

    def __init__(self, directory: int, name: str) -> None:
        super().__init__(name)
        self.directory = directory
        self.name = name


# ------------------------------------------------------------------ what the service does with files


def open_for_append(path: str, mode: int = 0o640) -> int:
    """Open the file at *path* to append to it, made with *mode* if there is none; return its descriptor.

    It may be a FIFO that is read, or a device: /dev/null, /dev/stdout. Raises Refused, and OSError as open(2).
    """
    try:
        with _located(path) as (directory, name):
            return _open(path, directory, name, os.O_WRONLY | os.O_APPEND, mode)
    except _Descriptor as found:
        with _closing(found.directory):
            return _open_descriptor(found)


def open_for_reading(path: str) -> int:
    """Open the file at *path* to read it; return its descriptor. Raises Refused, and OSError as open(2)."""
    with _located(path, devices=False) as (directory, name):
        return _open(path, directory, name, os.O_RDONLY)


def replace(path: str, data: bytes, mode: int, *, follow: bool, sync: bool = False) -> None:
    """Write *data* to a new file, which then takes the place of *path*: it is whole at any time.

    *follow*: a link at the end of *path* is followed; if not, it is replaced. *sync*: wait until it is on the disk.
    Raises Refused, and OSError as open(2), write(2) and rename(2).
    """
    with _located(path, follow=follow, devices=False) as (directory, name):
        new = f"{name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)  # of a process that was killed while it wrote
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
    """Make the file at *path*, which must not be there, and open it for writing. Raises Refused, FileExistsError."""
    with _located(path, follow=False, devices=False) as (directory, name):
        return _open(path, directory, name, os.O_WRONLY | os.O_EXCL, mode)


def add_suffix(path: str, suffix: str) -> None:
    """Add *suffix* to the name of the file at *path*. Raises Refused, and OSError as rename(2)."""
    with _located(path, devices=False) as (directory, name):
        os.replace(name, name + suffix, src_dir_fd=directory, dst_dir_fd=directory)


def rotate(path: str, keep: int, opened: int) -> None:
    """Rename *path* to FILE.1, FILE.1 to FILE.2 and so on; *keep* old files are kept. *opened*: descriptor of the file.

    Raises Refused, and OSError as rename(2). Then *path* is where it was.
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
    """Remove the file at *path*, or a link there. Raises Refused, and OSError as unlink(2)."""
    with _located(path, follow=False, devices=False) as (directory, name):
        os.unlink(name, dir_fd=directory)


def check(path: str, users: Iterable[tuple[str, int, Iterable[int]]]) -> None:
    """Check whether *path* may become a file of the service. Changes nothing.

    *users*: name, uid and gids of other users that run workers. Raises Refused if one of them can write to its
    directory, or for what ``open_for_append`` would refuse; OSError if there is no such directory.
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


# ------------------------------------------------------------------ finding them


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _located(path: str, *, follow: bool = True, devices: bool = True) -> Iterator[tuple[int, str]]:
    """The directory of the file at *path*, and the file's name there. *follow*: a link that is the file itself.

    Raises Refused. Raises _Descriptor, or if *devices* is false Refused.
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
    """Return a descriptor of the directory of *path*, links resolved, and the last name."""
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
                directory = entry  # if it is no directory, the next step says so
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
    """The names in *path*, the last one first."""
    return [part for part in path.split("/") if part not in ("", ".")][::-1]


def _is_descriptors(directory: int) -> bool:
    """Whether it is /proc/PID/fd: its links lead to open files, whatever their text says."""
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
        return os.dup(int(found.name))  # a socket, as systemd's journal is, cannot be opened


# ------------------------------------------------------------------ whose they are


def _open(path: str, directory: int, name: str, flags: int, mode: int | None = None) -> int:
    """Open what is there, if it is ours, or with *mode* a new file."""
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
    """Raise Refused for a file that another user can have put there, or that is none."""
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
    """Whether none but root and this user can have put *entry* into *directory*."""
    ours = (0, os.geteuid())
    if directory.st_uid in ours and not directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    return entry.st_uid in ours and entry.st_nlink == 1


def _may_write(directory: os.stat_result, uid: int, gids: frozenset[int]) -> bool:
    """Whether a user can rename what others have put into *directory*."""
    if uid == directory.st_uid:
        return uid != os.geteuid()
    if directory.st_mode & stat.S_ISVTX or uid in (0, os.geteuid()):
        return False
    return bool(directory.st_mode & stat.S_IWGRP) and directory.st_gid in gids
