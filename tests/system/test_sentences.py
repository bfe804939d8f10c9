"""What a user is told who asks for what cannot be: a sentence that helps, and the right exit code."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.ports import free_port
from tests.tools.service import Service, cservice, run_directory

PROGRAMS = Path(__file__).parent.parent / "programs"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("start", "nosuch.py"), 2, ("nosuch.py", "no such file")),
        (("start", "nosuch_module:app"), 2, ("nosuch_module",)),
        (("start", "asgi_pid:nosuch"), 2, ("asgi_pid", "nosuch")),
        (("start", "--wrokers", "2", "http_server.py"), 2, ("--wrokers", "--workers")),
        (("start", "--stop-timeout", "10 parsecs", "http_server.py"), 2, ("10 parsecs", "10s")),
        (("start", "-w", "many", "http_server.py"), 2, ("many", "auto")),
        (("start", "--share", "telepathy", "http_server.py"), 2, ("telepathy", "seccomp")),
        (("start", "--", "nosuch-program"), 2, ("nosuch-program",)),
        (("start",), 2, ("TARGET",)),
        (("workers",), 3, ("no service", "default")),
        (("--name", "other", "restart", "all"), 3, ("no service", "other")),
        (("wrokers",), 2, ("wrokers", "workers")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_sentence_that_helps(arguments: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    done = cservice(*arguments, cwd=PROGRAMS)
    assert done.code == code, done
    assert done.out == ""
    assert "Traceback" not in done.err
    for word in words:
        assert word.lower() in done.err.lower(), done.err


def test_an_interpreter_of_ours_that_cannot_be_executed_again(tmp_path: Path) -> None:
    """As where a user may not enter the directory that root has installed it in, but was given the process."""
    program = (
        "import sys; from cluster_service.__main__ import main\n"
        "sys.executable = sys.argv.pop(1)\n"
        "sys.argv += ['start', '-w', '1', 'http_server.py', '0']\n"
        "main()"
    )
    own = tmp_path / "python"
    own.write_text("not to be executed")
    done = subprocess.run(
        [sys.executable, "-c", program, own], cwd=PROGRAMS, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"the service cannot be started by {own}: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(run_directory().iterdir())


def test_a_second_service_of_the_name_starts_nothing_and_becomes_a_console() -> None:
    port = free_port()
    with Service("-w", "1", "http_server.py", str(port), cwd=PROGRAMS) as service:
        service.serving(1)
        second = ("start", "--name", service.name, "http_server.py", str(port))
        silent = cservice(*second, cwd=PROGRAMS)
        assert silent.code == 3
        assert str(service.pid) in silent.err
        told = cservice(*second, cwd=PROGRAMS, stdin="workers\nhealth\n")
        assert told.code == 0, told
        assert str(service.serving(1)[0]) in told.out
        wrong = cservice(*second, cwd=PROGRAMS, stdin="restart nosuch\n")
        assert wrong.code == 1
        assert "nosuch" in wrong.err


def test_a_taken_port_of_the_door_is_a_warning_and_no_more() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        options = ("-w", "1", "--port", str(number), "--access-key", "lksjdf982734-lksjdf982734")
        with Service(*options, "http_server.py", str(port), cwd=PROGRAMS) as service:
            service.serving(1)
            service.until_logged(str(number))
            assert service.json("health")["status"] == "ok"
