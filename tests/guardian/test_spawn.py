"""How a worker's process starts, what it finds, and what is left when it cannot."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.wire import facts, orders
from tests.contract.interface import DEADLINE
from tests.tools.processes import children_of, in_group, stat

from .puppet import Puppet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.real import RealKernel

    from .conftest import Start

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def spawn(kernel: RealKernel, argv: list[str], **how: Any) -> None:
    fields: dict[str, Any] = {"env": {"PATH": os.environ["PATH"]}, "cwd": "/", "label": "web.1", **how}
    kernel.send(orders.Spawn(kernel_next(kernel), argv, **fields))


def kernel_next(kernel: RealKernel) -> int:
    kernel.send(orders.Hello())
    return int(kernel.fact(facts.Snapshot).last_worker) + 1


def descriptors(pid: int) -> set[str]:
    found = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            found.add(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


def test_what_a_worker_finds(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1, share="none", cwd="/usr", env={"A": "b"})
    assert puppet.do("result = os.getcwd()") == "/usr"
    assert puppet.do("result = sorted(os.environ)") == [
        "A", "CSERVICE_BOARD", "CSERVICE_CHANNEL", "CSERVICE_INSTANCE", "LC_CTYPE", "NOTIFY_SOCKET",
    ]  # fmt: skip
    assert puppet.do("result = [os.getpid(), os.getpgrp(), os.getppid()]") == [
        puppet.pid,
        puppet.pid,
        kernel.process.pid,
    ]
    assert puppet.do("result = sorted(int(n) for n in os.listdir('/proc/self/fd'))") == list(range(6))  # 5: the list's
    assert puppet.do("result = os.readlink('/proc/self/fd/0')") == "/dev/null"
    assert puppet.do("result = list(signal.pthread_sigmask(signal.SIG_BLOCK, []))") == []
    with open(f"/proc/{puppet.pid}/status", encoding="ascii") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert int(fields["SigIgn"], 16) & ~(1 << 12 | 1 << 24) == 0  # Python itself ignores SIGPIPE and SIGXFSZ
    assert fields["Seccomp"] == "0"


def test_no_new_privs_only_where_it_is_needed(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    with open(f"/proc/{puppet.pid}/status", encoding="ascii") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert fields["Seccomp"] == "2"
    assert fields["NoNewPrivs"] == ("0" if os.geteuid() == 0 else "1")


def test_limits_are_those_that_the_guardian_was_started_with(start: Start) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    kernel = start(prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard)))
    assert Puppet(kernel, 1).do("import resource; result = resource.getrlimit(resource.RLIMIT_NOFILE)") == [100, hard]


@pytest.mark.parametrize(
    ("name", "content", "mode", "said"),
    [
        ("absent", None, 0, "no such program"),
        ("plain", "echo", 0o644, "not executable; try: chmod +x"),
        ("nobody", "#!/nonexistent/python\n", 0o755, "interpreter that its first line names does not exist"),
        ("data", "\x7fELF but not", 0o755, "no program for this machine"),
    ],
)
def test_programs_that_cannot_be_run(
    kernel: RealKernel, run_dir: Path, name: str, content: str | None, mode: int, said: str
) -> None:
    program = run_dir / name
    if content is not None:
        program.write_text(content, encoding="latin-1")
        program.chmod(mode)
    spawn(kernel, [str(program)])
    error = kernel.fact(facts.SpawnFailed).error
    assert str(program) in error
    assert said in error
    program.unlink(missing_ok=True)


def test_a_program_is_looked_for_on_the_workers_path_and_in_its_directory(kernel: RealKernel, run_dir: Path) -> None:
    (run_dir / "hello").write_text("#!/bin/sh\nexit 7\n", encoding="ascii")
    (run_dir / "hello").chmod(0o755)
    for argv, env, cwd in ((["hello"], {"PATH": f"/nowhere:{run_dir}"}, "/"), (["./hello"], {}, str(run_dir))):
        spawn(kernel, argv, env=env, cwd=cwd)
        assert kernel.fact(facts.Exited).code == 7
    spawn(kernel, ["hello"], env={"PATH": "/nowhere"})
    assert kernel.fact(facts.SpawnFailed).error == "no such program on the PATH: hello"
    (run_dir / "hello").unlink()
    spawn(kernel, ["/usr"])
    assert "is a directory" in kernel.fact(facts.SpawnFailed).error
    spawn(kernel, [], env={})
    assert "no program" in kernel.fact(facts.Refused, order="spawn").why


def test_a_failed_start_leaves_nothing(kernel: RealKernel) -> None:
    before = descriptors(kernel.process.pid)
    spawn(kernel, ["/nonexistent"], share="seccomp", channel=True)
    kernel.fact(facts.SpawnFailed)
    Puppet(kernel, 2, share="python").end()
    kernel.fact(facts.Output)
    kernel.send(orders.Forget(2))
    kernel.nothing_of(facts.Exited, worker=1)
    end = time.monotonic() + DEADLINE

    def is_as_before() -> bool:  # the relay, the log writer and the cleaner; the helper ends when it is idle
        return descriptors(kernel.process.pid) == before and len(children_of(kernel.process.pid)) == 3

    while not is_as_before() and time.monotonic() < end:
        kernel.nothing_of(facts.Signalled)  # the log writer says a moment after the exit that it has read the pipes
    assert is_as_before()


@ROOT
def test_a_refused_fork_leaves_nothing(start: Start, run_dir: Path) -> None:
    """The guardian runs as a user of nobody else's, who may have three processes: it, its log writer and its master."""
    run_dir.chmod(0o755)
    user = 2_000_000 + os.getpid()
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]

    def become_the_user() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (3, hard))
        os.setgid(user)
        os.setuid(user)

    kernel = start(prepare=become_the_user, python="/usr/bin/python3")
    before = descriptors(kernel.process.pid)
    spawn(kernel, ["/bin/true"], channel=True)
    assert "refuses another process" in kernel.fact(facts.SpawnFailed).error
    assert descriptors(kernel.process.pid) == before
    more = f"import resource; resource.prlimit({kernel.process.pid}, resource.RLIMIT_NPROC, ({hard}, {hard}))"
    subprocess.run(["/usr/bin/python3", "-c", more], check=True, user=user, group=user)
    spawn(kernel, ["/bin/true"], channel=True)
    assert kernel.fact(facts.Exited).code == 0


