"""What a release comes to: everything that its workers are started with, resolved now.

``resolve`` is the one way for the first start, for ``start`` and for ``upgrade``. Symbolic links are followed when it
is called, so that a release in ``current -> releases/42`` stays there whatever ``current`` is later. Two names stay as
they are, because programs look at them: the last part of a program's path, and that of an interpreter.

What a configuration names is looked at as the user of the workers (``asuser``): their paths are theirs, and root's
rights are not lent to follow them. Nothing of the release is started here.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cluster_service.control.errors import CommandError
from cluster_service.core.limits import Limits
from cluster_service.core.spec import Release
from cluster_service.machine import identity

from . import asuser, envfiles, targets
from .merge import led, read
from .table import GROUP, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster_service.core.spec import Share

OPTIONS = frozenset({"cwd", "python", "env", "env_files", "server", "args", "bind", "binds"})
"""Settings that say what a release is, and not how a group runs it."""


@dataclass(frozen=True)
class Wish:
    """What was asked for. Paths may be relative to the absolute directory beside them.

    *python* None: to be found. *ours*: the interpreter of a release that has none of its own; None: that of the active
    virtual environment, else our own.
    """

    target: str
    where: str
    """Where the target is looked for first; then in *cwd*."""
    program: bool = False
    args: tuple[str, ...] = ()
    cwd: str = "/"
    python: str | None = None
    python_base: str = "/"
    ours: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    env_files: tuple[str, ...] = ()
    server: str = "uvicorn"
    binds: tuple[str, ...] = ()
    share: Share = "auto"
    within: Limits = field(default_factory=Limits)
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where the settings stand, for errors."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Wish:
        """Inverse of ``dataclasses.asdict`` after a trip through JSON."""
        known = dict(data)
        for name in ("args", "env_files", "binds"):
            known[name] = tuple(known[name])
        known["env"] = tuple((name, value) for name, value in known["env"])
        known["within"] = Limits.from_json(known["within"])
        return cls(**known)


def identity_of(within: Limits) -> identity.Identity:
    """Return as whom the workers run. Raises CommandError bad_request when there is no such user or group."""
    try:
        return identity.of(within.user, within.user_group)
    except identity.Unknown as error:
        raise CommandError("bad_request", str(error), "Name one that this machine has.") from None


def resolve(wish: Wish, environ: Mapping[str, str]) -> Release:
    """Return the release that *wish* comes to. *environ*: the service's own. Raises CommandError bad_request.

    Its files are looked at as the user of the workers.
    """
    who = identity_of(wish.within)
    with led(wish.origins.get("env_files", "")):
        env_from_files = envfiles.read(wish.env_files, who)
    found = asuser.call(who, "resolve", asdict(wish), env_from_files, dict(environ))
    return Release.from_json(found)


def resolve_here(
    given: dict[str, Any], env_from_files: Sequence[Sequence[str]], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Return the release that a wish comes to, both as JSON has them. Raises CommandError bad_request."""
    variables = tuple((name, value) for name, value in env_from_files)
    return asdict(_resolve(Wish.from_json(given), variables, environ))


def _resolve(wish: Wish, env_from_files: tuple[tuple[str, str], ...], environ: Mapping[str, str]) -> Release:
    cwd = os.path.realpath(check_directory(wish.cwd, wish.origins.get("cwd", "")))
    whole = {**environ, **dict(env_from_files), **dict(wish.env)}
    with led(wish.origins.get("target", "")):
        kind, found = targets.locate(wish.target, program=wish.program, directory=wish.where, cwd=cwd, environ=whole)
    target = os.path.realpath(found) if kind == "script" else _but_the_name(found) if kind == "command" else found
    python = ""
    if kind != "command" and wish.python is not None:
        with led(wish.origins.get("python", "")):
            python = _pinned(targets.named_python(wish.python, wish.python_base, whole))
    elif kind != "command":
        files = [target, found] if kind == "script" else []
        named = targets.first_line_python(found) if files else None
        homes = [os.path.join(file, "") if os.path.isdir(file) else file for file in files]
        own = _pinned(named) if named else own_python(homes, cwd)
        active = targets.active_python(whole)
        python = own or wish.ours or (_pinned(active) if active else sys.executable)
    with led(wish.origins.get("bind", wish.origins.get("share", ""))):
        binds = _binds(wish.binds, kind, wish.share)
    return Release(
        kind=kind,
        target=target,
        args=wish.args,
        cwd=cwd,
        python=python,
        env=wish.env,
        env_files=wish.env_files,
        env_from_files=env_from_files,
        server=wish.server,
        binds=binds,
        share=wish.share,
        within=wish.within,
    )


