"""Builds the settings of a service from flags, environment and files, and evaluates them without starting anything."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster_service import rundir
from cluster_service.core.model.spec import Spec
from cluster_service.errors import CommandError

from . import (
    as_user,
    credentials,
    endpoint_config,
    grants,
    releases,
    service_config,
    setting_values,
)
from .environment_files import unexpanded
from .groups import check_order, check_partners, group_of, group_settings
from .precedence import GROUPS, Collected, Given, Problems, Source, collect
from .service_config import Origin, Settings, plain, shown
from .settings_table import BY_NAME, GROUP, INTERNAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence

    from cluster_service.core.model.spec import GroupSpec, Release

    from .credentials import Key

KEY_VARIABLE = "CSERVICE_ACCESS_KEY"


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
    """Return what to start, from *options* (highest precedence), the environment and the configuration files.

    *target* and its *args*: None if a file names it; *program*: it stood after ``--`` and may be any program. *source*:
    ``flags`` if *options* come from a command line. *directory*: that of the caller. The access key is removed from
    *environ*. Raises CommandError bad_request that lists every mistake; then nothing was created or changed.
    """
    origin = Origin(
        directory=os.path.abspath(directory or os.getcwd()),
        options=plain(dict(options)),
        source=source,
        target=target,
        args=tuple(args),
        program=program,
        environment={name: value for name, value in environ.items() if name.startswith("CSERVICE_")},
    )
    found = resolve(origin, environ)
    environ.pop(KEY_VARIABLE, None)
    return found


def resolve(origin: Origin, environ: Mapping[str, str], *, make: bool = True, by_us: bool = True) -> Settings:
    """Return the settings of a service with this *origin*.

    *environ* also contains the variables of *origin*. *make* False: create no directory and no key. *by_us* False:
    another user will start it, so do not check whether its files are writable. Raises CommandError bad_request that
    lists every mistake.
    """
    problems = Problems()
    collected = collect(origin.options, origin.source, origin.directory, environ, problems)
    given = collected.whole

    def value(name: str) -> Any:
        return given[name].value if name in given else BY_NAME[name].default

    def where(name: str, otherwise: str = "") -> str:
        return given[name].origin if name in given else otherwise

    warnings: list[str] = []
    rows: dict[str, Any] = {}
    addresses: tuple[str, ...] = ()
    found: tuple[tuple[Key, ...], str | None] | None = ((), None)
    wrong = bool(problems.found)  # a group that lacks its invalid settings would cause misleading errors
    wanted: dict[str | None, dict[str, Given]] = {}
    with problems.catching():
        wanted = chosen(collected, origin.target)
        rows = service_config.shown(collected, wanted)
    nothing = not make and None in wanted and origin.target is None and not {"target", "command"} & given.keys()
    if nothing:
        warnings.append("no target is named: name one where the service is started")
    groups = [] if wrong or nothing else _groups(collected, wanted, origin, environ, problems, warnings)
    if None in wanted and groups:
        rows["groups"] = dict.fromkeys([groups[0].name], *rows["groups"].values())
    beyond = False
    with problems.catching(where("host")):
        addresses, beyond = endpoint_config.addresses(
            value("host"),
            value("port"),
            allowed=value("allow_insecure_remote") or bool(value("tls_cert")),
            origin=where("host", "--host"),
        )
    with problems.catching(where("access_key", where("access_key_file"))):
        found = endpoint_config.given_keys(given, warnings)
        warnings += credentials.warnings(found[0] if found else (), beyond=beyond)
        warnings += endpoint_config.idle_port(given, found)
    with problems.catching(where("tls_cert", where("tls_key", where("tls_client_ca")))):
        endpoint_config.check_tls(value("tls_cert"), value("tls_key"), value("tls_client_ca"))
    users = grants.users_of(groups)
    for name in ("log_file", "audit_file", "pid_file", "state") if by_us else ():
        with problems.catching():
            endpoint_config.check_file(given.get(name), users=users, replaced=name == "state")
    with problems.catching():
        warnings += endpoint_config.check_commands(given.get("commands"))
    warnings += [
        f"{where('upgrade_roots')}: there is no directory {root}: no code can come from it"
        for root in value("upgrade_roots")
        if not os.path.isdir(root)
    ]
    with problems.catching(where("probes")):
        endpoint_config.check_probes(value("probes"))
    problems.settle()
    run_dir = _run_directory(value, environ, make=make, needed=found is None, warnings=warnings)
    if found is None:
        found = endpoint_config.made_keys(run_dir, value("name")) if make else ((), None)
    return Settings(
        spec=Spec(
            name=value("name"), groups=tuple(groups), give_up=value("give_up"), shutdown_delay=value("shutdown_delay")
        ),
        host=value("host"),
        port=value("port"),
        access_key=found[0][0].secret if found[0] else "",
        keys=found[0],
        key_file=found[1],
        doors=addresses if found[0] else (),
        run_dir=run_dir,
        origin=origin,
        shown=rows,
        audit_file=value("audit_file") or rundir.audit_path(value("name"), environ),
        warnings=tuple(warnings),
        **{name: value(name) for name in _AS_GIVEN},
    )


def _run_directory(
    value: Callable[[str], Any], environ: Mapping[str, str], *, make: bool, needed: bool, warnings: list[str]
) -> str:
    """Return the run directory; empty if there is none, and the service can run without. Raises CommandError."""
    try:
        run_dir = (rundir.directory if make else rundir.place)(value("run_dir"), environ)
        rundir.socket_path(run_dir, value("name"))
    except rundir.Nowhere as error:
        if needed or value("detach") or value("require_control"):
            raise
        warnings.append(
            f"{error.message}: the service runs without a control socket, and its name is not guarded. {error.hint}"
        )
        return ""
    refusal = rundir.refused(value("run_dir"), environ) if make else None
    if refusal is not None:
        warnings.append(f"{refusal.message}: the run directory is {run_dir} instead. {refusal.hint}")
    return run_dir


_AS_GIVEN = (
    "allow_query_key", "trusted_hosts", "allow_http_get", "remote_commands", "upgrade_roots", "trust_loopback",
    "tls_cert", "tls_key", "tls_client_ca", "require_control", "log_file", "log_max_size", "log_keep", "pid_file",
    "state", "commands", "detach", "console", "master_hang_timeout", "process_titles", "probes", "probe_metrics",
)  # fmt: skip


def chosen(collected: Collected, target: str | None = None) -> dict[str | None, dict[str, Given]]:
    """Return the settings of each group to start, by its name; None as the name if the file names no groups.

    *target*: the target named at the start, if any. Raises CommandError bad_request.
    """
    if not collected.groups:
        return {None: collected.whole}
    names = ", ".join(collected.groups)
    group = collected.whole.get("group")
    if group is None:
        if target is not None and len(collected.groups) > 1:
            raise CommandError(
                "bad_request",
                f"TARGET {target!r} was given, and {collected.path} names several groups: {names}",
                f"Leave TARGET out, or say whose it is: --group {next(iter(collected.groups))}.",
            )
        return {name: own for name, own in collected.groups.items()}  # noqa: C416 - its keys may be None
    if group.value not in collected.groups:
        raise CommandError(
            "bad_request",
            f"{group.origin}: {collected.path} has no group {group.value!r}"
            f"{setting_values.suggestion(group.value, collected.groups)}",
            f"It has: {names}.",
        )
    return {group.value: collected.groups[group.value]}


def _groups(
    collected: Collected,
    wanted: Mapping[str | None, Mapping[str, Given]],
    origin: Origin,
    environ: Mapping[str, str],
    problems: Problems,
    warnings: list[str],
) -> list[GroupSpec]:
    found: list[GroupSpec] = []
    for name, given in wanted.items():
        with problems.catching(collected.named.get(name or "", "")):
            found.append(
                group_of(
                    given,
                    origin.target,
                    origin.args,
                    program=origin.program,
                    directory=origin.directory,
                    environ=clean(environ),
                    name=name,
                )
            )
            warnings += _named_interpreter(found[-1].release, given)
            warnings += unexpanded(found[-1].release.env, environ, given["env"].origin if "env" in given else "env")
    if len(found) < len(wanted) or not found:
        return found
    known = [group.name for group in found]
    if len(wanted) < len(collected.groups):
        for at, group in enumerate(found):
            missing = [other for other, _ in group.depends_on if other not in known and other in collected.groups]
            if missing:
                warnings.append(f"{group.name} is started without what it depends on: {', '.join(missing)}")
                kept = tuple(each for each in group.depends_on if each[0] not in missing)
                found[at] = replace(group, depends_on=kept)
    givens = {group.name: given for group, given in zip(found, wanted.values(), strict=True)}
    with problems.catching():
        check_order(found, givens, known)
    with problems.catching():
        check_partners(found, givens, {*known, *collected.groups})
    return found


def _named_interpreter(release: Release, given: Mapping[str, Given]) -> list[str]:
    """Return a note about the interpreter of the workers if the target itself names it."""
    if release.kind != "script" or "python" in given:
        return []
    named = as_user.call(releases.identity_of(release.within), "interpreter", release.target)
    return [f"{release.target} runs under {named}, as its first line says; --python names another"] if named else []


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return *environ* without the access key and our internal variables."""
    return {name: value for name, value in environ.items() if name != KEY_VARIABLE and name not in INTERNAL}


