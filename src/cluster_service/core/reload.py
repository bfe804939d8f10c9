"""Taking up another spec while the service runs: what would change, and the one operation that changes it.

What is compared is what was *configured* before with what is configured now. What an operator has changed since, by
``scale`` or ``upgrade``, stays as it is where the configuration says the same as before.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from . import judge, masks, selectors, wanted
from .requests import Rejected, Restart
from .spec import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .group import Group
    from .operations import Operation
    from .requests import Reload
    from .spec import GroupSpec, Spec
    from .step_context import StepContext

PARTS: dict[str, dict[str, str]] = {
    "release": {},
    "restart": {"delay": "restart_delay", "per_minute": "restarts_per_minute"},
}
"""Fields that hold several settings, and what these are called where they have another name."""


@dataclass(frozen=True)
class Change:
    """One difference. *effect*: start, stop, scale, replace (its workers, ready-first), settings (nobody restarts)."""

    group: str
    """Empty: the service as a whole."""
    effect: str
    text: str


def plan(cluster: StepContext, spec: Spec) -> list[Change]:
    """Return what taking up *spec* would change."""
    found = [
        Change("", "settings", f"{name}: {shown(getattr(cluster.spec, name))} → {shown(getattr(spec, name))}")
        for name in ("give_up", "shutdown_delay")
        if getattr(cluster.spec, name) != getattr(spec, name)
    ]
    names = {group.name for group in spec.groups}
    found += [
        Change(group.name, "stop", f"its {len(group.slots)} workers are ended")
        for group in cluster.groups.values()
        if group.name not in names and _configured(cluster, group)
    ]
    for new in spec.groups:
        there = cluster.groups.get(new.name)
        if there is None or not (there.slots or there.spec.count or cluster.of_group(new.name)):
            found.append(Change(new.name, "start", f"{new.count} × {new.release.target}"))
        else:
            found += _changes(there, new)
    return found


def _configured(cluster: StepContext, group: Group) -> bool:
    """Whether *group* came from the configuration; one that an operator has started is the operator's to end."""
    return bool(group.slots) and any(each.name == group.name for each in cluster.spec.groups)


def _changes(group: Group, new: GroupSpec) -> list[Change]:
    old, found = group.spec, []
    for field in fields(new):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        if field.name == "count":
            found.append(Change(new.name, "scale", f"workers: {len(group.slots)} → {after}"))
        elif field.name in PARTS:
            effect = "replace" if field.name == "release" else "settings"
            found += [Change(new.name, effect, text) for text in _differences(before, after, PARTS[field.name])]
        else:
            effect = "replace" if _opens(field.name, before, after) else "settings"
            found.append(Change(new.name, effect, f"{field.name}: {_difference(field.name, before, after)}"))
    if new.singleton and len(group.slots) > new.count and old.count == new.count:  # an operator has scaled it up
        found.append(Change(new.name, "scale", f"workers: {len(group.slots)} → {new.count}"))
    return found


def _opens(name: str, before: Any, after: Any) -> bool:
    """Whether workers need an address of their own that they have not: it is opened as they start."""
    return name == "check" and after is not None and after.path is not None and (before is None or before.path is None)


def _differences(before: Any, after: Any, names: Mapping[str, str]) -> list[str]:
    found = []
    for part in fields(after):
        was, will = getattr(before, part.name), getattr(after, part.name)
        if was == will:
            continue
        if part.name == "within":
            found += _differences(was, will, names)
        else:
            name = part.name.replace("env_from_files", "env_files")
            found.append(f"{names.get(name, name)}: {_difference(part.name, was, will)}")
    return found


def _difference(name: str, before: Any, after: Any) -> str:
    """What is told of a change: of variables only which ones, since any may hold a secret."""
    if name == "env_from_files":
        return "the values in them have changed"
    if name == "env":
        return "changed: " + " ".join(sorted({variable for variable, _ in set(before) ^ set(after)}))
    was, will = shown(before), shown(after)
    return "changed, in what is not shown" if was == will else f"{was} → {will}"


