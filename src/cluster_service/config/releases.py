"""Releases: everything with which workers are started, resolved once, and the static check of a new one."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cluster_service.core.model.spec import ProcessLimits, Release
from cluster_service.errors import CommandError
from cluster_service.machine import identity

from . import as_user, environment_files, interpreter_probe, targets
from .precedence import led, read
from .settings_table import GROUP, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster_service.core.model.spec import Share
    from cluster_service.machine.identity import Identity

OPTIONS = frozenset({"cwd", "python", "env", "env_files", "server", "args", "bind", "binds"})
"""Settings that define a release rather than how a group runs it."""


@dataclass(frozen=True)
class Wish:
    """The requested values of a release. Paths may be relative to the absolute directory beside them.

    *python* None: search for it. *ours*: the interpreter of a release without one of its own; None: that of the active
    virtual environment, else ours.
    """

    target: str
    where: str
    """The first directory in which the target is searched; *cwd* is the second."""
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
    within: ProcessLimits = field(default_factory=ProcessLimits)
    origins: Mapping[str, str] = field(default_factory=dict)
    """The origins of the settings, for errors."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Wish:
        """Invert ``dataclasses.asdict``, also after conversion to JSON."""
        known = dict(data)
        for name in ("args", "env_files", "binds"):
            known[name] = tuple(known[name])
        known["env"] = tuple((name, value) for name, value in known["env"])
        known["within"] = ProcessLimits.from_json(known["within"])
        return cls(**known)


def identity_of(within: ProcessLimits) -> identity.Identity:
    """Return the identity of the workers. Raises CommandError bad_request if there is no such user or group."""
    try:
        return identity.of(within.user, within.user_group)
    except identity.Unknown as error:
        raise CommandError("bad_request", str(error), "Name one that this machine has.") from None


def resolve(wish: Wish, environ: Mapping[str, str]) -> Release:
    """Return the release described by *wish*. *environ*: that of the service. Raises CommandError bad_request.

    Its files are examined as the user of the workers.
    """
    who = identity_of(wish.within)
    with led(wish.origins.get("env_files", "")):
        env_from_files = environment_files.read(wish.env_files, who)
    found = as_user.call(who, "resolve", asdict(wish), env_from_files, dict(environ))
    return Release.from_json(found)


def resolve_here(
    given: dict[str, Any], env_from_files: Sequence[Sequence[str]], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Return the release described by a wish, both as JSON values. Raises CommandError bad_request."""
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
    """Return the release that ``upgrade TARGET`` means. Runs nothing: see ``check_release``. Blocking.

    *target* None: the current one. If it is a file inside the current directory of the workers, it stands for its
    relative path: with another ``cwd`` it is the file at that path there.

    *options*: ``OPTIONS`` and ``program``, in any spelling; others are ignored. *directory*: the absolute directory of
    the caller; relative paths are based on it, and it is the directory of the workers unless *options* set ``cwd``.
    Values not given are those of the *current* release: limits, port sharing, environment (*options* are added; its
    files are read again), and, for a target of the same kind, arguments, server and addresses. The interpreter is the
    release's own ``.venv``; else the current one, unless it belongs to the current release only; else that of the
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
        as_user.call(who, "directory", cwd, origin)
    except CommandError as error:
        raise CommandError(error.code, error.message, f"{error.hint} {_ARGUMENTS}") from None
    env_from_files = environment_files.read(env_files, who)
    found = as_user.call(
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
    """Return ``release_of`` with all values in JSON form.

    *places*: the directory of the caller, that of the workers, and the origin of the latter. Raises CommandError
    bad_request.
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

    A dangling link, whose Python was removed, is returned too: it was meant, and its error is reported later.
    """
    for place in (*(os.path.dirname(file) for file in files), cwd):
        path = os.path.join(place, ".venv", "bin", "python")
        if os.path.lexists(path):
            return _pinned(path)
    return None


def _fallback(current: Release, place: str, environ: Mapping[str, str]) -> str:
    """Return the interpreter for a release in the directory *place* that has none of its own."""
    active = targets.active_python(environ)
    known = [python for python in (current.python, _pinned(active) if active else "") if python]
    return next((each for each in known if may_stay(replace(current, python=each), place)), sys.executable)


def may_stay(current: Release, place: str) -> bool:
    """Return True if the interpreter of *current* also suits code in the directory *place*.

    It does not if it is inside the directory of the current release and *place* is not: it may be removed with that
    release.
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
    """Return *path* with symbolic links resolved except in its last component, which the program may examine."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _pinned(python: str) -> str:
    """Return the path of an interpreter with links resolved up to its directory, or up to its virtual environment."""
    home, folder = os.path.split(os.path.dirname(python))
    if os.path.isfile(os.path.join(home, "pyvenv.cfg")):
        return os.path.join(os.path.realpath(home), folder, os.path.basename(python))
    return _but_the_name(python)


def check_directory(path: str, origin: str) -> str:
    """Return the directory *path* of the workers, set by *origin*. Raises CommandError bad_request."""
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


def check_release(
    release: Release,
    *,
    identity: Identity,
    environ: Mapping[str, str],
    timeout: float = interpreter_probe.SECONDS,
) -> list[str]:
    """Check *release* and return remarks about it; currently always empty. Blocking: run it in a thread.

    *identity*: the user of its workers; the files are read as this user. *environ*: the environment of its workers.
    *timeout*: seconds. Raises CommandError failed, possibly with several lines, if the release cannot run.
    """
    try:
        as_user.call(identity, "files", release.kind, release.target, release.python, release.cwd)
        if release.kind != "command":
            _check_python(release, identity, environ, timeout)
    except CommandError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        raise CommandError("failed", error.message + hint) from None
    return []


def check_files(kind: str, target: str, python: str, cwd: str) -> None:
    """Raise CommandError failed if a file of a release is missing."""
    if not os.path.isdir(cwd):
        raise CommandError("failed", f"the directory {cwd} does not exist")
    if kind == "command":
        _check_program(target)
        return
    if kind == "script" and not os.path.isfile(target) and not targets.has_main(target):
        raise CommandError("failed", f"no such file: {target}")
    if not os.path.isfile(python):
        raise CommandError("failed", f"there is no interpreter {python}")


def _check_python(release: Release, identity: Identity, environ: Mapping[str, str], timeout: float) -> None:
    python, target = release.python, release.target
    found = interpreter_probe.asked(
        python, release.kind, target, identity=identity, cwd=release.cwd, environ=environ, timeout=timeout
    )
    broken = found.get("broken")
    if isinstance(broken, str) and broken:
        raise CommandError("failed", f"{target} does not compile ({python}):\n{broken}")
    targets.judge(release.kind, target, found, python, release.cwd)


def _check_program(path: str) -> None:
    if not os.path.exists(path):
        raise CommandError("failed", f"there is no program {path}")
    if not os.path.isfile(path):
        raise CommandError("failed", f"{path} is not a program but a directory, or something else")
    if not os.access(path, os.X_OK):
        raise CommandError("failed", f"{path} is not executable", f"chmod +x {path}")
