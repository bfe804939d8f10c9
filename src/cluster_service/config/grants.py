"""Checks if this machine allows the requested user, limits and priorities of the workers, before they start."""

from __future__ import annotations

import grp
import os
import pwd
import resource
from typing import TYPE_CHECKING, Any

from cluster_service.core.model.spec import SPREAD, ProcessLimits, format_cpu_list, parse_cpu_list, parse_limit
from cluster_service.errors import CommandError
from cluster_service.machine import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cluster_service.core.model.spec import GroupSpec

    from .precedence import Given

NR_OPEN = "/proc/sys/fs/nr_open"


def limits_of(given: Mapping[str, Given]) -> ProcessLimits:
    """Return the limits set in *given*. Raises CommandError bad_request."""
    user, user_group = _identity(given)
    found: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        if name in given:
            check(given[name])
            found[name] = given[name].value
    return ProcessLimits(user=user, user_group=user_group, **found)


def _bad(wanted: Given, sentence: str, hint: str) -> CommandError:
    return CommandError("bad_request", f"{wanted.origin}: {sentence}", hint)


# -- user and group ----------------------------------------------------------------------------------------------------


def _identity(given: Mapping[str, Given]) -> tuple[str | None, str | None]:
    user, group = given.get("user"), given.get("user_group")
    known = "Name one that this machine knows."
    uid, gid = os.getuid(), os.getgid()
    if user is not None:
        account = _account(user.value)
        if account is None and not user.value.isdecimal():
            raise _bad(user, f"there is no user {user.value!r}", known)
        if account is None and group is None:
            raise _bad(
                user,
                f"user {user.value} is not in the user database, so nothing says which group it is in",
                f"Name a group too: --user-group {user.value}.",
            )
        uid, gid = (account.pw_uid, account.pw_gid) if account is not None else (int(user.value), gid)
    if group is not None:
        found = _gid(group.value)
        if found is None:
            raise _bad(group, f"there is no group of users {group.value!r}", known)
        gid = found
    wanted = user or group
    if wanted is not None and os.geteuid() != 0 and (uid, gid) != (os.getuid(), os.getgid()):
        raise _bad(wanted, "only root can run workers as somebody else", "Remove it, or start the service as root.")
    return user.value if user else None, group.value if group else None


def users_of(groups: Iterable[GroupSpec]) -> list[tuple[str, int, list[int]]]:
    """Return the name, uid and gids of each user that is set for workers of *groups*."""
    found = []
    for name, group in dict.fromkeys((each.release.within.user, each.release.within.user_group) for each in groups):
        account = _account(name) if name is not None else None
        gid = _gid(group) if group is not None else account.pw_gid if account is not None else None
        if account is not None and gid is not None:
            found.append((account.pw_name, account.pw_uid, os.getgrouplist(account.pw_name, gid)))
        elif name is not None and name.isdecimal():
            found.append((name, int(name), [] if gid is None else [gid]))
    return found


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        return None


def _gid(name: str) -> int | None:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


# -- limits ------------------------------------------------------------------------------------------------------------


def _check_limits(wanted: Given) -> None:
    for limit in wanted.value:
        name, _, hard = parse_limit(limit)
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            raise _bad(wanted, f"this system has no limit {name!r}", "Remove it.")
        most = resource.getrlimit(number)[1]
        why = "than a service of this user may have"
        hint = "Ask for less, or have more granted where the service is started: ulimit -H, LimitNOFILE= of systemd."
        if identity.has(identity.CAP_SYS_RESOURCE):
            most, why, hint = _highest(name), "than this system allows anybody", f"Ask for less, or raise {NR_OPEN}."
        if most != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > most):
            raise _bad(wanted, f"{limit} is more {why}, which is {most}", hint)


def _highest(name: str) -> int:
    """Return the maximum that the kernel allows for any process."""
    if name != "nofile":
        return resource.RLIM_INFINITY
    try:
        with open(NR_OPEN, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return resource.RLIM_INFINITY


def _check_nice(wanted: Given) -> None:
    now = os.getpriority(os.PRIO_PROCESS, 0)
    soft = resource.getrlimit(resource.RLIMIT_NICE)[0]
    least = -20 if soft == resource.RLIM_INFINITY else min(now, 20 - soft)
    if wanted.value < least and not identity.has(identity.CAP_SYS_NICE):
        raise _bad(
            wanted,
            f"only root can give workers more than their share: {wanted.value} is below {least}",
            f"Write {least} to 19, or start the service as root.",
        )


def _check_oom_score_adj(wanted: Given) -> None:
    try:
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:
            now = int(file.read())
    except (OSError, ValueError):
        return
    if wanted.value < now and not identity.has(identity.CAP_SYS_RESOURCE):
        raise _bad(
            wanted,
            f"only root can protect workers more than they are: {wanted.value} is below {now}",
            f"Write {now} to 1000, or start the service as root.",
        )


def _check_cpu_affinity(wanted: Given) -> None:
    usable = os.sched_getaffinity(0)
    _, _, among = wanted.value.rpartition(":")
    missing = [cpu for cpu in (parse_cpu_list(among) if among != SPREAD else []) if cpu not in usable]
    if missing:
        raise _bad(
            wanted,
            f"this service has no processor {format_cpu_list(missing)}; it may use {format_cpu_list(list(usable))}",
            f"Name some of these, or write {SPREAD}.",
        )


def _nothing(_wanted: Given) -> None:
    """Accept the value: it needs no privilege."""


_CHECKS: dict[str, Callable[[Given], None]] = {
    "umask": _nothing,
    "limits": _check_limits,
    "nice": _check_nice,
    "cpu_affinity": _check_cpu_affinity,
    "oom_score_adj": _check_oom_score_adj,
    "stdin": _nothing,
    "stop_signal": _nothing,
}
