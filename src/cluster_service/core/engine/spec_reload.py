"""Reload of the spec of a running service: the differences, and the operation that applies them.

The new configuration is compared with the previous *configuration*. Changes by ``scale`` or ``upgrade`` since then
remain where the configuration is the same as before.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from cluster_service.core.model.spec import Check
from cluster_service.core.protocol.requests import Rejected, Restart
from cluster_service.core.rules import redaction, selectors

from . import operation_tracking, request_handlers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster_service.core.model.cluster_state import Operation
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.spec import GroupSpec, Spec
    from cluster_service.core.protocol.requests import Reload

    from .step_context import StepContext

SETTING_NAMES: dict[str, dict[str, str]] = {
    "release": {},
    "restart": {"delay": "restart_delay", "per_minute": "restarts_per_minute"},
}
"""Fields that hold several settings -> their names as settings, where these differ."""


@dataclass(frozen=True)
class Change:
    """One difference. *effect*: start, stop, scale, replace (workers, ready-first) or settings (no restart needed)."""

    group: str
    """Empty: the service as a whole."""
    effect: str
    text: str


def compare_specs(cluster: StepContext, spec: Spec) -> list[Change]:
    """Return what a reload of *spec* would change."""
    found = [
        Change(
            "",
            "settings",
            f"{name}: {format_setting(getattr(cluster.spec, name))} → {format_setting(getattr(spec, name))}",
        )
        for name in ("give_up", "shutdown_delay")
        if getattr(cluster.spec, name) != getattr(spec, name)
    ]
    names = {group.name for group in spec.groups}
    found += [
        Change(group.name, "stop", f"stop its {len(group.slots)} workers")
        for group in cluster.groups.values()
        if group.name not in names and _is_configured(cluster, group)
    ]
    for new in spec.groups:
        there = cluster.groups.get(new.name)
        if there is None or not (there.slots or there.spec.count or cluster.workers_of(new.name)):
            found.append(Change(new.name, "start", f"{new.count} × {new.release.target}"))
        else:
            found += _group_changes(there, new)
    return found


def _is_configured(cluster: StepContext, group: Group) -> bool:
    """Return whether *group* is from the configuration. A reload does not stop a group that a command started."""
    return bool(group.slots) and any(each.name == group.name for each in cluster.spec.groups)


def _group_changes(group: Group, new: GroupSpec) -> list[Change]:
    old, found = group.spec, []
    for field in fields(new):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        if field.name == "count":
            found.append(Change(new.name, "scale", f"workers: {len(group.slots)} → {after}"))
        elif field.name in SETTING_NAMES:
            effect = "replace" if field.name == "release" else "settings"
            found += [
                Change(new.name, effect, text) for text in _part_changes(before, after, SETTING_NAMES[field.name])
            ]
        else:
            effect = "replace" if _opens_own_address(field.name, before, after) else "settings"
            found.append(Change(new.name, effect, f"{field.name}: {_describe_change(field.name, before, after)}"))
    if new.singleton and len(group.slots) > new.count and old.count == new.count:  # a command has scaled it up
        found.append(Change(new.name, "scale", f"workers: {len(group.slots)} → {new.count}"))
    return found


def _opens_own_address(name: str, before: Any, after: Any) -> bool:
    """Return whether the change needs an own address for each worker, which is opened when it starts."""
    return name == "check" and after is not None and after.path is not None and (before is None or before.path is None)


def _part_changes(before: Any, after: Any, names: Mapping[str, str]) -> list[str]:
    found = []
    for part in fields(after):
        was, will = getattr(before, part.name), getattr(after, part.name)
        if was == will:
            continue
        if part.name == "within":
            found += _part_changes(was, will, names)
        else:
            name = part.name.replace("env_from_files", "env_files")
            found.append(f"{names.get(name, name)}: {_describe_change(part.name, was, will)}")
    return found


def _describe_change(name: str, before: Any, after: Any) -> str:
    """Return the change of a setting in words. Only the names of variables are shown: any value may be a secret."""
    if name == "env_from_files":
        return "the values in them have changed"
    if name == "env":
        return "changed: " + " ".join(sorted({variable for variable, _ in set(before) ^ set(after)}))
    was, will = format_setting(before), format_setting(after)
    return "changed; the values are secret" if was == will else f"{was} → {will}"


def format_setting(value: object) -> str:
    """Return a setting as written in a file: ``5s``, ``true``, ``db:ready``; secrets are redacted."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}s"  # all float settings are durations
    if isinstance(value, tuple):
        words = [":".join(item) if isinstance(item, tuple) else str(item) for item in value]
        return " ".join(redaction.redact_arguments(words)) or "none"
    if isinstance(value, Check):
        return redaction.redact_text(_describe_check(value))
    return "none" if value in (None, "") else redaction.redact_text(str(value))


