"""What the README tells people to type works; that its two commands install as well is what .ci/run shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.service import CSERVICE, Service

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = "python3 -m venv .venv && .venv/bin/pip install -q "


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_two_commands_are_one_line_each_and_the_checks_are_those_of_ci() -> None:
    first, second = (block.strip() for block in blocks("sh") if block.startswith(SETUP))
    assert "\n" not in first + second
    assert first.removeprefix(SETUP).startswith(". && ")
    _, install, check = second.split(" && ")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert shlex.split(install)[-2:] == ["-e", ".[dev]"]
    assert '-e ".[dev]"' in ci
    assert check.split("python ")[-1] in ci


def test_the_first_command_runs_the_main_job_and_the_rest_of_the_minute_works() -> None:
    port = free_port()
    first = next(block for block in blocks("sh") if block.startswith(SETUP)).strip().split(" && ")[-1]
    command = [CSERVICE if word == ".venv/bin/cservice" else word for word in first.split()]
    with Service(command=command, cwd=ROOT, env={"PORT": str(port)}, name="default") as service:
        workers = service.serving(2)
        assert ask.http(("127.0.0.1", port)).startswith("hello from ")
        assert ask.workers_that_answer(lambda: ask.http_pid(("127.0.0.1", port)), workers) == set(workers)
        shown = service.cli("workers").out
        assert all(str(pid) in shown for pid in workers)
        assert service.cli("restart", "all").code == 0
        assert not set(workers) & set(service.serving(2))
        assert service.cli("shutdown", "all").code == 0
        assert service.ended() == 0


def test_the_python_shown_is_the_example() -> None:
    server, worker = blocks("python")
    seed = ROOT / "examples" / "seed"
    assert server.strip() in (seed / "server.py").read_text(encoding="utf-8").split('"""', 2)[2].strip()
    assert worker.strip() in (seed / "worker.py").read_text(encoding="utf-8")