@ROOT
def test_users_and_groups(kernel: RealKernel) -> None:
    python = "/usr/bin/python3"
    cases: list[tuple[dict[str, str], tuple[int, int]]] = [
        ({"user": "nobody"}, (65534, 65534)),
        ({"user": "65534", "group": "12345"}, (65534, 12345)),
        ({"user": "4242", "group": "4243"}, (4242, 4243)),
    ]
    for number, (how, ids) in enumerate(cases, 1):
        puppet = Puppet(kernel, number, python=python, **how)
        assert puppet.do("result = [os.getuid(), os.getgid()]") == list(ids)
        assert 0 not in puppet.do("result = os.getgroups()")
        assert puppet.do("result = open('/proc/self/status').read().partition('CapEff:')[2].split()[0]") == "0" * 16
    for how, said in (
        ({"user": "no-such"}, "no user no-such"),
        ({"user": "4242"}, "name a group too"),
        ({"group": "no-such"}, "no group no-such"),
    ):
        spawn(kernel, ["/bin/true"], **how)
        assert said in kernel.fact(facts.SpawnFailed).error


@ROOT
def test_a_worker_of_another_user_may_open_its_outputs_by_name(kernel: RealKernel) -> None:
    sh = "for each in /dev/stdout /dev/stderr; do echo written to $each >$each || exit 1; done"
    spawn(kernel, ["/bin/sh", "-c", sh], user="65534", group="65534")
    assert kernel.fact(facts.Exited).code == 0
    assert kernel.fact(facts.Output).lines == ["written to /dev/stdout", "written to /dev/stderr"]


STDIN = "import select; wait = select.poll(); wait.register(0); print(wait.poll(0))"


@pytest.mark.parametrize(("keep", "found"), [(False, "[(0, 5)]"), (True, "[(0, 4)]")])
def test_standard_input_is_at_its_end_or_never_ends(kernel: RealKernel, *, keep: bool, found: str) -> None:
    """It can be written, and read at its end only (POLLIN is 1, POLLOUT 4)."""
    spawn(kernel, [sys.executable, "-I", "-S", "-c", STDIN], keep_stdin=keep)
    assert kernel.fact(facts.Exited).code == 0
    assert kernel.fact(facts.Output).lines == [found]


@ROOT
@pytest.mark.parametrize("keep", [False, True])
def test_a_worker_of_another_user_may_open_its_input_by_name(kernel: RealKernel, *, keep: bool) -> None:
    spawn(kernel, ["/bin/sh", "-c", "exec 3<>/dev/stdin"], user="65534", group="65534", keep_stdin=keep)
    assert kernel.fact(facts.Exited).code == 0


def test_a_stopped_child_does_not_hold_the_guardian_up(kernel: RealKernel, run_dir: Path) -> None:
    """The directory of the first worker is a place where opening blocks: it never gets to its exec."""
    fifo = run_dir / "program"
    os.mkfifo(fifo)
    fifo.chmod(0o755)
    slow = Puppet(kernel, 1)
    os.kill(slow.pid, signal.SIGSTOP)
    Puppet(kernel, 2).end()
    os.kill(slow.pid, signal.SIGKILL)
    kernel.fact(facts.Exited, worker=1)
    fifo.unlink()


