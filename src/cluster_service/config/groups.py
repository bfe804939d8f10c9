"""Groups of workers: one ``GroupSpec`` from the settings of a group."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_service.core.model.spec import SPREAD, TERM, Check, GroupSpec, RestartPolicy, parse_cpu_list
from cluster_service.errors import CommandError
from cluster_service.machine import identity

from . import grants, releases, setting_values, targets
from .precedence import Given, led, read
from .settings_table import BY_NAME, GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from cluster_service.core.model.spec import Release

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def usable(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """Return the number of whole CPUs that this process may use, at least 1. A quota of 2.5 CPUs counts as 2."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(int(quota) for quota in quotas(cgroups, own))]))


def quotas(cgroups: Path = CGROUPS, own: Path = OWN) -> list[float]:
    """Return every CPU quota that applies to this process, in CPUs."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [_v2(place) for place in _upwards(cgroups, path)]
        elif "cpu" in controllers.split(","):
            found += [_v1(place) for mount in ("cpu", "cpu,cpuacct") for place in _upwards(cgroups / mount, path)]
    return [quota for quota in found if quota is not None]


def _upwards(root: Path, path: str) -> list[Path]:
    """Return the directory of the cgroup and its ancestors; in a container the path may exist only on the host."""
    here = root / path.lstrip("/")
    return [here, *(parent for parent in here.parents if parent == root or root in parent.parents)]


def _v2(place: Path) -> float | None:
    try:
        quota, period = (place / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _v1(place: Path) -> float | None:
    try:
        quota = int((place / "cpu.cfs_quota_us").read_text())
        period = int((place / "cpu.cfs_period_us").read_text())
        return None if quota <= 0 else quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return None


LEAST_HANG_TIMEOUT = 1.0
"""Seconds; with less, a busy machine would be mistaken for a hanging worker."""

PLAIN = ("max_memory", "max_growth", "memory", "max_uptime", "recycle_at")


def fields(given: Mapping[str, Given], release: Release, value: Callable[[str], Any]) -> dict[str, Any]:
    """Return fields of the ``GroupSpec``. *value* returns the value of a setting. Raises CommandError bad_request."""
    return {
        **{name: value(name) for name in PLAIN},
        "hang_timeout": _hang_timeout(given, value("hang_timeout")),
        "max_requests": _max_requests(given, release, value("max_requests")),
        "check": _check(given, release, value),
    }


def _hang_timeout(given: Mapping[str, Given], seconds: float) -> float:
    if 0 < seconds < LEAST_HANG_TIMEOUT:
        raise CommandError(
            "bad_request",
            f"{given['hang_timeout'].origin}: a loop that stands still for {seconds:g} s need not hang",
            f"Write {LEAST_HANG_TIMEOUT:g}s or more, or 0 for no such limit.",
        )
    return seconds


def _max_requests(given: Mapping[str, Given], release: Release, count: int) -> int:
    if count and release.kind != "app":
        raise CommandError(
            "bad_request",
            f"{given['max_requests'].origin}: the requests of {release.target} are not counted, only those of an app",
            "Use max_uptime or max_memory, or serve it as package.module:app.",
        )
    return count


def _check(given: Mapping[str, Given], release: Release, value: Callable[[str], Any]) -> Check | None:
    path, command = value("check_path"), value("check_command")
    if path is None and not command:
        return None
    if path is not None and (release.kind != "app" or release.server != "uvicorn"):
        raise CommandError(
            "bad_request",
            f"{given['check_path'].origin}: only a worker of an app on uvicorn has an address of its own for that",
            "Use check_command: it finds CSERVICE_SLOT and CSERVICE_CHECK_PID in its environment.",
        )
    return Check(path, value("check_status"), command, value("check_interval"), value("check_timeout"))


QUEUES = {
    "arq": "arq", "celery": "celery", "dramatiq": "dramatiq", "huey_consumer": "huey", "procrastinate": "procrastinate",
    "rq": "rq", "rqworker": "rq", "sidekiq": "sidekiq", "taskiq": "taskiq",
}  # fmt: skip
"""Programs that serve no clients -> the default name of their group, where ``web`` would be misleading."""
CYCLE = "Somebody must be first: remove one of these depends_on."


def group_settings(
    target: str,
    options: Mapping[str, Any],
    *,
    directory: str,
    taken: Collection[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> GroupSpec:
    """Return the group that the command ``start TARGET`` adds to a running service.

    *options*: GROUP settings in any spelling, ``args`` (texts) and ``program`` (bool). *directory*: base of relative
    paths if *options* set no absolute ``cwd``. *taken*: the names of the existing groups; a group without a name is
    named after its target. Raises CommandError bad_request.
    """
    named = dict(options)
    program = bool(named.pop("program", False))
    given = read(named, "keywords", directory, scope=GROUP)
    base = given["cwd"].value if "cwd" in given else directory
    group = group_of(given, target, (), program=program, directory=base, environ=environ)
    if "group" not in given:
        group = replace(group, name=_free_name(group.release, taken))
    if group.name in taken:
        raise CommandError(
            "bad_request",
            f"there is a group {group.name!r} already",
            f"Give the new one another name (--group NAME), or: cservice scale +1 {group.name}",
        )
    check_order([group], {group.name: given}, [*taken, group.name])
    check_partners([group], {group.name: given}, [*taken, group.name])
    return group


def _free_name(release: Release, taken: Collection[str]) -> str:
    stem = os.path.basename(release.target.partition(":")[0]).partition(".")[0]
    stem = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "-" for char in stem).lstrip(
        "-_0123456789"
    )[:48]
    stem = stem or "group"
    names = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken and name != "all")


def group_of(
    given: Mapping[str, Given],
    target: str | None,
    args: tuple[str, ...],
    *,
    program: bool,
    directory: str,
    environ: Mapping[str, str],
    name: str | None = None,
) -> GroupSpec:
    """Return the group described by the GROUP settings in *given*. *name*: the name of its table, if it has one."""

    def value(setting: str) -> Any:
        return given[setting].value if setting in given else BY_NAME[setting].default

    origins = {setting: found.origin for setting, found in given.items()}
    where = directory
    if target is None and _is_command(given):
        command = given["command"]
        (target, *rest), where, program = command.value, command.base, True
        args, origins["target"] = tuple(rest), command.origin
    elif target is None:
        if "target" not in given:
            if name is not None:
                raise CommandError(
                    "bad_request",
                    "it has no target: nothing says what its workers run",
                    'Add, for example: target = "worker.py"',
                )
            raise CommandError(
                "bad_request",
                "there is nothing to start: no TARGET was given",
                "cservice start worker.py, package.module:app, -m package.module, or -- any program",
            )
        target, where = given["target"].value, given["target"].base
    else:
        origins.pop("target", None)
    python = given.get("python")
    wish = releases.Wish(
        str(target),
        where,
        program=program,
        args=args or value("args"),
        cwd=str(given["cwd"].value) if "cwd" in given else directory,
        python=python.value if python else None,
        python_base=python.base if python else where,
        env=value("env"),
        env_files=value("env_files"),
        server=value("server"),
        binds=value("bind"),
        share=value("share"),
        within=grants.limits_of(given),
        origins=origins,
    )
    release = releases.resolve(wish, environ)
    if release.kind != "command" and release.within.stop_signal != TERM:
        raise CommandError(
            "bad_request",
            f"{origins.get('stop_signal', 'stop_signal')}: the runtime of a Python target stops it by a message and "
            f"SIGTERM, not by SIG{release.within.stop_signal}",
            "Remove it, or start the target as a program: -- python server.py",
        )
    account = identity.variables(release.within.user)
    whole = {**environ, **account, **dict(release.env_from_files), **dict(release.env)}
    with led(origins.get("python" if "target" not in origins and python else "target", "")):
        targets.check_python(
            release.python,
            release.kind,
            release.target,
            identity=releases.identity_of(release.within),
            cwd=release.cwd,
            environ=whole,
        )
    both = value("timeout")
    return GroupSpec(
        name=name or (value("group") if "group" in given else default_name(release)),
        count=_count(given, grouped=name is not None),
        release=release,
        ready_timeout=both if _counts_more("timeout", "ready_timeout", given) else value("ready_timeout"),
        stop_timeout=both if _counts_more("timeout", "stop_timeout", given) else value("stop_timeout"),
        drain_timeout=value("drain_timeout"),
        listen=_listen(given, release, grouped=name is not None),
        ready_after=value("ready_after"),
        restart=RestartPolicy(
            auto_restart=value("auto_restart"), delay=value("restart_delay"), per_minute=value("restarts_per_minute")
        ),
        monitor=value("monitor"),
        health_check=value("health_check"),
        **fields(given, release, value),
        depends_on=value("depends_on"),
        expect_port=_expect_port(given, release, value),
        allow_port_change=value("allow_port_change"),
        share_with=value("share_with"),
        singleton=value("singleton"),
    )


def _expect_port(given: Mapping[str, Given], release: Release, value: Callable[[str], Any]) -> bool | int | None:
    """Return the setting; a queue worker does not listen. Raises CommandError where listening cannot be seen."""
    expected: bool | int | None = value("expect_port")
    if expected is None and not release.binds and _queue(release) is not None:
        return False
    if expected and release.share in ("none", "inherit"):
        raise CommandError(
            "bad_request",
            f"{given['expect_port'].origin}: with share = {release.share} the service does not see who listens",
            "Choose another share, or remove expect_port.",
        )
    return expected


def _listen(given: Mapping[str, Given], release: Release, *, grouped: bool) -> Any:
    """Return the setting ``listen``. Raises CommandError bad_request where the workers would not be drained by it."""
    found = given.get("listen")
    meant = found is not None and (found.own or not grouped)  # what is for every group is for the programs among them
    if found is not None and meant and found.value == "per-slot" and release.kind != "command":
        raise CommandError(
            "bad_request",
            f"{found.origin}: {found.value} is for programs after --; the workers of scripts and apps drain themselves",
            "Remove it.",
        )
    return found.value if found is not None else None


def default_name(release: Release) -> str:
    """Return the default name of the only group of a service."""
    return _queue(release) or str(BY_NAME["group"].default)


def _queue(release: Release) -> str | None:
    """Return the name of the queue whose worker *release* runs; None if it runs another program."""
    return QUEUES.get(os.path.basename(release.target).partition(".")[0].removeprefix("-m "))


def _is_command(given: Mapping[str, Given]) -> bool:
    """Return True if ``command`` applies rather than ``target``. Raises CommandError bad_request if both do."""
    command = given.get("command")
    if command is None:
        return False
    for name in ("target", "args"):
        other = given.get(name)
        if other is not None and other.rank >= command.rank:
            if other.rank > command.rank:
                return False
            raise CommandError(
                "bad_request",
                f"{command.origin}: it names a program with its arguments, and there is {other.origin} as well",
                "Remove one of them: command is for any program, target and args for files, modules and apps.",
            )
    return True


def _counts_more(general: str, special: str, given: Mapping[str, Given]) -> bool:
    """Return True if the general setting applies: the special one was not given, or only for all groups."""
    if general not in given or special not in given:
        return general in given
    return given[general].own and given[special].source == "file" and not given[special].own


def _count(given: Mapping[str, Given], *, grouped: bool) -> int:
    wanted = given.get("workers")
    asked: int | str = wanted.value if wanted else BY_NAME["workers"].default
    if not ("singleton" in given and given["singleton"].value):
        return _auto(given) if asked == "auto" else int(asked)
    if asked == "auto" or wanted is None or (grouped and not wanted.own):
        return min(1, int(asked)) if asked != "auto" else 1
    if int(asked) > 1:
        raise CommandError(
            "bad_request",
            f"{wanted.origin}: {asked} workers of a singleton, which never has two ({given['singleton'].origin})",
            "Write 1, or remove singleton.",
        )
    return int(asked)


def _auto(given: Mapping[str, Given]) -> int:
    """Return the number of processors that the workers may use."""
    affinity = given["cpu_affinity"].value if "cpu_affinity" in given else SPREAD
    _, _, among = affinity.rpartition(":")
    return min(usable(), len(parse_cpu_list(among))) if among != SPREAD else usable()


def check_order(groups: Sequence[GroupSpec], given: Mapping[str, Mapping[str, Given]], known: Collection[str]) -> None:
    """Raise CommandError bad_request if a group depends on an unknown group, or the dependencies form a cycle.

    *given*: the settings of each group, with their origins.
    """
    needs = {group.name: [name for name, _ in group.depends_on] for group in groups}
    for name, wanted in needs.items():
        origin = given[name]["depends_on"].origin if wanted else ""
        for other in wanted:
            if other not in known:
                near = setting_values.suggestion(other, known)
                raise CommandError(
                    "bad_request",
                    f"{origin}: there is no group {other!r}{near}",
                    f"The groups are: {', '.join(sorted(known))}.",
                )
    for name in needs:
        path = _cycle(needs, [name])
        if path:
            origin = given[name]["depends_on"].origin
            shown = " → ".join(path)
            raise CommandError("bad_request", f"{origin}: the group waits for itself: {shown}", CYCLE)


def check_partners(
    groups: Sequence[GroupSpec], given: Mapping[str, Mapping[str, Given]], known: Collection[str]
) -> None:
    """Raise CommandError bad_request if a group shares ports with an unknown group or one with another user."""
    users = {group.name: group.release.within.user for group in groups}
    for group in groups:
        for other in group.share_with:
            origin = given[group.name]["share_with"].origin
            if other not in known or other == group.name:
                near = setting_values.suggestion(other, set(known) - {group.name})
                raise CommandError(
                    "bad_request",
                    f"{origin}: there is no other group {other!r}{near}",
                    f"The groups are: {', '.join(sorted(known))}.",
                )
            if other in users and users[other] != users[group.name]:
                raise CommandError(
                    "bad_request",
                    f"{origin}: {group.name} and {other} run as different users and cannot share ports",
                    "Give both the same user, or remove share_with.",
                )


def _cycle(needs: Mapping[str, Sequence[str]], path: list[str]) -> list[str]:
    """Return a path from the first element of *path* back to it, or an empty list."""
    for other in needs.get(path[-1], ()):
        if other == path[0]:
            return [*path, other]
        found = _cycle(needs, [*path, other]) if other not in path else []
        if found:
            return found
    return []
