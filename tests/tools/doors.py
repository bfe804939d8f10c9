"""A service whose doors are open, and what a test says there."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.tools.ports import free_port
from tests.tools.service import DEADLINE, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "correct-horse-battery-staple"
OTHER = "another-horse-another-staple"


class Answer(NamedTuple):
    status: int
    data: Any
    headers: dict[str, str]


def knock(
    port: int, method: str, path: str, body: str | None = None, *, host: str = "127.0.0.1", **headers: str
) -> Answer:
    """Ask the TCP door."""
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE)
    return answer(connection, method, path, body, **headers)


def answer(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None, **headers: str
) -> Answer:
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        text = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, json.loads(text) if text else None, found)
    finally:
        connection.close()


def keys(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def open_door(*arguments: str, env: dict[str, str] | None = None) -> Iterator[tuple[Service, int]]:
    """A service of one sleeping worker, and the port of its TCP door, which is open."""
    port = free_port()
    words = ("-w", "1", "--port", str(port), "--ready-after", "50ms", *arguments)
    with Service(*words, "--", "sleep", "1000", env=env) as service:
        service.serving(1)
        yield service, port


def audited(service: Service) -> list[dict[str, Any]]:
    """The audit entries that stand in the log."""
    return [json.loads(line.partition("audit ")[2]) for line in service.lines if "] audit " in line]


def audit_file() -> list[dict[str, Any]]:
    """The entries of the one audit file that there is: every command, also those of other services of the test."""
    (file,) = Path(os.environ["XDG_STATE_HOME"]).rglob("*.audit")
    return [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]
