"""The location and trustworthiness of the run directory, and the location of files that outlive a service."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Nowhere(CommandError):
    """No default directory can be created or written. For a chosen one, CommandError itself is raised."""


def place(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of the directory, which need not exist.

    The environment determines it, so that variables keep services apart. A directory of another user is skipped,
    because sudo keeps variables.
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
    return _shared_place(environ)


def _shared_place(environ: Mapping[str, str]) -> str:
    return os.path.join(os.path.abspath(environ.get("TMPDIR") or "/tmp"), f"cluster-service-{os.geteuid()}")  # noqa: S108 - checked


def candidates(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the possible paths of the directory, in the order in which services and clients search them.

    There is a second one only if any user could create the first one, in ``/tmp``.
    """
    first = place(explicit, environ)
    home = state_home(environ)
    if explicit or environ.get("CSERVICE_RUN_DIR") or first != _shared_place(environ) or home is None:
        return [first]
    return [first, os.path.join(home, "run")]


def _is_ours(path: str) -> bool:
    try:
        return os.path.isabs(path) and os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


def directory(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the directory of the services, creating it if necessary. *explicit*: the user's choice.

    Raises the error of the first candidate if none is usable: Nowhere if a default one cannot be created or written,
    else CommandError bad_request.
    """
    chosen = bool(explicit or environ.get("CSERVICE_RUN_DIR"))
    first: CommandError | None = None
    for path in candidates(explicit, environ):
        try:
            return _made(path, CommandError if chosen else Nowhere, by_default=not chosen)
        except CommandError as error:
            first = first or error
    assert first is not None  # there is at least one candidate
    raise first


def _made(path: str, kind: type[CommandError], *, by_default: bool) -> str:
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
    _check(path, by_default=by_default)
    if not os.access(path, os.W_OK | os.X_OK):
        raise kind(
            "bad_request",
            f"the run directory {path} cannot be written to",
            "Name another one with --run-dir or CSERVICE_RUN_DIR.",
        )
    return path


def refused(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> CommandError | None:
    """Return why the usual directory must not be used (another user may have created it); None if it may be."""
    path = place(explicit, environ)
    try:
        if os.path.lexists(path):
            _check(path, by_default=not (explicit or environ.get("CSERVICE_RUN_DIR")))
    except CommandError as error:
        return error
    return None


def existing(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the directory of the services, or None if there is none yet.

    Raises CommandError if the only one is not ours, in which case its sockets cannot be trusted.
    """
    return next(iter(trusted(explicit, environ)), None)


def trusted(explicit: str | None, environ: Mapping[str, str]) -> list[str]:
    """Return the candidates that exist and are ours. Raises CommandError if every candidate exists but none is ours."""
    by_default = not (explicit or environ.get("CSERVICE_RUN_DIR"))
    found: list[str] = []
    errors: list[CommandError] = []
    paths = candidates(explicit, environ)
    for path in paths:
        if os.path.lexists(path):
            try:
                _check(path, by_default=by_default)
                found.append(path)
            except CommandError as error:
                errors.append(error)
    if len(errors) == len(paths):
        raise errors[0]
    return found


def _check(path: str, *, by_default: bool) -> None:
    """Raise CommandError unless *path* is a directory of ours that no other user can enter.

    *by_default*: it was not chosen by the user, and another user must not be able to replace it.
    """
    remedy = "Remove it, or name another one with --run-dir or CSERVICE_RUN_DIR."
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CommandError(
            "bad_request", f"the run directory {path} cannot be opened: {error.strerror}", remedy
        ) from None
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
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
    parent = os.stat(os.path.dirname(path))
    shared = parent.st_mode & stat.S_IWOTH or (parent.st_mode & stat.S_IWGRP and parent.st_gid != os.getegid())
    others_write = shared and not parent.st_mode & stat.S_ISVTX
    if by_default and (others_write or parent.st_uid not in (0, os.geteuid())):
        raise CommandError(
            "bad_request",
            f"the run directory {path} could be replaced by another user, who may write to {os.path.dirname(path)}",
            "Name another one with --run-dir or CSERVICE_RUN_DIR.",
        )


def state_home(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the directory for files that outlive a service; None if this user has no place for it.

    It is ``$XDG_STATE_HOME/cluster-service``, else below the home directory. It need not exist.
    """
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        state = os.path.join(home, ".local", "state")
    return os.path.join(state, "cluster-service")


def audit_path(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the default path of the audit file of the service *name*; None if there is no place for it.

    The directories of systemd (``LogsDirectory=``, ``StateDirectory=``) take precedence.
    """
    for variable in ("LOGS_DIRECTORY", "STATE_DIRECTORY"):
        given = environ.get(variable, "").split(":")[0]
        if os.path.isabs(given):
            return os.path.join(given, f"{name}.audit")
    state = state_home(environ)
    return None if state is None else os.path.join(state, f"{name}.audit")
