"""Everything that a service is started with: one frozen record, absolute and checked."""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cluster_service import rundir
from cluster_service.control.errors import CommandError
from cluster_service.core.spec import GroupSpec, RestartPolicy, Spec

from . import binds, cpus, keys, releases, targets
from .keys import Key
from .merge import Given, Source, gather, read
from .table import BY_NAME, GROUP, INTERNAL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence

    from cluster_service.core.spec import Release

KEY_VARIABLE = "CSERVICE_ACCESS_KEY"
ANY_HOST = ("0.0.0.0", "::", "*")


@dataclass(frozen=True)
class Settings:
    """A service to start. Durations are seconds, paths absolute."""

    spec: Spec
    host: str = "localhost"
    port: int = 11987
    access_key: str = field(default="", repr=False)
    """The first of them. Empty: no TCP door."""
    keys: tuple[Key, ...] = field(default=(), repr=False)
    key_file: str | None = None
    """Where the keys stand; None when they were given themselves."""
    allow_query_key: str = "true"
    trusted_hosts: tuple[str, ...] = ()
    doors: tuple[str, ...] = ()
    """Addresses of the TCP door, as the guardian names them; none without an access key. That the second cannot be
    opened (a machine without IPv6) is no reason for a warning."""
    allow_http_get: bool = False
    remote_commands: tuple[str, ...] = ()
    upgrade_roots: tuple[str, ...] = ()
    tls_cert: str | None = None
    """The TCP door speaks HTTPS."""
    tls_key: str | None = None
    tls_client_ca: str | None = None
    require_control: bool = False
    run_dir: str = ""
    log_file: str | None = None
    pid_file: str | None = None
    state: str | None = None
    commands: str | None = None
    """A directory of files with commands of the service's own."""
    detach: bool = False
    console: bool | None = None
    """A console on the terminal of the one who starts the service; None: where there is a terminal."""
    master_hang_timeout: float = 30.0
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Sentences to be shown to the one who starts the service."""

    @property
    def name(self) -> str:
        """The service's name."""
        return self.spec.name

    @property
    def stop_timeout(self) -> float:
        """The longest that a worker of any group may take to end, in seconds."""
        return max(group.stop_timeout for group in self.spec.groups)

    @property
    def socket(self) -> str:
        """The path of the owner's door."""
        return rundir.socket_path(self.run_dir, self.name)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able object, for the boot message: it holds the access key."""
        data = asdict(replace(self, spec=Spec("", ())))
        return {**data, "spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Inverse of ``to_json``; names of another version are left out."""
        known = {key: value for key, value in data.items() if key in cls.__dataclass_fields__}
        for name in ("trusted_hosts", "doors", "remote_commands", "upgrade_roots", "warnings"):
            known[name] = tuple(known.get(name, ()))
        known["keys"] = tuple(Key.from_json(key) for key in known.get("keys", ()))
        known["spec"] = Spec.from_json(known["spec"])
        return cls(**known)


