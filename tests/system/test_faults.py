"""What happens when a part of a running service dies, is broken, or is asked for the impossible."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tools import ask
from tests.tools.load import Load, Mode
from tests.tools.ports import free_port
from tests.tools.processes import descendants
from tests.tools.service import Service, cservice, run_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAMS = Path(__file__).parent.parent / "programs"


def script(port: int) -> Service:
    """Two workers of a plain http.server script."""
    return Service("-w", "2", "http_server.py", str(port), cwd=PROGRAMS)


def app(port: int) -> Service:
    """Two workers of an app on uvicorn."""
    return Service("-w", "2", "--bind", f"127.0.0.1:{port}", "asgi_pid:app", cwd=PROGRAMS)


TARGETS = {"script": script, "app": app}


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """A FIFO at tmp_path/gate; call the fixture to let so many workers through."""
    os.mkfifo(tmp_path / "gate")
    end = os.open(tmp_path / "gate", os.O_RDWR)
    yield lambda count: [os.write(end, b"x" * count)].clear()
    os.close(end)


@pytest.mark.parametrize("target", TARGETS)
def test_a_killed_worker_costs_at_most_what_it_held(target: str) -> None:
    port = free_port()
    with TARGETS[target](port) as service:
        victim, other = service.serving(2)
        with Load(f"http://127.0.0.1:{port}/") as load:
            os.kill(victim, signal.SIGKILL)
            exit_event = service.until_event("worker_exit", pid=victim)[0]
            service.until_event("worker_ready", 3)
            result = load.finish()
        assert (exit_event["signal"], exit_event["reason"]) == ("SIGKILL", "failure")
        assert other in service.serving(2)
        assert all(reason.startswith(("before the answer", "in the answer")) for reason in result.reasons), result
        assert result.failed <= 10, f"it held a few at most: {result}"


@pytest.mark.parametrize("target", TARGETS)
def test_rolling_restarts_lose_no_new_connection(target: str) -> None:
    port = free_port()
    with TARGETS[target](port) as service:
        seen = set(service.serving(2))
        with Load(f"http://127.0.0.1:{port}/") as load:
            for _ in range(4):
                done = service.cli("restart", "all")
                assert done.code == 0, done
                now = set(service.serving(2))
                assert not now & seen, "every worker is a new one"
                seen |= now
            result = load.finish()
        assert result.failed == 0, result


@pytest.mark.parametrize("mode", ["new", "keepalive"])
def test_a_killed_master_costs_nothing_and_its_successor_adopts_every_worker(mode: Mode) -> None:
    port = free_port()
    with script(port) as service:
        workers = service.serving(2)
        master = service.json("info")["master_pid"]
        with Load(f"http://127.0.0.1:{port}/", mode=mode) as load:
            os.kill(master, signal.SIGKILL)
            adopted = service.until_event("master_start", starts=2)[0]["adopted"]
            assert sorted(worker["pid"] for worker in service.workers()) == workers
            result = load.finish()
        assert adopted == 2
        assert service.json("info")["master_pid"] != master
        assert (result.failed, result.retried) == (0, 0), result
        assert set(map(int, result.bodies)) <= set(workers)


def test_a_rolling_restart_outlives_the_master(tmp_path: Path, gate: Callable[[int], None]) -> None:
    port = free_port()
    with Service("-w", "3", str(PROGRAMS / "gated.py"), str(port), str(tmp_path / "gate"), cwd=tmp_path) as service:
        before = service.serving(3)
        operation = service.json("restart", "all", "--no-wait")["id"]
        service.until_event("worker_start", reason="restart")
        os.kill(service.json("info")["master_pid"], signal.SIGKILL)
        service.until_event("master_start", starts=2)
        gate(3)
        end = service.until_event("operation_end", operation=operation)[0]
        assert end["state"] == "done"
        after = service.serving(3)
        assert not set(before) & set(after)
        assert ask.workers_that_answer(lambda: ask.http_pid(("127.0.0.1", port)), after) == set(after)


def test_a_killed_guardian_takes_everything_with_it_and_its_name_can_be_used_again(tmp_path: Path) -> None:
    port = free_port()
    program = tmp_path / "graceful.py"
    _, _, source = (PROGRAMS / "http_server.py").read_text().split('"""', 2)
    head = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: (print('goodbye', flush=True), sys.exit(0)))\n"
    # A worker counts as ready at its listen(), which the guardian may not have answered yet: it says that it goes on.
    listening = ") as server:\n    print('hello')\n    server.serve_forever()"
    server = source.replace("\nThreading", "\nwith Threading").replace(").serve_forever()", listening)
    program.write_text(head + server)
    with Service("-w", "2", "graceful.py", str(port), cwd=tmp_path) as service:
        service.until(lambda: service.log.count("hello") == 2, "two workers past their listen()")
        family = [os.pidfd_open(pid) for pid in descendants(service.pid)]
        service.process.kill()
        try:
            assert all(ended(process) for process in family), "a process has outlived its guardian"
        finally:
            for process in family:
                os.close(process)
        assert service.ended() == -signal.SIGKILL
        assert service.log.count("goodbye") == 2
    with socket.create_server(("127.0.0.1", port)):
        pass
    with script(port) as service:
        workers = service.serving(2)
        assert ask.http_pid(("127.0.0.1", port)) in workers
        assert service.stop() == 0


