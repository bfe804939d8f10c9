"""The promises, looked at when all is quiet after a round, and once more when the service has ended."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError
from tests.tools.processes import describe, memory, stat, table

from .events import HOSTILE
from .subject import GROUPS, KEY, STOP_TIMEOUT, WORKERS, refused

if TYPE_CHECKING:
    from .world import World

GUARDIAN_GROWTH = 4 << 20
MASTER_GROWTH = 24 << 20
"""Bytes beyond what there was once it was warm. A master remembers a thousand events."""
REMAINS = STOP_TIMEOUT + 5.0
"""Seconds after which nothing is left that a worker has started: its stop timeout, and a busy machine."""
SHOWN = 5
"""Failures that are told one by one."""
PIPES = 15.0
"""Seconds for a log writer that has just been started to read what workers that are gone have left in their pipes."""
WARM = 3
"""Rounds after which a process has been through most of what it does."""
_UPGRADE = re.compile(r"upgrade \S+ (?:\S*/)?(v\d+)(?:/worker.py|:app)$")
GOOD = {"good", "slow"}


def unsettled(world: World) -> str:  # noqa: PLR0911 - one for each reason
    """Why the service has not come to rest yet; empty when it has. A slot that is broken is asked to try again."""
    subject = world.subject
    try:
        client = subject.client()
        info: dict[str, Any] = dict(client.info())
        rows: list[dict[str, Any]] = [dict(row) for row in client.workers()]
    except CommandError as error:
        return f"it does not answer: {error.message}"
    for row in rows:
        if row["state"] == "broken":
            world.command("restart", f"{row['group']}.{row['slot']}")
            return f"{row['group']}.{row['slot']} is broken: {row['last_exit']}"
    if info["operation"] is not None:
        return f"operation {info['operation']['id']} runs: {info['operation']['command']}"
    for group in GROUPS:
        promoted = info["groups"][group]
        serving = [row for row in rows if row["group"] == group and row["state"] == "serving"]
        if promoted["wanted"] != WORKERS:
            world.command("scale", str(WORKERS), group)
            return f"{group} has been scaled to {promoted['wanted']}"
        if len(serving) != WORKERS or len([row for row in rows if row["group"] == group]) != WORKERS:
            return f"{group}: {[(row['slot'], row['state'], row['reason']) for row in rows if row['group'] == group]}"
        if any((row["target"], row["cwd"]) != (promoted["target"], promoted["cwd"]) for row in serving):
            return f"{group} does not serve what was promoted, {promoted['cwd']}"
    if [row["state"] for row in rows if row["group"] == HOSTILE] != ["serving"]:
        return f"{HOSTILE}: {[(row['state'], row['last_exit']) for row in rows if row['group'] == HOSTILE]}"
    if sorted(row["pid"] for row in rows) != subject.worker_pids():
        return f"it speaks of {sorted(row['pid'] for row in rows)}, and there are {subject.worker_pids()}"
    return ""


@dataclass
class Checks:
    """What must hold whenever all is quiet."""

    world: World
    rounds: int = 0
    guardian: list[int] = field(default_factory=list)
    """Its resident bytes, round by round."""
    masters: dict[int, list[int]] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)
    """How many the guardian and the log writer had when it was quiet first."""

    def all(self) -> None:
        """Look at everything."""
        self.rounds += 1
        self.requests()
        self.events()
        self.processes()
        self.leaks()
        self.secrets()
        self.files()

    def requests(self) -> None:
        """1, 2, 4: no request has failed but those that a worker held which was hurt."""
        failures = self.world.subject.accounts.unexcused()
        for failure in failures[:SHOWN]:
            self.world.story.breaks("1 requests", f"a request has failed without excuse: {failure}")
        if failures[SHOWN:]:
            self.world.story.breaks("1 requests", f"and {len(failures) - SHOWN} more")

    def events(self) -> None:
        """3: no release was taken that is bad; whoever asked for it may never have had an answer."""
        natures = self.world.subject.natures
        for event in self.world.subject.events:
            if event["type"] == "operation_end" and event["state"] == "done":
                found = _UPGRADE.match(event["command"])
                if found and natures[found[1]] not in GOOD:
                    self.world.story.breaks("3 releases", f"{event['command']} ({natures[found[1]]}) was taken")

    def processes(self) -> None:
        """6: only processes of the service; no zombie."""
        subject = self.world.subject
        end = time.monotonic() + REMAINS
        while (left := self._left_by_workers()) and time.monotonic() < end:
            with subject.changed:
                subject.changed.wait(1.0)
        for pid in left:
            self.world.story.breaks("6 nothing left", f"its worker has ended: {describe(pid)}")
        strangers = subject.unrelated_pids()
        zombies = [pid for pid, entry in table().items() if entry.parent == subject.pid and entry.state == "Z"]
        if (strangers or zombies) and unsettled(self.world):
            return  # something has begun again by itself: a reload that was asked for by a signal, a worker that leaks
        for pid in strangers:
            self.world.story.breaks("6 nothing left", f"a process that is nobody's: {describe(pid)}")
        for pid in zombies:
            if (entry := stat(pid)) is not None and entry.state == "Z":
                self.world.story.breaks("6 nothing left", f"a zombie: {pid}")

    def _left_by_workers(self) -> list[int]:
        """What workers that have ended had put into the background."""
        living = set(self.world.subject.worker_pids())
        return [pid for pid, worker in self.world.subject.background().items() if worker not in living]

    def leaks(self) -> None:
        """Memory and descriptors do not grow."""
        subject = self.world.subject
        self.guardian.append(memory(subject.pid))
        if self.rounds > WARM and self.guardian[-1] > self.guardian[WARM - 1] + GUARDIAN_GROWTH:
            was, now = self.guardian[WARM - 1] >> 10, self.guardian[-1] >> 10
            self.world.story.breaks("memory", f"the guardian has grown from {was} to {now} kB")
        master = subject.role("master")
        if master is not None:
            lives = self.masters.setdefault(master, [])
            lives.append(memory(master))
            if len(lives) > WARM and lives[-1] > lives[WARM - 1] + MASTER_GROWTH:
                was, now = lives[WARM - 1] >> 10, lives[-1] >> 10
                self.world.story.breaks("memory", f"the master (pid {master}) has grown from {was} to {now} kB")
        for role in ("guardian", "log writer"):
            most = self.descriptors.setdefault(role, len(self._held(role)))
            end = time.monotonic() + PIPES
            while len(self._held(role)) > most and time.monotonic() < end:
                with subject.changed:
                    subject.changed.wait(1.0)
            if len(held := self._held(role)) > most and not unsettled(self.world):
                self.world.story.breaks("descriptors", f"the {role} holds {len(held)}, and had {most}: {sorted(held)}")
        self.world.story.tell(
            "sizes", guardian_kb=self.guardian[-1] >> 10, master_kb=0 if master is None else memory(master) >> 10
        )

    def _held(self, role: str) -> list[str]:
        """What a process has open; nothing when there is no such process."""
        pid = self.world.subject.role(role)
        found = []
        for entry in () if pid is None else Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has been closed meanwhile
                found.append(str(entry.readlink()))
        return found

    def secrets(self) -> None:
        """7: the key is in no log line, no process list and no worker's environment."""
        subject = self.world.subject
        log = subject.disk / "service.log"
        if log.exists() and KEY in log.read_text(encoding="utf-8", errors="replace"):
            self.world.story.breaks("7 keys", "the key is in the log")
        for pid in subject.worker_pids():
            for file in ("cmdline", "environ"):
                path = Path(f"/proc/{pid}/{file}")
                if path.exists() and KEY.encode() in path.read_bytes():
                    self.world.story.breaks("7 keys", f"the key is in {path}")

    def files(self) -> None:
        """Nobody has written into the files of a worker that closed its descriptors."""
        for path in self.world.subject.folder.glob("precious-*[0-9]"):
            if (data := path.read_bytes()) != b"precious":
                self.world.story.breaks("files", f"{path.name} is damaged: {data[-100:]!r}")
            path.unlink()


def after_the_end(world: World, family: list[int]) -> None:
    """6: no process, no port, no file in the run directory. *family*: the processes that there were."""
    subject = world.subject
    for pid in family:
        if stat(pid) is not None:
            world.story.breaks("6 nothing left", f"a process has outlived the service: {describe(pid)}")
    for port in (*subject.ports.values(), subject.door_port):
        if not refused(port):
            world.story.breaks("6 nothing left", f"somebody listens on port {port}")
    for path in (subject.disk / "cluster-service").iterdir():
        world.story.breaks("6 nothing left", f"{path} is left")