def release_of(
    target: str | None,
    options: Mapping[str, Any],
    *,
    directory: str,
    current: Release,
    environ: Mapping[str, str] = os.environ,
) -> Release:
    """Return the release that ``upgrade TARGET`` means. Nothing is run: see ``check.check_release``. Blocking.

    *target* None: the current one. A file in the current directory of the workers is meant by its place in that
    directory: with another ``cwd`` it is the file of that place there.

    *options*: ``OPTIONS`` and ``program``, by any spelling; others are passed over. *directory*: the caller's,
    absolute; relative paths start from it, and it is the workers' directory unless *options* name a ``cwd``. What is
    not given is the *current* release's: the limits, how ports are shared, the environment (*options* add to it; its
    files are read again), and, for a target of the same kind, arguments, server and addresses. The interpreter is the
    release's own ``.venv``; else the current one, unless that belongs to the current release alone; else that of the
    virtual environment in which the service was started; else ours. Raises CommandError bad_request.
    """
    given = read(
        {name: value for name, value in options.items() if canonical(name) in OPTIONS},
        "keywords",
        directory,
        scope=GROUP,
    )
    who = identity_of(current.within)
    values = {name: each.value for name, each in given.items()}
    cwd, origin = (str(given["cwd"].value), given["cwd"].origin) if "cwd" in given else (directory, "")
    env_files = values.get("env_files", current.env_files)
    try:
        asuser.call(who, "directory", cwd, origin)
    except CommandError as error:
        raise CommandError(error.code, error.message, f"{error.hint} {_ARGUMENTS}") from None
    env_from_files = envfiles.read(env_files, who)
    found = asuser.call(
        who,
        "release_of",
        target,
        {**values, "program": bool(options.get("program"))},
        env_from_files,
        [directory, cwd, origin],
        asdict(current),
        dict(environ),
    )
    return Release.from_json(found)


def release_here(
    target: str | None,
    given: Mapping[str, Any],
    env_from_files: Sequence[Sequence[str]],
    places: Sequence[str],
    current_as_json: dict[str, Any],
    environ: Mapping[str, str],
) -> dict[str, Any]:
    """Return ``release_of``, with everything as JSON has it. *places*: the caller's directory, the workers', and where
    that one was set. Raises CommandError bad_request.
    """
    directory, cwd, origin = places
    current = Release.from_json(current_as_json)
    env = {**dict(current.env), **dict(given.get("env", ()))}
    program = bool(given["program"])
    python = given.get("python")
    if target is None:
        target, program = _moved(current, cwd), current.kind == "command"
        if python is None and os.path.realpath(cwd) == current.cwd:
            python = current.python or None
    kind, found = targets.locate(target, program=program, directory=directory, cwd=cwd, environ={**environ, **env})
    same = kind == current.kind
    place = os.path.realpath(cwd if kind in ("app", "module") else os.path.dirname(os.path.realpath(found)))
    wish = Wish(
        target,
        directory,
        program=program,
        args=tuple(given.get("args", current.args if same else ())),
        cwd=cwd,
        python=python,
        python_base=directory,
        ours=_fallback(current, place, {**environ, **env}),
        env=tuple(env.items()),
        env_files=tuple(given.get("env_files", current.env_files)),
        within=current.within,
        server=given.get("server", current.server if same else Release.server),
        binds=tuple(given.get("bind", current.binds if same or current.share == "inherit" else ())),
        share=current.share,
        origins={"cwd": origin},
    )
    return asdict(_resolve(wish, tuple((name, value) for name, value in env_from_files), environ))


