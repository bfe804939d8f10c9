"""What a fault is given: the service, the story, and a note of who may be blamed for what does not go well."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from .story import Story
    from .subject import Subject

REFUSALS = {"busy", "not_found", "bad_request"}
"""Codes with which a command may be refused at any time: another runs, the worker is gone, there is nothing to do."""


class Gone(Exception):
    """Whom the fault was to hit is not there just now; so it hits nobody."""


class World:
    """Everything that the faults of a run share."""

    def __init__(self, subject: Subject, story: Story) -> None:
        self.subject = subject
        self.story = story
        self.over = threading.Event()
        """The run is given up."""
        self._lock = threading.Lock()
        self._running = 0
        self._hurt_until = 0.0
        self._master_killed = 0.0
        """When a master was last killed (monotonic seconds)."""
        self._short: set[object] = set()

    # -- time, and blame

    def last(self, seconds: float) -> None:
        """Let what was begun last for *seconds*."""
        self.over.wait(seconds)

    @contextlib.contextmanager
    def hurting(self) -> Iterator[None]:
        """A block in which something may fail that is no fault of the service."""
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                self._hurt_until = time.monotonic()

    def hurt_since(self, moment: float) -> bool:
        """Whether anything of that kind has been under way since *moment*."""
        with self._lock:
            return self._running > 0 or self._hurt_until >= moment

    @contextlib.contextmanager
    def short(self, of: object) -> Iterator[None]:
        """A block in which there is too little *of* something, which hurts. Raises Gone when there is already."""
        with self._lock:
            if of in self._short:
                raise Gone(f"there is too little already: {of}")
            self._short.add(of)
        try:
            with self.hurting():
                yield
        finally:
            with self._lock:
                self._short.discard(of)

    # -- whom to hit

    def pid(self, role: str) -> int:
        """The guardian, the master or the log writer. Raises Gone."""
        pid = self.subject.role(role)
        if pid is None:
            raise Gone(f"there is no {role} now")
        return pid

    def worker(self, random: Random) -> int:
        """A worker. Raises Gone."""
        pids = self.subject.worker_pids()
        if not pids:
            raise Gone("there is no worker now")
        return random.choice(pids)

    def send(self, pid: int, number: int) -> None:
        """Send a signal. Raises Gone."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            raise Gone(f"{pid} has ended") from None

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """A block in which *pid*, which is no worker, is stopped."""
        self.send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # -- commands

    def kill_master(self) -> None:
        """SIGKILL. It loses the answer of a command under way, and nothing else. Raises Gone."""
        self._master_killed = time.monotonic()
        self.send(self.pid("master"), signal.SIGKILL)

    def _is_answer_lost(self, error: CommandError, began: float) -> bool:
        """Whether the connection of a command that began at *began* broke because the master was killed."""
        return "may have begun" in error.message and self._master_killed >= began

    def command(self, name: str, *args: object, **options: Any) -> dict[str, Any] | None:
        """Give a command, wait for the end of the operation, and return it; None: it was refused, or the answer lost.

        A refusal is a broken promise when nobody has hurt the service meanwhile.
        """
        began = time.monotonic()
        try:
            client = self.subject.client()
            answer = client.command(name, *args, wait=False, **options)
            if "steps" in answer:
                answer = dict(client.follow(str(answer["id"])))
        except CommandError as error:
            self.story.tell("answer", command=name, code=error.code, message=error.message)
            if error.code not in REFUSALS and not self.hurt_since(began) and not self._is_answer_lost(error, began):
                self.story.breaks("commands", f"{name} was refused and nobody was hurt: {error.code}: {error.message}")
            return None
        self.story.tell("answer", command=name, state=answer.get("state"), reason=answer.get("reason"))
        return answer
