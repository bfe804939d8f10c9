"""What a service remembers from one life to the next: the releases its groups were promoted to, and its operations.

The notebook is for a new master of the same service; this is for a new service. So it holds no workers and no slots,
and its times are wall-clock times (seconds since the epoch): the monotonic clock begins anew with the machine.

Variables that the configuration sets are remembered by their names, and have the values that it gives them when they
are recalled; so are the arguments, where they are the configured ones. So no password of the configuration stands in
the file, and one that was changed meanwhile is the new one. What an operator has given a release beyond that (``upgrade
--env``), and what an earlier configuration said, is remembered with its value. What files of variables said is not
kept: a new service reads them anew.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from .operations import Operation
from .spec import Release

if TYPE_CHECKING:
    from collections.abc import Callable

    from .cluster_state import ClusterState

VERSION = 1


def remember(cluster: ClusterState, wall_minus_monotonic: float) -> dict[str, Any]:
    """Return what is to be kept, as a JSON-able object."""
    return {
        "version": VERSION,
        "groups": {
            group.name: {
                "configured": _kept(group.spec.release, group.spec.release),
                "promoted": _kept(group.release, group.spec.release),
                "past": [_kept(release, group.spec.release) for release in group.past],
            }
            for group in cluster.groups.values()
        },
        "operations": [_moved(operation, wall_minus_monotonic).to_json() for operation in cluster.operations],
        "operation_count": cluster.operation_count,
    }


def recall(
    cluster: ClusterState,
    data: dict[str, Any],
    wall_minus_monotonic: float,
    usable: Callable[[Release], str],
    filled: Callable[[Release], Release | None] = lambda release: release,
) -> list[str]:
    """Take up what an earlier service kept, before the first turn. Returns sentences for the log.

    A group goes on with the promoted release if it is configured as it was then: who starts the service with another
    target wants that one. *usable*: why a release cannot be started any more, else ""; *filled*: it, with what its
    files of variables say, None when they cannot be read. Raises KeyError, TypeError or ValueError when *data* is not
    what ``remember`` returns; then nothing was changed.
    """
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']!r} of the state is not {VERSION}")
    operations = [_moved(Operation(**operation), -wall_minus_monotonic) for operation in data["operations"]]
    now = {name: group.spec.release for name, group in cluster.groups.items()}
    kept = {
        name: [_filled(release, now[name]) for release in (known["configured"], known["promoted"], *known["past"])]
        for name, known in data["groups"].items()
        if name in now
    }
    count = int(data["operation_count"])
    said = []
    for name, (configured, promoted, *past) in kept.items():
        group = cluster.groups[name]
        if configured == promoted or configured != _plain(group.spec.release):
            continue
        why = usable(promoted)
        if why:
            said.append(f"{name}: the promoted release {promoted.target} cannot be used any more ({why})")
            continue
        group.releases[1] = filled(promoted) or promoted
        latest = takewhile(lambda release: release is not None, map(filled, reversed(past)))
        group.past = [release for release in latest if release is not None][::-1]  # no rollback passes one over
        said.append(f"{name}: going on with the promoted release, {promoted.target} in {promoted.cwd}")
    for operation in operations:
        if operation.running:
            operation.state, operation.reason = "cancelled", "the service ended while it ran"
    cluster.operations, cluster.operation_count = operations, count
    return said


def _plain(release: Release) -> Release:
    return replace(release, env_from_files=())


def _kept(release: Release, configured: Release) -> dict[str, Any]:
    """Return *release* as it is remembered: null stands for arguments, and values of variables, as configured."""
    known = dict(configured.env)
    env = [(name, None if known.get(name) == value else value) for name, value in release.env]
    return {**asdict(_plain(release)), "env": env, "args": None if release.args == configured.args else release.args}


def _filled(kept: dict[str, Any], configured: Release) -> Release:
    """Return the release that was *kept*, with what is configured now in the place of null."""
    known = dict(configured.env)
    env = [(name, known.get(name) if value is None else value) for name, value in kept["env"]]
    args = configured.args if kept["args"] is None else kept["args"]
    return Release.from_json({**kept, "args": args, "env": [each for each in env if each[1] is not None]})


def _moved(operation: Operation, by: float) -> Operation:
    ended_at = None if operation.ended_at is None else operation.ended_at + by
    steps = [[at + by, text] for at, text in operation.steps]
    return replace(operation, at=operation.at + by, ended_at=ended_at, steps=steps)
