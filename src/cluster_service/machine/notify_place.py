"""Directories of the workers' NOTIFY_SOCKETs. They follow from the service's name, so any process can remove them."""

from __future__ import annotations

import contextlib
import os
import stat

from . import files

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
                    files.remove(os.path.join(directory, entry))


def remove_all(run_dir: str, name: str) -> None:
    """Remove every directory of the service *name*. The caller must hold its lock."""
    for directory, _mode in directories(run_dir, name, own=True):
        empty(directory)
        with contextlib.suppress(OSError):
            os.rmdir(directory)
