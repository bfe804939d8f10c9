"""What operators see of requests, of the end of groups, and of workers that listen elsewhere: real processes."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.tools.ports import free_port
from tests.tools.service import PYTHON, Service

if TYPE_CHECKING:
    from pathlib import Path

NEXT_PORT = """\
import os, socket, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

def answers(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass

port = next(int(port) for port in sys.argv[1:] if not answers(int(port)))
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
"""A program that takes the next port when one answers already, as development servers do."""

DRAINS = """\
import signal, sys
import cluster_service

def stop(*_):
    print(sys.argv[1], "drains", flush=True)
    print(sys.argv[1], "has ended", flush=True)
    raise SystemExit

signal.signal(signal.SIGTERM, stop)
cluster_service.worker_ready()
while True:
    signal.pause()
"""


def configure(folder: Path, **groups: dict[str, object]) -> None:
    """Write a configuration of *groups*, whose programs are ``drains.py``."""
    (folder / "drains.py").write_text(DRAINS)
    lines = ['target = "drains.py"', "workers = 1"]
    for name, group in groups.items():
        options = {"args": [name], **group}
        lines += [f"[groups.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in options.items())]
    (folder / "cluster-service.toml").write_text("\n".join(lines) + "\n")


def test_a_restart_never_moves_the_service_to_another_port(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    program = tmp_path / "next_port.py"
    program.write_text(NEXT_PORT)
    with Service("-w", "1", str(program), str(first), str(second), cwd=tmp_path) as service:
        (pid,) = service.serving(1)
        done = service.cli("restart", "all")
        assert done.code == 1
        assert f"listens on 127.0.0.1:{second}; its predecessor listened on 127.0.0.1:{first}" in done.err
        assert service.serving(1) == [pid]
        with urllib.request.urlopen(f"http://127.0.0.1:{first}/", timeout=20) as answer:
            assert answer.read() == b"ok"


def test_it_may_move_where_that_is_meant(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    program = tmp_path / "next_port.py"
    program.write_text(NEXT_PORT)
    with Service("-w", "1", "--allow-port-change", str(program), str(first), str(second), cwd=tmp_path) as service:
        service.serving(1)
        assert service.cli("restart", "all").code == 0
        assert service.workers()[-1]["listening"] == [f"127.0.0.1:{second}"]


@pytest.mark.parametrize("how", ["command", "signal"])
def test_what_others_depend_on_ends_after_them(how: str, tmp_path: Path) -> None:
    configure(tmp_path, redis={}, celery={"depends_on": ["redis"], "workers": 2})
    with Service(cwd=tmp_path) as service:
        service.serving(3)
        if how == "command":
            done = service.json("shutdown", "all")
            assert (done["state"], done["replaced"], done["of"], done["reason"]) == ("done", 3, 3, None)
            assert done["ended_at"] is not None
        else:
            service.process.send_signal(signal.SIGTERM)
        assert service.ended() == 0
    said = [line.partition("] ")[2] for line in service.lines]
    ends = [line for line in said if line.startswith(("celery ", "redis "))]
    assert sorted(ends[:-2]) == ["celery drains"] * 2 + ["celery has ended"] * 2
    assert ends[-2:] == ["redis drains", "redis has ended"]


def test_a_shutdown_that_had_to_kill_says_so(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import signal, cluster_service\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "cluster_service.worker_ready()\n"
        "while True:\n    signal.pause()\n"
    )
    with Service("-w", "1", "--stop-timeout", "1s", str(tmp_path / "endless.py"), cwd=tmp_path) as service:
        service.serving(1)
        done = service.cli("shutdown", "all")
        assert (done.code, service.ended()) == (0, 0)
        assert "shutdown all: done (1 of 1): killed after the stop timeout: web.1" in done.out


def test_a_command_that_comes_as_the_service_ends_is_refused(tmp_path: Path) -> None:
    with Service("-w", "1", "--shutdown-delay", "20s", PYTHON, "-c", "import signal; signal.pause()") as service:
        service.serving(1)
        assert service.cli("restart", "all").code == 0  # whose result must not be that of the next
        assert service.cli("shutdown", "all", "--no-wait").code == 0
        late = service.cli("restart", "all")
        assert (late.code, late.out) == (1, "")
        assert "the service is shutting down" in late.err
        assert service.cli("exit", "now").code == 0
        assert service.ended() == 0


def test_a_reload_may_make_several_workers_of_a_singleton(tmp_path: Path) -> None:
    configure(tmp_path, web={"singleton": True})
    with Service(cwd=tmp_path) as service:
        service.serving(1)
        configure(tmp_path, web={"singleton": False, "workers": 3})
        done = service.cli("reload")
        assert done.code == 0, done
        assert len(service.serving(3)) == 3
        again = service.cli("reload")
        assert (again.code, len(service.workers())) == (0, 3)


def test_a_handler_has_its_events_though_no_thread_was_to_be_had(tmp_path: Path) -> None:
    configure(tmp_path)
    (tmp_path / "server.py").write_text(
        "import threading, cluster_service as cservice\n"
        "start, left = threading.Thread.start, [1, 2]\n"
        "def sometimes(thread):\n"
        "    if thread.name == 'cservice events' and left:\n"
        "        left.pop()\n"
        '        raise RuntimeError("can\'t start new thread")\n'
        "    start(thread)\n"
        "threading.Thread.start = sometimes\n"
        "cservice.on('worker_ready', lambda event: print('heard of', event.pid, flush=True))\n"
        f"cservice.start({str(tmp_path / 'drains.py')!r}, worker_count=3, name='test', console=False)\n"
    )
    with Service(command=(PYTHON, str(tmp_path / "server.py")), cwd=tmp_path, env=dict(os.environ)) as service:
        for pid in service.serving(3):
            service.until_logged(f"heard of {pid}")
        assert "its events wait" in service.log