def _moved(current: Release, cwd: str) -> str:
    """Return the target of *current* for workers in the directory *cwd*."""
    inside = current.kind in ("script", "command") and current.cwd != "/" and _contains(current.cwd, current.target)
    if not inside or os.path.realpath(cwd) == current.cwd:
        return current.target
    there = os.path.join(cwd, os.path.relpath(current.target, current.cwd))
    return there if current.kind == "script" or os.path.lexists(there) else current.target


def own_python(files: list[str], cwd: str) -> str | None:
    """Return the interpreter of the ``.venv`` beside one of *files* or in *cwd*, or None.

    One that leads nowhere, because its Python was removed, is returned too: it is what was meant, and will be told.
    """
    for place in (*(os.path.dirname(file) for file in files), cwd):
        path = os.path.join(place, ".venv", "bin", "python")
        if os.path.lexists(path):
            return _pinned(path)
    return None


def _fallback(current: Release, place: str, environ: Mapping[str, str]) -> str:
    """Return the interpreter of a release in the directory *place* that has none of its own."""
    active = targets.active_python(environ)
    known = [python for python in (current.python, _pinned(active) if active else "") if python]
    return next((each for each in known if may_stay(replace(current, python=each), place)), sys.executable)


def may_stay(current: Release, place: str) -> bool:
    """Whether the interpreter of *current* is right for code in the directory *place* too.

    It is not when it lies in the current release's directory, and *place* does not: it goes when that release goes.
    """
    if not current.python:
        return False
    homes = [current.cwd] + ([os.path.dirname(current.target)] if current.kind == "script" else [])
    bound = [
        home
        for home in homes
        if _contains(home, current.python) or _contains(os.path.realpath(os.path.join(home, ".venv")), current.python)
    ]
    return all(_contains(home, place) for home in bound)


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _but_the_name(path: str) -> str:
    """*path* with the links in it followed, but for its last part: a program may look at the name it is called by."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _pinned(python: str) -> str:
    """The path of an interpreter with the links above it followed; a virtual environment is known by its own."""
    home, folder = os.path.split(os.path.dirname(python))
    if os.path.isfile(os.path.join(home, "pyvenv.cfg")):
        return os.path.join(os.path.realpath(home), folder, os.path.basename(python))
    return _but_the_name(python)


def check_directory(path: str, origin: str) -> str:
    """Return the workers' directory *path*, which *origin* sets. Raises CommandError bad_request."""
    lead = f"{origin}: " if origin else ""
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        enters = os.access(path, os.X_OK)
    except PermissionError:
        is_directory, enters = True, False
    except OSError:
        what = "is not a directory" if os.path.lexists(path) else "does not exist"
        raise CommandError("bad_request", f"{lead}the directory {path} {what}", _DIRECTORY) from None
    if not is_directory:
        raise CommandError("bad_request", f"{lead}the directory {path} is not a directory", _DIRECTORY)
    if not enters:
        raise CommandError(
            "bad_request", f"{lead}the directory {path} cannot be entered by user {os.geteuid()}", "chmod u+x it."
        )
    return path


_ARGUMENTS = "Arguments of the target stand after it and --: upgrade all manage.py -- runserver."
_DIRECTORY = "Name one that exists: it is where the workers run."


def _binds(addresses: tuple[str, ...], kind: str, share: str) -> tuple[str, ...]:
    if kind == "app":
        udp = [address for address in addresses if address.startswith("udp:")]
        if udp:
            raise CommandError(
                "bad_request", f"--bind: an app cannot be served on {udp[0]}", "Apps speak HTTP: write 127.0.0.1:8000."
            )
        return addresses or ("127.0.0.1:8000",)
    if addresses and share == "none":
        raise CommandError(
            "bad_request",
            "--bind names what the service opens for the workers; with --share none they open their ports themselves",
            "Remove one of the two.",
        )
    if share == "inherit" and not addresses:
        raise CommandError(
            "bad_request",
            "--share inherit passes on the sockets that --bind names, and it names none",
            "Add --bind 127.0.0.1:8000.",
        )
    return addresses