def settings(
    options: Mapping[str, Any],
    *,
    target: str | None = None,
    args: Sequence[str] = (),
    program: bool = False,
    source: Source = "keywords",
    directory: str | None = None,
    environ: MutableMapping[str, str] = os.environ,
) -> Settings:
    """Return what to start, from *options* (the strongest), the environment and the configuration files.

    *target* and its *args*: None when a file names it; *program*: it stood after ``--`` and may be any program.
    *source*: ``flags`` when *options* were given on a command line. *directory*: the caller's. The access key is taken
    out of *environ*. Raises CommandError bad_request; then nothing was made or changed.
    """
    directory = os.path.abspath(directory or os.getcwd())
    given = gather(options, source, directory, environ)
    clean = {name: value for name, value in environ.items() if name != KEY_VARIABLE and name not in INTERNAL}

    def value(name: str) -> Any:
        return given[name].value if name in given else BY_NAME[name].default

    warnings: list[str] = []
    group = _group(given, target, tuple(args), program=program, directory=directory, environ=clean)
    name = value("name")
    doors, beyond = _doors(
        value("host"), value("port"), allowed=value("allow_insecure_remote") or bool(value("tls_cert"))
    )
    run_dir = rundir.directory(value("run_dir"), environ)
    rundir.socket_path(run_dir, name)
    found, key_file = _access_keys(given, run_dir, name, warnings)
    environ.pop(KEY_VARIABLE, None)
    warnings += keys.warnings(found, beyond=beyond)
    _check_tls(value("tls_cert"), value("tls_key"), value("tls_client_ca"))
    for setting in ("log_file", "pid_file"):
        _check_folder(given.get(setting))
    _check_folder(given.get("state"), replaced=True)
    if value("commands") is not None and not os.path.isdir(value("commands")):
        raise CommandError("bad_request", f"{given['commands'].origin}: there is no directory {value('commands')}")
    return Settings(
        spec=Spec(name=name, groups=(group,), give_up=value("give_up"), shutdown_delay=value("shutdown_delay")),
        host=value("host"),
        port=value("port"),
        access_key=found[0].secret if found else "",
        keys=found,
        key_file=key_file,
        allow_query_key=value("allow_query_key"),
        trusted_hosts=value("trusted_hosts"),
        doors=doors if found else (),
        allow_http_get=value("allow_http_get"),
        remote_commands=value("remote_commands"),
        upgrade_roots=value("upgrade_roots"),
        tls_cert=value("tls_cert"),
        tls_key=value("tls_key"),
        tls_client_ca=value("tls_client_ca"),
        require_control=value("require_control"),
        run_dir=run_dir,
        log_file=value("log_file"),
        pid_file=value("pid_file"),
        state=value("state"),
        commands=value("commands"),
        detach=value("detach"),
        console=value("console"),
        master_hang_timeout=value("master_hang_timeout"),
        warnings=tuple(warnings),
    )


def group_settings(
    target: str,
    options: Mapping[str, Any],
    *,
    directory: str,
    taken: Collection[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> GroupSpec:
    """Return the group that the command ``start TARGET`` is to add to a running service.

    *options*: the GROUP settings of the table by any spelling, and ``args`` (texts) and ``program`` (bool).
    *directory*: where relative paths start from when *options* name no absolute ``cwd``. *taken*: the names of the
    groups there are; a group that is given no name gets the target's. Raises CommandError bad_request.
    """
    named = dict(options)
    program = bool(named.pop("program", False))
    given = read(named, "keywords", directory, scope=GROUP)
    base = given["cwd"].value if "cwd" in given else directory
    group = _group(given, target, (), program=program, directory=base, environ=environ)
    if "group" not in given:
        group = replace(group, name=_free_name(group.release, taken))
    if group.name in taken:
        raise CommandError(
            "bad_request",
            f"there is a group {group.name!r} already",
            f"Give the new one another name (--group NAME), or: cservice scale +1 {group.name}",
        )
    return group


def _free_name(release: Release, taken: Collection[str]) -> str:
    stem = os.path.basename(release.target.partition(":")[0]).partition(".")[0]
    stem = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "-" for char in stem).lstrip(
        "-_0123456789"
    )[:48]
    stem = stem or "group"
    names = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken and name != "all")


def _group(
    given: Mapping[str, Given],
    target: str | None,
    args: tuple[str, ...],
    *,
    program: bool,
    directory: str,
    environ: Mapping[str, str],
) -> GroupSpec:
    """Return the group that the GROUP settings in *given* describe."""

    def value(name: str) -> Any:
        return given[name].value if name in given else BY_NAME[name].default

    where = directory
    if target is None:
        if "target" not in given:
            raise CommandError(
                "bad_request",
                "there is nothing to start: no TARGET was given",
                "cservice start worker.py, package.module:app, or -- any program",
            )
        target, where = given["target"].value, given["target"].base
    python = given.get("python")
    share = value("share")
    wish = releases.Wish(
        str(target),
        where,
        program=program,
        args=args or value("args"),
        cwd=releases.working_directory(given.get("cwd"), directory),
        python=python.value if python else None,
        python_base=python.base if python else where,
        env=value("env"),
        server=value("server"),
        binds=value("bind"),
        share=share,
    )
    release = releases.resolve(wish, environ)
    whole = {**environ, **dict(release.env)}
    targets.check_python(release.python, release.kind, release.target, cwd=release.cwd, environ=whole)
    user, user_group = _user(value("user"), value("user_group"))
    both = value("timeout")
    return GroupSpec(
        name=value("group"),
        count=cpus.usable() if value("workers") == "auto" else value("workers"),
        release=release,
        share=share,
        ready_timeout=both if both is not None and "ready_timeout" not in given else value("ready_timeout"),
        stop_timeout=both if both is not None and "stop_timeout" not in given else value("stop_timeout"),
        ready_after=value("ready_after"),
        restart=RestartPolicy(
            auto_restart=value("auto_restart"), delay=value("restart_delay"), per_minute=value("restarts_per_minute")
        ),
        user=user,
        user_group=user_group,
        monitor=value("monitor"),
        health_check=value("health_check"),
        hang_timeout=value("hang_timeout"),
    )


