"""One run: rounds of faults under load, then quiet, then the checks, until the time is over or a promise is broken."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from tests.tools.load import Load, Result
from tests.tools.processes import descendants
from tests.tools.shortage import ROOT, small_disk

from . import plan
from .checks import Checks, after_the_end, unsettled
from .events import Watch
from .subject import GROUPS, Subject
from .table import FAULTS
from .world import Gone, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .plan import Round, Step
    from .story import Story

REST = 90.0
"""Seconds in which the service must come to rest after a round: a back-off, a hang, a deadline, on a busy machine."""
LONGEST = 200.0
"""Seconds that one fault may take."""


@dataclass
class Outcome:
    """What a run has come to."""

    seed: int
    seconds: float = 0.0
    rounds: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    excused: dict[str, int] = field(default_factory=dict)
    masters: int = 0
    workers: int = 0
    """How many were started."""
    guardian: tuple[int, int] = (0, 0)
    """Resident bytes, at the first rest and at the last."""
    broken: list[str] = field(default_factory=list)


def run(rounds: Iterator[Round], story: Story, *, seed: int, seconds: float, rate: float) -> Outcome:
    """Carry out *rounds* for *seconds* (at most: until they are over) under *rate* requests a second."""
    outcome = Outcome(seed)
    with tempfile.TemporaryDirectory(prefix="cs-faults-") as name, contextlib.ExitStack() as stack:
        folder, disk = Path(name), Path(name) / "disk"
        disk.mkdir(mode=0o700)
        if ROOT:
            stack.enter_context(small_disk(disk, "24m"))
        _environment(disk, stack)
        subject = stack.enter_context(Subject(folder, disk))
        world = World(subject, story)
        watch, checks = Watch(story.breaks), Checks(world)
        relay = _Relay(world, watch)
        try:
            subject.until(lambda: not unsettled(world), "all workers to serve at first")
            loads = [stack.enter_context(load) for load in _loads(subject, rate)]
            try:
                _rounds(rounds, relay, checks, time.monotonic() + seconds)
            finally:
                outcome.results = [load.finish() for load in loads]
            checks.requests()
            _end(world)
        except AssertionError as error:
            story.breaks("in time", str(error))
        finally:
            world.over.set()
        relay.catch_up()
        outcome.seconds = time.monotonic() - story.began
        outcome.rounds = checks.rounds
        outcome.excused = dict(subject.accounts.excused)
        outcome.masters = sum(event["type"] == "master_start" for event in subject.events)
        outcome.workers = sum(event["type"] == "worker_start" for event in subject.events)
        outcome.guardian = (checks.guardian[0], checks.guardian[-1]) if checks.guardian else (0, 0)
        if story.broken:
            with contextlib.suppress(OSError):
                story.tell("log", text=(disk / "service.log").read_text(encoding="utf-8", errors="replace")[-20000:])
    outcome.faults, outcome.broken = story.faults(), story.broken
    return outcome


def _environment(disk: Path, stack: contextlib.ExitStack) -> None:
    """The run directory lies on the small disk, and no service of the user's is reached."""
    before = dict(os.environ)
    stack.callback(os.environ.update, before)
    stack.callback(os.environ.clear)
    for name in [name for name in os.environ if name.startswith("CSERVICE_")]:
        del os.environ[name]
    os.environ["XDG_RUNTIME_DIR"], os.environ["XDG_STATE_HOME"] = str(disk), f"{disk}/state"


def _loads(subject: Subject, rate: float) -> list[Load]:
    trace = str(subject.accounts.trace)
    return [
        Load(f"http://127.0.0.1:{subject.ports[group]}/", rate=rate / 4, mode=mode, clients=4, trace=trace)
        for group in GROUPS
        for mode in ("new", "keepalive")
    ]


def _rounds(rounds: Iterator[Round], relay: _Relay, checks: Checks, until: float) -> None:
    world = checks.world
    _rest(world)
    relay.rested()
    checks.all()
    while time.monotonic() < until and not world.story.broken:
        steps = next(rounds, None)
        if steps is None:
            return
        world.story.tell("round", steps=plan.to_json(steps))
        _round(world, steps)
        _rest(world)
        relay.rested()
        checks.all()


def _round(world: World, steps: Round) -> None:
    threads = []
    for step in steps:
        world.last(step.after)
        thread = threading.Thread(target=_inject, args=(world, step), name=str(step), daemon=True)
        thread.start()
        threads.append(thread)
    end = time.monotonic() + LONGEST
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            raise AssertionError(f"{thread.name} has not come to an end in {LONGEST:.0f} s")


def _inject(world: World, step: Step) -> None:
    world.story.tell("fault", fault=step.fault, seed=step.seed)
    try:
        FAULTS[step.fault].inject(world, Random(step.seed))
    except (Gone, ProcessLookupError, FileNotFoundError) as gone:
        world.story.tell("missed", fault=step.fault, why=str(gone))
    except AssertionError as error:
        world.story.breaks("in time", f"{step.fault}: {str(error).partition(chr(10))[0]}")
    except Exception as error:  # noqa: BLE001 - the machine is wrong, and that is to be seen
        world.story.breaks("the machine itself", f"{step.fault}: {error!r}")
    world.story.tell("over", fault=step.fault)


def _rest(world: World) -> None:
    """Return when the service has come to rest. Between two looks an event is waited for, or a second."""
    end = time.monotonic() + REST
    why = "?"
    while time.monotonic() < end and world.subject.alive():
        why = unsettled(world)
        if not why:
            return
        with world.subject.changed:
            world.subject.changed.wait(1.0)
    if not world.subject.alive():
        why = f"it has ended with {world.subject.process.poll()}"
    raise AssertionError(f"it has not come to rest in {REST:.0f} s: {why}")


def _end(world: World) -> None:
    """A graceful end, after which nothing is left."""
    subject = world.subject
    family = [subject.pid, *descendants(subject.pid)]
    subject.process.send_signal(signal.SIGTERM)
    code = subject.ended()
    if code:
        world.story.breaks("6 nothing left", f"it ended with exit code {code}")
    after_the_end(world, family)


class _Relay:
    """Gives the service's events to the story and to the watch, in their order."""

    def __init__(self, world: World, watch: Watch) -> None:
        self._world = world
        self._watch = watch
        self._read = 0

    def catch_up(self) -> None:
        """Read those that have come."""
        events: list[dict[str, Any]] = self._world.subject.events
        while self._read < len(events):
            event, heard = events[self._read], self._world.subject.heard[self._read]
            self._read += 1
            rest = {key: value for key, value in event.items() if key not in ("type", "service", "event", "at")}
            self._world.story.tell("event", event=event["event"], shown=event["at"], **rest)
            shown = datetime.fromisoformat(event["at"]).timestamp()
            self._watch.take({**event, "moment": self._world.subject.wall.real(shown, heard)})

    def rested(self) -> None:
        """All is quiet: read them, and let the watch see the workers as they are."""
        self.catch_up()
        with contextlib.suppress(Exception):
            self._watch.look([dict(row) for row in self._world.subject.client().workers()])
