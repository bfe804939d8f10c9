"""A small, honest service behind real doors: groups of numbered workers, operations that take steps, and no processes.

``running(...)`` opens its doors in a thread, holding the lock that a service holds, so that clients and the command
line find it as they find any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_service import rundir
from cluster_service.errors import CommandError
from cluster_service.server.access import Access
from cluster_service.server.http_server import Door, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from cluster_service.config import Settings
    from cluster_service.config.credentials import Key

Json = dict[str, Any]
KEY = "a key of more than sixteen letters"
AT = "2030-01-02T03:04:05.000Z"
KEPT = 200
"""Steps that are remembered of an operation."""
BAD = """web.1 exited with code 1 before it was ready: ImportError: nosuch
Traceback (most recent call last):
  File "/srv/bad/worker.py", line 3, in <module>
\timport nosuch
ImportError: nosuch"""
"""Why an upgrade to a target that is called bad is undone."""


class Machine:
    """The service. Everything happens in its loop's thread; ``call`` brings a test's wish there."""

    def __init__(self, name: str, *, held: bool = False, at_once: bool = False) -> None:
        self.name = name
        self.at_once = at_once
        """Operations have ended before they are answered."""
        self.held = held
        """Operations wait for ``finish`` after their first step."""
        self.groups: dict[str, list[int]] = {"web": [101, 102]}
        self.done: list[Json] = []
        self.told: list[Json] = []
        self.published: list[Json] = []
        self.audited: list[Json] = []
        """The audit entries that stand in the log ..."""
        self.kept: list[Json] = []
        """... and all of them, in the audit file."""
        self.is_ready = True
        self.ended = threading.Event()
        self.following = threading.Event()
        """Somebody waits for news."""
        self.output = ["ok 1", "", "\tok 2 \x1b[2J"]
        """What a test script writes."""
        self._pid = 102
        self._news = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def call(self, function: Any, *args: Any) -> None:
        """Run *function* in the loop's thread."""
        self.loop.call_soon_threadsafe(function, *args)

    # reading

    def workers(self) -> list[Json]:
        return [
            {
                "group": group, "slot": slot, "pid": pid, "state": "serving", "generation": 1, "reason": "start",
                "target": "/srv/worker.py", "cwd": "/srv", "python": "/usr/bin/python3", "uptime_s": 75.0,
                "restarts": 0,
                "memory_bytes": 31457280, "cpu_percent": 1.5, "listening": ["127.0.0.1:8000"], "connections": 12,
            }
            for group, pids in self.groups.items()
            for slot, pid in enumerate(pids, 1)
        ]  # fmt: skip

    def health(self) -> Json:
        serving = sum(map(len, self.groups.values()))
        return {"status": "ok" if self.is_ready else "down", "serving": serving, "wanted": serving, "problems": []}

    def info(self) -> Json:
        groups = {name: {"wanted": len(pids), "serving": len(pids)} for name, pids in self.groups.items()}
        return {
            "name": self.name,
            "version": "1",
            "pid": os.getpid(),
            "uptime_s": 75.0,
            "master_starts": 1,
            "groups": groups,
            "operation": None,
        }

    def alive(self) -> bool:
        return True

    def ready(self) -> bool:
        return self.is_ready

    def operations(self) -> list[Json]:
        return list(reversed(self.done))

    def operation(self, operation_id: str) -> Json:
        for operation in self.done:
            if operation["id"] == operation_id:
                return operation
        raise CommandError("not_found", f"there is no operation {operation_id!r}")

    async def follow(self, operation_id: str, seen: int, wait: float) -> Json:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while True:
                    operation = self.operation(operation_id)
                    had = operation["steps_dropped"] + len(operation["steps"])
                    if operation["state"] != "running" or had > seen:
                        break
                    self.following.set()
                    await self._news.wait()
        return self.operation(operation_id)

    async def events(self, after: int | None) -> AsyncIterator[Json]:
        last = self._last() if after is None else after if after <= self._last() else 0
        while True:
            news = self._news  # what is published while one is being sent is news, too
            for event in self.published[last:]:
                last = event["id"]
                yield event
            self.following.set()
            await news.wait()

    def _last(self) -> int:
        return int(self.published[-1]["id"]) if self.published else 0

    def recent_events(self, limit: int) -> list[Json]:
        return self.published[-limit:] if limit > 0 else []

    async def log_lines(self, count: int) -> Json:
        raise CommandError("failed", f"there is no log file to show {count} lines of", "start it with --log-file FILE")

    def audit(self, entry: Json, *, aloud: bool) -> None:
        self.kept.append(entry)
        if aloud:
            self.audited.append(entry)

    # changing

    def restart(self, selector: str, timeout: float | None) -> Json:
        self.told.append({"restart": selector, "timeout": timeout})
        return self._begin(f"restart {selector}", self._chosen(selector))

    def scale(self, change: str, group: str | None, timeout: float | None) -> Json:
        self.told.append({"scale": change, "group": group, "timeout": timeout})
        if (group or "web") not in self.groups:
            raise CommandError("not_found", f"there is no group {group!r}")
        pids = self.groups[group or "web"]
        wanted = len(pids) + int(change) if change[0] in "+-" else int(change)
        if wanted > 1024:
            raise CommandError("bad_request", f"{wanted} workers are too many")
        del pids[max(0, wanted) :]
        while len(pids) < wanted:
            pids.append(self._next_pid())
        return self._begin(f"scale {change}", [])

    def shutdown(self, selector: str, timeout: float | None) -> Json:
        self.told.append({"shutdown": selector, "timeout": timeout})
        return self._begin(f"shutdown {selector}", [])

    async def start(self, target: str, options: Mapping[str, Any]) -> Json:
        self.told.append({"start": target, **options})
        if target == "/explode":
            raise RuntimeError("a secret of the inside")
        self.groups[str(options.get("group"))] = [self._next_pid()]
        return self._begin(f"start {target}", [])

    async def upgrade(self, selector: str, target: str | None, options: Mapping[str, Any]) -> Json:
        self.told.append({"upgrade": selector, "target": target, **options})
        return self._begin(f"upgrade {selector} {target}", self._chosen(selector), stage="check")

    def rollback(self, selector: str, monitor: float | None, timeout: float | None) -> Json:
        self.told.append({"rollback": selector, "monitor": monitor, "timeout": timeout})
        return self._begin(f"rollback {selector}", self._chosen(selector), stage="check")

    def cancel(self, operation_id: str | None) -> Json:
        self.told.append({"cancel": operation_id})
        running = [operation for operation in self.done if operation["state"] == "running"]
        if operation_id is not None:
            running = [self.operation(operation_id)]
        if not running or running[0]["state"] != "running":
            raise CommandError("not_found", "no operation runs that could be cancelled", "see: operations")
        operation = running[0]
        self.step(operation, "back to the old release")
        self.loop.call_soon(self.finish, operation, "cancelled", "cancelled by an operator")
        return dict(operation, steps=list(operation["steps"]))

    def test(self, script: str, timeout: float | None) -> Json:
        self.told.append({"test": script, "timeout": timeout})
        return self._begin(f"test {script}", [])

    async def reload(self, plan: bool, monitor: float | None, timeout: float | None) -> Json:
        if plan:
            changes = [
                {"group": "", "effect": "service", "text": "port: 1 → 2 (after the service is restarted)"},
                {"group": "web", "effect": "replace", "text": "target: a → b"},
            ]
            return {"service": self.name, "file": "/srv/cluster-service.toml", "changes": changes}
        self.told.append({"reload": True, "monitor": monitor, "timeout": timeout})
        return self._begin("reload", ["web"])

    async def configuration(self, action: str) -> Json:
        return {"service": self.name, "file": None, "settings": [], "groups": {}, "warnings": [], "action": action}

    def started_with(self) -> tuple[Settings, list[str]]:
        raise CommandError("failed", "it is not known how this service was started")

    def exit_now(self) -> Json:
        self.told.append({"exit": "now"})
        self.ended.set()
        return {"exiting": True}

    def _next_pid(self) -> int:
        self._pid += 1
        return self._pid

    def _chosen(self, selector: str) -> list[str]:
        chosen = [name for name in self.groups if selector in ("all", name)]
        if not chosen:
            raise CommandError("not_found", f"there is no group, slot or worker {selector!r}", "see: workers")
        for operation in self.done:
            if operation["state"] == "running":
                number = operation["id"]
                raise CommandError("busy", f"operation {number} is under way", f"cservice operations {number}")
        return chosen

    def _begin(self, command: str, groups: list[str], *, stage: str = "") -> Json:
        slots = [(name, slot) for name in groups for slot in range(len(self.groups[name]))]
        operation: Json = {
            "id": str(len(self.done) + 1), "command": command, "state": "running", "reason": None,
            "steps": [], "steps_dropped": 0, "replaced": 0, "of": len(slots), "started_at": AT, "ended_at": None,
        }  # fmt: skip
        if stage:
            operation |= {"stage": stage, "workers": {"old": len(slots), "new": 0}, "monitor_left_s": None}
        if not command.startswith("test "):
            operation["steps"].append({"at": AT, "text": f"{command} begins"})
        self.done.append(operation)
        if self.at_once:
            self.finish(operation, "done", None)
            return operation
        self.loop.call_soon(self._go_on, operation, slots)
        return dict(operation, steps=list(operation["steps"]))

    def _go_on(self, operation: Json, slots: list[tuple[str, int]]) -> None:
        kind = operation["command"].partition(" ")[0]
        if kind == "test" and not operation["steps"]:
            for text in self.output:
                self.step(operation, text)
        if self.held and "stage" in operation:
            return  # the test itself tells how it goes
        if kind == "upgrade" and "bad" in operation["command"]:
            self.step(operation, "canary: web.1 (pid 103) failed: back to the old release")
            self.finish(operation, "undone", BAD)
        elif kind == "test" and "bad" in operation["command"] and not self.held:
            self.finish(operation, "failed", "it exited with code 3")
        elif slots:
            name, slot = slots.pop(0)
            self.groups[name][slot] = self._next_pid()
            operation["replaced"] += 1
            self.step(operation, f"{name}.{slot + 1} replaced")
            self.loop.call_soon(self._go_on, operation, slots)
        elif not self.held:
            self.finish(operation, "done", None)

    def step(self, operation: Json, text: str) -> None:
        """Make progress."""
        operation["steps"].append({"at": AT, "text": text})
        operation["steps_dropped"] += max(0, len(operation["steps"]) - KEPT)
        del operation["steps"][:-KEPT]
        self._tell()

    def finish(self, operation: Json, state: str, reason: str | None) -> None:
        """End *operation*."""
        operation.update(state=state, reason=reason)
        for name in ("stage", "workers", "monitor_left_s"):
            operation.pop(name, None)
        self._tell()
        if operation["command"] == "shutdown all" and state == "done":
            self.ended.set()

    def publish(self, event: str, **fields: Any) -> None:
        """Tell an event."""
        self.published.append({"id": len(self.published) + 1, "event": event, **fields})
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


