"""Consecutive restarts under load, for each kind of server: python -m benchmarks.drains [NAME ...] [--times N].

Two kinds of clients send 60 requests per second each: with one connection per request, and with persistent connections.
Each program runs as a script, and after ``--`` without the worker runtime: with one socket per worker, and with a
shared socket. A server that is not installed is skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.tools.load import Load, Result
from tests.tools.ports import free_port
from tests.tools.service import Service

RATE = 60
"""Requests per second of each kind of client."""
WORKERS = 3
SECONDS = 15.0
"""Seconds after which no further restart is started."""
PROGRAMS = Path(__file__).parent.parent / "tests" / "programs"
SCRIPTS = Path(sys.executable).parent

PORT = "PORT"
GUNICORN = [str(SCRIPTS / "gunicorn"), "--bind", f"127.0.0.1:{PORT}", "wsgi_pid:app"]


class Server(NamedTuple):
    """One kind of server."""

    module: str
    """Required Python module, or ``$`` and the name of a required program on the PATH."""
    script: list[str]
    """A script and its arguments; empty: none."""
    program: list[str] | None = None
    """Arguments after ``--``; None: the interpreter and the script."""


SERVERS: dict[str, Server] = {
    "app on uvicorn": Server("uvicorn", ["--bind", f"127.0.0.1:{PORT}", "asgi_pid:app"], []),
    "app on granian": Server("granian", ["--bind", f"127.0.0.1:{PORT}", "--server", "granian", "asgi_pid:app"], []),
    "uvicorn.run": Server("uvicorn", ["uvicorn_app.py", PORT, "asyncio"]),
    "http.server": Server("http.server", ["http_server.py", PORT]),
    "http.server, own handler": Server("http.server", ["slow_handler.py", PORT]),
    "Flask": Server("flask", ["flask_app.py", PORT]),
    "Django runserver": Server("django", ["slow_django.py", PORT]),
    "Tornado": Server("tornado", ["tornado_app.py", PORT]),
    "waitress": Server("waitress", ["waitress_app.py", PORT]),
    "aiohttp": Server("aiohttp", ["aiohttp_app.py", PORT]),
    "hypercorn": Server("hypercorn", ["hypercorn_app.py", PORT]),
    "Sanic": Server("sanic", ["sanic_app.py", PORT]),
    "Daphne": Server("daphne", ["daphne_app.py", PORT]),
    "Twisted": Server("twisted", ["slow_twisted.py", PORT]),
    "gevent": Server("gevent", ["slow_gevent.py", PORT]),
    "eventlet": Server("eventlet", ["slow_eventlet.py", PORT]),
    "gunicorn": Server("gunicorn", GUNICORN, GUNICORN),
    "Node.js": Server("$node", [], ["node", "node_pid.js", PORT]),
    "http.server, 50 ms": Server("http.server", ["http_server.py", PORT, "50"]),
    "Node.js, 50 ms": Server("$node", [], ["node", "node_pid.js", PORT, "ends", "50"]),
    "Node.js, own handler": Server("$node", [], ["node", "node_pid.js", PORT, "drains"]),
}


class Row(NamedTuple):
    """Measurements of one form of one server."""

    restarts: int
    slowest: float
    """Duration of the slowest restart of all workers, in seconds."""
    new: Result
    kept: Result


def is_installed(server: Server) -> bool:
    """Return True if the server is installed."""
    if server.module.startswith("$"):
        return shutil.which(server.module[1:]) is not None
    return importlib.util.find_spec(server.module) is not None


def measure(target: list[str], times: int, options: list[str]) -> Row:
    """Restart the workers of *target* up to *times* times under load. *options*: further options of ``start``."""
    port = free_port()
    target = [part.replace(PORT, str(port)) for part in target]
    how = ["-w", str(WORKERS), "--ready-after", "60s", "--stop-timeout", "20s", *options]
    with Service(*how, *target, cwd=PROGRAMS) as service:
        service.serving(WORKERS)
        url = f"http://127.0.0.1:{port}/"
        with Load(url, rate=RATE, mode="new") as fresh, Load(url, rate=RATE, mode="keepalive", clients=5) as kept:
            began, took = time.monotonic(), [0.0]
            while len(took) <= times and time.monotonic() - began < SECONDS:
                start = time.monotonic()
                done = service.cli("restart", "all")
                if done.code:
                    raise SystemExit(done.err)
                took.append(time.monotonic() - start)
            return Row(len(took) - 1, max(took), fresh.finish(), kept.finish())


def line(name: str, form: str, row: Row) -> str:
    """Return *row* as a row of a Markdown table."""
    why = {**row.new.reasons, **row.kept.reasons}
    sent, failed = row.new.sent + row.kept.sent, row.new.failed + row.kept.failed
    reasons = f" ({', '.join(sorted(why))})" if why else ""
    cells = [name, form, row.restarts, sent, f"{failed}{reasons}", row.kept.retried, f"{row.slowest:.1f} s"]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Measure the named servers, or all, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drains", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SERVERS)}; all without one")
    parser.add_argument("--times", type=int, default=4, help="restarts of each")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in SERVERS]
    if unknown:
        parser.error(f"no server is named {unknown[0]}; there are {', '.join(SERVERS)}")
    print("| server | started as | restarts | requests | failed | tried twice | slowest restart |")
    print("|--|--|--|--|--|--|--|", flush=True)
    for name in given.names or SERVERS:
        server = SERVERS[name]
        if not is_installed(server):
            continue
        program = [sys.executable, *server.script] if server.program is None else server.program
        forms: tuple[tuple[str, list[str], list[str]], ...] = (
            ("script or app", server.script, []),
            ("after `--`", ["--", *program], []),
            ("after `--`, `--listen shared`", ["--", *program], ["--listen", "shared"]),
        )
        for form, target, options in forms:
            if target in ([], ["--"]):
                continue
            with tempfile.TemporaryDirectory(prefix="cs-") as directory:
                os.environ["XDG_RUNTIME_DIR"] = directory
                print(line(name, form, measure(target, given.times, options)), flush=True)


if __name__ == "__main__":
    main()
