"""Conversion of a release to the program to execute, its environment and its limits.

Pure functions, except that they read our own file paths, the user database and the CPU affinity.
"""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

from cluster_service.core.model.spec import STDIN_KEEP_OPEN, choose_cpus, parse_limit
from cluster_service.machine import identity
from cluster_service.wire import orders, signals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster_service.core.model.spec import GroupSpec, Release
    from cluster_service.core.protocol.actions import Start

ENTRY_POINT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker", "entry_point.py")
"""Script run by the interpreter of a worker, which need not have this package installed."""

PRIVATE = frozenset(
    {
        "CSERVICE_ACCESS_KEY",
        "CSERVICE_ACCESS_KEY_FILE",
        "CSERVICE_GUARDIAN_FD",
        "CSERVICE_BOOT_FD",
        "CSERVICE_ROLE",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    }
)
"""Variables of this service or of its supervisor that a worker never receives."""


def argv(release: Release, names: Mapping[str, str]) -> list[str]:
    """Return the arguments to execute for *release*. *names*: values for the placeholders (see ``filled``)."""
    args = [filled(arg, names) for arg in release.args]
    if release.kind == "command":
        return [release.target, *args]
    if release.kind == "script":
        return [release.python, ENTRY_POINT, "script", release.target, *args]
    if release.kind == "module":
        return [release.python, ENTRY_POINT, "module", release.target.removeprefix("-m "), *args]
    return [release.python, ENTRY_POINT, "app", release.target, release.server, ",".join(release.binds), *args]


def stop_signal(release: Release) -> int:
    """Return the signal that asks a worker of *release* to stop. The worker runtime of Python targets handles only
    SIGTERM.
    """
    return signals.signal_number(release.within.stop_signal) if release.kind == "command" else signal.SIGTERM


_PLACE = re.compile(r"\{\{(slot|group|name)\}\}|\{(slot|group|name)\}")


def filled(text: str, names: Mapping[str, str]) -> str:
    """Return *text* with ``{slot}``, ``{group}`` and ``{name}`` replaced; ``{{slot}}`` stands for a literal ``{slot}``.

    Any other text in braces is unchanged.
    """
    return _PLACE.sub(lambda found: f"{{{found[1]}}}" if found[1] else names[found[2]], text)


def names(service: str, group: str, slot: int) -> dict[str, str]:
    """Return the placeholder values for the arguments and variables of a worker. *slot* 0: a preview or a test."""
    return {"name": service, "group": group, "slot": str(slot)}


def environment(service: str, start: Start, release: Release, share: str, base: Mapping[str, str]) -> dict[str, str]:
    """Return the complete environment of a worker. *base*: the environment of the service."""
    return {
        **of_release(release, base, names(service, start.group, start.slot)),
        "CSERVICE_NAME": service,
        "CSERVICE_GROUP": start.group,
        "CSERVICE_SLOT": str(start.slot),
        "CSERVICE_GENERATION": str(start.generation),
        "CSERVICE_REASON": start.reason,
        "CSERVICE_SHARE": share,
    }


def of_release(release: Release, base: Mapping[str, str], within: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for the code of a release, without the variables of a particular worker. *base*: the
    environment of the service. *within*: placeholder values for the configured variables; None: leave them unchanged.
    """
    outer = {**base, **identity.variables(release.within.user), **dict(release.env_from_files)}
    own = {key: value if within is None else filled(value, within) for key, value in release.env}
    return {**{key: value for key, value in outer.items() if key not in PRIVATE}, **own}


def spawn(
    service: str,
    start: Start,
    group: GroupSpec,
    release: Release,
    share: str,
    base: Mapping[str, str],
    *,
    titles: bool = False,
) -> orders.Spawn:
    """Return the order that carries out *start*. *share*: the mode of the group, with ``auto`` resolved. *titles*: let
    the worker set its process title.
    """
    within = release.within
    env = environment(service, start, release, share, base)
    if titles and release.kind != "command":
        env["CSERVICE_TITLE"] = f"cservice: {service} {start.group}.{start.slot}"
    soft_and_hard = [parse_limit(limit) for limit in within.limits]
    return orders.Spawn(
        worker=start.worker,
        argv=argv(release, names(service, start.group, start.slot)),
        env=env,
        cwd=release.cwd,
        label=f"{start.group}.{start.slot}",
        meta={"group": start.group, "slot": start.slot, "generation": start.generation, "reason": start.reason},
        share=share,
        tenant=start.group,
        share_with=list(group.share_with),
        binds=list(release.binds),
        inherit=list(release.binds) if share == "inherit" else [],
        channel=release.kind != "command",
        check=group.check is not None and group.check.path is not None,
        listen=listen_of(group, release),
        drain=drain_of(group, release),
        private=start.private,
        user=within.user,
        group=within.user_group,
        umask=None if within.umask is None else int(within.umask, 8),
        rlimits={name.upper(): [soft, hard] for name, soft, hard in soft_and_hard},
        nice=within.nice,
        cpus=_cpus(within.cpu_affinity, start.slot),
        oom_score_adj=within.oom_score_adj,
        stop_signal=stop_signal(release),
        keep_stdin=within.stdin == STDIN_KEEP_OPEN,
    )


def listen_of(group: GroupSpec, release: Release) -> str:
    """Return how the workers of *release* listen: ``per-slot`` by default for programs without our worker runtime."""
    return (group.listen or "per-slot") if release.kind == "command" else "shared"


def drain_of(group: GroupSpec, release: Release) -> float:
    """Return for how many seconds the stop signal of a worker of *release* is delayed so that connections can drain."""
    return group.drain_timeout if listen_of(group, release) == "per-slot" else 0.0


def _cpus(affinity: str | None, slot: int) -> list[int]:
    return [] if affinity is None else choose_cpus(affinity, slot, sorted(os.sched_getaffinity(0)))


def settle_share(wanted: str, kind: str, available: Mapping[str, str]) -> tuple[str, str]:
    """Return the mode to use, and a warning if it is a fallback (else "").

    *available*: mode → "" or why it cannot be used here. Raises ValueError if the configured mode cannot be used.
    """
    if wanted != "auto":
        if available.get(wanted):
            raise ValueError(f"ports cannot be shared by {wanted} here: {available[wanted]}")
        return wanted, ""
    reason = available.get("seccomp", "")
    if not reason:
        return "seccomp", ""
    if kind == "command":
        return "none", f"ports are not shared ({reason}): each worker must have its own, or take them from LISTEN_FDS"
    return "python", f"ports are shared in Python only ({reason}): servers that bind outside Python are not reached"
