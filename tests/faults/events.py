"""What the service's own events say of its workers, and what they must never say.

Of the promises two show here: work is replaced ready-first (2), and nobody is killed without a deadline that was
announced (5). And nobody is said to hang who does not. A master that is killed takes its last events with it; their
numbers show that, and until the workers have been looked at again nothing is concluded from what may be half of the
truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

READY_FIRST = {"restart", "upgrade", "rollback", "recycle"}
"""Reasons for which a worker is asked to end only when its successor serves."""
HOSTILE = "hostile"
"""The group whose workers attack the service."""
LEVERS = "levers.py"
"""The file in which a worker that was made to hang stands."""
SLACK = 0.1
"""Seconds by which a deadline may seem to be missed: events have times of milliseconds."""


@dataclass
class _Worker:
    group: str
    slot: int
    serving: bool = False
    asked: tuple[float, float] | None = None
    """When it was asked to end, and the seconds that it was given."""

    @property
    def stays(self) -> bool:
        return self.serving and self.asked is None


class Watch:
    """Reads the events one after the other. *breaks* takes the promise and the sentence."""

    def __init__(self, breaks: Callable[[str, str], None]) -> None:
        self._breaks = breaks
        self._workers: dict[int, _Worker] = {}
        self._last = 0
        self.blind = True
        """Events were missed since the workers were looked at."""
        self.missed = 0

    def look(self, rows: Iterable[dict[str, Any]]) -> None:
        """Start anew from what ``workers`` says."""
        self._workers = {
            row["pid"]: _Worker(row["group"], row["slot"], serving=row["state"] == "serving")
            for row in rows
            if row["pid"] is not None
        }
        self.blind = False

    def take(self, event: dict[str, Any]) -> None:
        """Read one event. Its ``moment``: when it happened, in seconds, by a clock that nobody sets."""
        if event["id"] > self._last + 1 and self._last:
            self.blind = True
            self.missed += event["id"] - self._last - 1
        self._last = event["id"]
        react = getattr(self, f"_{event['event']}", None)
        if react is not None:
            react(event)

    def _worker_start(self, event: dict[str, Any]) -> None:
        self._workers[event["pid"]] = _Worker(event["group"], event["slot"])

    def _worker_ready(self, event: dict[str, Any]) -> None:
        if event["pid"] in self._workers:
            self._workers[event["pid"]].serving = True

    def _worker_stop(self, event: dict[str, Any]) -> None:
        worker = self._workers.get(event["pid"])
        if worker is None:
            return
        if worker.stays and worker.slot and event["reason"] in READY_FIRST and not self.blind:
            beside = [
                each
                for each in self._workers.values()
                if each is not worker and each.stays and (each.group, each.slot) == (worker.group, worker.slot)
            ]
            if not beside:
                sentence = f"{worker.group}.{worker.slot} (pid {event['pid']}) was asked to end ({event['reason']})"
                self._breaks("2 ready-first", f"{sentence}, and nobody serves in its place")
        worker.asked = (event["moment"], event["timeout_s"])

    def _worker_kill(self, event: dict[str, Any]) -> None:
        worker = self._workers.get(event["pid"])
        if worker is None or self.blind:
            return
        who = f"{worker.group}.{worker.slot} (pid {event['pid']})"
        if worker.asked is None:
            self._breaks("5 deadlines", f"{who} was killed ({event['reason']}) and had not been asked to end")
        elif event["moment"] < worker.asked[0] + worker.asked[1] - SLACK:
            had = event["moment"] - worker.asked[0]
            given = worker.asked[1]
            self._breaks("5 deadlines", f"{who} was killed after {had:.1f} s, and {given:.1f} s were announced")

    def _worker_hung(self, event: dict[str, Any]) -> None:
        """Whoever hangs was made to by a lever. One that was stopped tells no stacks; a hostile one lies."""
        if event["group"] != HOSTILE and event["stacks"] and not any(LEVERS in line for line in event["stacks"]):
            who = f"{event['group']}.{event['slot']} (pid {event['pid']})"
            self._breaks("hangs", f"{who} {event['detail']}, and nobody had made it: {' '.join(event['stacks'])}")

    def _worker_exit(self, event: dict[str, Any]) -> None:
        self._workers.pop(event["pid"], None)