def keys_of(origin: Origin, environ: Mapping[str, str], run_dir: str) -> tuple[tuple[Key, ...], str | None]:
    """Return the current access keys of a service with this *origin*, and their file.

    Raises CommandError bad_request.
    """
    given = collect(origin.options, origin.source, origin.directory, environ).whole
    found = endpoint_config.given_keys(given, [])
    name = given["name"].value if "name" in given else BY_NAME["name"].default
    return endpoint_config.made_keys(run_dir, name) if found is None else found


__all__ = ["GROUPS", "Settings", "chosen", "group_settings", "keys_of", "resolve", "settings"]


def check(origin: Origin, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the ``verdict`` on what ``start`` would read. Raises CommandError bad_request with every mistake."""
    settings = resolve(origin, environ, make=False)
    if settings.shown["file"] is None:
        raise CommandError(
            "bad_request",
            f"there is nothing to check: {origin.directory} has neither cluster-service.toml nor "
            "[tool.cluster-service] in a pyproject.toml",
            "Name a file: cservice config check FILE.",
        )
    return verdict(settings)


def look(origin: Origin, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the origin of each value; see ``service_config``. Raises CommandError bad_request."""
    collected = collect(origin.options, origin.source, origin.directory, environ)
    return shown(collected, chosen(collected, origin.target))


def verdict(settings: Settings) -> dict[str, Any]:
    """Return the summary of a valid configuration."""
    groups = settings.spec.groups
    return {
        "service": settings.name,
        "file": settings.shown.get("file"),
        "groups": {group.name: {"workers": group.count, "target": group.release.target} for group in groups},
        "warnings": list(settings.warnings),
    }


SPELLED: dict[str, Callable[[Any], Any]] = {
    "env": dict,
    "depends": lambda value: [f"{group}:{condition}" for group, condition in value],
    "statuses": lambda value: "{}-{}".format(*value),
}
"""Kind of setting -> the function that converts its value back to what ``start`` accepts."""


def group_here(options: Mapping[str, Any], directory: str, environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the target and the options of the group that *options* (flags) select in the configuration of *directory*.

    The environment counts too. Raises CommandError bad_request that lists every mistake.
    """
    collected = collect(options, "flags", directory, environ)
    ((name, given),) = chosen(collected).items()
    group = group_of(given, None, (), program=False, directory=directory, environ=clean(environ), name=name)
    release = group.release
    found = {
        setting: SPELLED.get(BY_NAME[setting].kind, _plain)(each.value)
        for setting, each in given.items()
        if BY_NAME[setting].scope == GROUP and setting not in ("target", "command", "timeout")
    }
    found |= {
        "group": group.name, "workers": group.count, "ready_timeout": group.ready_timeout,
        "stop_timeout": group.stop_timeout, "cwd": release.cwd, "args": list(release.args),
        "program": release.kind == "command",
    }  # fmt: skip
    if "python" in given:
        found["python"] = release.python
    return release.target, {setting: value for setting, value in found.items() if value not in (None, "", [], {})}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
