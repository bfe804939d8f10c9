"""Each example runs alone. (Under the service: test_programs, test_seed, and the test of the README)."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.system.test_programs import NODE
from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.service import PYTHON

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

ALONE = {
    "http_server.py": [PYTHON],
    "flask_script.py": [PYTHON],
    "fastapi_script.py": [PYTHON],
    "asgi_app.py": [PYTHON],
    "wsgi_app.py": [PYTHON],
    "seed/worker.py": [PYTHON],
    "custom/worker.py": [PYTHON],
    "node/server.js": [str(NODE)],
}


def test_no_example_is_forgotten() -> None:
    found = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.suffix in {".py", ".js"}}
    assert found == {*ALONE, "seed/server.py", "custom/server.py"}


@pytest.mark.parametrize("name", ALONE)
def test_it_runs_alone(name: str) -> None:
    port = free_port()
    process = subprocess.Popen(
        [*ALONE[name], EXAMPLES / name],
        env={**os.environ, "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        heard = []
        for line in process.stdout:
            heard.append(line)
            if re.search(rf"//(localhost|127\.0\.0\.1):{port}", line):
                break
        else:
            pytest.fail(f"it ended: {heard}")
        assert ask.http_pid(("127.0.0.1", port)) == process.pid
    finally:
        process.kill()
        process.communicate()
