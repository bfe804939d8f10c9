"""Which slots an operator means by ``all``, ``web``, ``web.2``, ``2``, ``4711`` or ``pid:4711``."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from .requests import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .group import Group
    from .worker import Worker


def select(selector: str, groups: Mapping[str, Group], workers: Iterable[Worker]) -> list[tuple[str, int]]:
    """Return the ``(group, slot)`` that *selector* names, in order. Raises Rejected (not_found, bad_request).

    A bare number is a slot where a slot of that number exists, else a pid: in a container pids are small too, and
    ``pid:7`` says which is meant.
    """
    if selector == "all":
        return [(name, number) for name, group in groups.items() for number in sorted(group.slots)]
    if selector in groups:
        return [(selector, number) for number in sorted(groups[selector].slots)]
    name, _, number = selector.rpartition(".")
    if name in groups and number.isdecimal():
        if int(number) not in groups[name].slots:
            raise Rejected("not_found", f"group {name!r} has no slot {number}", _slots(groups))
        return [(name, int(number))]
    if selector.isdecimal():
        found = [group for group in groups if int(selector) in groups[group].slots]
        if len(found) > 1:
            options = " or ".join(f"{group}.{selector}" for group in found)
            raise Rejected("bad_request", f"slot {selector} exists in several groups", f"write {options}")
        if found:
            return [(found[0], int(selector))]
    pid = selector.removeprefix("pid:")
    if pid.isdecimal():
        return [_by_pid(int(pid), groups, workers)]
    near = difflib.get_close_matches(selector, ["all", *groups], 1)
    hint = f"did you mean {near[0]}?" if near else "write all, a group, a slot or a pid (see: workers)"
    raise Rejected("not_found", f"there is no group, slot or worker {selector!r}", hint)


def _by_pid(pid: int, groups: Mapping[str, Group], workers: Iterable[Worker]) -> tuple[str, int]:
    for worker in workers:
        if worker.pid == pid and worker.state != "gone":
            if not worker.staying or worker.slot not in groups[worker.group].slots:
                raise Rejected(
                    "not_found", f"the worker with pid {pid} ({worker.name}) is ending already", "see: workers"
                )
            return worker.group, worker.slot
    raise Rejected("not_found", f"there is no worker with pid {pid}, and no slot {pid}", "see: workers")


def _slots(groups: Mapping[str, Group]) -> str:
    return "; ".join(f"{name}: {', '.join(map(str, sorted(group.slots)))}" for name, group in groups.items())
