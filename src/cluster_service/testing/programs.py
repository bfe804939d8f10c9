"""Simulated programs: what a process does, as a few numbers instead of code.

A ``Program`` is to a ``Process`` what an executable is to a process. Times are seconds of the virtual clock, counted
from the start of the process unless said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, Literal

from cluster_service.core.reports import Pulse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster_service.wire.facts import WorkerState
    from cluster_service.wire.orders import Spawn

    from .clock import Clock, Timer

MEMORY = 30 << 20
"""Bytes that a program uses as it begins to serve."""

NEVER = math.inf
"""A time that does not come: ``Program(boot=NEVER)`` hangs in its start."""


@dataclass(frozen=True)
class Program:
    """How a simulated program behaves. The default listens at once, serves for ever and ends at once when asked to."""

    boot: float = 0.0
    """When it serves: it listens then, and says what *ready* says."""
    ready: Literal["told", "listen", "notify", "alive"] = "listen"
    """How one may know: it tells on its channel, listens, sends sd_notify's READY=1, or says nothing at all.
    It listens on its *addresses* in any case but the last."""
    not_yet: bool = False
    """It says on its channel, as the first thing, that it is not ready yet."""
    addresses: tuple[str, ...] = ("127.0.0.1:8000",)
    listens_again: bool = True
    """It calls listen on a socket that it finds listening already, as nearly all do. (gunicorn looks, and does not.)"""
    notify: Mapping[str, str] = field(default_factory=lambda: {"READY": "1"})
    """The fields of its sd_notify datagram when *ready* is ``notify``."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """What else it says on its channel once it serves."""
    echoes: bool = False
    """It answers everything that it is told but ``stop`` with ``{"type": "heard", "what": ...}``."""
    dies_at: float = NEVER
    """When it ends by itself, whatever it was doing."""
    code: int | None = 1
    """Its exit code then; None: it dies of *signal*."""
    signal: int = 11
    stop_takes: float | None = 0.0
    """How long it takes to end after SIGTERM; None: it ignores SIGTERM."""
    stop_code: int | None = 0
    """Its exit code then; None: it dies of SIGTERM, as a program with no handler does."""
    lines: tuple[str, ...] = ()
    """The last lines that it writes before it ends."""
    hangs_at: float = NEVER
    """When its loop stands still for ever: it answers nothing, and does not hear SIGTERM either."""
    beats: bool = True
    """Its loop gives a beat, so that a hang can be seen."""
    rate: float = 20.0
    """Answers a second, while it serves."""
    errors_from: float = NEVER
    """From when on all of its answers are server errors."""
    leaks: float = 0.0
    """Bytes a second by which its memory grows as it serves."""
    leaves_children: bool = False
    """When it ends, something that it started lives on."""
    children_take: float | None = 0.0
    """How long that takes to end once it is asked to; None: it ignores SIGTERM."""
    background: bool = False
    """That has left the process group: the program has put itself into the background."""


@dataclass
class Process:
    """One simulated process. The clock and ``signalled`` move it; it reports to the guardian by callbacks."""

    spawn: Spawn
    program: Program
    clock: Clock
    state: WorkerState
    on_listen: Callable[[Process, str], bool]
    """Binds and listens on an address; False: it is taken."""
    on_told: Callable[[Process, Mapping[str, Any]], None]
    on_notify: Callable[[Process, Mapping[str, str]], None]
    on_exit: Callable[[Process, int | None, int | None], None]
    serving: bool = False
    """It does its work now: booted, alive, and not asked to end."""
    served_after: float | None = None
    """How long it had run when it began to serve; None: it never has."""
    hung: bool = False
    asked_to_end: bool = False
    exited: bool = False
    children_left: bool = False
    children_end: Timer | None = None
    """When what it left ends, once it was asked to."""
    told: list[Mapping[str, Any]] = field(default_factory=list)
    stood_still: float = 0.0
    """Seconds for which it was suspended."""
    _timers: list[Timer] = field(default_factory=list)

    @property
    def worker(self) -> int:
        """Its number."""
        return self.spawn.worker

    @property
    def age(self) -> float:
        """Seconds for which it has really run."""
        return self.clock.now - self.state.started_at - self.stood_still

    def __repr__(self) -> str:
        doing = next(
            name
            for name, holds in (
                ("exited", self.exited), ("stopping", self.asked_to_end), ("serving", self.serving), ("starting", True),
            )
            if holds
        )
        return f"<Process {self.state.pid}, worker {self.worker} ({self.spawn.label}): {doing}>"

    def begin(self) -> None:
        """Set what the program does in motion."""
        if self.program.not_yet:
            self.on_told(self, {"type": "ready", "ready": False})
        program = self.program
        for when, what in ((program.dies_at, self._die), (program.boot, self._boot), (program.hangs_at, self._hang)):
            if when != NEVER:
                self._later(when, what)

    def signalled(self, number: int) -> None:
        """Receive a signal."""
        if self.exited:
            return
        if number == SIGTERM:
            self._asked()
        elif number != 0:
            self.end(None, number)

    def pulse(self) -> Pulse:
        """What its row on the board says, and what it uses."""
        if self.served_after is None:
            return Pulse(0)
        turned = min(self.age, self.program.hangs_at)
        served = max(0.0, turned - self.served_after)
        failing = min(served, max(0.0, turned - self.program.errors_from))
        beat = 1 + int(turned * 4) if self.program.beats else 0
        answers, errors = int(served * self.program.rate), int(failing * self.program.rate)
        return Pulse(beat, answers, errors, memory=MEMORY + int(served * self.program.leaks))

    def hear(self, message: Mapping[str, Any]) -> None:
        """Receive a message on the channel."""
        self.told.append(message)
        if self.program.echoes and message.get("type") != "stop":
            self.on_told(self, {"type": "heard", "what": dict(message)})

    def end(self, code: int | None, signal: int | None) -> None:
        """End now, for whatever reason."""
        if self.exited:
            return
        self.exited = True
        self.serving = False
        self.children_left = self.program.leaves_children
        for timer in self._timers:
            timer.cancel()
        self.on_exit(self, code, signal)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._timers.append(self.clock.call_later(seconds, what))

    def _boot(self) -> None:
        if self.hung:
            return
        addresses = () if self.program.ready == "alive" else self.program.addresses
        if not all(self.on_listen(self, address) for address in addresses):
            self.end(1, None)
            return
        self.serving = not self.asked_to_end
        if self.serving:
            self.served_after = self.age
        if self.program.ready == "told":
            self.on_told(self, {"type": "ready", "ready": True})
        elif self.program.ready == "notify":
            self.on_notify(self, self.program.notify)
        for message in self.program.messages:
            self.on_told(self, message)

    def _die(self) -> None:
        self.end(self.program.code, None if self.program.code is not None else self.program.signal)

    def _hang(self) -> None:
        self.hung, self.serving = True, False

    def _asked(self) -> None:
        if self.program.stop_takes is None or self.asked_to_end or self.hung:
            return
        self.asked_to_end = True
        self.serving = False
        code = self.program.stop_code
        self._later(self.program.stop_takes, lambda: self.end(code, None if code is not None else SIGTERM))