def test_what_a_dead_service_has_left_is_no_obstacle() -> None:
    port = free_port()
    run_directory().mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(run_directory() / "test.sock"))
    dead = '{"pid": 999999999, "since": "2000-01-01T00:00:00Z", "name": "test"}'
    (run_directory() / "test.lock").write_text(dead, encoding="utf-8")
    assert cservice("--name", "test", "workers").code == 3
    with script(port) as service:
        workers = service.serving(2)
        assert sorted(worker["pid"] for worker in service.workers()) == workers
        assert service.stop() == 0
    assert list(run_directory().iterdir()) == []


def ended(process: int) -> bool:
    """Wait for the end of the process behind a pidfd."""
    return bool(select.select([process], [], [], 20)[0])


def test_a_program_that_fails_at_import_says_why_once_and_serves_when_it_is_mended(tmp_path: Path) -> None:
    port = free_port()
    program = tmp_path / "server.py"
    program.write_text("import nosuch_module\n")
    options = ("-w", "2", "--restart-delay", "10ms", "--restarts-per-minute", "3")
    with Service(*options, "server.py", str(port), cwd=tmp_path) as service:
        service.until_event("slot_broken", 2)
        cause = "ModuleNotFoundError: No module named 'nosuch_module'"
        assert [worker["state"] for worker in service.workers()] == ["broken"] * 2
        health = service.json("health")
        assert (health["status"], health["serving"], health["wanted"]) == ("down", 0, 2)
        assert all(cause in problem["detail"] for problem in health["problems"])
        assert cause in service.cli("workers").out
        assert service.log.count(f": {cause}") <= 4, "told once for each slot and when it is broken, not at every try"
        program.write_text((PROGRAMS / "http_server.py").read_text())
        done = service.cli("restart", "all")
        assert done.code == 0, done
        workers = service.serving(2)
        assert ask.http_pid(("127.0.0.1", port)) in workers
        assert service.json("health")["status"] == "ok"


def test_a_service_may_give_up(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text("raise SystemExit(7)\n")
    options = ("-w", "2", "--give-up", "all-broken", "--restart-delay", "10ms", "--restarts-per-minute", "2")
    with Service(*options, "server.py", cwd=tmp_path) as service:
        assert service.ended() == 69
        assert "exited with code 7 before it was ready" in service.log


def test_a_graceful_end_keeps_a_second_signal_for_now(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('not yet', flush=True))\n"
        "print('up', flush=True)\nwhile True: signal.pause()\n"
    )
    with Service("-w", "1", "--ready-after", "10ms", "stubborn.py", cwd=tmp_path) as service:
        service.serving(1)
        service.until_logged("up")  # it has its handler
        service.process.send_signal(signal.SIGTERM)
        service.until_logged("not yet")
        while service.alive():  # an impatient user; two signals within a moment count as one
            service.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                service.process.wait(0.3)
        assert service.ended() == 0, "long before the 60 seconds of --stop-timeout"
