"""The access key: where it comes from, and what it must be. Never in a message, whatever is wrong with it."""

from __future__ import annotations

import os
import secrets
import stat

from cluster_service.control.errors import CommandError
from cluster_service.rundir import key_path

SHORT = 16
"""A key of fewer characters than this can be guessed: a warning on this machine, refused beyond it."""


def from_file(path: str, origin: str) -> str:
    """Return the key in *path*. Raises CommandError unless it is ours (or root's) and nobody else can read it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CommandError("bad_request", f"{origin}: {path} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise CommandError("bad_request", f"{origin}: {path} is not a file")
        if found.st_uid not in (0, os.geteuid()):
            raise CommandError(
                "bad_request", f"{origin}: {path} belongs to user {found.st_uid}, not to you ({os.geteuid()})"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise CommandError(
                "bad_request", f"{origin}: {path} can be read by others (mode {mode:04o})", f"chmod 600 {path}"
            )
        data = os.read(fd, 4097)
    finally:
        os.close(fd)
    key = data.decode("utf-8", "replace").strip()
    if not key or not key.isprintable() or len(data) > 4096 or "\ufffd" in key:
        raise CommandError(
            "bad_request", f"{origin}: {path} holds no access key: it is to hold one line of printable text"
        )
    return key


def automatic(run_dir: str, name: str) -> str:
    """Return the key kept for the service *name*, made (256 bits, 0600) when there is none."""
    path = key_path(run_dir, name)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return from_file(path, "--access-key auto")
    with open(fd, "w", encoding="utf-8") as file:
        key = secrets.token_urlsafe(32)
        file.write(key + "\n")
    return key


def check(key: str, *, beyond: bool) -> str:
    """Return a warning about *key*, or nothing. Raises CommandError for a short one when the door is open *beyond*
    this machine.
    """
    if len(key) >= SHORT:
        return ""
    if beyond:
        raise CommandError(
            "bad_request",
            f"the access key has {len(key)} characters: a door that others can reach needs at least {SHORT}",
            "--access-key auto makes one.",
        )
    return (
        f"the access key has only {len(key)} characters and could be guessed: "
        f"{SHORT} or more are safe (--access-key auto makes one)"
    )