def test_the_whole_group_is_swept_after_the_exit(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.tell(
        "child = os.fork()\n"
        "if child == 0:\n"
        " signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        " if os.fork() == 0:\n"
        '  channel.send(b\'{"type": "grandchild"}\')\n'
        " while True: signal.pause()"
    )
    kernel.fact(facts.Message, worker=1, message={"type": "grandchild"})
    os.kill(puppet.pid, signal.SIGKILL)
    kernel.fact(facts.Exited, worker=1)
    left = in_group(puppet.pid)
    assert len(left) == 2
    pidfds = [os.pidfd_open(pid) for pid in left]
    kernel.send(orders.Signal(1, signal.SIGKILL, "sweep", whole_group=True))
    for pidfd in pidfds:
        wait_for(pidfd)
    kernel.nothing_of(facts.Refused)
    for pid in left:
        assert (found := stat(pid)) is None or found.state in "ZX"


def wait_for(pidfd: int) -> None:
    import select

    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)


def test_strangers_are_reaped(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    pid = puppet.do(
        "a, b = os.pipe()\n"
        "if os.fork() == 0:\n"
        " child = os.fork()\n"
        " if child:\n"
        "  os.write(b, str(child).encode())\n"
        "  os._exit(0)\n"
        " signal.pause()\n"
        "os.wait()\n"
        "result = int(os.read(a, 100))"
    )
    assert stat(pid).parent == kernel.process.pid  # type: ignore[union-attr]
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    wait_for(pidfd)
    puppet.end()
    Puppet(kernel, 2).end()  # and so the guardian is past the reaping of which it told
    assert stat(pid) is None


def test_notify_takes_only_the_worker_and_root(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    name = puppet.do("result = os.environ['NOTIFY_SOCKET']")
    assert name.startswith("/")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(name)
        client.send(b"STATUS=one\nnonsense\n")
        assert kernel.fact(facts.Notified).fields == {"STATUS": "one"}
        a, b = os.pipe()
        socket.send_fds(client, [b"BARRIER=1"], [b])  # sd_notify_barrier(3): it waits until this end is closed
        os.close(b)
        assert os.read(a, 1) == b""
        client.send(b"STATUS=two")
        assert kernel.fact(facts.Notified).fields == {"STATUS": "two"}
        os.close(a)
    if os.geteuid() == 0:
        puppet.do(
            "if os.fork() == 0:\n"
            " os.setuid(12345)\n"
            " c = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            " try: c.connect(os.environ['NOTIFY_SOCKET'])\n"
            " except PermissionError: os._exit(7)\n"
            " os._exit(0)\n"
            "result = os.waitstatus_to_exitcode(os.wait()[1])\n"
            "assert result == 7"
        )
        kernel.nothing_of(facts.Notified)


def test_tell_to_a_worker_that_does_not_read(kernel: RealKernel) -> None:
    spawn(kernel, ["/bin/sleep", "1000"], channel=True)
    kernel.fact(facts.Spawned)
    message = {"type": "x", "text": "y" * 60_000}
    for _ in range(50):
        kernel.send(orders.Tell(1, message))
    assert "does not read" in kernel.fact(facts.Refused, order="tell").why
    kernel.send(orders.Tell(1, {"type": "x", "text": "y" * 70_000}))
    while "limit" not in kernel.fact(facts.Refused, order="tell").why:
        pass


def test_messages_wait_for_the_next_master(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    kernel.restart_master()
    puppet.tell('channel.send(b\'{"type": "early"}\')')  # carried out, although this master has not said hello
    kernel.send(orders.Hello())
    assert kernel.fact(facts.Snapshot).workers
    assert kernel.fact(facts.Message).message == {"type": "early"}


def test_bad_orders_are_refused(kernel: RealKernel) -> None:
    kernel.send(orders.Signal("x", 9, "kill"))  # type: ignore[arg-type]
    kernel.fact(facts.Refused, order="signal")
    kernel.send(orders.Note(5))  # type: ignore[arg-type]
    kernel.fact(facts.Refused, order="note")
    kernel.send(orders.Spawn("one", ["/bin/true"], {}, "/", "web.1"))  # type: ignore[arg-type]
    kernel.fact(facts.Refused, order="spawn")
    kernel.send(orders.Spawn(1, ["/bin/true"], {"A": 1}, "/", "web.1"))  # type: ignore[dict-item]
    kernel.fact(facts.SpawnFailed)
    kernel.send(orders.Note("x" * (9 * 1024 * 1024)))
    assert "limit" in kernel.fact(facts.Refused, order="note").why
    assert kernel.snapshot.notebook == ""
