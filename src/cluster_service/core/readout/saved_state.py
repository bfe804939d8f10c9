"""State that a service keeps across restarts: the promoted release of each group, and the operations.

The checkpoint is for a new master of the same service; this is for a new service. So it has no workers and no slots,
and its times are wall-clock times (seconds since the epoch), because the monotonic clock restarts with the machine.

Variables that the configuration sets are saved by name only and get their configured values when they are read; the
same applies to arguments that equal the configured ones. So the file holds no password of the configuration, and a
password that was changed in the meantime is used. Variables and arguments that an upgrade added (``upgrade --env``), or
that an earlier configuration had, are saved with their values. Values from variable files are not saved: a new service
reads the files again.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from cluster_service.core.model.cluster_state import Operation
from cluster_service.core.model.spec import Release

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.core.model.cluster_state import ClusterState

VERSION = 1


def write_saved_state(cluster: ClusterState, wall_minus_monotonic: float) -> dict[str, Any]:
    """Return the state to save, as a JSON object. *wall_minus_monotonic*: seconds between the two clocks."""
    return {
        "version": VERSION,
        "groups": {
            group.name: {
                "configured": _write_release(group.spec.release, group.spec.release),
                "promoted": _write_release(group.release, group.spec.release),
                "past": [_write_release(release, group.spec.release) for release in group.past],
            }
            for group in cluster.groups.values()
        },
        "operations": [_shift_times(operation, wall_minus_monotonic).to_json() for operation in cluster.operations],
        "operation_count": cluster.operation_count,
    }


def read_saved_state(
    cluster: ClusterState,
    data: dict[str, Any],
    wall_minus_monotonic: float,
    usable: Callable[[Release], str],
    filled: Callable[[Release], Release | None] = lambda release: release,
) -> list[str]:
    """Read what an earlier service saved, before the first step. Return sentences for the log.

    A group continues with the promoted release if its configured release is the same as then; a different target at the
    start of the service takes precedence. *usable*: returns why a release can no longer be started, or "". *filled*:
    returns the release with the values of its variable files, or None if they cannot be read. Raises KeyError,
    TypeError or ValueError if *data* is not a saved state; then nothing has changed.
    """
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']!r} of the state is not {VERSION}")
    operations = [_shift_times(Operation(**operation), -wall_minus_monotonic) for operation in data["operations"]]
    now = {name: group.spec.release for name, group in cluster.groups.items()}
    kept = {
        name: [
            _read_release(release, now[name]) for release in (known["configured"], known["promoted"], *known["past"])
        ]
        for name, known in data["groups"].items()
        if name in now
    }
    count = int(data["operation_count"])
    said = []
    for name, (configured, promoted, *past) in kept.items():
        group = cluster.groups[name]
        if configured == promoted or configured != _without_file_variables(group.spec.release):
            continue
        why = usable(promoted)
        if why:
            said.append(f"{name}: the promoted release {promoted.target} cannot be used any more ({why})")
            continue
        group.releases[1] = filled(promoted) or promoted
        latest = takewhile(lambda release: release is not None, map(filled, reversed(past)))
        group.past = [release for release in latest if release is not None][::-1]  # a rollback must not skip a release
        said.append(f"{name}: continuing with the promoted release, {promoted.target} in {promoted.cwd}")
    for operation in operations:
        if operation.running:
            operation.state, operation.reason = "cancelled", "the service ended while it ran"
    cluster.operations, cluster.operation_count = operations, count
    return said


def _without_file_variables(release: Release) -> Release:
    return replace(release, env_from_files=())


def _write_release(release: Release, configured: Release) -> dict[str, Any]:
    """Return *release* as it is saved; null means arguments, or the value of a variable, as configured."""
    known = dict(configured.env)
    env = [(name, None if known.get(name) == value else value) for name, value in release.env]
    return {
        **asdict(_without_file_variables(release)),
        "env": env,
        "args": None if release.args == configured.args else release.args,
    }


def _read_release(kept: dict[str, Any], configured: Release) -> Release:
    """Return the saved release *kept*, with the configured values in place of null."""
    known = dict(configured.env)
    env = [(name, known.get(name) if value is None else value) for name, value in kept["env"]]
    args = configured.args if kept["args"] is None else kept["args"]
    return Release.from_json({**kept, "args": args, "env": [each for each in env if each[1] is not None]})


def _shift_times(operation: Operation, by: float) -> Operation:
    ended_at = None if operation.ended_at is None else operation.ended_at + by
    steps = [[at + by, text] for at, text in operation.steps]
    return replace(operation, at=operation.at + by, ended_at=ended_at, steps=steps)
