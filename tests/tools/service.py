"""A real service, started as its users start it, in the private run directory of the test.

Nobody sleeps here. What the service does is learned from its event stream, which is read from the first event on; that
the door exists, from inotify; that it has ended, from its exit. Every wait has the deadline ``DEADLINE``, which only a
failure reaches, and a failure shows the service's whole log.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.tools.processes import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Event = dict[str, Any]

DEADLINE = 40.0
"""Seconds to wait for anything."""

CSERVICE = str(Path(sysconfig.get_path("scripts")) / "cservice")
PYTHON = sys.executable

IN_CREATE = 0x100


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


def run_directory() -> Path:
    """Where the test's services keep their files."""
    return Path(os.environ["XDG_RUNTIME_DIR"]) / "cluster-service"


def cservice(*arguments: str, stdin: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Done:
    """Run the command line to its end."""
    done = subprocess.run(
        [CSERVICE, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=DEADLINE,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def wait_for_file(path: Path, alive: Callable[[], bool]) -> None:
    """Return when *path* exists, or at the latest a moment after *alive* says no. Its directory must exist."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        libc.inotify_add_watch(watch, os.fsencode(path.parent), IN_CREATE)
        end = time.monotonic() + DEADLINE
        while not path.exists() and alive() and time.monotonic() < end:
            if select.select([watch], [], [], 0.25)[0]:  # the bound is for alive(): a death creates no file
                os.read(watch, 65536)
    finally:
        os.close(watch)


class Service:
    """``with Service("-w", "2", "server.py", cwd=directory) as service: ...``. The arguments are those of ``start``."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        name: str = "test",
        command: Sequence[str] = (CSERVICE, "start", "--name", "{name}"),
    ) -> None:
        self.name = name
        self.command = [part.format(name=name) for part in command] + list(arguments)
        self.cwd = cwd
        self.env = {**os.environ, **(env or {})}
        self.lines: list[str] = []
        self.events: list[Event] = []
        self.heard: list[float] = []
        """When each of them was heard (``time.time()``)."""
        self.changed = threading.Condition()
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        """Start the service; it need not be up yet."""
        run_directory().mkdir(mode=0o700, exist_ok=True)
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.cwd,
            env=self.env,
            start_new_session=True,
        )
        for task in (self._read_log, self._read_events):
            thread = threading.Thread(target=task)
            thread.start()
            self.threads.append(thread)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the service, whatever state it is in."""
        try:
            if self.alive():
                self.stop()
        finally:
            if self.alive():
                for pid in [self.pid, *descendants(self.pid)]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self.process.wait()
            for thread in self.threads:
                thread.join()
            assert self.process.stdout is not None
            self.process.stdout.close()
            if kind is not None:
                print(self.story())

    # what it is

    @property
    def pid(self) -> int:
        """The guardian's pid."""
        return self.process.pid

    @property
    def door(self) -> Path:
        """Its control socket."""
        return run_directory() / f"{self.name}.sock"

    @property
    def log(self) -> str:
        """What it has written so far."""
        return "\n".join(self.lines)

    def alive(self) -> bool:
        """Whether the guardian lives."""
        return self.process.poll() is None

    def story(self) -> str:
        """Log and events, for a failure."""
        events = "\n".join(json.dumps(event) for event in self.events)
        return f"--- log of {' '.join(self.command)}\n{self.log}\n--- events\n{events}\n---"

    # waiting

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Return as soon as *happened*, which is asked again after each event and each line of the log."""
        with self.changed:
            arrived = self.changed.wait_for(lambda: happened() or not self.alive(), DEADLINE)
            if not happened():
                why = f"{DEADLINE:.0f} s have passed" if not arrived else f"it has ended with {self.process.poll()}"
                raise AssertionError(f"waited for {what}, but {why}\n{self.story()}")

    def until_event(self, kind: str, count: int = 1, after: int = 0, **fields: object) -> list[Event]:
        """Wait for *count* events of *kind* with these *fields* among those from number *after* on; return them."""

        def found() -> list[Event]:
            return [
                event
                for event in self.events[after:]
                if event["type"] == kind and all(event.get(key) == value for key, value in fields.items())
            ]

        self.until(lambda: len(found()) >= count, f"{count} events {kind} {fields or ''}")
        return found()

    def until_logged(self, text: str) -> None:
        """Wait for a line that holds *text*."""
        self.until(lambda: any(text in line for line in list(self.lines)), f"{text!r} in the log")

    def serving(self, count: int) -> list[int]:
        """Wait until *count* workers serve; return their pids."""
        self.until(lambda: len(self._serving()) == count, f"{count} serving workers")
        return sorted(self._serving())

    def _serving(self) -> set[int]:
        pids: set[int] = set()
        for event in self.events:
            if event["type"] == "worker_ready":
                pids.add(event["pid"])
            elif event["type"] in {"worker_exit", "worker_stop"}:
                pids.discard(event["pid"])
        return pids

    def ended(self) -> int:
        """Wait for the guardian's end; return its exit code (negative: a signal), once its log is read to the end."""
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not ended in {DEADLINE:.0f} s\n{self.story()}") from None
        for thread in self.threads:
            thread.join(DEADLINE)
        return code

    # commanding

    def cli(self, *arguments: str, stdin: str = "") -> Done:
        """Give it a command."""
        return cservice("--name", self.name, *arguments, stdin=stdin)

    def json(self, *arguments: str) -> Any:
        """Give it a command that succeeds; return the JSON document that it prints."""
        done = self.cli("--json", *arguments)
        assert done.code == 0, done
        return json.loads(done.out)

    def workers(self) -> list[dict[str, Any]]:
        """The workers, as the command line tells."""
        found: list[dict[str, Any]] = self.json("workers")["workers"]
        return found

    def stop(self) -> int:
        """Ask it by SIGTERM to end gracefully; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    # the two readers

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        self.process.wait()
        with self.changed:
            self.changed.notify_all()

    def _read_events(self) -> None:
        wait_for_file(self.door, self.alive)
        last = "0"
        while self.alive():
            try:
                for number, event in stream(self.door, last):
                    last = number
                    with self.changed:
                        self.heard.append(time.time())
                        self.events.append(event)
                        self.changed.notify_all()
            except (FileNotFoundError, ConnectionRefusedError):  # the door is not open yet, or no more: then it ends
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.1)
            except (OSError, http.client.HTTPException):  # the master has died; its successor will answer
                continue


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self.path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


def stream(door: Path, last: str) -> Iterator[tuple[str, Event]]:
    """The events after *last* (an id), each with its id, until the connection ends."""
    connection = UnixConnection(door)
    try:
        connection.request("GET", "/api/v1/events", headers={"Last-Event-ID": last})
        response = connection.getresponse()
        if response.status != 200:
            raise AssertionError(f"GET /api/v1/events: {response.status} {response.read()!r}")
        fields: dict[str, str] = {}
        for raw in response:
            line = raw.decode().rstrip("\r\n")
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "data" in fields:
                event = json.loads(fields["data"])
                last = fields.get("id", last)
                yield last, {"type": event["event"], **event}
                fields = {}
    finally:
        connection.close()
