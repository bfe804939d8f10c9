"""State of one slot: what should run in it, and its recent failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PERIOD = 60.0
STEADY = 10.0


@dataclass(frozen=True)
class History:
    """The failures of one slot."""

    streak: int = 0
    """Failures since a worker last served for ``STEADY`` seconds."""
    failures: tuple[float, ...] = ()
    """When it failed, within the last period; oldest first."""
    broken: bool = False
    """Was broken, and has not been steady since."""

    def failed(self, now: float) -> History:
        """The history with one more failure."""
        recent = tuple(at for at in self.failures if at > now - PERIOD)
        return History(self.streak + 1, (*recent, now), self.broken)

    def steady(self) -> History:
        """The history once a worker has served for ``STEADY`` seconds: back-off begins anew, the count stays."""
        return History(0, self.failures)


@dataclass
class Slot:
    """One place for a worker, and its past."""

    number: int
    generation: int
    reason: str = "start"
    """Why its next worker is started."""
    timeout: float | None = None
    """Seconds that an operator gave for each start and stop."""
    history: History = field(default_factory=History)
    next_try: float | None = 0.0
    """When it may be tried; None: not by itself."""
    broken: bool = False
    restarts: int = 0
    hold: bool = False
    """Its new worker is a canary: the old one stays beside it."""
    ports: list[str] = field(default_factory=list)
    """The addresses of the last worker that served here, while none serves."""
    listened: bool = False
    """A worker has listened here."""
    last_exit: dict[str, Any] | None = None
    """``{"pid", "exit_code", "signal", "was_ready", "detail", "output"}`` of the last worker that failed here."""

    def renew(self, generation: int, reason: str, timeout: float | None) -> None:
        """Want *generation*, at once, whatever happened before."""
        self.generation, self.reason, self.timeout = generation, reason, timeout
        self.history, self.next_try, self.broken = History(), 0.0, False


@dataclass
class Trial:
    """The attempts at a generation of which no worker has ever become ready."""

    generation: int = 0
    history: History = field(default_factory=History)
    next_try: float | None = 0.0
    failed_at: float = 0.0
