"""Simulated programs: the behaviour of a process as a few numbers instead of code.

A ``Program`` is to a ``Process`` what an executable is to a process. Times are seconds of the virtual clock, counted
from the start of the process unless stated otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, Literal

from cluster_service.core.protocol.reports import Pulse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster_service.wire.facts import WorkerState
    from cluster_service.wire.orders import Spawn

    from .virtual_time import Clock, Timer

MEMORY = 30 << 20
"""Bytes that a program uses when it begins to serve."""

NEVER = math.inf
"""A time that never comes: ``Program(boot=NEVER)`` hangs during its start."""


@dataclass(frozen=True)
class Program:
    """Behaviour of a simulated program. The default serves immediately, and exits immediately on SIGTERM."""

    boot: float = 0.0
    """When it begins to serve: it then listens and reports readiness as *ready* says."""
    ready: Literal["told", "listen", "notify", "alive"] = "listen"
    """How it reports readiness: by a message on its channel, by listening, by READY=1 of sd_notify, or not at all.
    It listens on its *addresses* in every case but the last."""
    not_yet: bool = False
    """True if its first message on the channel says that it is not ready yet."""
    addresses: tuple[str, ...] = ("127.0.0.1:8000",)
    listens_again: bool = True
    """True if it calls listen on a socket that already listens, as nearly all programs do. (gunicorn does not.)"""
    notify: Mapping[str, str] = field(default_factory=lambda: {"READY": "1"})
    """Fields of its sd_notify datagram if *ready* is ``notify``."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Further messages that it sends on its channel once it serves."""
    echoes: bool = False
    """True if it answers every message but ``stop`` with ``{"type": "heard", "what": ...}``."""
    dies_at: float = NEVER
    """When it exits by itself, in any state."""
    code: int | None = 1
    """Exit code then; None: it is killed by *signal*."""
    signal: int = 11
    stop_takes: float | None = 0.0
    """Seconds until it exits after SIGTERM; None: it ignores SIGTERM."""
    stop_code: int | None = 0
    """Exit code then; None: it is killed by SIGTERM, as a program without a handler."""
    lines: tuple[str, ...] = ()
    """The last lines that it writes before it exits."""
    hangs_at: float = NEVER
    """When its event loop blocks forever: it then answers nothing and does not handle SIGTERM."""
    beats: bool = True
    """True if its event loop writes a heartbeat, so that a hang can be detected."""
    rate: float = 20.0
    """Responses per second while it serves."""
    errors_from: float = NEVER
    """From when on all of its responses are server errors."""
    leaks: float = 0.0
    """Bytes per second by which its memory grows while it serves."""
    leaves_children: bool = False
    """True if a child process outlives it."""
    children_take: float | None = 0.0
    """Seconds until that child exits after SIGTERM; None: it ignores SIGTERM."""
    background: bool = False
    """True if that child has left the process group, as a program that daemonizes does."""


@dataclass
class Process:
    """One simulated process. The clock and ``signalled`` drive it; it reports to the guardian through callbacks."""

    spawn: Spawn
    program: Program
    clock: Clock
    state: WorkerState
    on_listen: Callable[[Process, str], bool]
    """Binds and listens on an address; returns False if it is in use."""
    on_told: Callable[[Process, Mapping[str, Any]], None]
    on_notify: Callable[[Process, Mapping[str, str]], None]
    on_exit: Callable[[Process, int | None, int | None], None]
    serving: bool = False
    """True while it serves: booted, alive and not asked to stop."""
    served_after: float | None = None
    """Its age when it began to serve; None: it never has."""
    hung: bool = False
    asked_to_end: bool = False
    exited: bool = False
    children_left: bool = False
    children_end: Timer | None = None
    """When its children end after they were asked to."""
    told: list[Mapping[str, Any]] = field(default_factory=list)
    stood_still: float = 0.0
    """Seconds for which it was suspended."""
    _timers: list[Timer] = field(default_factory=list)

    @property
    def worker(self) -> int:
        """Number of the worker."""
        return self.spawn.worker

    @property
    def age(self) -> float:
        """Seconds for which it has run, without suspensions."""
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
        """Schedule what the program does."""
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
        """Return the current contents of its board, and its memory use."""
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
        """Exit with *code*, or killed by *signal*."""
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
