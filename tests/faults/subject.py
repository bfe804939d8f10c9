"""The service that faults are injected into: two groups, one of an app on uvicorn and one of a plain script, its
releases, its small disk, and its processes by what they are.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cluster_service as cservice
from tests.fuzz.subject import Hostile, control_socket, hostile_group, next_hostile
from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.processes import children_of, descendants, stat
from tests.tools.service import PYTHON, Service

from .excuses import Accounts, ShutDown, clients_of, listener_of
from .wall import Wall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_service.client.client import Client

GROUPS = ("web", "script")
WORKERS = 2
STOP_TIMEOUT = 12
"""Seconds. A worker has ten of them for its clients: more than it may be stopped for (4) and they may be idle (5)."""
KEY = "the-key-of-the-fault-machine"
MARKS = {
    "master": re.compile(rb"^cservice: faults master"),
    "log writer": re.compile(rb"^cservice: faults log writer|--log-writer"),
    "cleaner": re.compile(rb"^cservice: faults (cleaner|guardian)"),
    "helper": re.compile(rb"^cservice: faults helper"),
    "worker": re.compile(rb"^cservice: faults (web|script|hostile)\.|worker/entry_point\.py"),
}
"""What a process list says of each: its title, or before it has one, how it was started."""
BACKGROUND = re.compile(rb"^background child of (\d+)")
"""What a worker has put into the background, by its command line."""
RELEASE = Path(__file__).parent / "release"

CONFIG = """
name = "faults"
port = {door}
access_key_file = "{folder}/key"
log_file = "{disk}/service.log"
state = "{disk}/state.json"
ready_timeout = "40s"
stop_timeout = "{stop_timeout}s"
hang_timeout = "8s"
max_memory = "120m"
monitor = "2s"
restart_delay = "100ms"
master_hang_timeout = "6s"
{broken}
[env]
FAULTS_LEDGER = "{folder}/ledger"
FAULTS_LEVERS = "{folder}"
TOUCHED = "{touched}"

[groups.web]
target = "v0:app"
cwd = "{folder}/v0"
bind = ["127.0.0.1:{web}"]
workers = 2

