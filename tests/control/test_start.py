"""``cservice start``: what it tells the wrong asker, and what it does when a service of that name runs already."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.control.machine import KEY, Running
from tests.control.test_cli import on_terminal
from tests.tools.service import Service, cservice

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "worker.py").write_text(
        "import sys, time\nprint('given', sys.argv[1:], flush=True)\nsys.stdin.read()\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("start",), ("TARGET", "worker.py")),
        (("start", "--"), ("no program after --", "-- node server.js")),
        (("start", "-m"), ("-m needs the name of a module", "-m http.server")),
        (("start", "nosuch.py"), ("no such file: nosuch.py",)),
        (("nosuch.py",), ("no such file: nosuch.py",)),
        (("start", "--wrokers", "2", "worker.py"), ("--wrokers", "--workers")),
        (("start", "-w", "many", "worker.py"), ("--workers: 'many'", "auto")),
        (("start", "-w", "2", "-w", "3", "nosuch.py"), ("nosuch.py",)),
        (("start", "--stop-timeout", "10 parsecs", "worker.py"), ("--stop-timeout: '10 parsecs'", "10s")),
        (("start", "--bind", "nowhere", "worker:app"), ("--bind: 'nowhere'", "127.0.0.1:8000")),
        (("start", "--port", "0", "worker.py"), ("--port: '0'", "from 1 to 65535")),
        (("start", "--share", "telepathy", "worker.py"), ("--share: 'telepathy'", "seccomp")),
        (("start", "--env", "A", "worker.py"), ("--env: 'A'", "NAME=VALUE")),
        (("start", "--name", "no name", "worker.py"), ("--name: 'no name'", "letter")),
        (("--name", "no name", "start", "worker.py"), ("--name: 'no name'", "letter")),
        (("start", "--cwd", "nowhere", "worker.py"), ("--cwd", "nowhere")),
        (("start", "--config", "nosuch.toml", "worker.py"), ("nosuch.toml", "--config")),
        (("start", "--access-key-file", "nokey", "worker.py"), ("--access-key-file", "nokey")),
        (("start", "worker:app"), ("worker.py", "'app'")),
        (("start", "--workers"), ("--workers", "argument")),
    ],
)
def test_a_sentence_and_nothing_started(run_dir: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = cservice(*arguments)
    assert (done.code, done.out) == (2, "")
    for word in words:
        assert word in done.err
    told = cservice(*(("start", "--json", *arguments[1:]) if arguments[0] == "start" else ("--json", *arguments)))
    assert json.loads(told.out)["error"]["code"] == "bad_request"


def test_a_second_start_becomes_a_console(service: Running) -> None:
    silent = cservice("start", "worker.py")
    assert (silent.code, silent.out) == (3, "")
    assert f"pid {os.getpid()}" in silent.err
    assert "since 20" in silent.err
    told = cservice("worker.py", stdin="restart web 5\nworkers\n")
    assert told.code == 0
    assert "restart web: done (2 of 2)" in told.out
    assert cservice("start", "worker.py", stdin="restart nosuch\n").code == 1
    assert cservice("start", "worker.py", stdin="quit\n").code == 3
    assert [entry["restart"] for entry in service.machine.told] == ["web", "nosuch"]


def test_a_second_start_on_a_terminal(service: Running) -> None:
    code, shown = on_terminal("start", "worker.py", stdin="health\nquit\n")
    assert code == 0
    assert "already running" in shown
    assert "2 of 2 serving" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--group", "jobs", "worker.py"), {"start": "{here}/worker.py", "group": "jobs", "cwd": "{here}"}),
        (
            ("--group", "jobs", "-w", "3", "--cwd", "..", "worker.py", "--workers", "7", "--", "-x"),
            {
                "start": "{here}/worker.py", "group": "jobs", "workers": "3", "cwd": "{parent}",
                "args": ["--workers", "7", "--", "-x"],
            },
        ),
        (
            ("--group", "jobs", "--env", "A=1", "--env", "B=2", "--no-auto-restart", "--", "sh", "-c", "exit"),
            {
                "start": "sh", "group": "jobs", "env": ["A=1", "B=2"], "auto_restart": False, "program": True,
                "args": ["-c", "exit"], "cwd": "{here}",
            },
        ),
        (
            ("--group", "jobs", "--timeout", "5", "shop:app"),
            {"start": "shop:app", "group": "jobs", "timeout": 5.0, "cwd": "{here}"},
        ),
        (
            ("--group", "jobs", "shop:app", "--bind", ":8001", "-w", "2", "--", "-x", "--workers=7"),
            {
                "start": "shop:app", "group": "jobs", "bind": [":8001"], "workers": "2", "args": ["-x", "--workers=7"],
                "cwd": "{here}",
            },
        ),
        (
            ("--group", "jobs", "worker.py", "--", "--", "-x"),
            {"start": "{here}/worker.py", "group": "jobs", "args": ["--", "-x"], "cwd": "{here}"},
        ),
        (
            ("--group", "jobs", "shop:app", "-w", "2", "--", "--", "-x"),
            {"start": "shop:app", "group": "jobs", "workers": "2", "args": ["--", "-x"], "cwd": "{here}"},
        ),
        (
            ("--group", "jobs", "shop:app", "--", "-x"),
            {"start": "shop:app", "group": "jobs", "args": ["-x"], "cwd": "{here}"},
        ),
        (
            ("--group", "jobs", "-w", "2", "-m", "http.server", "--bind", "127.0.0.1", "-m", "8000"),
            {
                "start": "-m http.server", "group": "jobs", "workers": "2", "cwd": "{here}",
                "args": ["--bind", "127.0.0.1", "-m", "8000"],
            },
        ),
        (
            ("--group", "jobs", "worker.py", "-m", "x"),
            {"start": "{here}/worker.py", "group": "jobs", "cwd": "{here}", "args": ["-m", "x"]},
        ),
        (
            ("--group", "jobs", "-mhttp.server", "--", "8000"),
            {"start": "-m http.server", "group": "jobs", "cwd": "{here}", "args": ["8000"]},
        ),
        (
            ("--group", "jobs", "--", "sh", "--", "-x"),
            {"start": "sh", "group": "jobs", "program": True, "args": ["--", "-x"], "cwd": "{here}"},
        ),
        (
            ("--group", "jobs", "shop:app", "-w", "2", "fast", "--bind", "x"),
            {"start": "shop:app", "group": "jobs", "workers": "2", "args": ["fast", "--bind", "x"], "cwd": "{here}"},
        ),
    ],
)  # fmt: skip
def test_a_group_is_added_to_the_service_that_runs(
    service: Running, here: Path, arguments: tuple[str, ...], told: dict[str, object]
) -> None:
    done = cservice("start", *arguments)
    assert done.code == 0, done
    places = {"{here}": str(here), "{parent}": str(here.parent)}
    expected = {
        name: value.replace("{here}", str(here)).replace("{parent}", places["{parent}"])
        if isinstance(value, str)
        else value
        for name, value in told.items()
    }
    assert service.machine.told == [expected]
    assert "done" in done.out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("start worker.py", {"start": "{here}/worker.py", "cwd": "{here}"}),
        ("start ./worker.py .. 5", {"start": "{here}/worker.py", "cwd": "{parent}", "timeout": 5.0}),
        (
            "start worker.py -w 3 --group jobs",
            {"start": "{here}/worker.py", "cwd": "{here}", "workers": "3", "group": "jobs"},
        ),
        ('start worker.py {"workers": 3}', {"start": "{here}/worker.py", "cwd": "{here}", "workers": 3}),
        ("start server:app", {"start": "server:app", "cwd": "{here}"}),
        ("start server:app . server:granian", {"start": "server:app", "cwd": "{here}", "server": "granian"}),
        ("start worker.py -- --fast", {"start": "{here}/worker.py", "cwd": "{here}", "args": ["--fast"]}),
        (
            "start -w 2 -- node server.js",
            {"start": "node", "program": True, "cwd": "{here}", "args": ["server.js"], "workers": "2"},
        ),
        ("start worker.py --no-auto-restart", {"start": "{here}/worker.py", "cwd": "{here}", "auto_restart": False}),
    ],
)
def test_start_in_a_console(service: Running, here: Path, line: str, told: dict[str, object]) -> None:
    done = cservice(stdin=line + "\n")
    assert done.code == 0, done
    expected = {
        name: value.replace("{here}", str(here)).replace("{parent}", str(here.parent))
        if isinstance(value, str)
        else value
        for name, value in told.items()
    }
    assert service.machine.told == [expected]


def test_an_option_behind_an_app_that_there_is_not(service: Running) -> None:
    done = cservice("start", "--group", "jobs", "shop:app", "--bnid", ":8001")
    assert done.code == 2
    assert "did you mean '--bind'?" in done.err
    assert service.machine.told == []


def test_what_is_the_service_s_cannot_be_given_with_a_group(service: Running) -> None:
    done = cservice("start", "--group", "jobs", "--give-up", "all-broken", "worker.py")
    assert done.code == 2
    assert "--give-up" in done.err
    assert service.machine.told == []


def test_a_group_that_the_file_names_is_added_as_it_stands_there(service: Running, here: Path) -> None:
    (here / "cluster-service.toml").write_text('[groups.jobs]\ntarget = "worker.py"\nstop_timeout = "4s"\n')
    done = cservice("start", "--group", "jobs", "-w", "3")
    assert done.code == 0, done
    (told,) = service.machine.told
    assert (told["start"], told["group"], told["stop_timeout"]) == (f"{here}/worker.py", "jobs", 4.0)
    assert told["workers"] == 3, "the flag counts more"
    done = cservice("start", "--group", "jbos")
    assert done.code == 2
    assert "did you mean 'jobs'?" in done.err
    assert len(service.machine.told) == 1


def test_a_group_is_added_at_the_tcp_door_with_a_key(service: Running) -> None:
    url = f"http://localhost:{service.port}"
    assert cservice("--url", url, "--access-key", KEY, "start", "--group", "jobs", "worker.py").code == 0
    assert cservice("--url", url, "--access-key", "wrong", "start", "--group", "jobs", "worker.py").code == 4


def test_what_follows_the_target_is_the_program_s(here: Path) -> None:
    (here / "worker.py").write_text(
        "import cluster_service, signal, sys\n"
        "print('given', sys.argv[1:], flush=True)\n"
        "cluster_service.worker_ready()\n"
        "signal.pause()\n"
    )
    with Service("-w", "1", "worker.py", "--workers", "7", "--", "-x", cwd=here) as service:
        service.serving(1)
        service.until_logged("given ['--workers', '7', '--', '-x']")
        assert [worker["group"] for worker in service.workers()] == ["web"]
        done = service.cli("shutdown", "all")
        assert done.code == 0, done
        assert service.ended() == 0


def test_a_service_in_the_background_that_does_not_listen_is_reported(here: Path) -> None:
    (here / "worker.py").write_text("import signal\nsignal.pause()\n")
    options = ("--name", "late", "-w", "2", "--log-file", "log", "--ready-after", "100ms")
    done = cservice("start", "--detach", *options, "worker.py")
    try:
        assert done.code == 0, done
        assert done.out.startswith("service 'late' runs (pid ")
        assert done.err.count("cservice: web: serving (not listening); set expect_port") == 1
        assert "it neither reported that it is ready nor was seen to listen" in (here / "log").read_text()
        assert cservice("--name", "late", "workers").out.count("serving (not listening)") == 2
    finally:
        ended = cservice("--name", "late", "shutdown", "all")
    assert ended.code == 0


def test_a_service_in_the_background(here: Path) -> None:
    (here / "worker.py").write_text("import cluster_service, signal\ncluster_service.worker_ready()\nsignal.pause()\n")
    done = cservice("start", "--detach", "--name", "back", "-w", "1", "--log-file", "log", "--json", "worker.py")
    try:
        assert done.code == 0, done
        started = json.loads(done.out)
        assert started["name"] == "back"
        assert cservice("--name", "back", "info", "--json").code == 0
    finally:
        ended = cservice("--name", "back", "shutdown", "all")
    assert ended.code == 0
    assert cservice("--name", "back", "workers").code == 3