def shown(value: object) -> str:
    """Return a setting as it is written in a file: ``5s``, ``true``, ``db:ready``; no secret (see ``masks``)."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}s"  # every one is a duration
    if isinstance(value, tuple):
        words = [":".join(item) if isinstance(item, tuple) else str(item) for item in value]
        return " ".join(masks.arguments(words)) or "none"
    if isinstance(value, Check):
        return masks.text(_describe_check(value))
    return "none" if value in (None, "") else masks.text(str(value))


def reload(cluster: StepContext, request: Reload) -> wanted.Apply:
    """Take up another spec: one operation, which ends when those that it has begun have ended.

    It is judged by what the new spec says, never by the old one: a group that is a singleton no more may have several
    workers at once.
    """
    selectors.when_no_more(cluster)
    changes = plan(cluster, request.spec)
    effects = {(change.group, change.effect) for change in changes if change.group}
    specs = {group.name: group for group in request.spec.groups}
    rolled = {name for name, effect in effects if effect in ("replace", "start", "stop")}
    alone = {name for name in specs.keys() & cluster.groups.keys() if specs[name].singleton}
    rolled |= {name for name in alone if not cluster.groups[name].spec.singleton}
    selectors.while_rolling(cluster, rolled | (set(cluster.groups) if request.everybody else set()))
    selectors.while_leaving(cluster, set(specs))
    for name in sorted(name for name, effect in effects if effect == "replace"):
        scaled = (name, "scale") in effects
        if not (specs[name].count if scaled else len(cluster.groups[name].slots)):
            raise Rejected(
                "bad_request", f"group {name!r} has no workers to be replaced", f"scale it first: scale 1 {name}"
            )
    return lambda now: _take_up(cluster, request, changes, effects, now)


def _take_up(
    cluster: StepContext, request: Reload, changes: list[Change], effects: set[tuple[str, str]], now: float
) -> Operation:
    parent = judge.begin(cluster, "reload", "reload", [], now)
    for change in changes:
        judge.step(cluster, parent, f"{change.group or 'service'}: {change.text}", now)
    for note in request.notes:
        judge.step(cluster, parent, note, now)
    if request.everybody:
        fresh = {name for name, effect in effects if effect in ("replace", "start")}
        stay = [name for name, group in cluster.groups.items() if group.slots and (name, "stop") not in effects]
        parent.restarts = [name for name in stay if name not in fresh] if fresh else ["all"]
    specs = {group.name: group for group in request.spec.groups}
    cluster.spec = request.spec
    begun = [
        wanted.end_group(cluster, cluster.groups[name], now)
        if effect == "stop"
        else wanted.add_group(cluster, specs[name], now)
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
            begun.append(wanted.resize(cluster, group, new.count, str(new.count), None, now))
        if (name, "replace") in effects:
            release = new.release if new.release != old else group.release
            operation, rollout = wanted.roll(cluster, group, list(group.slots), release, "upgrade", name, now)
            rollout.monitor = new.monitor if request.monitor is None else request.monitor
            rollout.timeout = request.timeout
            rollout.configured = True
            begun.append(operation)
    parent.children += [operation.id for operation in begun]
    return parent


def watch(cluster: StepContext, parent: Operation, now: float) -> None:
    """End *parent* when all of its children have ended, and those restarts too that come after them."""
    children = [each for each in cluster.operations if each.id in parent.children]
    parent.slots = [slot for each in children for slot in each.slots]
    parent.replaced = sum(each.replaced for each in children)
    if any(each.running for each in children):
        return
    bad = [f"{each.command}: {each.state}: {each.reason}" for each in children if each.state != "done"]
    if parent.restarts and not bad and not cluster.ending:
        if selectors.rolling(cluster, set(cluster.groups)):
            return  # they begin as soon as nothing else replaces workers
        refused = _restart(cluster, parent, now)
        bad = [refused] if refused else []
        if len(parent.children) > len(children) and not refused:
            return
    judge.finish(cluster, parent, "failed" if bad else "done", "\n".join(bad) or None, now)


def _restart(cluster: StepContext, parent: Operation, now: float) -> str:
    """Begin the restarts that are left, of groups that still have workers. Returns why one is refused."""
    left, parent.restarts = parent.restarts, []
    for selector in left:
        if selector == "all" or (selector in cluster.groups and cluster.groups[selector].slots):
            try:
                apply = wanted.restart(cluster, Restart(selector))
            except Rejected as refusal:
                return f"restart {selector}: {refusal.message}"
            parent.children.append(apply(now).id)
    return ""



def _describe_check(check: Check) -> str:
    first, last = check.status
    what = [" ".join(masks.arguments(check.command))] if check.command else []
    what += [f"GET {masks.text(check.path)} ({first}-{last})"] if check.path else []
    return f"{' and '.join(what)} every {check.interval:g} s, {check.timeout:g} s each"
