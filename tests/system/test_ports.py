"""Addresses of every kind are shared; what is not ours to share is left alone."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tools import ask
from tests.tools.load import Load
from tests.tools.ports import free_port
from tests.tools.service import PYTHON, Service

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS = Path(__file__).parent.parent / "programs"


def listeners(*addresses: str, options: tuple[str, ...] = ()) -> Service:
    """Two workers that listen on *addresses* (see programs/listeners.py)."""
    return Service("-w", "2", *options, "listeners.py", *addresses, cwd=PROGRAMS)


def all_answer(service: Service, *questions: Callable[[], int]) -> None:
    """Both workers answer each of *questions*."""
    all_answer_of(service, 2, *questions)


def all_answer_of(service: Service, count: int, *questions: Callable[[], int]) -> None:
    """Each of *count* workers answers each of *questions*."""
    workers = service.serving(count)
    for question in questions:
        assert ask.workers_that_answer(question, workers) == set(workers)


def test_ipv4_ipv6_and_two_ports_in_one_program() -> None:
    four, six = free_port(), free_port()
    with listeners(f"tcp4:{four}", f"tcp6:{six}", f"any4:{six}") as service:
        all_answer(
            service,
            lambda: ask.raw_pid(("127.0.0.1", four)),
            lambda: ask.raw_pid(("::1", six)),
            lambda: ask.raw_pid(("127.0.0.1", six)),
        )
        listening = {address for worker in service.workers() for address in worker["listening"]}
        assert listening == {f"127.0.0.1:{four}", f"[::1]:{six}", f"0.0.0.0:{six}"}


def test_a_dual_stack_socket_answers_both_families() -> None:
    port = free_port()
    with listeners(f"dual:{port}") as service:
        all_answer(service, lambda: ask.raw_pid(("127.0.0.1", port)), lambda: ask.raw_pid(("::1", port)))


def test_a_unix_socket_that_the_program_unlinks_before_it_binds(run_dir: Path) -> None:
    path = str(run_dir / "s")
    with listeners(f"unix:{path}") as service:
        all_answer(service, lambda: ask.raw_pid(path))
        assert service.cli("restart", "all").code == 0
        all_answer(service, lambda: ask.raw_pid(path))
    Path(path).unlink(missing_ok=True)


def test_udp() -> None:
    port = free_port()
    with listeners(f"udp4:{port}", f"udp6:{port}") as service:
        all_answer(service, lambda: ask.udp_pid(("127.0.0.1", port)), lambda: ask.udp_pid(("::1", port)))


def test_a_bind_from_another_thread() -> None:
    one, two = free_port(), free_port()
    with listeners("thread", f"tcp4:{one}", f"tcp4:{two}") as service:
        all_answer(service, lambda: ask.raw_pid(("127.0.0.1", one)), lambda: ask.raw_pid(("127.0.0.1", two)))


def test_port_0_is_left_alone() -> None:
    with listeners("zero") as service:
        workers = service.serving(2)
        service.until(lambda: service.log.count("zero ") >= 2, "both ports")
        told = [line[line.index("zero ") :].split()[1:3] for line in service.lines if "zero " in line]
        assert sorted(int(pid) for pid, _ in told) == workers
        assert {pid: ask.raw_pid(("127.0.0.1", int(port))) for pid, port in told} == {pid: int(pid) for pid, _ in told}
        assert len({port for _, port in told}) == 2


def test_a_port_that_a_stranger_holds_is_named_with_pid_and_program() -> None:
    port = free_port()
    stranger = subprocess.Popen(
        [PYTHON, str(PROGRAMS / "listeners.py"), f"tcp4:{port}", "zero"], stdout=subprocess.PIPE, text=True
    )
    assert stranger.stdout is not None
    try:
        assert stranger.stdout.readline().startswith("zero ")
        with listeners(f"tcp4:{port}") as service:
            detail = service.until_event("worker_exit")[0]["detail"]
            assert str(port) in detail
            assert f"{stranger.pid} (" in detail
            assert "python" in detail
    finally:
        stranger.kill()
        stranger.communicate()


def test_a_privileged_port_with_workers_that_run_as_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    port = next(number for number in range(1023, 600, -1) if can_bind(number)) if os.getuid() == 0 else 1023
    program = (*interpreter_for(nobody.pw_uid), "-m", "http.server", str(port), "--bind", "127.0.0.1")
    with Service(
        *("-w", "2", "--user", "nobody", "--user-group", str(nobody.pw_gid), "--cwd", "/"),
        *("--bind", f"127.0.0.1:{port}", "--", *program, "--directory", "/proc/self"),
    ) as service:
        if os.getuid() == 0:
            all_answer(service, lambda: ask.http_pid(("127.0.0.1", port), "/stat"))
            assert {identity(pid) for pid in service.serving(2)} == {(nobody.pw_uid, nobody.pw_gid)}
        else:
            assert service.ended() == 2, "who is not root cannot become another user, and is told so"
            assert "root" in service.log


def identity(pid: int) -> tuple[int, int]:
    """The real user and group of *pid*."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    fields = {line.split(":")[0]: line.split()[1:] for line in lines if line.startswith(("Uid", "Gid"))}
    return int(fields["Uid"][0]), int(fields["Gid"][0])


