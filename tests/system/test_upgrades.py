"""Moving a running service to other code, and back when that code is bad: real processes, under load."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from cluster_service import connect
from tests.tools import releases
from tests.tools.load import Load, Result
from tests.tools.ports import free_port
from tests.tools.service import PYTHON, Service, UnixConnection, cservice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ("app", "script")


def service_of(folder: Path, kind: str, port: int, *options: str, workers: int = 2) -> Service:
    """A service on the release in *folder*."""
    more = ["--bind", f"127.0.0.1:{port}"] if kind == "app" else []
    arguments = [str(port)] if kind == "script" else []
    options = ("-w", str(workers), "--ready-after", "60s", *options, *more)
    return Service(*options, *releases.target(folder, kind), *arguments, cwd=folder)


def upgrade(folder: Path, kind: str, *options: str, monitor: str = "300ms") -> tuple[str, ...]:
    return ("upgrade", "all", *releases.target(folder, kind), "--cwd", str(folder), "--monitor", monitor, *options)


@contextlib.contextmanager
def loaded(port: int) -> Iterator[list[Result]]:
    """Clients of both kinds, 100 requests a second each; the results stand in the list afterwards."""
    results: list[Result] = []
    url = f"http://127.0.0.1:{port}/"
    with Load(url, rate=100, mode="new") as fresh, Load(url, rate=100, mode="keepalive") as kept:
        yield results
        results += [fresh.finish(), kept.finish()]


def where(service: Service) -> set[tuple[str, str]]:
    """The state and the directory of every worker."""
    return {(row["state"], row["cwd"]) for row in service.workers()}


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_again_without_a_failed_request(kind: str, tmp_path: Path) -> None:
    port = free_port()
    folders = [releases.write(tmp_path / version, version, kind) for version in ("v1", "v2")]
    with service_of(folders[0], kind, port) as service:
        service.serving(2)
        with loaded(port) as results:
            for turn in (1, 0, 1):
                done = service.cli(*upgrade(folders[turn], kind))
                assert done.code == 0, done
                assert where(service) == {("serving", str(folders[turn]))}
    assert [result.failed for result in results] == [0, 0], results
    assert {body for result in results for body in result.bodies} == {"v1", "v2"}


@pytest.mark.parametrize("kind", KINDS)
def test_one_worker_is_enough(kind: str, tmp_path: Path) -> None:
    port = free_port()
    first, second = (releases.write(tmp_path / version, version, kind) for version in ("v1", "v2"))
    with service_of(first, kind, port, workers=1) as service:
        service.serving(1)
        with loaded(port) as results:
            assert service.cli(*upgrade(second, kind)).code == 0
            assert service.cli("rollback").code == 0
            assert where(service) == {("serving", str(first))}
    assert [result.failed for result in results] == [0, 0], results


class Bad(NamedTuple):
    """A release that is bad."""

    why: str
    """What the reason must say."""
    head: str = ""
    startup: str = "pass"
    status: int = 200
    options: tuple[str, ...] = ()
    costs: int = 0
    """Requests that its canary may cost, at most: those that it held, or answered itself."""


HANG_APP = "__import__('asyncio').get_running_loop().call_later(1, __import__('time').sleep, 3600)"
HANG_SCRIPT = "server.service_actions = lambda: __import__('time').sleep(3600)"
EXIT = "__import__('threading').Timer(1, __import__('os')._exit, [7]).start()"

BAD: dict[str, dict[str, Bad]] = {
    "syntax error": {
        "app": Bad('main.py", line 1\n', head="def broken(:"),
        "script": Bad('worker.py", line 1\n', head="def broken(:"),
    },
    "raises at import": dict.fromkeys(
        KINDS, Bad("RuntimeError: no database", head='raise RuntimeError("no database")')
    ),
    "never ready": dict.fromkeys(
        KINDS,
        Bad("was not ready within 2 s", head="__import__('time').sleep(3600)", options=("--timeout", "2")),
    ),
    "exits": dict.fromkeys(KINDS, Bad("exited with code 7 after serving for", startup=EXIT, costs=8)),
    "hangs": {
        "app": Bad("hangs: its event loop or thread pool made no progress for", startup=HANG_APP, costs=12),
        "script": Bad("hangs: its event loop or thread pool made no progress for", startup=HANG_SCRIPT, costs=12),
    },
    "answers 500": {"app": Bad("answers of the new release were server errors (5xx)", status=500, costs=500)},
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, by_kind in BAD.items() for kind in by_kind])
def test_bad_code_is_undone_under_load(name: str, kind: str, tmp_path: Path) -> None:
    bad, port = BAD[name][kind], free_port()
    first = releases.write(tmp_path / "v1", "v1", kind)
    second = releases.write(tmp_path / "v2", "v2", kind, head=bad.head, startup=bad.startup, status=bad.status)
    with service_of(first, kind, port) as service:
        before = service.serving(2)
        with loaded(port) as results:
            done = service.cli(*upgrade(second, kind, *bad.options, monitor="5s"))
            assert done.code == 1, done
            assert bad.why in done.err, done
            assert "HTTP/1" not in done.err, "a log of requests tells no cause"
            assert where(service) == {("serving", str(first))}
            assert service.serving(2) == before
        end = service.until_event("operation_end", command=f"upgrade all {releases.target(second, kind)[0]}")[0]
        assert end["state"] == "undone"
    assert sum(result.failed for result in results) <= bad.costs, results


def test_a_test_that_fails_is_the_end_of_it_and_no_client_has_seen_anything(tmp_path: Path) -> None:
    port = free_port()
    first, second = (releases.write(tmp_path / version, version, "app") for version in ("v1", "v2"))
    check = tmp_path / "smoke.py"
    check.write_text(
        "import os, sys, urllib.request\n"
        "body = urllib.request.urlopen(os.environ['CSERVICE_TEST_URL']).read().decode()\n"
        "print('it says', body, 'in', os.getcwd())\n"
        "sys.exit(body != sys.argv[0] and 'v1 was expected' if body != 'v1' else 0)\n"
    )
    with service_of(first, "app", port) as service:
        service.serving(2)
        with loaded(port) as results:
            done = service.cli(*upgrade(second, "app", "--test", str(check)))
        assert done.code == 1
        assert "v1 was expected" in done.err
        assert f"it says v2 in {second}" in done.out
        assert where(service) == {("serving", str(first))}
    assert [result.failed for result in results] == [0, 0]
    assert {body for result in results for body in result.bodies} == {"v1"}


def test_a_test_that_passes_is_run_before_the_canary(tmp_path: Path) -> None:
    port = free_port()
    first, second = (releases.write(tmp_path / version, version, "script") for version in ("v1", "v2"))
    check = tmp_path / "smoke.sh"
    check.write_text(f"#!/bin/sh\ntest $CSERVICE_TEST_PORT -gt 0 -a $CSERVICE_TEST_PORT -ne {port}\n")
    check.chmod(0o755)
    with service_of(first, "script", port) as service:
        service.serving(2)
        done = service.cli(*upgrade(second, "script", "--test", str(check)))
        assert done.code == 0, done
        steps = [event["text"].partition(":")[0] for event in service.events if event["type"] == "operation_step"]
        assert [step for step in steps if step in ("check", "dark", "canary", "roll", "bake")] == [
            "check", "dark", "dark", "canary", "roll", "bake",
        ]  # fmt: skip


def test_another_interpreter_that_is_none_and_one_without_what_the_code_needs(tmp_path: Path) -> None:
    port = free_port()
    first = releases.write(tmp_path / "v1", "v1", "script")
    second = releases.write(tmp_path / "v2", "v2", "script")
    third = releases.write(tmp_path / "v3", "v3", "script", head="import starlette")
    (second / "python").write_text("#!/bin/sh\necho I am no Python\n")
    (second / "python").chmod(0o755)
    releases.virtualenv(third)
    with service_of(first, "script", port) as service:
        service.serving(2)
        with loaded(port) as results:
            done = service.cli(*upgrade(second, "script", "--python", str(second / "python")))
            assert (done.code, "does not answer as a Python interpreter" in done.err) == (1, True), done
            done = service.cli(*upgrade(third, "script"))
            assert (done.code, "No module named 'starlette'" in done.err) == (1, True), done
            assert where(service) == {("serving", str(first))}
    assert [result.failed for result in results] == [0, 0], results


def test_a_release_that_is_not_there_is_a_failure_and_changes_nothing(tmp_path: Path) -> None:
    first = releases.write(tmp_path / "v1", "v1", "app")
    with service_of(first, "app", free_port()) as service:
        before = service.serving(2)
        for words, why in (
            (["nosuch.py"], "no such file: nosuch.py"),
            (["nosuch:app"], "there is no module 'nosuch'"),
            (["main:app", "--python", "/nosuch/python"], "there is no interpreter /nosuch/python"),
            (["main:app", "--cwd", "/nosuch"], "the directory /nosuch does not exist"),
        ):
            done = service.cli("upgrade", "all", *words)
            assert (done.code, why in done.err) == (1, True), done
        assert "no earlier release" in service.cli("rollback").err
        assert service.cli("rollback").code == 1
        assert service.serving(2) == before


def test_a_release_that_leaves_a_port_is_refused_unless_that_is_meant(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    first, second = (releases.write(tmp_path / version, version, "script") for version in ("v1", "v2"))
    (second / "worker.py").write_text((second / "worker.py").read_text().replace("int(sys.argv[1])", str(other)))
    with service_of(first, "script", port) as service:
        service.serving(2)
        done = service.cli(*upgrade(second, "script"))
        assert done.code == 1
        assert f"does not listen on 127.0.0.1:{port}, where the old release does" in done.err
        assert where(service) == {("serving", str(first))}
        assert service.cli(*upgrade(second, "script", "--allow-port-change")).code == 0
        service.until_event("port_closed", address=f"127.0.0.1:{port}")
        assert service.json("info")["ports"] == [f"127.0.0.1:{other}"]


def test_a_symbolic_link_is_followed_when_the_upgrade_is_asked_for(tmp_path: Path) -> None:
    port = free_port()
    folders = [releases.write(tmp_path / version, version, "script") for version in ("v1", "v2")]
    current = tmp_path / "current"
    current.symlink_to("v1")
    with service_of(current, "script", port) as service:
        service.serving(2)
        assert where(service) == {("serving", str(folders[0]))}
        os.replace(_link(tmp_path / "next", "v2"), current)
        assert service.cli("restart", "all").code == 0
        assert where(service) == {("serving", str(folders[0]))}
        assert service.cli(*upgrade(current, "script")).code == 0
        assert where(service) == {("serving", str(folders[1]))}


def _link(path: Path, to: str) -> Path:
    path.symlink_to(to)
    return path


STAGES = ("check", "dark", "canary", "roll", "bake", "undo")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGUSR2])
@pytest.mark.parametrize("stage", STAGES)
def test_the_master_may_go_in_any_stage(stage: str, how: signal.Signals, tmp_path: Path) -> None:
    port = free_port()
    first = releases.write(tmp_path / "v1", "v1", "app")
    second = releases.write(tmp_path / "v2", "v2", "app", startup=EXIT if stage == "undo" else "pass")
    check = tmp_path / "passes.py"
    check.write_text("")
    told = {"undo": "canary", "roll": "roll"}.get(stage, stage)
    with service_of(first, "app", port, workers=3) as service:
        service.serving(3)
        with loaded(port) as results:
            command = upgrade(second, "app", "--test", str(check), "--no-wait", monitor="2s")
            operation = service.json(*command)["id"]
            service.until(lambda: _stage(service.events, stage, told), f"stage {stage}")
            if how == signal.SIGKILL:
                os.kill(service.json("info")["master_pid"], how)
            else:
                os.kill(service.pid, how)
            service.until_event("master_start", starts=2)
            end = connect(service.name).follow(operation)  # the event may have gone with the first master
            assert end["state"] == ("undone" if stage == "undo" else "done"), end
            assert where(service) == {("serving", str(first if stage == "undo" else second))}
    assert sum(result.failed for result in results) <= (8 if stage == "undo" else 0), results


def _stage(events: list[dict[str, Any]], stage: str, told: str) -> bool:
    steps = [event["text"] for event in events if event["type"] == "operation_step"]
    if stage == "undo":
        return any("back to the old release" in step for step in steps)
    return any(step.startswith(f"{told}:") for step in steps)


def test_a_second_one_is_refused_and_the_first_can_be_cancelled(tmp_path: Path) -> None:
    port = free_port()
    first, second = (releases.write(tmp_path / version, version, "app") for version in ("v1", "v2"))
    with service_of(first, "app", port) as service:
        before = service.serving(2)
        operation = service.json(*upgrade(second, "app", "--no-wait", monitor="60s"))["id"]
        service.serving(3)
        done = service.cli(*upgrade(second, "app"))
        assert done.code == 1
        assert f"operation {operation} (upgrade all main:app)" in done.err
        assert service.cli("cancel").code == 0
        assert service.until_event("operation_end", operation=operation)[0]["state"] == "cancelled"
        assert service.serving(2) == before
        done = service.cli("operations", operation)
        assert done.code == 1
        assert "cancelled by an operator" in done.err


def test_one_worker_alone_may_be_upgraded(tmp_path: Path) -> None:
    port = free_port()
    first, second = (releases.write(tmp_path / version, version, "app") for version in ("v1", "v2"))
    with service_of(first, "app", port) as service:
        pid, other = service.serving(2)
        arguments = list(upgrade(second, "app"))
        arguments[1] = str(pid)
        assert service.cli(*arguments).code == 0
        assert where(service) == {("serving", str(first)), ("serving", str(second))}
        assert other in service.serving(2)


def test_a_health_check_is_asked_of_a_worker_that_no_client_reaches(tmp_path: Path) -> None:
    port = free_port()
    first, second = releases.write(tmp_path / "v1", "v1", "app"), releases.write(tmp_path / "v2", "v2", "app")
    third = releases.write(tmp_path / "v3", "v3", "app", status=503)
    with service_of(first, "app", port, "--health-check", "/health") as service:
        service.serving(2)
        assert service.cli(*upgrade(second, "app")).code == 0
        done = service.cli(*upgrade(third, "app"))
        assert done.code == 1
        assert "was answered 503 Service Unavailable" in done.err
        assert where(service) == {("serving", str(second))}


def test_what_was_promoted_is_remembered_over_the_end_of_the_service(tmp_path: Path) -> None:
    port = free_port()
    first, second = (releases.write(tmp_path / version, version, "app") for version in ("v1", "v2"))
    state = str(tmp_path / "state.json")
    with service_of(first, "app", port, "--state", state) as service:
        service.serving(2)
        assert service.cli(*upgrade(second, "app")).code == 0
    with service_of(first, "app", port, "--state", state) as service:
        service.serving(2)
        assert where(service) == {("serving", str(second))}
        assert "continuing with the promoted release" in service.log
        assert [row["command"] for row in service.json("operations")["operations"]][-2:] == [
            "upgrade all main:app", "start",
        ]  # fmt: skip
        assert service.cli("rollback").code == 0
        assert where(service) == {("serving", str(first))}


def test_a_second_start_elsewhere_is_a_console_from_which_the_upgrade_is_asked_for(tmp_path: Path) -> None:
    port = free_port()
    first = releases.write(tmp_path / "v1", "v1", "script")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    second = releases.write(elsewhere / "v2", "v2", "script")
    with service_of(first, "script", port) as service:
        service.serving(2)
        done = cservice(
            "start", "--name", service.name, "./v2/worker.py",
            stdin="upgrade all ./v2/worker.py ./v2 60 monitor:300ms\n", cwd=elsewhere,
        )  # fmt: skip
        assert done.code == 0, done
        assert f"upgrade all {second}/worker.py: done (2 of 2)" in done.out
        assert where(service) == {("serving", str(second))}


def test_a_test_script_is_run_in_the_environment_of_the_service(tmp_path: Path) -> None:
    port = free_port()
    first = releases.write(tmp_path / "v1", "v1", "app")
    script = tmp_path / "check.py"
    script.write_text(
        "import os, sys, urllib.request\n"
        "print(urllib.request.urlopen(os.environ['CSERVICE_TEST_URL']).read().decode())\n"
        "print(os.getcwd(), os.environ['COLOUR'], sys.executable)\n"
    )
    with service_of(first, "app", port, "--env", "COLOUR=red") as service:
        service.serving(2)
        done = service.cli("test", str(script))
        assert done.code == 0, done
        assert done.out.splitlines()[0] == "v1"
        assert done.out.splitlines()[1].startswith(f"{first} red {PYTHON}")
        script.write_text("print('I looked'); raise SystemExit('it is broken')")
        done = service.cli("test", str(script))
        assert (done.code, done.out) == (1, "I looked\nit is broken\n")
        assert "check.py failed with exit code 1: it is broken" in done.err


def test_a_test_that_takes_too_long_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    port = free_port()
    first = releases.write(tmp_path / "v1", "v1", "app")
    script = tmp_path / "slow.sh"
    script.write_text("#!/bin/sh\nsetsid sleep 3600 &\necho $!\nsleep 3600\n")
    script.chmod(0o755)
    with service_of(first, "app", port) as service:
        service.serving(2)
        done = service.cli("test", str(script), "--timeout", "700")
        assert done.code == 1
        assert "slow.sh took longer than 0.7 s and was killed" in done.err
        assert not os.path.exists(f"/proc/{done.out.split()[0]}")


def door(service: Service, path: str) -> tuple[int, bytes]:
    """What the control socket answers: at once, where the command line would take a second of a busy machine."""
    connection = UnixConnection(service.door)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_shutdown_may_be_announced_to_those_who_look_at_ready(tmp_path: Path) -> None:
    port = free_port()
    first = releases.write(tmp_path / "v1", "v1", "app")
    with service_of(first, "app", port, "--shutdown-delay", "4s") as service:
        service.serving(2)
        with loaded(port) as results:
            service.process.send_signal(signal.SIGTERM)
            service.until_event("operation_start", command="shutdown all")
            assert door(service, "/ready")[0] == 503
            status, told = door(service, "/api/v1/health")
            assert (status, json.loads(told)["serving"]) == (200, 2)
        assert [result.failed for result in results] == [0, 0], results
        assert service.ended() == 0
