"""No secret is seen anywhere: a real service that was given some, every command at every door, its faults, and then
everything that can be read of it is searched.

What a worker is given is its own: its environment and, where a secret stands in its arguments, its command line. The
access key is nobody's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_service.commands.registry import COMMANDS
from tests.tools.doors import answer, knock
from tests.tools.ports import free_port
from tests.tools.processes import descendants
from tests.tools.service import CSERVICE, DEADLINE, Service, UnixConnection, run_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "hunter2-the-key-that-nobody-sees"
MARK = "hunter2"
"""In every secret."""

WORKER = "import signal\nsignal.pause()\n"
FAILING = """
import os
password = os.environ["DB_PASSWORD"]
raise ValueError("no such luck")
"""
SETTINGS = """
target = "worker.py"
workers = 2
env_files = ["secrets.env"]
ready_after = "50ms"
monitor = "50ms"
args = ["--api-token", "hunter2-{0}", "--store=postgres://ann:hunter2-{0}@db", "TOKEN=hunter2-{0}", "loud"]
[env]
DB_PASSWORD = "hunter2-{0}"
LEVEL = "hunter2-{0}"
"""


class Told:
    """Everything that was said, by where it was said."""

    def __init__(self, service: Service, port: int, folder: Path) -> None:
        self.places: dict[str, str] = {}
        self._service = service
        self._port = port
        self._folder = folder

    def note(self, place: str, text: object) -> None:
        self.places[f"{len(self.places)}: {place}"] = str(text)

    def give(self, name: str, **arguments: Any) -> None:
        """Give the command at every door, in every form."""
        body = json.dumps(arguments)
        path = f"/api/v1/commands/{name}"
        self.note(f"unix {name}", answer(UnixConnection(self._service.door), "POST", path, body))
        self.note(f"tcp {name}", knock(self._port, "POST", path, body, X_Access_Key=KEY))
        self.note(f"tcp {name}, wrong key", knock(self._port, "POST", path, body, X_Access_Key=KEY[:-1]))
        line = json.dumps({"cmd": name, "accessKey": KEY, **arguments})
        self.note(f"cli {name}", knock(self._port, "POST", f"/cli?accessKey={KEY}", line))
        self.note(f"bad {name}", knock(self._port, "POST", f"/cli?accessKey={KEY}", f"{name} a b c d=e f"))

    def read(self) -> None:
        """Ask for all that can be read."""
        for path in (*(f"/api/v1/{name}" for name in ("workers", "health", "info", "operations", "operations/1",
                     "commands", "nosuch")), "/metrics", "/openapi.json", "/live", "/ready", "/nosuch"):  # fmt: skip
            connection = UnixConnection(self._service.door)
            connection.request("GET", path)
            response = connection.getresponse()
            self.note(f"GET {path}", (response.getheaders(), response.read()))
            connection.close()

    def cli(self, *words: str) -> None:
        self.note(" ".join(word for word in words if MARK not in word), self._service.cli(*words))


def every_command(told: Told, folder: Path) -> None:
    """All of them but those that end the service."""
    settings = {"env": ["DB_PASSWORD=hunter2-start"], "args": ["--token", "hunter2-start"], "ready_after": "50ms"}
    worker, test = str(folder / "worker.py"), str(folder / "test.py")
    arguments: dict[str, dict[str, Any]] = {
        "start": {"target": worker, "group": "more", "workers": 1, **settings},
        "restart": {"selector": "web"},
        "upgrade": {"selector": "web", "target": worker, "env": ["DB_PASSWORD=hunter2-upgrade"]},
        "test": {"script": test},
        "scale": {"change": "2", "group": "web"},
        "shutdown": {"selector": "more"},
        "exit": {"now": "not now"},
        "config": {"action": "show"},
    }
    for name in COMMANDS.names():
        told.give(name, **arguments.get(name, {}))
        told.cli("operations")
    for words in (("config", "show", "--running"), ("workers",), ("health",), ("info",), ("logs",), ("ls",)):
        told.cli(*words)
        told.cli("--json", *words)


def processes(service: Service) -> Iterator[tuple[str, int, str]]:
    """``(kind, pid, everything that others can read of it)``; kind: ours or worker."""
    workers = {row["pid"] for row in service.workers()}
    for pid in (service.pid, *descendants(service.pid)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            texts = [Path(f"/proc/{pid}/{name}").read_text(errors="replace") for name in ("cmdline", "environ", "comm")]
            yield "worker" if pid in workers else "ours", pid, "\n".join(texts)


def notebook(service: Service) -> str:
    """What the next master is told of the last one's notes: the core's snapshot, found where the guardian keeps it."""
    memory = Path(f"/proc/{service.pid}/mem")
    found = []
    for line in Path(f"/proc/{service.pid}/maps").read_text().splitlines():
        span, rights, *_, name = [*line.split(maxsplit=5), ""][:7]
        if "rw" not in rights or "/" in name or "[v" in line:
            continue
        begin, end = (int(part, 16) for part in span.split("-"))
        with contextlib.suppress(OSError), memory.open("rb", buffering=0) as file:
            file.seek(begin)
            data = file.read(end - begin)
            at = data.find(b'{"cluster":')
            while at >= 0:
                found.append(data[at : at + 20000].partition(b"\0")[0].decode(errors="replace"))
                at = data.find(b'{"cluster":', at + 1)
    return "\n".join(found)


def test_no_secret_is_seen_anywhere(tmp_path: Path) -> None:  # noqa: PLR0915 - one service, searched in many places
    port = free_port()
    for name, text in {"worker.py": WORKER, "bad.py": FAILING, "test.py": "print('fine')\n"}.items():
        (tmp_path / name).write_text(text)
    config, state, log = (tmp_path / name for name in ("cluster-service.toml", "state", "log"))
    config.write_text(SETTINGS.format("first"))
    (tmp_path / "secrets.env").write_text("SMTP_LOGIN=hunter2-file\n")
    (tmp_path / "secrets.env").chmod(0o600)
    options = ("--port", str(port), "--access-key", KEY, "--state", str(state), "--log-file", str(log))
    environment = {"CSERVICE_ACCESS_KEY": KEY, "CSERVICE_ACCESS_KEY_FILE": ""}
    with Service(*options, "--env", "FLAG=hunter2-flag", cwd=tmp_path, env=environment) as service:
        service.serving(2)
        told = Told(service, port, tmp_path)
        every_command(told, tmp_path)
        config.write_text(SETTINGS.format("second"))
        (tmp_path / "secrets.env").write_text("SMTP_LOGIN=hunter2-another-file\n")
        told.cli("reload", "--plan")
        told.cli("--json", "reload", "--plan")
        told.cli("reload")
        told.cli("upgrade", "web", str(tmp_path / "worker.py"), "--health-check", "/health?token=hunter2-path")
        told.cli("upgrade", "web", str(tmp_path / "bad.py"), "--monitor", "1h")  # a traceback holds names, no values
        assert "no such luck" in list(told.places.values())[-1]
        os.kill(service.workers()[0]["pid"], signal.SIGKILL)
        service.until_event("worker_exit", signal="SIGKILL")
        told.read()
        os.kill(service.pid, signal.SIGUSR2)
        service.until_event("master_start", starts=2)
        os.kill(service.json("info")["master_pid"], signal.SIGKILL)
        service.until_event("master_start", starts=3)
        told.cli("health")
        told.read()
        told.cli("operations")
        follower = subprocess.Popen(
            [CSERVICE, "--url", f"http://127.0.0.1:{port}", f"--access-key={KEY}", "--json", "events", "--follow"],
            stdout=subprocess.PIPE,
        )
        try:
            told.cli("restart", "web")
            assert follower.stdout is not None
            told.note("what is followed", follower.stdout.readline())
            told.note("the follower's command line", Path(f"/proc/{follower.pid}/cmdline").read_bytes())
        finally:
            follower.kill()
            follower.communicate(timeout=DEADLINE)
        everybody = list(processes(service))
        assert [kind for kind, *_ in everybody].count("worker") >= 2
        for kind, pid, text in everybody:
            told.note(f"process {pid}, {kind}", text if kind == "ours" else text.replace(KEY, "the key!"))
        notes = notebook(service)
        assert "generation" in notes
        told.note("notebook", "the key!" if KEY in notes else "")
        told.note("events", json.dumps(service.events))
        for file in (log, *Path(os.environ["XDG_STATE_HOME"]).rglob("*.audit"), *run_directory().iterdir()):
            if file.is_file():
                told.note(str(file), file.read_text(errors="replace"))
        private = f"{len(told.places)}: {state}"
        told.note(str(state), state.read_text())
        assert state.stat().st_mode & 0o777 == 0o600
        for known in ("hunter2-upgrade", "hunter2-first"):  # an operator's own, and what the configuration said before
            told.places[private] = told.places[private].replace(known, "(known)")
        told.cli("exit", "now")
        service.ended()
        told.note("output", service.log)
    seen = {place: text for place, text in told.places.items() if MARK in text and ", worker" not in place}
    seen |= {place: text for place, text in told.places.items() if "the key!" in text}
    assert seen == {}
    everything = "\n".join(told.places.values())
    for sign in (
        "the values in them have changed",
        "(secret)",
        "(known)",
        "no such luck",
        "replaced",
        "unauthorised",
        "--api-token",
        '"command": "upgrade"',
    ):
        assert sign in everything, sign  # or this looked at nothing
    assert sys.executable in everything
