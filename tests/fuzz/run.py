"""One run against one boundary: batches of inputs, the oracles after each, and figures."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tools.load import Load

from .boundaries import BOUNDARIES, Boundary
from .oracles import Broken, Oracles, check_values
from .subject import Subject, hostile_python

RATE = 30.0
"""Requests a second that the honest group is asked meanwhile."""
ENDS = ("exit", "kill", "forge")
ENDS_EVERY = 3
"""Batches after which a hostile worker ends by itself."""
SHOWN = 12
"""Inputs that a failure shows."""


@dataclass
class Figures:
    """What a run has come to."""

    boundary: str
    seed: int
    inputs: int = 0
    taken: int = 0
    restarts: int = 0
    batches: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    """The longest answer of the master, or through the guardian."""
    requests: int = 0
    slowest_request: float = 0.0
    """The longest answer of the honest group."""
    growth: int = 0
    """Bytes by which the guardian has grown."""
    broken: str = ""

    def __str__(self) -> str:
        """One line for people."""
        rejected = self.inputs - self.taken
        return (
            f"{self.boundary} (seed {self.seed}): {self.inputs} inputs in {self.seconds:.0f} s, {rejected} rejected,"
            f" {self.restarts} restarts of the hostile worker, {int(bool(self.broken))} rules broken,"
            f" longest answer {self.longest:.2f} s, honest group {self.requests} requests"
            f" (slowest {self.slowest_request:.2f} s), guardian +{self.growth >> 10} kB"
        )


@dataclass
class _Batch:
    """The batch that is under way, for a failure."""

    name: str = "the start"
    inputs: list[dict[str, Any]] = field(default_factory=list)


def run(name: str, seed: int, *, batches: int = 1 << 60, seconds: float = 1e9) -> Figures:
    """Fuzz the boundary *name* for so many batches and seconds. A rule that is broken is told in ``broken``."""
    boundary, figures, batch = BOUNDARIES[name], Figures(name, seed), _Batch()
    folder = Path(tempfile.mkdtemp(prefix="cs-fuzz-", dir="/tmp"))
    began = time.monotonic()
    try:
        with Subject(folder, boundary.settings) as subject:
            try:
                _batches(subject, boundary, figures, batch, batches, began + seconds)
            except (AssertionError, OSError) as error:
                figures.broken = _report(figures, batch, error, folder / "service.log")
        _after_the_end(subject, figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures.seconds = time.monotonic() - began
    return figures


def _report(figures: Figures, batch: _Batch, error: Exception, log: Path) -> str:
    """Return what is needed to repeat a failure and to understand it."""
    text = log.read_text("utf-8", "replace") if log.exists() else ""
    last = "\n".join(f"  {_shown(given)}" for given in batch.inputs[-SHOWN:])
    again = f"--boundary {figures.boundary} --seed {figures.seed} --batches {figures.batches + 1}"
    return (
        f"{figures.boundary}: {type(error).__name__}: {error}\n"
        f"in {batch.name}; the last of its {len(batch.inputs)} inputs:\n{last}\n"
        f"again: python -m tests.fuzz {again}\n"
        f"--- the end of the service's log\n{text[-3000:]}"
    )


def _shown(given: dict[str, Any]) -> str:
    text = repr(given)
    return text if len(text) < 400 else f"{text[:400]}… ({len(text)} characters)"


def _batches(subject: Subject, boundary: Boundary, figures: Figures, batch: _Batch, batches: int, until: float) -> None:
    """Perform the batches, with the honest load beside them."""
    with contextlib.ExitStack() as stack:
        hostile = _Slot(subject, figures)
        stack.callback(hostile.close)
        subject.serving(3)
        oracles = Oracles(subject)
        url = f"http://127.0.0.1:{subject.honest_port}/"
        load = stack.enter_context(Load(url, rate=RATE))
        try:
            while figures.batches < batches and time.monotonic() < until:
                batch.name = f"batch {figures.batches}"
                seed = f"{figures.seed}:{figures.boundary}:{figures.batches}"
                batch.inputs = list(boundary.inputs(random.Random(seed), boundary.batch))
                _perform(subject, boundary, hostile, figures, batch.inputs, seed)
                oracles.after_batch()
                figures.batches += 1
                if figures.batches % ENDS_EVERY == 0:
                    hostile.end(ENDS[figures.batches // ENDS_EVERY % len(ENDS)])
            batch.name = "the end"
            hostile.end("exit")
            result = load.finish()
            oracles.at_the_end()
        finally:
            figures.longest, figures.growth = oracles.longest, oracles.growth
        figures.requests, figures.slowest_request = result.sent, result.longest
        if result.failed:
            raise Broken(f"requests to the honest group failed: {result.reasons}")
        started = [event for event in subject.events if event["type"] == "worker_start"]
        honest = {str(event["pid"]) for event in started if event["group"] == "web"}
        if not set(result.bodies) <= honest:
            raise Broken(f"others than the honest workers {honest} answered: {result.bodies}")


def _perform(
    subject: Subject, boundary: Boundary, hostile: _Slot, figures: Figures, inputs: list[dict[str, Any]], seed: str
) -> None:
    figures.inputs += len(inputs)
    if boundary.perform is not None:
        taken, violations = boundary.perform(subject, inputs)
    else:
        report = hostile.perform(boundary, seed)
        taken, violations = (report["taken"], report["violations"]) if report is not None else (0, [])
    figures.taken += taken
    if violations:
        raise Broken("; ".join(violations[:5]))
    check_values(violations, "a report")


class _Slot:
    """The slot of the hostile group: whichever worker is in it."""

    def __init__(self, subject: Subject, figures: Figures) -> None:
        self._subject = subject
        self._figures = figures
        self._worker = subject.hostile()

    def perform(self, boundary: Boundary, seed: str) -> dict[str, Any] | None:
        """Perform a batch; None when the worker has ended meanwhile, which must be reported."""
        if boundary.stranger and hostile_python():
            with self._subject.stranger(str(self._worker.hello["notify"])) as stranger:
                report = stranger.perform(boundary.module, seed, boundary.batch)
                if report is None:
                    raise Broken("an unrelated process was ended")
                return report
        try:
            report = self._worker.perform(boundary.module, seed, boundary.batch)
        except TimeoutError:
            raise Broken("a call of the hostile worker is not answered: the batch does not end") from None
        if report is None:
            self._next("by what it sent")
        return report

    def end(self, how: str) -> None:
        """Have the worker end, and wait for its successor."""
        self._worker.end(how)
        self._next(how)

    def _next(self, how: str) -> None:
        pid = self._worker.pid
        self._worker.close()
        exits = self._subject.until_event("worker_exit", pid=pid)
        if len(exits) != 1:
            raise Broken(f"the end of pid {pid} ({how}) was reported {len(exits)} times")
        try:
            self._worker = self._subject.hostile()
        except TimeoutError:
            raise Broken(f"no worker follows pid {pid}, which ended ({how})") from None
        self._figures.restarts += 1

    def close(self) -> None:
        """Let go of the worker."""
        self._worker.close()


def _after_the_end(subject: Subject, figures: Figures) -> None:
    """The service ends well when it is asked to."""
    code = subject.process.returncode
    if code and not figures.broken:
        figures.broken = f"{figures.boundary}: the service ended with {code}\n{subject.log[-3000:]}"