def interpreter_for(uid: int) -> list[str]:
    """A Python that the user *uid* may run: ours may stand in a private directory."""
    candidates = [PYTHON, str(Path(PYTHON).resolve()), "/usr/bin/python3", "/usr/local/bin/python3"]
    if os.getuid() != 0:
        return candidates[:1]
    for candidate in candidates:
        try:
            subprocess.run([candidate, "-c", "import http.server"], check=True, user=uid, capture_output=True, cwd="/")
        except (OSError, subprocess.CalledProcessError):
            continue
        return [candidate]
    raise AssertionError(f"nobody can run none of {candidates}")


def can_bind(port: int) -> bool:
    """Whether *port* is free."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def test_a_socket_that_nobody_uses_any_more_is_closed(tmp_path: Path) -> None:
    before, after = free_port(), free_port()
    program = tmp_path / "moving.py"
    source = (PROGRAMS / "listeners.py").read_text()
    program.write_text(source.replace("sys.argv[1:]", "open('addresses').read().split()"))
    (tmp_path / "addresses").write_text(f"tcp4:{before}")
    with Service("-w", "2", "--allow-port-change", "moving.py", cwd=tmp_path) as service:
        all_answer(service, lambda: ask.raw_pid(("127.0.0.1", before)))
        (tmp_path / "addresses").write_text(f"tcp4:{after}")
        assert service.cli("restart", "all").code == 0
        all_answer(service, lambda: ask.raw_pid(("127.0.0.1", after)))
        service.until_event("port_closed", address=f"127.0.0.1:{before}")
        assert service.json("info")["ports"] == [f"127.0.0.1:{after}"]
        with pytest.raises(ConnectionRefusedError):
            ask.connect(("127.0.0.1", before))


def answers(port: int) -> bool:
    try:
        return bool(ask.http_pid(("127.0.0.1", port), "/"))
    except (OSError, AssertionError, HTTPException):
        return False


def test_a_program_that_shuts_the_port_down_costs_moments() -> None:
    port = free_port()
    with Service("-w", "3", "--listen", "shared", "--", PYTHON, "shuts_down.py", str(port), cwd=PROGRAMS) as service:
        service.serving(3)
        with Load(f"http://127.0.0.1:{port}/", rate=200) as load:
            assert service.cli("restart", "all").code == 0
            service.until(lambda: answers(port), "an answer after the last worker has shut the port down")
            all_answer_of(service, 3, lambda: ask.http_pid(("127.0.0.1", port), "/"))
            result = load.finish()
        assert result.ok > result.failed, result
        assert "shut down the socket that all workers share, and it listens again" in service.log


def test_a_program_that_shuts_its_own_socket_down_costs_nothing() -> None:
    port = free_port()
    with Service("-w", "3", "--", PYTHON, "shuts_down.py", str(port), cwd=PROGRAMS) as service:
        service.serving(3)
        with Load(f"http://127.0.0.1:{port}/", rate=60, mode="new") as load:
            for _ in range(2):
                assert service.cli("restart", "all").code == 0
            result = load.finish()
        assert result.failed == 0, result
        assert result.ok > 0


def test_a_unix_socket_that_a_program_shuts_down_is_replaced(run_dir: Path) -> None:
    path = str(run_dir / "s")
    with Service("-w", "3", "--", PYTHON, "shuts_down.py", path, cwd=PROGRAMS) as service:
        before = set(service.serving(3))
        assert service.cli("restart", "web.1").code == 0
        service.until(lambda: not before & set(service.serving(3)), "the replacement of every worker")
        all_answer_of(service, 3, lambda: ask.raw_pid(path))


def test_a_worker_that_should_listen_and_does_not_is_never_ready() -> None:
    options = ("-w", "1", "--expect-port", "yes", "--ready-timeout", "2s", "--no-auto-restart")
    with Service(*options, "--", "sleep", "60", cwd=PROGRAMS) as service:
        service.until_logged("web.1 was not ready within 2 s: it does not listen on any port")
        assert service.cli("health").out.startswith("down: 0 of 1 serving")


ASKS_FIRST = """
import http.server, socket, sys
with socket.socket() as client:
    if client.connect_ex(("127.0.0.1", int(sys.argv[1]))) == 0:
        sys.exit(f"Port {sys.argv[1]} is in use")
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""
"""A program that does not start while its port answers."""


@pytest.mark.parametrize("dashes", [False, True])
def test_a_program_that_asks_whether_its_port_answers_starts_again(tmp_path: Path, *, dashes: bool) -> None:
    (tmp_path / "asks.py").write_text(ASKS_FIRST)
    port = free_port()
    target = ["--", PYTHON, "asks.py", str(port)] if dashes else ["asks.py", str(port)]
    with Service("--singleton", *target, cwd=tmp_path) as service:
        (pid,) = service.serving(1)
        os.kill(pid, signal.SIGKILL)
        service.until_event("worker_ready", 2)
        assert service.until_event("port_closed", address=f"127.0.0.1:{port}")
        assert service.cli("restart", "all").code == 0
        (_, refused) = service.until_event("worker_exit", 2)[:2]
        assert f"Port {port} is in use; the service had 127.0.0.1:{port} open" in refused["detail"]
