"""The service under test: an honest group, a hostile one (as another user where possible), and an HTTP endpoint."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cluster_service
from tests.tools.ports import free_port
from tests.tools.service import CSERVICE, DEADLINE, Service, UnixConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
KEY = "fuzz-key-that-stands-in-no-log-0123456789"
NAME = "fuzz"
HOSTILE_USER = "nobody"
STRANGER_UID = 65533
SYSTEM_PYTHON = "/usr/bin/python3"
READS = ("health", "info", "workers", "operations", "events", "logs", "config", "version", "help", "ls", "systemd")
"""Commands that change nothing: the key opens these alone."""
BAND = 10_000
"""The first port that hostile workers bind; below those that the tests serve on."""

CONFIG = """
name = "{name}"
port = {door}
access_key_file = "{folder}/key"
log_file = "{folder}/service.log"
ready_timeout = "30s"
stop_timeout = "5s"
hang_timeout = "3s"

[groups.web]
target = "{folder}/http_bus.py"
args = ["{honest}"]
workers = 2
hang_timeout = "60s"

"""
HOSTILE_GROUP = """
[groups.hostile]
target = "{folder}/hostile/worker.py"
workers = 1
ready_after = "50ms"
restart_delay = "20ms"
restarts_per_minute = 10000
{settings}
[groups.hostile.env]
FUZZ_CONTROL = "{folder}/control"
FUZZ_PLACES = "{folder}/places"
FUZZ_HONEST = "{honest}"
FUZZ_OTHER_USER = "{other_user}"
FUZZ_BAND = "{band}"
"""


@functools.cache
def hostile_python() -> str:
    """Return an interpreter that HOSTILE_USER can run with our package; empty: hostile workers run as this user."""
    if os.geteuid() != 0:
        return ""
    package = Path(cluster_service.__file__).parent.parent
    try:
        account = pwd.getpwnam(HOSTILE_USER)
    except KeyError:
        return ""
    for python in (sys.executable, SYSTEM_PYTHON):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [
                    python, "-c",
                    f"import sys; sys.path.insert(0, {str(package)!r}); import cluster_service.worker.entry_point",
                ],
                user=account.pw_uid, group=account.pw_gid, extra_groups=(), capture_output=True, check=False,
                cwd="/", timeout=DEADLINE,
            )  # fmt: skip
            if done.returncode == 0:
                return python
    return ""


def hostile_group(folder: Path, honest: int, settings: str = "") -> str:
    """Lay out in *folder* what a hostile group needs; return its settings. *honest*: a port of another group."""
    folder.chmod(0o755)
    shutil.copytree(HERE / "hostile", folder / "hostile", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "places" / "closed").mkdir(parents=True)
    (folder / "places" / "link").symlink_to("closed")
    python = hostile_python()
    if python:
        account = pwd.getpwnam(HOSTILE_USER)
        os.chown(folder / "places", account.pw_uid, account.pw_gid)
        settings += f'user = "{HOSTILE_USER}"\npython = "{python}"\n'
    return HOSTILE_GROUP.format(
        folder=folder,
        honest=honest,
        settings=settings,
        other_user=int(bool(python)),
        band=BAND + os.getpid() % 4 * 2000,
    )


def control_socket(folder: Path) -> socket.socket:
    """Return the socket that hostile workers connect to."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "control"))
    (folder / "control").chmod(0o777)
    listener.listen(4096)
    listener.settimeout(DEADLINE)
    return listener


def next_hostile(listener: socket.socket) -> Hostile:
    """Wait for a hostile process that lives; return its connection. Raises TimeoutError."""
    while True:
        sock, _ = listener.accept()
        sock.settimeout(DEADLINE)
        found = Hostile(sock)
        if found.hello:
            return found
        found.close()


class Hostile:
    """The connection to one hostile process."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stream = sock.makefile("rw", encoding="ascii", newline="\n")
        self.hello: dict[str, Any] = self._read() or {}

    @property
    def pid(self) -> int:
        """Its pid."""
        return int(self.hello["pid"])

    def perform(self, boundary: str, seed: str, count: int) -> dict[str, Any] | None:
        """Have it perform a batch; return its report, or None when it has ended. Raises TimeoutError."""
        return self._ask({"boundary": boundary, "seed": seed, "count": count})

    def end(self, how: str) -> None:
        """Have it end."""
        self._ask({"end": how})

    def close(self) -> None:
        """Close the connection; a process that still lives exits."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._sock.close()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any] | None:
        try:
            self._stream.write(json.dumps(order) + "\n")
            self._stream.flush()
        except (BrokenPipeError, ConnectionResetError):
            return None
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        try:
            line = self._stream.readline()
        except ConnectionResetError:
            return None
        found: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
        return found


class Subject(Service):
    """``with Subject(folder, settings) as subject``. *settings*: TOML lines for the hostile group."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.folder = folder
        self.honest_port, self.door_port = free_port(), free_port()
        self._prepare(settings)
        self._listener = control_socket(folder)
        config = str(folder / "cluster-service.toml")
        super().__init__("--config", config, cwd=folder, name=NAME, command=(CSERVICE, "start"))

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        """End the service and the control socket."""
        try:
            super().__exit__(kind, *more)
        finally:
            self._listener.close()

    def _prepare(self, settings: str) -> None:
        folder = self.folder
        shutil.copy(HERE.parent / "programs" / "http_bus.py", folder)
        (folder / "key").touch(0o600)
        (folder / "key").write_text(f'[keys.monitor]\nkey = "{KEY}"\nallow = {json.dumps(READS)}\n', encoding="ascii")
        text = CONFIG.format(name=NAME, door=self.door_port, folder=folder, honest=self.honest_port)
        text += hostile_group(folder, self.honest_port, settings)
        (folder / "cluster-service.toml").write_text(text, encoding="utf-8")

    # -- the hostile side

    def hostile(self) -> Hostile:
        """Wait for a hostile worker; return its connection. Raises TimeoutError."""
        return next_hostile(self._listener)

    @contextlib.contextmanager
    def stranger(self, notify: str) -> Iterator[Hostile]:
        """A block with a process of an unrelated user that is no worker and knows the name of a notify socket."""
        command = [hostile_python(), str(self.folder / "hostile" / "worker.py"), "--stranger", notify]
        env = {"FUZZ_CONTROL": str(self.folder / "control"), "PATH": os.environ.get("PATH", "")}
        with subprocess.Popen(
            command, user=STRANGER_UID, group=STRANGER_UID, extra_groups=(), env=env, cwd="/"
        ) as process:
            found = self.hostile()
            try:
                yield found
            finally:
                found.close()
                process.wait(DEADLINE)

    # -- asking it

    def get(self, path: str) -> bytes:
        """GET *path* at the Unix socket; return the body. Raises OSError, http.client.HTTPException."""
        connection = UnixConnection(self.door)
        try:
            connection.connect()
            connection.sock.settimeout(DEADLINE)
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise AssertionError(f"GET {path} was answered {response.status}: {body[:500]!r}")
            return body
        finally:
            connection.close()