[groups.script]
target = "{folder}/v0/worker.py"
cwd = "{folder}/v0"
args = ["{script}"]
workers = 2
{hostile}"""


class Subject(Service):
    """``with Subject(folder, disk) as subject: ...``. *folder*: for everything; *disk*: a small file system of its own,
    in which XDG_RUNTIME_DIR lies too.
    """

    def __init__(self, folder: Path, disk: Path) -> None:
        self.folder, self.disk = folder, disk
        self.ports = {group: free_port() for group in GROUPS}
        self.door_port = free_port()
        self.accounts = Accounts(folder / "ledger", folder / "trace")
        self.config = folder / "cluster-service.toml"
        self.natures: dict[str, str] = {}
        """Release → what it is like."""
        self._lock = threading.Lock()
        self._one_hostile = threading.Lock()
        self._hostile_group = hostile_group(folder, self.ports["script"])
        self._control = control_socket(folder)
        self.release("good")
        (folder / "key").touch(0o600)
        (folder / "key").write_text(KEY, encoding="ascii")
        self.configure()
        self.wall = Wall(folder)
        self.installation = folder / "installation"
        """A copy of the product for this service alone, which a fault may take away."""
        package = Path(cservice.__file__).parent
        shutil.copytree(package, self.installation / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        isolation = str(self.installation / package.name / "isolation.py")
        super().__init__(
            "--config", str(self.config), cwd=folder, env=self.wall.env, name="faults",
            command=(PYTHON, "-I", isolation, "cluster_service.__main__:main", "start"),
        )  # fmt: skip

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        """End the service, and the socket of the hostile workers."""
        try:
            super().__exit__(kind, *more)
        finally:
            self._control.close()

    # -- what it is made of

    def configure(self, *, touched: int = 0, stop_timeout: int = STOP_TIMEOUT, broken: str = "") -> None:
        """Write the configuration."""
        text = CONFIG.format(
            folder=self.folder, disk=self.disk, door=self.door_port, touched=touched, stop_timeout=stop_timeout,
            broken=broken, hostile=self._hostile_group, **self.ports,
        )  # fmt: skip
        self.config.write_text(text, encoding="utf-8")

    def release(self, nature: str) -> str:
        """Make a release, of both kinds; return its name."""
        with self._lock:
            name = f"v{len(self.natures)}"
            self.natures[name] = nature
        folder = self.folder / name
        shutil.copytree(RELEASE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "main.py").rename(folder / f"{name}.py")
        (folder / "nature").write_text(nature, encoding="ascii")
        if nature == "syntax error":
            for file in (f"{name}.py", "worker.py"):
                with (folder / file).open("a", encoding="ascii") as code:
                    code.write("def broken(:\n")
        if nature == "answers 500":
            self.accounts.bad.add(name)
        return name

    def target(self, group: str, release: str) -> str:
        """How ``upgrade`` is told of *release*; it is unlike any other's."""
        return f"{release}:app" if group == "web" else str(self.folder / release / "worker.py")

    def lever(self, group: str, does: str = "crash") -> Path:
        """While this file exists no worker of *group* gets beyond its start ("crash"), or it listens elsewhere
        ("move").
        """
        return self.folder / f"{does}-{group}"

    # -- its processes

    def role(self, role: str) -> int | None:
        """The pid of the guardian, the master or the log writer, if there is one."""
        if role == "guardian":
            return self.pid
        return next((pid for pid in children_of(self.pid) if MARKS[role].search(command(pid))), None)

    def worker_pids(self) -> list[int]:
        """The workers, by pid."""
        return sorted(pid for pid in children_of(self.pid) if MARKS["worker"].search(command(pid)))

    def unrelated_pids(self) -> list[int]:
        """Children of the guardian that are no part of the service."""
        found = {pid: command(pid) for pid in children_of(self.pid)}
        marks = (*MARKS.values(), BACKGROUND)
        others = [pid for pid, line in found.items() if not any(mark.search(line) for mark in marks)]
        # One that has ended since it was listed has no command line any more; zombies are checked apart.
        return [pid for pid in others if (entry := stat(pid)) is not None and entry.state not in "ZX"]

    def background(self) -> dict[int, int]:
        """Processes that workers have put into the background -> the pid of that worker."""
        found = {pid: BACKGROUND.search(command(pid)) for pid in descendants(self.pid)}
        return {pid: int(match[1]) for pid, match in found.items() if match}

    def kill_worker(self, pid: int) -> None:
        """SIGKILL, once it is known what it holds. Raises ProcessLookupError."""
        self.accounts.stop(pid, "kill worker")
        os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def stopped_worker(self, pid: int) -> Iterator[None]:
        """A block in which *pid* is stopped. What it holds is excused only if it dies meanwhile."""
        held = self.accounts.stop(pid, "stop worker")
        try:
            yield
        finally:
            entry = stat(pid)
            held.withdrawn = entry is not None and entry.state not in "ZX"
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def deed(self, group: str, deed: str) -> int:
        """Have whichever worker of *group* answers do *deed*; return its pid. Raises OSError, AssertionError."""
        return ask.http_pid(("127.0.0.1", self.ports[group]), f"/{deed}")

    def shut_down_listener(self, group: str) -> ShutDown:
        """Call shutdown(2) on the socket that the workers of *group* share. Raises OSError where none has it now."""
        port, pids = self.ports[group], self.worker_pids()
        with listener_of(pids, port) as listener:
            held = []
            for pid in pids:
                with contextlib.suppress(OSError):  # it has ended
                    held += clients_of(pid)
            shut_down = ShutDown(time.monotonic(), port, held)
            self.accounts.shut_down.append(shut_down)
            listener.shutdown(socket.SHUT_RDWR)
        return shut_down

    @contextlib.contextmanager
    def hostile_worker(self) -> Iterator[Hostile | None]:
        """A block with the hostile worker; None where none has come up, or another fault has it already."""
        if not self._one_hostile.acquire(blocking=False):
            yield None
            return
        found = None
        try:
            with contextlib.suppress(TimeoutError):
                found = next_hostile(self._control)
                while found.pid not in self.worker_pids():
                    found.close()
                    found = next_hostile(self._control)
            yield found
        finally:
            if found is not None:
                found.close()
            self._one_hostile.release()

    # -- asking it

    def client(self) -> Client:
        """A client of its own for each caller."""
        return cservice.connect(self.name)


def command(pid: int) -> bytes:
    """The command line of *pid*; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def refused(port: int) -> bool:
    """Whether nobody listens on *port*."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
