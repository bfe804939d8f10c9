"""State of one group: its slots, generations and releases.

A *generation* is an increasing number that names a release. Each slot has a desired generation; a worker of another one
is outdated. Until a worker of a generation has become ready, the generation is *unproven*. If an unproven generation
fails, one slot at a time tries it (``trial``): eight workers that all fail at import show no more than one.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .spec import GroupSpec, Release
from .upgrade_state import Rollout
from .worker import History, Slot, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from .worker import Worker


MAX_PAST_RELEASES = 10
"""Most earlier releases that are kept."""


@dataclass
class Group:
    """Desired state of a group, and its slots."""

    spec: GroupSpec
    slots: dict[int, Slot]
    generation: int
    """The highest generation so far."""
    releases: dict[int, Release]
    proven: list[int] = field(default_factory=list)
    """Generations of which a worker has become ready."""
    trial: Trial = field(default_factory=Trial)
    ready_by: str = ""
    """How its workers become ready (told, listen, notify); once known, merely running no longer counts."""
    silent: bool = False
    """True if a worker became ready by running for a time, and none has ever reported readiness or listened."""
    relistens: bool = False
    """True if its workers call listen on sockets that already listen; binding alone is then not ready."""
    at_a_time: int = 0
    """Most workers that boot at the same time; 0: unlimited."""
    released: bool = False
    """True once its dependencies have been available; they no longer matter then."""
    promoted: int = 1
    """The generation of new slots: the last one that a whole upgrade or restart completed."""
    past: list[Release] = field(default_factory=list)
    """The releases promoted before, oldest first; a rollback returns to the last one."""
    moved: int = 0
    """The generation whose upgrade was allowed to change ports, so that its rollback may too; 0: none."""
    rollout: Rollout | None = None
    leaving: bool = False
    """True if it is being stopped, after the groups that depend on it."""
    leave_reason: str = "scale"
    """Stop reason of workers whose slot was removed: scale or shutdown."""
    detail: str = ""
    """The cause of the last failure, with digits masked."""
    repeated: int = 0
    """How many failures in a row had this cause before."""

    @classmethod
    def new(cls, spec: GroupSpec, at_a_time: int = 0) -> Group:
        """Return a group that has no workers yet."""
        slots = {number: Slot(number, 1) for number in range(1, spec.count + 1)}
        return cls(spec, slots, 1, {1: spec.release}, at_a_time=at_a_time)

    @property
    def name(self) -> str:
        """Return the name of the group."""
        return self.spec.name

    @property
    def release(self) -> Release:
        """Return the promoted release."""
        return self.releases[self.promoted]

    def next_generation(self, release: Release) -> int:
        """Add a generation of *release* and return its number."""
        self.generation += 1
        self.releases[self.generation] = release
        return self.generation

    def promote(self, generation: int, *, back: bool = False) -> None:
        """Promote *generation*. *back*: it is a rollback to the last release of ``past``."""
        left = self.release
        if back:
            del self.past[-1:]
        elif left != self.releases[generation]:
            self.past = [*self.past, left][-MAX_PAST_RELEASES:]
        self.promoted = generation

    def waits_for(
        self, groups: Mapping[str, Group], workers: Collection[Worker], reachable: Callable[[Worker], bool]
    ) -> list[str]:
        """Return the dependencies that are not available yet; none once they have been available.

        *reachable*: whether clients can reach a serving worker.
        """
        if self.released or not self.spec.depends_on:
            return []
        serving = {(each.group, each.slot) for each in workers if each.serving and reachable(each)}
        there = {"ready": serving, "started": serving | {(w.group, w.slot) for w in workers if w.state == "starting"}}
        missing = [
            name
            for name, what in self.spec.depends_on
            if name in groups and any((name, number) not in there[what] for number in groups[name].slots)
        ]
        self.released = not missing
        return missing

    def desired_slots(self) -> list[Slot]:
        """Return the slots that should have a worker, including the slot of a preview worker."""
        dark = self.rollout.dark if self.rollout is not None else None
        return [*self.slots.values(), *([dark] if dark is not None else ())]

    def resize(self, count: int) -> None:
        """Change the number of slots: add the lowest free numbers, or remove the highest."""
        self.leave_reason = "scale"
        for number in sorted(self.slots, reverse=True)[: max(0, len(self.slots) - count)]:
            del self.slots[number]
        number = 1
        while len(self.slots) < count:
            if number not in self.slots:
                self.slots[number] = Slot(number, self.promoted, "scale")
            number += 1

    def tell(self, detail: str) -> int:
        """Record the cause of a failure; return how many failures in a row had the same cause before."""
        masked = re.sub(r"\d+", "0", detail)
        self.repeated = self.repeated + 1 if masked == self.detail else 0
        self.detail = masked
        return self.repeated

    def follow_policy(self, now: float) -> None:
        """Apply a changed ``spec.restart`` to the slots that wait for a retry."""
        for slot in self.slots.values():
            if slot.next_try is None:
                slot.next_try = now if self.spec.restart.auto_restart else None
            elif slot.history.streak and slot.next_try > now and not self.spec.restart.auto_restart:
                slot.next_try = None
                slot.history = History(slot.history.streak, slot.history.failures, broken=True)

    def trying(self, generation: int) -> bool:
        """Return whether *generation* is unproven and has failed, so that one slot at a time tries it."""
        return generation not in self.proven and self.trial.generation == generation

    def next_try(self, slot: Slot) -> float | None:
        """Return when *slot* may be started; None: not automatically."""
        if slot.next_try is None or not self.trying(slot.generation):
            return slot.next_try
        return None if self.trial.next_try is None else max(slot.next_try, self.trial.next_try)

    def prove(self, worker: Worker) -> None:
        """Record that the generation of *worker*, which is ready, is proven."""
        if worker.generation in self.proven:
            return
        self.proven.append(worker.generation)
        for slot in self.slots.values():
            if slot.generation == worker.generation and slot.next_try is not None:
                slot.next_try = min(slot.next_try, worker.ready_at or 0.0)
                slot.history = slot.history.steady()

    def prune(self, used: set[int]) -> None:
        """Drop the releases of generations that are no longer needed. *used*: generations of workers and operations."""
        keep = used | {slot.generation for slot in self.slots.values()} | {self.promoted}
        if self.rollout is not None:
            keep |= {self.rollout.new, *(generation for _, generation in self.rollout.before)}
        self.releases = {number: release for number, release in self.releases.items() if number in keep}
        self.proven = [number for number in self.proven if number in keep]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the checkpoint."""
        data = asdict(replace(self, slots={}, releases={}))
        # Without asdict, which copies deeply: the checkpoint is written at each step, with hundreds of slots.
        data["slots"] = [
            {**vars(slot), "ports": [*slot.ports], "history": {**vars(slot.history)}} for slot in self.slots.values()
        ]
        data["releases"] = [[number, asdict(release)] for number, release in self.releases.items()]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Group:
        """Inverse of ``to_json`` after a trip through JSON."""
        known = dict(data)
        known["spec"] = GroupSpec.from_json(known["spec"])
        slots = [_read_slot(slot) for slot in known["slots"]]
        known["slots"] = {slot.number: slot for slot in slots}
        known["releases"] = {number: Release.from_json(release) for number, release in known["releases"]}
        known["past"] = [Release.from_json(release) for release in known.get("past", ())]
        if known.get("rollout") is not None:
            known["rollout"] = _read_rollout(known["rollout"])
        known["trial"] = Trial(**{**known["trial"], "history": _read_history(known["trial"]["history"])})
        return cls(**known)


def _read_rollout(data: dict[str, Any]) -> Rollout:
    dark = data["dark"]
    return Rollout(**{**data, "dark": None if dark is None else _read_slot(dark)})


def _read_slot(data: dict[str, Any]) -> Slot:
    return Slot(**{**data, "history": _read_history(data["history"])})


def _read_history(data: dict[str, Any]) -> History:
    return History(data["streak"], tuple(data["failures"]), data["broken"])
