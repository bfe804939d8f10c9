"""The five minutes of docs/extending.md, as they stand there: its files, its commands, and what they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.service import CSERVICE, DEADLINE, PYTHON, Service

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_five_minutes(tmp_path: Path) -> None:
    server, worker = blocks("python")[:2]
    (tmp_path / "server.py").write_text(server)
    (tmp_path / "worker.py").write_text(worker)
    port = str(free_port())
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cservice").symlink_to(CSERVICE)
    (tools / "python").write_text(f'#!/bin/sh\nexec {PYTHON} "$@"\n')
    (tools / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    (session,) = blocks("console")
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert len(steps) == 5
    with Service(command=(PYTHON, "server.py"), cwd=tmp_path, env={"CSERVICE_PORT": port}, name="default") as service:
        service.serving(2)
        for command, shown in steps:
            if command.startswith("curl") and shutil.which("curl") is None:
                continue
            done = subprocess.run(
                ["/bin/sh", "-c", command.replace("11987", port).replace("curl", "curl -s")],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=tmp_path,
                env=environment,
                timeout=DEADLINE,
                check=False,
            )
            assert done.stdout.strip() == shown.strip(), command


def test_the_example(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "custom", tmp_path / "custom")
    port = free_port()
    settings = {"PORT": str(port), "CSERVICE_NAME": "test"}
    with Service(command=(PYTHON, "server.py"), cwd=tmp_path / "custom", env=settings) as service:
        service.serving(2)
        assert service.cli("greet", "Ann", "--mood", "sad").out == "hello Ann, from test, sad to see you\n"
        assert "for 3" in ask.http(("127.0.0.1", port), "/buy/17")
        service.until_logged("order 17 was paid: 3")
        assert service.cli("orders").out.split() == ["ORDER", "AMOUNT", "17", "3"]
        assert service.json("health")["orders"] == 1
        assert service.cli("prices", '{"apple": 5}').out == "2 workers took them\n"
        service.until(lambda: service.log.count("an apple is 5 now") == 2, "the new price at both workers")
        assert "for 5" in ask.http(("127.0.0.1", port), "/buy/18")
        assert service.cli("refresh").out.startswith("done in ")
        service.serving(2)