def _user(user: str | None, group: str | None) -> tuple[str | None, str | None]:
    for what, name, find in (("user", user, _uid), ("group of users", group, _gid)):
        if name is not None and find(name) is None:
            raise CommandError(
                "bad_request", f"--user{'' if what == 'user' else '-group'}: there is no {what} {name!r}"
            )
    if (user or group) and os.geteuid() != 0:
        raise CommandError("bad_request", "--user and --user-group: only root can run workers as somebody else")
    return user, group


def _uid(name: str) -> int | None:
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _gid(name: str) -> int | None:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _doors(host: str, port: int, *, allowed: bool) -> tuple[tuple[str, ...], bool]:
    """Return the addresses of the TCP door and whether they can be reached from beyond this machine."""
    if host == "localhost":
        return (f"127.0.0.1:{port}", f"[::1]:{port}"), False
    address = "::" if host == "*" else binds.resolve(host.strip("[]"), f"--host {host}")
    beyond = not ipaddress.ip_address(address).is_loopback
    if beyond and not allowed:
        raise CommandError(
            "bad_request",
            f"--host {host}: the TCP door would be open to other machines without encryption",
            "Give it a certificate (--tls-cert), leave it on localhost (ssh -L helps), or say --allow-insecure-remote.",
        )
    return (binds.joined(address, port) + ("+v4" if host == "*" else ""),), beyond


def _check_tls(cert: str | None, key: str | None, client_ca: str | None) -> None:
    if cert is None:
        if key or client_ca:
            raise CommandError("bad_request", "tls_key and tls_client_ca say nothing without tls_cert")
        return
    from . import tls  # noqa: PLC0415 - OpenSSL is only loaded where it is needed

    tls.server_context(cert, key, client_ca)


def _access_keys(
    given: Mapping[str, Given], run_dir: str, name: str, warnings: list[str]
) -> tuple[tuple[Key, ...], str | None]:
    """Return the keys and the file that they stand in."""
    key, file = given.get("access_key"), given.get("access_key_file")
    rank: Callable[[Given], int] = lambda found: ("file", "environment", "keywords", "flags").index(found.source)  # noqa: E731
    if key and file:
        if rank(key) == rank(file):
            raise CommandError("bad_request", f"{key.origin} and {file.origin} were both given: one of them is enough")
        key, file = (key, None) if rank(key) > rank(file) else (None, file)
    if file:
        return keys.load(file.value, file.origin), file.value
    if key is None:
        return (), None
    if key.value == "auto":
        return keys.numbered([keys.automatic(run_dir, name)]), rundir.key_path(run_dir, name)
    if key.source == "flags":
        warnings.append(
            "the access key can be read in the process list while this command starts: "
            "prefer --access-key-file or CSERVICE_ACCESS_KEY"
        )
    return keys.numbered([str(key.value)]), None


def _check_folder(path: Given | None, *, replaced: bool = False) -> None:
    """Raise CommandError unless the file can be written; *replaced*: by a new one of the same name each time."""
    if path is None:
        return
    folder = os.path.dirname(path.value)
    if not os.path.isdir(folder):
        raise CommandError("bad_request", f"{path.origin}: the directory {folder} does not exist")
    if os.path.isdir(path.value):
        raise CommandError("bad_request", f"{path.origin}: {path.value} is a directory")
    if replaced and not os.access(folder, os.W_OK | os.X_OK):
        raise CommandError("bad_request", f"{path.origin}: the directory {folder} cannot be written by you")
    if not os.access(path.value if os.path.exists(path.value) else folder, os.W_OK):
        raise CommandError("bad_request", f"{path.origin}: {path.value} cannot be written by you")
