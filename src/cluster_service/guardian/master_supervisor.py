"""Keep one master running: the guardian's only policy.

The guardian restarts a master that dies: immediately after the first death, then with a backoff of 0.1, 0.2, 0.4 ...
at most 10 seconds, which depends on the number of deaths within the last minute. After the fifth death in a minute,
the next master starts in safe mode (no user hooks, no TCP endpoint), because one of these is the most likely cause.
A safe-mode master that has run for a minute is asked to exit, and a normal one replaces it. If the normal one fails in
the same way, the next attempt is made after two minutes, then four, at most one hour. Workers are not affected.

Failing to start a master for lack of processes, descriptors or memory does not count as a death: the guardian retries
every second.

A master that does not respond for ``master_hang_timeout`` (it is stopped, or its event loop is blocked) is killed and
replaced. The guardian sends a ping only after a third of that time without a message, so that an idle service causes
no wakeups. Time during which the machine was suspended, or the guardian itself did not run, does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.machine import shortage
from cluster_service.machine.identity import OWN
from cluster_service.wire import facts, framing

from . import cleaner, forked_child, spawn
from .master_link import WORDS, Link, Overflow

if TYPE_CHECKING:
    from collections.abc import Callable

    from .boot_message import Boot
    from .event_loop import Faults, Loop
    from .holdings import Holdings
    from .log_client import Logs
    from .process_limits import Limits
    from .spawn import Launch

WINDOW = 60.0
"""Seconds over which deaths are counted, and after which a master counts as stable."""
SAFE_AFTER = 5
_LONGEST_PAUSE = 10.0
_LONGEST_SAFE = 3600.0
_STEP_DOWN_TIME = 10.0
"""Seconds after which a master is killed if it was asked to exit, or has closed its stream."""
_CURED_IN = 3
"""Multiples of ``master_hang_timeout`` without a message from any master after which replacing it counts as futile."""
_START_AGAIN = 1.0
"""Seconds until the next attempt after a master could not be started."""
_HELLO_TIME = 30.0
"""Minimum time in seconds for a new master to send its hello, even if ``master_hang_timeout`` is shorter."""


def pause_after(deaths: int) -> float:
    """Return the backoff in seconds before the next start, after *deaths* deaths within ``WINDOW``."""
    return 0.0 if deaths <= 1 else min(_LONGEST_PAUSE, 0.1 * 2.0 ** (deaths - 2))


class Master:
    """Process of one master."""

    def __init__(self, launch: Launch, link: Link, *, safe: bool, now: float) -> None:
        self.pid = launch.pid
        self.progress = spawn.Progress(launch)
        self.link = link
        self.safe = safe
        self.started = now
        self.heard = now
        self.pinged: float | None = None
        self.leave_by: float | None = None
        """When to kill the master, if it was asked to exit or has closed its stream."""
        self.expected = False
        """True if the guardian asked the master to exit: its exit does not count as a death."""

    def __repr__(self) -> str:
        return f"<Master pid {self.pid}{' (safe)' if self.safe else ''}: {self.link!r}>"


class Keeper:
    """Supervisor of the master: starts, monitors and replaces it."""

    def __init__(
        self,
        boot: Boot,
        holdings: Holdings,
        loop: Loop,
        logs: Logs,
        limits: Limits,
        instance: str,
        faults: Faults,
    ) -> None:
        self._boot = boot
        self._instance = instance
        self._holdings = holdings
        self._loop = loop
        self._logs = logs
        self._limits = limits
        self._faults = faults
        self.on_message: Callable[[dict[str, Any]], None] = lambda _message: None
        self.on_lost: Callable[[float], None] = lambda _now: None
        """Called when a master has exited."""
        self.master: Master | None = None
        self.retired = False
        """True if no further master may be started."""
        self._heard = loop.now()
        """When the last message from any master was received."""
        self._next_start: float | None = 0.0
        self._deaths: deque[float] = deque()
        self._safe_tries = 0
        self._short = False
        """True if the last attempt to start a master failed."""

    def __repr__(self) -> str:
        return f"<Keeper: {self.master or 'no master'}, {len(self._deaths)} deaths lately>"

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """Return when to call ``tick`` next, or None, unless an event occurs earlier."""
        master = self.master
        if master is None:
            return None if self.retired else self._next_start
        times = [time for time in (master.leave_by, self._step_up_at(master)) if time is not None]
        return min([*times, self._hung_at(master) if master.pinged is not None else self._ping_at(master)])

    def tick(self, now: float) -> None:
        """Run the actions that are due at *now*."""
        master = self.master
        if master is None:
            if not self.retired and self._next_start is not None and now >= self._next_start:
                self._start(now)
            return
        step_up = self._step_up_at(master)
        if master.leave_by is not None and now >= master.leave_by:
            self._kill(master, "did not end when it was asked to")
            master.leave_by = None
        elif now >= self._hung_at(master):
            self._kill(master, f"has not answered for {now - master.heard:.0f} s")
            master.heard = now  # if it survives SIGKILL (in uninterruptible sleep), it is killed again later
            master.pinged = None
        elif step_up is not None and now >= step_up:
            self._safe_tries += 1
            self._logs.line("the safe master has lived long enough: trying a normal one again")
            self.replace(now)
        elif master.pinged is None and master.link.greeted and now >= self._ping_at(master):
            master.pinged = now
            self.tell(facts.Ping())

    def suspended(self, now: float) -> None:
        """Restart the hang timeout, after the machine or the guardian itself did not run for a while."""
        self._heard = now
        if self.master is not None:
            self.master.heard = now
            self.master.pinged = None

    def answers(self, now: float) -> bool:
        """Return whether a master responds, or replacing an unresponsive one may still help."""
        return now - self._heard <= _CURED_IN * self._boot.master_hang_timeout

    def _ping_at(self, master: Master) -> float:
        if not master.link.greeted:
            return self._hung_at(master)
        return master.heard + self._boot.master_hang_timeout / 3

    def _hung_at(self, master: Master) -> float:
        patience = self._boot.master_hang_timeout
        return master.heard + (patience if master.link.greeted else max(patience, _HELLO_TIME))

    def _step_up_at(self, master: Master) -> float | None:
        if not master.safe or master.expected or self.retired:
            return None
        return master.started + min(_LONGEST_SAFE, WINDOW * 2.0**self._safe_tries)

    # ------------------------------------------------------------ lifecycle

    def _start(self, now: float) -> None:
        self._next_start = None
        self._forget_old_deaths(now)
        safe = len(self._deaths) >= SAFE_AFTER
        try:
            with spawn.Resources() as resources:
                master = self.master = self._launch(resources, safe=safe, now=now)
        except (spawn.CannotSpawn, OSError, MemoryError) as error:
            self._next_start = now + _START_AGAIN
            if not self._short:
                why = shortage.explain(error)
                self._logs.line(f"the master cannot be started, and the workers go on: {why}; it is tried again")
            self._short = True
            return
        self._short = False
        self._holdings.master_starts += 1
        self._holdings.safe = safe
        self._loop.watch(master.progress.sock.fileno(), self._on_launch)
        self._loop.watch(master.link.sock.fileno(), self._on_link)

    def _launch(self, resources: spawn.Resources, *, safe: bool, now: float) -> Master:
        start = self._boot.safe_master if safe else self._boot.master
        ours, theirs = resources.pair(socket.SOCK_STREAM)
        outs, errs = resources.pipe(), resources.pipe()
        memory = resources.memory_file(json.dumps(self._boot.message).encode())
        descriptors = [theirs.fileno(), memory]
        env = {**start.env, "CSERVICE_GUARDIAN_FD": "3", "CSERVICE_BOOT_FD": "4", "CSERVICE_ROLE": "master"}
        env[cleaner.VARIABLE] = self._instance
        launched = spawn.launch(
            forked_child.Plan(
                argv=start.argv,
                env=env,
                cwd=start.cwd,
                stdout=outs[1],
                stderr=errs[1],
                descriptors=descriptors,
                limits=self._limits,
                identity=OWN,
                death_signal=signal.SIGKILL,  # all its state comes from the guardian: it must not outlive it
            )
        )
        self._holdings.known.groups.add(launched.pid)
        resources.keep(ours, outs[0], errs[0])
        self._logs.add(-self._holdings.master_starts - 1, "cservice", outs[0], errs[0])
        return Master(launched, Link(ours), safe=safe, now=now)

    def _on_launch(self, _events: int) -> None:
        if self.master is not None:
            self._end_launch(self.master)

    def _end_launch(self, master: Master) -> None:
        if master.progress.sock.fileno() >= 0 and master.progress.read():
            self._loop.drop(master.progress.sock.fileno())
            master.progress.sock.close()
            if master.progress.error:
                self._logs.line(f"the master cannot be started: {master.progress.error}")

    def _on_link(self, events: int) -> None:
        master = self.master
        if master is None:
            return
        if events & select.EPOLLOUT:
            master.link.flush()
            self._rearm(master)
        if events & ~select.EPOLLOUT:
            self._receive(master)

    def _receive(self, master: Master) -> None:
        """Read once and execute the messages received."""
        try:
            messages = master.link.receive()
        except BlockingIOError:
            return
        except EOFError:
            self._loop.drop(master.link.sock.fileno())
            master.link.greeted = False  # nothing more can be sent; later events go into the next master's snapshot
            master.leave_by = master.leave_by or self._loop.now() + _STEP_DOWN_TIME
            return
        master.heard = self._heard = self._loop.now()
        master.pinged = None
        try:
            for message in messages:
                self.on_message(message)
        except framing.FrameError as error:
            self._loop.drop(master.link.sock.fileno())
            self._kill(master, f"sent what is no message ({error})")

    def tell(self, fact: Any, descriptor: int | None = None) -> None:
        """Send *fact* to the master, if it has sent its hello; otherwise the next master's snapshot contains it.

        Raises OSError if *descriptor* cannot be passed.
        """
        master = self.master
        if master is None or not master.link.greeted:
            return
        try:
            master.link.send(fact, descriptor)
        except Overflow as error:
            master.link.greeted = False
            self._kill(master, f"does not read ({error})")
            return
        except Exception as error:
            if descriptor is not None and isinstance(error, OSError):
                raise  # the caller handles a descriptor that cannot be passed
            if isinstance(fact, WORDS):
                self._faults.report(error, f"a message of worker {fact.worker} is dropped")
                return
            master.link.greeted = False  # its successor receives the state in the snapshot
            self._kill(master, f"could not be told what has happened ({shortage.explain(error)})")
            return
        self._rearm(master)

    def room(self, worker: int) -> bool:
        """Return whether a message of *worker* can be sent now. True without a master: ``Channels`` keeps it then."""
        master = self.master
        return master is None or not master.link.greeted or master.link.room(worker)

    def _rearm(self, master: Master) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if master.link.waiting else 0)
        self._loop.change(master.link.sock.fileno(), events)

    def replace(self, now: float) -> None:
        """Ask the master to exit; the next one starts when it has."""
        master = self.master
        if master is None:
            self._next_start = now
            return
        self._ask_to_leave(master, now)
        self._deaths.clear()

    def retire(self, now: float) -> None:
        """Start no further master, and ask the current one to exit."""
        self.retired = True
        if self.master is not None:
            self._ask_to_leave(self.master, now)

    def _ask_to_leave(self, master: Master, now: float) -> None:
        master.expected = True
        master.leave_by = master.leave_by or now + _STEP_DOWN_TIME
        with contextlib.suppress(ProcessLookupError):
            os.kill(master.pid, signal.SIGTERM)

    def _kill(self, master: Master, why: str) -> None:
        self._logs.line(f"the master (pid {master.pid}) {why}: it is killed and replaced")
        with contextlib.suppress(ProcessLookupError):
            os.kill(master.pid, signal.SIGKILL)

    def hang_up(self) -> None:
        """Close the master's stream: it exits at end of file, since the service has ended."""
        if self.master is not None:
            self._loop.drop(self.master.link.sock.fileno())
            self.master.link.close()

    def kill_now(self) -> None:
        """Send SIGKILL to the master's process group."""
        if self.master is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.master.pid, signal.SIGKILL)

    def reaped(self, how: str, now: float) -> None:
        """Handle the exit of the master's process, and schedule the next start. *how* describes the exit."""
        master = self.master
        if master is None:
            return
        self.master = None
        self._faults.run(
            f"end of the master, pid {master.pid}",
            lambda: self._end_launch(master),
            lambda: self._drain(master),
            lambda: self._loop.drop(master.link.sock.fileno()),
            master.link.close,
            lambda: _end_group(master.pid),  # terminates the processes that its hooks started
            lambda: self._logs.exited(-self._holdings.master_starts, failed=not master.expected),
        )
        self._holdings.known.groups.discard(master.pid)
        if now - master.started >= WINDOW and not master.safe:
            self._safe_tries = 0
        if master.expected:
            self._next_start = now
        else:
            self._died(now, f"the master (pid {master.pid}) {how}")
        self.on_lost(now)

    def _drain(self, master: Master) -> None:
        """Execute every message that the master sent before it died."""
        with contextlib.suppress(BlockingIOError, EOFError, framing.FrameError):
            while True:
                for message in master.link.receive():
                    self.on_message(message)

    def _died(self, now: float, sentence: str) -> None:
        self._deaths.append(now)
        self._forget_old_deaths(now)
        pause = pause_after(len(self._deaths))
        self._next_start = now + pause
        if not self.retired:
            when = "now" if not pause else f"in {pause:.1f} s"
            mode = ", in safe mode" if len(self._deaths) >= SAFE_AFTER else ""
            self._logs.line(f"{sentence}; another is started {when}{mode}; the workers go on")

    def _forget_old_deaths(self, now: float) -> None:
        while self._deaths and self._deaths[0] < now - WINDOW:
            self._deaths.popleft()


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM)