def plan_reload(cluster: StepContext, request: Reload) -> request_handlers.Apply:
    """Plan to replace the spec: one operation, which ends when all operations that it starts have ended.

    It is validated by the new spec only: a group that is no longer a singleton may have several workers at once.
    """
    selectors.refuse_if_full(cluster)
    changes = compare_specs(cluster, request.spec)
    effects = {(change.group, change.effect) for change in changes if change.group}
    specs = {group.name: group for group in request.spec.groups}
    rolled = {name for name, effect in effects if effect in ("replace", "start", "stop")}
    alone = {name for name in specs.keys() & cluster.groups.keys() if specs[name].singleton}
    rolled |= {name for name in alone if not cluster.groups[name].spec.singleton}
    selectors.refuse_while_replacing(cluster, rolled | (set(cluster.groups) if request.everybody else set()))
    selectors.refuse_while_ending(cluster, set(specs))
    for name in sorted(name for name, effect in effects if effect == "replace"):
        scaled = (name, "scale") in effects
        if not (specs[name].count if scaled else len(cluster.groups[name].slots)):
            raise Rejected(
                "bad_request", f"group {name!r} has no workers to be replaced", f"scale it first: scale 1 {name}"
            )
    return lambda now: _apply_reload(cluster, request, changes, effects, now)


def _apply_reload(
    cluster: StepContext, request: Reload, changes: list[Change], effects: set[tuple[str, str]], now: float
) -> Operation:
    parent = operation_tracking.begin_operation(cluster, "reload", "reload", [], now)
    for change in changes:
        operation_tracking.add_step(cluster, parent, f"{change.group or 'service'}: {change.text}", now)
    for note in request.notes:
        operation_tracking.add_step(cluster, parent, note, now)
    if request.everybody:
        fresh = {name for name, effect in effects if effect in ("replace", "start")}
        stay = [name for name, group in cluster.groups.items() if group.slots and (name, "stop") not in effects]
        parent.restarts = [name for name in stay if name not in fresh] if fresh else ["all"]
    specs = {group.name: group for group in request.spec.groups}
    cluster.spec = request.spec
    begun = [
        request_handlers.end_group(cluster, cluster.groups[name], now)
        if effect == "stop"
        else request_handlers.add_group(cluster, specs[name], now)
        for name, effect in sorted(effects)
        if effect in ("stop", "start")
    ]
    for name, new in specs.items():
        group = cluster.groups[name]
        old, restarted = group.spec.release, group.spec.restart.auto_restart
        group.spec = replace(new, release=old)
        if restarted != new.restart.auto_restart:
            group.follow_policy(now)
        if (name, "scale") in effects and len(group.slots) != new.count:
            begun.append(request_handlers.resize_group(cluster, group, new.count, str(new.count), None, now))
        if (name, "replace") in effects:
            release = new.release if new.release != old else group.release
            operation, rollout = request_handlers.begin_upgrade(
                cluster, group, list(group.slots), release, "upgrade", name, now
            )
            rollout.monitor = new.monitor if request.monitor is None else request.monitor
            rollout.timeout = request.timeout
            rollout.configured = True
            begun.append(operation)
    parent.children += [operation.id for operation in begun]
    return parent


def track_reload(cluster: StepContext, parent: Operation, now: float) -> None:
    """End *parent* when its children have ended, and the restarts that follow them."""
    children = [each for each in cluster.operations if each.id in parent.children]
    parent.slots = [slot for each in children for slot in each.slots]
    parent.replaced = sum(each.replaced for each in children)
    if any(each.running for each in children):
        return
    bad = [f"{each.command}: {each.state}: {each.reason}" for each in children if each.state != "done"]
    if parent.restarts and not bad and not cluster.ending:
        if selectors.find_replacing_operation(cluster, set(cluster.groups)):
            return  # they start as soon as no other operation replaces workers
        refused = _begin_restarts(cluster, parent, now)
        bad = [refused] if refused else []
        if len(parent.children) > len(children) and not refused:
            return
    operation_tracking.finish_operation(cluster, parent, "failed" if bad else "done", "\n".join(bad) or None, now)


def _begin_restarts(cluster: StepContext, parent: Operation, now: float) -> str:
    """Start the remaining restarts of groups that still have workers. Return why one was refused, or ""."""
    left, parent.restarts = parent.restarts, []
    for selector in left:
        if selector == "all" or (selector in cluster.groups and cluster.groups[selector].slots):
            try:
                apply = request_handlers.plan_restart(cluster, Restart(selector))
            except Rejected as refusal:
                return f"restart {selector}: {refusal.message}"
            parent.children.append(apply(now).id)
    return ""



def _describe_check(check: Check) -> str:
    first, last = check.status
    what = [" ".join(redaction.redact_arguments(check.command))] if check.command else []
    what += [f"GET {redaction.redact_text(check.path)} ({first}-{last})"] if check.path else []
    return f"{' and '.join(what)} every {check.interval:g} s, {check.timeout:g} s each"
