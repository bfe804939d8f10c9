"""The slots and generations of one group: what is wanted of it, and how its slots have fared.

A *generation* is a number that only grows; each names a release. A slot wants one generation; a worker of another one
is stale. While no worker of a generation has ever become ready, the generation is *unproven*: if it then fails, one
slot at a time tries it for all (``trial``), since eight workers that all fail at import teach no more than one does.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .slot import History, Slot, Trial
from .spec import GroupSpec, Release
from .stages import Rollout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from .worker import Worker


PAST = 10
"""Earlier releases that are remembered."""


@dataclass
class Group:
    """A group's wanted state and its slots."""

    spec: GroupSpec
    slots: dict[int, Slot]
    generation: int
    """The highest generation ever given."""
    releases: dict[int, Release]
    proven: list[int] = field(default_factory=list)
    """Generations of which a worker has become ready."""
    trial: Trial = field(default_factory=Trial)
    ready_by: str = ""
    """How its workers have become ready (told, listen, notify); from then on merely being alive does not count."""
    silent: bool = False
    """A worker has become ready by being alive, and none has ever said that it is ready, or listened."""
    relistens: bool = False
    """Its workers call listen on a socket that listens already; so one that has only bound it is not ready yet."""
    at_a_time: int = 0
    """How many workers may boot at the same time; 0: any number."""
    released: bool = False
    """What it depends on has been there once: from then on it is on its own."""
    promoted: int = 1
    """The generation that new slots are of: the last that a whole operation ended well with."""
    past: list[Release] = field(default_factory=list)
    """The releases that were promoted before it, oldest first: what a rollback goes back to."""
    moved: int = 0
    """The generation, if any, whose upgrade was allowed to change ports: a rollback from it may change them back."""
    rollout: Rollout | None = None
    leaving: bool = False
    """It is to end, once the groups that depend on it and end too have ended."""
    leave_reason: str = "scale"
    """Why the workers of dropped slots end: scale or shutdown."""
    detail: str = ""
    """The last cause of a failure, with digits masked."""
    repeated: int = 0
    """How often in a row it was that same cause."""

    @classmethod
    def new(cls, spec: GroupSpec, at_a_time: int = 0) -> Group:
        """A group whose workers are all still to be started."""
        slots = {number: Slot(number, 1) for number in range(1, spec.count + 1)}
        return cls(spec, slots, 1, {1: spec.release}, at_a_time=at_a_time)

    @property
    def name(self) -> str:
        """The group's name."""
        return self.spec.name

    @property
    def release(self) -> Release:
        """The promoted release."""
        return self.releases[self.promoted]

    def next_generation(self, release: Release) -> int:
        """Make a new generation of *release* and return its number."""
        self.generation += 1
        self.releases[self.generation] = release
        return self.generation

    def promote(self, generation: int, *, back: bool = False) -> None:
        """From now on the group is on *generation*'s release; *back*: it is the one that was left last."""
        left = self.release
        if back:
            del self.past[-1:]
        elif left != self.releases[generation]:
            self.past = [*self.past, left][-PAST:]
        self.promoted = generation

    def waits_for(
        self, groups: Mapping[str, Group], workers: Collection[Worker], reachable: Callable[[Worker], bool]
    ) -> list[str]:
        """The groups that it depends on and that are not there yet; none once it has been started.

        *reachable*: whether clients reach a worker that serves.
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

    def wanted_slots(self) -> list[Slot]:
        """The slots that want a worker, a dark canary's among them."""
        dark = self.rollout.dark if self.rollout is not None else None
        return [*self.slots.values(), *([dark] if dark is not None else ())]

    def resize(self, count: int) -> None:
        """Have *count* slots: the lowest free numbers are added, the highest ones dropped."""
        self.leave_reason = "scale"
        for number in sorted(self.slots, reverse=True)[: max(0, len(self.slots) - count)]:
            del self.slots[number]
        number = 1
        while len(self.slots) < count:
            if number not in self.slots:
                self.slots[number] = Slot(number, self.promoted, "scale")
            number += 1

    def tell(self, detail: str) -> int:
        """Remember the cause of a failure; return how often in a row it was the same before."""
        masked = re.sub(r"\d+", "0", detail)
        self.repeated = self.repeated + 1 if masked == self.detail else 0
        self.detail = masked
        return self.repeated

    def follow_policy(self, now: float) -> None:
        """Have the slots that wait for another try obey ``spec.restart``, which has changed."""
        for slot in self.slots.values():
            if slot.next_try is None:
                slot.next_try = now if self.spec.restart.auto_restart else None
            elif slot.history.streak and slot.next_try > now and not self.spec.restart.auto_restart:
                slot.next_try = None
                slot.history = History(slot.history.streak, slot.history.failures, broken=True)

    def trying(self, generation: int) -> bool:
        """Whether *generation* is unproven and has failed: one slot at a time tries it."""
        return generation not in self.proven and self.trial.generation == generation

    def next_try(self, slot: Slot) -> float | None:
        """When *slot* may be tried; None: not by itself."""
        if slot.next_try is None or not self.trying(slot.generation):
            return slot.next_try
        return None if self.trial.next_try is None else max(slot.next_try, self.trial.next_try)

    def prove(self, worker: Worker) -> None:
        """*worker* is ready: its generation can be."""
        if worker.generation in self.proven:
            return
        self.proven.append(worker.generation)
        for slot in self.slots.values():
            if slot.generation == worker.generation and slot.next_try is not None:
                slot.next_try = min(slot.next_try, worker.ready_at or 0.0)
                slot.history = slot.history.steady()

    def prune(self, used: set[int]) -> None:
        """Drop the releases of generations that nothing is, or will be, of."""
        keep = used | {slot.generation for slot in self.slots.values()} | {self.promoted}
        if self.rollout is not None:
            keep |= {self.rollout.new, *(generation for _, generation in self.rollout.before)}
        self.releases = {number: release for number, release in self.releases.items() if number in keep}
        self.proven = [number for number in self.proven if number in keep]

    def to_json(self) -> dict[str, Any]:
        """For the notebook."""
        data = asdict(replace(self, slots={}, releases={}))
        # Not with asdict, which copies deeply: this is written at each step, and there may be hundreds of slots.
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
        slots = [_slot(slot) for slot in known["slots"]]
        known["slots"] = {slot.number: slot for slot in slots}
        known["releases"] = {number: Release.from_json(release) for number, release in known["releases"]}
        known["past"] = [Release.from_json(release) for release in known.get("past", ())]
        if known.get("rollout") is not None:
            known["rollout"] = _rollout(known["rollout"])
        known["trial"] = Trial(**{**known["trial"], "history": _history(known["trial"]["history"])})
        return cls(**known)


def _rollout(data: dict[str, Any]) -> Rollout:
    dark = data["dark"]
    return Rollout(**{**data, "dark": None if dark is None else _slot(dark)})


def _slot(data: dict[str, Any]) -> Slot:
    return Slot(**{**data, "history": _history(data["history"])})


def _history(data: dict[str, Any]) -> History:
    return History(data["streak"], tuple(data["failures"]), data["broken"])
