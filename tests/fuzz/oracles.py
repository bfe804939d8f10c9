"""What must hold after every batch and at the end, whatever the hostile side has sent."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.tools import ask
from tests.tools.processes import memory

from .hostile.values import FORGED
from .subject import KEY

if TYPE_CHECKING:
    from .subject import Subject

ANSWER_SECONDS = 10.0
"""The longest time that an answer may take, on a machine that is busy with the hostile side too."""
SETTLE_SECONDS = 20.0
"""Seconds in which descriptors that belong to what has ended are closed."""
GROWTH = 32 << 20
"""Bytes by which the guardian's memory may grow."""
_FORGED_LINE = re.compile(r"\s*(?:\d{4}-\S+ )?\[(?:cservice|web)[^\]]*\]\s*" + FORGED)
_OWN_LINE = re.compile(r"(?:\d{4}-\S+ )?\[cservice\]")
_FAULT = re.compile(r"(a fault in the guardian|Traceback|the bus failed)")
"""What the service writes when one of its handlers failed in a way that it was not made for."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]")


class Broken(AssertionError):
    """A rule does not hold."""


def strict(data: bytes | str, what: str) -> Any:
    """Return the JSON document in *data*. Raises Broken when it is not one by RFC 8259, or holds lone surrogates."""
    try:
        text = data.decode() if isinstance(data, bytes) else data
        found = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise Broken(f"{what} is not JSON: {error}: {data[:300]!r}") from None
    check_values(found, what)
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_values(found: Any, what: str) -> None:
    """Raise Broken when *found* holds a number that is not finite, or a lone surrogate."""
    todo = [found]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, float) and not math.isfinite(value):
            raise Broken(f"{what} holds {value}")
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Broken(f"{what} holds a lone surrogate: {value[:200]!r}") from None


class Oracles:
    """The rules, and what is remembered between batches."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        info = strict(subject.get("/api/v1/info"), "info")
        self.master = int(info["master_pid"])
        self.longest = 0.0
        """The longest answer, in seconds."""
        self._descriptors = {pid: descriptors(pid) for pid in (subject.pid, self.master)}
        self._memory = memory(subject.pid)
        self._events = 0
        self._log = 0
        self.growth = 0

    def after_batch(self) -> None:
        """Both processes live and answer; nothing that was written pretends to be something else."""
        self._alive()
        for name in ("health", "workers"):
            began = time.monotonic()
            try:
                strict(self._subject.get(f"/api/v1/{name}"), name)
            except (OSError, http.client.HTTPException) as error:
                raise Broken(f"the master does not answer {name}: {error!r}") from None
            self._took(began, name)
        began = time.monotonic()
        try:
            answer = ask.http(("127.0.0.1", self._subject.honest_port), "/bus")
        except (OSError, AssertionError) as error:
            raise Broken(f"an honest worker cannot reach the master through the guardian: {error!r}") from None
        strict(answer, "the answer on the channel of an honest worker")
        self._took(began, "a round trip through the guardian")
        self._alive()
        self._read_events()
        self._read_log()

    def at_the_end(self) -> None:
        """Everything that belonged to the hostile side is closed."""
        self.after_batch()
        names = {self._subject.pid: "guardian", self.master: "master"}
        for pid, before in self._descriptors.items():
            end = time.monotonic() + SETTLE_SECONDS
            while len(held := descriptors(pid)) > len(before) and time.monotonic() < end:
                with self._subject.changed:
                    self._subject.changed.wait(0.5)
            if len(held) > len(before):
                more = sorted(f"{number}: {name}" for number, name in held.items() if before.get(number) != name)
                raise Broken(f"the {names[pid]} holds {len(held)} descriptors, and had {len(before)}: {more[:50]}")
        self.growth = memory(self._subject.pid) - self._memory
        if self.growth > GROWTH:
            raise Broken(f"the guardian has grown by {self.growth >> 20} MB")
        for path in Path(os.environ["XDG_STATE_HOME"]).rglob("*.audit"):
            if KEY.encode() in path.read_bytes():
                raise Broken(f"the access key is in {path}")

    def _took(self, began: float, what: str) -> None:
        seconds = time.monotonic() - began
        self.longest = max(self.longest, seconds)
        if seconds > ANSWER_SECONDS:
            raise Broken(f"{what} took {seconds:.1f} s")

    def _alive(self) -> None:
        if not self._subject.alive():
            raise Broken(f"the guardian has ended with {self._subject.process.poll()}")
        if not Path(f"/proc/{self.master}").exists():
            raise Broken(f"the master (pid {self.master}) has ended")

    def _read_events(self) -> None:
        fresh, self._events = self._subject.events[self._events :], len(self._subject.events)
        for event in fresh:
            check_values(event, f"event {event['type']}")
            if KEY in json.dumps(event):
                raise Broken(f"the access key is in an event: {event['type']}")
            if event["type"] in ("worker_exit", "worker_stop", "worker_hung") and event["group"] == "web":
                raise Broken(f"an honest worker was hurt: {event}")

    def _read_log(self) -> None:
        path = self._subject.folder / "service.log"
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._log:
                self._log = 0  # it was rotated
            file.seek(self._log)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._log += len(whole)
        if KEY.encode() in whole:
            shown = next(line for line in whole.split(b"\n") if KEY.encode() in line)
            raise Broken(f"the access key is in the log: {shown[:300]!r}")
        for raw in whole.split(b"\n"):
            self._line(raw.decode("utf-8", "replace"))

    def _line(self, line: str) -> None:
        if _FORGED_LINE.match(line):
            raise Broken(f"a forged line is in the log: {line[:300]!r}")
        if _OWN_LINE.match(line):
            if found := _FAULT.search(line):
                raise Broken(f"{found[0]}: a handler of the service failed")
            if found := _CONTROL.search(line):
                raise Broken(f"a line of the service's own holds the control character {found[0]!r}: {line[:300]!r}")


def descriptors(pid: int) -> dict[int, str]:
    """Return what *pid* has open."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found