@dataclass
class Running:
    """A service whose doors are open."""

    machine: Machine
    directory: str
    unix: str
    port: int
    """Of the TCP door; 0 when there is none."""
    loop: asyncio.AbstractEventLoop
    served: asyncio.Task[None]
    closed: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Close the doors and wait until they are."""
        self.loop.call_soon_threadsafe(self.served.cancel)
        assert self.closed.wait(20)


@contextlib.contextmanager
def running(
    run_dir: Path,
    name: str = "default",
    *,
    keys: tuple[str | Key, ...] = (KEY,),
    held: bool = False,
    at_once: bool = False,
    **rules: Any,
) -> Iterator[Running]:
    """A service *name*, in the private XDG_RUNTIME_DIR *run_dir*, until the end of the block or its own.

    *rules*: of ``Access``. A key from this machine is local unless they say otherwise.
    """
    rules = {"trust_loopback": True, **rules}
    directory = rundir.directory(environ={"XDG_RUNTIME_DIR": str(run_dir)})
    lock = rundir.take_lock(directory, name)
    unix = rundir.socket_path(directory, name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(unix)
    listener.listen()
    os.chmod(unix, 0o600)
    listeners = [listener]
    if keys:
        listeners.append(socket.create_server(("127.0.0.1", 0)))
    port = listeners[-1].getsockname()[1] if keys else 0
    opened: list[Running] = []
    is_open = threading.Event()

    async def serve_doors() -> None:
        machine = Machine(name, held=held, at_once=at_once)
        doors = [Door(each) for each in listeners]
        task = asyncio.ensure_future(serve(machine, doors, Access(keys, **rules)))
        opened.append(Running(machine, directory, unix, port, asyncio.get_running_loop(), task))
        is_open.set()
        watcher = asyncio.ensure_future(asyncio.to_thread(machine.ended.wait))
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if watcher.done():  # the answer to whoever ended it is on its way
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait((task,))
        machine.ended.set()
        await watcher
        opened[0].closed.set()

    def release() -> None:
        asyncio.run(serve_doors())
        for path in (unix, rundir.lock_path(directory, name)):
            os.unlink(path)
        os.close(lock)

    thread = threading.Thread(target=release)
    thread.start()
    assert is_open.wait(20)
    try:
        yield opened[0]
    finally:
        opened[0].machine.ended.set()
        thread.join(20)
        assert not thread.is_alive()
