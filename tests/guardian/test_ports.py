"""Workers that know nothing of us share their ports, by seccomp and by the runtime in them."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest

import cluster_service
from cluster_service.wire import facts, orders
from tests.contract.interface import DEADLINE
from tests.tools.ports import free_port

from .puppet import Puppet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.real import RealKernel

    from .conftest import Start


@pytest.fixture(autouse=True)
def need_seccomp(kernel: RealKernel) -> None:
    if kernel.snapshot.share["seccomp"]:
        pytest.skip(kernel.snapshot.share["seccomp"])


def ask(address: tuple[str, int] | str | bytes) -> int:
    """Connect, and return the pid that answers."""
    family = (
        socket.AF_UNIX
        if isinstance(address, (str, bytes))
        else socket.AF_INET6
        if ":" in address[0]
        else socket.AF_INET
    )
    with socket.socket(family) as client:
        client.settimeout(20)
        client.connect(address)
        return int(client.recv(100))


def answered_by(puppet: Puppet, address: tuple[str, int] | str | bytes, name: str = "s") -> bool:
    """Let only *puppet* accept, and see that it is the one that a client reaches."""
    puppet.tell(f"serve({name})")
    pid = ask(address)
    puppet.answer()
    return pid == puppet.pid


@pytest.mark.parametrize(
    ("call", "host", "text"),
    [
        ("tcp('127.0.0.1', {port})", "127.0.0.1", "127.0.0.1:{port}"),
        ("tcp('0.0.0.0', {port})", "127.0.0.1", "0.0.0.0:{port}"),
        ("tcp('::1', {port}, socket.AF_INET6)", "::1", "[::1]:{port}"),
        ("tcp('::', {port}, socket.AF_INET6, v6only=True)", "::1", "[::]:{port}"),
        ("tcp('::', {port}, socket.AF_INET6, v6only=False)", "127.0.0.1", "[::]:{port}+v4"),
    ],
)
def test_two_workers_share_a_tcp_port(kernel: RealKernel, call: str, host: str, text: str) -> None:
    port = free_port()
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        puppet.do("s = " + call.format(port=port))
        assert kernel.fact(facts.Listening, worker=puppet.number).address == text.format(port=port)
    for puppet in puppets:
        assert answered_by(puppet, (host, port))


def test_two_ports_in_one_program(kernel: RealKernel) -> None:
    ports = free_port(), free_port()
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        for name, port in zip("ab", ports, strict=True):
            puppet.do(f"{name} = tcp('127.0.0.1', {port})")
    for puppet in puppets:
        for name, port in zip("ab", ports, strict=True):
            assert answered_by(puppet, ("127.0.0.1", port), name)


def test_the_port_outlives_its_workers_and_is_closed_when_told(kernel: RealKernel) -> None:
    port = free_port()
    first = Puppet(kernel, 1)
    first.do(f"s = tcp('127.0.0.1', {port})")
    os.kill(first.pid, 9)
    kernel.fact(facts.Exited, worker=1)
    with socket.create_connection(("127.0.0.1", port)) as client:  # it queues
        second = Puppet(kernel, 2)
        second.do(f"s = tcp('127.0.0.1', {port})\nserve(s)")
        assert int(client.recv(100)) == second.pid
    second.end()
    with socket.create_connection(("127.0.0.1", port)) as queued:
        kernel.send(orders.Close(f"127.0.0.1:{port}"))
        kernel.send(orders.Hello())
        assert kernel.fact(facts.Snapshot).listeners == []
        with pytest.raises(ConnectionResetError):
            queued.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_bind_from_a_second_thread(kernel: RealKernel) -> None:
    port = free_port()
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        puppet.do(
            "found = []\n"
            f"thread = threading.Thread(target=lambda: found.append(tcp('127.0.0.1', {port})))\n"
            "thread.start(); thread.join(); s = found[0]"
        )
        assert answered_by(puppet, ("127.0.0.1", port))


LATE = """
import ctypes, os, socket, threading
def late():
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z":  # a zombie has no descriptors any more
        os.sched_yield()
    s = socket.socket()
    s.bind(("127.0.0.1", int(os.environ["PORT"])))
    s.listen()
    connection, _ = s.accept()
    connection.sendall(str(os.getpid()).encode())
    os._exit(0)
threading.Thread(target=late).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_bind_after_the_first_thread_has_ended(kernel: RealKernel) -> None:
    port = free_port()
    argv = [sys.executable, "-I", "-S", "-c", LATE]
    kernel.send(orders.Spawn(1, argv, {"PORT": str(port)}, "/", "web.1", share="seccomp"))
    pid = kernel.fact(facts.Spawned, worker=1).pid
    kernel.fact(facts.Listening, worker=1)
    assert ask(("127.0.0.1", port)) == pid


def test_children_of_a_worker_share_too(kernel: RealKernel) -> None:
    port = free_port()
    first, second = Puppet(kernel, 1), Puppet(kernel, 2)
    first.do(f"s = tcp('127.0.0.1', {port})")
    second.do(f"child = os.fork()\nif child == 0:\n serve(tcp('127.0.0.1', {port}))\n os._exit(0)")
    kernel.fact(facts.Listening, worker=2)
    assert ask(("127.0.0.1", port)) not in (first.pid, second.pid)
    second.do("os.waitpid(child, 0)")


def test_port_0_is_left_alone(kernel: RealKernel) -> None:
    ports = {Puppet(kernel, number).do("s = tcp('127.0.0.1', 0)\nresult = s.getsockname()[1]") for number in (1, 2)}
    assert len(ports) == 2
    kernel.nothing_of(facts.Listening)


def test_what_is_not_to_be_shared_is_left_alone(kernel: RealKernel) -> None:
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        puppet.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('127.0.0.1', 9)); u.close()")
        puppet.do(
            "m = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "m.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); m.bind(('224.0.0.251', 5353)); m.close()"
        )
        puppet.do(
            f"d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); d.bind('\\0test-{os.getpid()}-{puppet.number}')"
        )
        puppet.do("d = socket.socket(socket.AF_UNIX); d.bind(''); d.close()")
        assert puppet.fails("s = socket.socket(); s.bind(('192.0.2.1', 0))") == errno.EADDRNOTAVAIL
        assert puppet.fails("socket.socket(fileno=os.open('/', 0))") == errno.ENOTSOCK
    kernel.send(orders.Hello())
    assert kernel.fact(facts.Snapshot).listeners == []


def test_udp_is_shared_and_its_bind_is_its_listen(kernel: RealKernel) -> None:
    port = free_port()
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        puppet.do(f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', {port}))")
        assert kernel.fact(facts.Listening, worker=puppet.number).address == f"udp:127.0.0.1:{port}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(("127.0.0.1", port))
        for puppet in puppets:
            client.send(b"hello")
            puppet.do("data, peer = s.recvfrom(100); s.sendto(str(os.getpid()).encode(), peer)")
            assert int(client.recv(100)) == puppet.pid


def test_a_strangers_port_is_refused_with_its_holder(kernel: RealKernel) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        puppet = Puppet(kernel, 1)
        assert puppet.fails(f"tcp('127.0.0.1', {port})") == errno.EADDRINUSE
        failed = kernel.fact(facts.ListenFailed, worker=1)
    with open("/proc/self/comm", encoding="ascii") as file:
        name = file.read().strip()
    assert failed.address == f"127.0.0.1:{port}"
    assert failed.error == f"127.0.0.1:{port} is taken: pid {os.getpid()} ({name}) listens there"
    puppet.do(f"s = tcp('127.0.0.1', {port})")  # it has left: nothing of the failure remains


@pytest.mark.parametrize(
    ("family", "kind", "held", "wanted"),
    [
        (socket.AF_INET6, "", "('::', {port})", "tcp('127.0.0.1', {port})"),
        (socket.AF_INET, "", "('0.0.0.0', {port})", "tcp('::', {port}, socket.AF_INET6, v6only=False)"),
        (
            socket.AF_INET,
            "udp:",
            "('127.0.0.1', {port})",
            "socket.socket(type=socket.SOCK_DGRAM).bind(('0.0.0.0', {port}))",
        ),
    ],
)
def test_a_stranger_on_an_address_that_overlaps_is_found_too(
    kernel: RealKernel, family: int, kind: str, held: str, wanted: str
) -> None:
    port = free_port()
    with socket.socket(family, socket.SOCK_DGRAM if kind else socket.SOCK_STREAM) as stranger:
        if family == socket.AF_INET6:
            stranger.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        stranger.bind(eval(held.format(port=port)))  # noqa: S307 - the table above
        if not kind:
            stranger.listen()
        assert Puppet(kernel, 1).fails(wanted.format(port=port)) == errno.EADDRINUSE
        assert f"pid {os.getpid()} (" in kernel.fact(facts.ListenFailed, worker=1).error


def test_other_failures_are_told_too(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    assert puppet.fails("tcp('192.0.2.1', 8000)") == errno.EADDRNOTAVAIL
    assert kernel.fact(facts.ListenFailed, worker=1).error == "192.0.2.1:8000: this machine has no such address"


@pytest.mark.parametrize(
    ("old", "new", "host"),
    [
        ("tcp('0.0.0.0', {port})", "tcp('127.0.0.1', {port})", "127.0.0.1"),
        ("tcp('127.0.0.1', {port})", "tcp('0.0.0.0', {port})", "127.0.0.1"),
        ("tcp('::', {port}, socket.AF_INET6, v6only=False)", "tcp('::', {port}, socket.AF_INET6, v6only=True)", "::1"),
        ("tcp('0.0.0.0', {port})", "tcp('::', {port}, socket.AF_INET6, v6only=False)", "::1"),
    ],
)
def test_a_release_that_binds_another_form_of_the_address_is_not_kept_out_by_the_old_one(
    kernel: RealKernel, old: str, new: str, host: str
) -> None:
    port = free_port()
    first, second = Puppet(kernel, 1), Puppet(kernel, 2)
    first.do("s = " + old.format(port=port))
    second.do("s = " + new.format(port=port))
    first.end()
    kernel.send(orders.Hello())
    kernel.send(orders.Close(kernel.fact(facts.Snapshot).listeners[0]["address"]))
    kernel.nothing_of(facts.ListenFailed)
    second.settle()
    assert answered_by(second, (host, port))


def test_the_services_door_is_not_given_away(kernel: RealKernel) -> None:
    port = free_port()
    kernel.send(orders.Listen(f"127.0.0.1:{port}", door=True))
    kernel.fact(facts.Listening)
    puppet = Puppet(kernel, 1)
    assert puppet.fails(f"tcp('127.0.0.1', {port})") == errno.EADDRINUSE
    assert "door" in kernel.fact(facts.ListenFailed, worker=1).error
    assert puppet.fails(f"tcp('0.0.0.0', {port})") == errno.EADDRINUSE


def test_close_on_exec_stays_as_the_worker_set_it(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    for inheritable in (False, True):
        code = (
            f"s = socket.socket(); s.set_inheritable({inheritable}); s.bind(('127.0.0.1', {free_port()})); s.listen()"
        )
        assert puppet.do(f"{code}\nresult = os.get_inheritable(s.fileno())") is inheritable


FLAG = "import fcntl\nresult = bool(fcntl.fcntl(s, fcntl.F_GETFL) & os.O_NONBLOCK)"


def test_nonblocking_is_copied_from_the_only_user_and_never_taken_from_others(kernel: RealKernel) -> None:
    port = free_port()
    first, second, third = (Puppet(kernel, number) for number in (1, 2, 3))
    first.do(f"s = tcp('127.0.0.1', {port}, blocking=False)")
    assert first.do(FLAG) is True
    second.do(f"s = tcp('127.0.0.1', {port}, blocking=True)")
    assert second.do(FLAG) is True
    assert first.do(FLAG) is True
    first.end()
    second.end()
    third.do(f"s = tcp('127.0.0.1', {port}, blocking=True)")
    assert third.do(FLAG) is False


def test_accepted_connections_do_not_wait_for_acknowledgements(kernel: RealKernel) -> None:
    port = free_port()
    puppet = Puppet(kernel, 1)
    puppet.do(f"s = tcp('127.0.0.1', {port})")
    with socket.create_connection(("127.0.0.1", port)):
        assert puppet.do("c, _ = s.accept(); result = c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)") == 1


def test_options_that_the_program_has_set_are_kept(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    result = puppet.do(
        "options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),"
        " (socket.SOL_SOCKET, socket.SO_RCVBUF, 30000)]\n"
        "s = socket.socket()\n"
        "for option in options: s.setsockopt(*option)\n"
        "before = [s.getsockopt(*option[:2]) for option in options]\n"
        f"s.bind(('127.0.0.1', {free_port()}))\n"
        "result = [before, [s.getsockopt(*option[:2]) for option in options]]"
    )
    assert result == [[1, 77, 60000]] * 2


def test_a_port_that_was_only_tried_is_let_go(kernel: RealKernel) -> None:
    port = free_port()
    puppet = Puppet(kernel, 1)
    puppet.do(f"s = tcp('127.0.0.1', {port}, listen=False); s.close()")
    puppet.end()
    kernel.send(orders.Hello())
    assert kernel.fact(facts.Snapshot).listeners == []


def test_an_old_socket_may_be_bound_once(kernel: RealKernel) -> None:
    port = free_port()
    puppet = Puppet(kernel, 1)
    puppet.do(f"s = tcp('127.0.0.1', {port}, listen=False); s.bind(('127.0.0.1', {port})); s.listen()")
    assert puppet.fails(f"s.bind(('127.0.0.1', {free_port()}))") == errno.EINVAL


def test_workers_that_die_in_the_middle_of_a_bind_hold_nobody_up(kernel: RealKernel) -> None:
    """While the guardian is stopped workers call bind and are killed; it finds their notifications and goes on."""
    port = free_port()
    puppets = [Puppet(kernel, number) for number in range(1, 6)]
    kernel.signal(19)
    for puppet in puppets:
        os.kill(puppet.pid, 19)  # they will read their orders when they are continued ...
    kernel.signal(18)
    for puppet in puppets:
        puppet.tell(f"s = tcp('127.0.0.1', {port})")
    kernel.nothing_of(facts.Message)
    kernel.signal(19)
    for puppet in puppets:
        os.kill(puppet.pid, 18)  # ... and call bind, which nobody answers
        wait_until_it_calls(puppet.pid, 49)
        os.kill(puppet.pid, 9)
    kernel.signal(18)
    for puppet in puppets:
        kernel.fact(facts.Exited, worker=puppet.number)
    last = Puppet(kernel, 6)
    last.do(f"s = tcp('127.0.0.1', {port})")
    assert answered_by(last, ("127.0.0.1", port))


def wait_until_it_calls(pid: int, number: int) -> None:
    """Return when *pid* is within system call *number*: the one thing here that nothing announces."""
    with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
        while not file.read().startswith(f"{number} "):
            os.sched_yield()
            file.seek(0)


def test_a_signal_in_the_middle_of_a_bind_does_not_hurt(kernel: RealKernel) -> None:
    port = free_port()
    puppet = Puppet(kernel, 1)
    puppet.do("signal.signal(signal.SIGUSR1, lambda *_: None); signal.siginterrupt(signal.SIGUSR1, False)")
    os.kill(puppet.pid, 19)
    puppet.tell(f"s = tcp('127.0.0.1', {port})")
    kernel.nothing_of(facts.Message)
    kernel.signal(19)
    os.kill(puppet.pid, 18)
    wait_until_it_calls(puppet.pid, 49)
    os.kill(puppet.pid, 10)
    kernel.signal(18)
    assert "errno" not in puppet.answer()
    assert answered_by(puppet, ("127.0.0.1", port))


def test_without_seccomp_the_reason_is_told(start: Start) -> None:
    share = start(env={"CSERVICE_NO_SECCOMP": "1"}).snapshot.share
    assert share == {
        "seccomp": "it was switched off with CSERVICE_NO_SECCOMP=1",
        "python": "",
        "inherit": "",
        "none": "",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_privileged_port_with_workers_that_run_as_another_user(kernel: RealKernel) -> None:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        if int(file.read()) <= 700:
            pytest.skip("no port is privileged on this machine")
    how = {"python": "/usr/bin/python3", "user": "nobody", "tenant": "web"}
    stranger = Puppet(kernel, 1, **how)
    assert stranger.fails("tcp('127.0.0.1', 707)") == errno.EACCES
    assert 'set bind = ["127.0.0.1:707"] for group web' in kernel.fact(facts.ListenFailed, worker=1).error
    puppets = [Puppet(kernel, number, **how, binds=["127.0.0.1:707"]) for number in (2, 3)]
    for puppet in puppets:
        assert puppet.do("result = os.getresuid()") == [65534] * 3
        puppet.do("s = tcp('127.0.0.1', 707)")
        assert answered_by(puppet, ("127.0.0.1", 707))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_service_of_an_ordinary_user(start: Start, run_dir: Path) -> None:
    """Without CAP_SYS_ADMIN the filter needs no_new_privs, and ports below 1024 are refused with the reason."""
    run_dir.chmod(0o755)

    def become_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)

    kernel = start(prepare=become_nobody, python="/usr/bin/python3")
    assert kernel.snapshot.share["seccomp"] == ""
    port = free_port()
    puppets = [Puppet(kernel, number, python="/usr/bin/python3") for number in (1, 2)]
    for puppet in puppets:
        puppet.do(f"s = tcp('127.0.0.1', {port})")
        assert answered_by(puppet, ("127.0.0.1", port))
        with open(f"/proc/{puppet.pid}/status", encoding="ascii") as file:
            assert "NoNewPrivs:\t1\n" in file.read()
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        if int(file.read()) > 700:
            assert puppets[0].fails("tcp('127.0.0.1', 700)") == errno.EACCES
            assert "need root" in kernel.fact(facts.ListenFailed).error
    kernel.send(orders.Spawn(3, ["/bin/true"], {}, "/", "web.3", user="root"))
    assert "only when the service is started by root" in kernel.fact(facts.SpawnFailed).error


def test_a_service_within_a_service_says_why_it_cannot_use_seccomp(kernel: RealKernel) -> None:
    source = os.path.dirname(os.path.dirname(cluster_service.__file__))
    reason = Puppet(kernel, 1).do(
        f"sys.path.insert(0, {source!r})\nfrom cluster_service.guardian import seccomp\nresult = seccomp.probe({{}})"
    )
    assert "inside another cservice" in reason


def test_nothing_piles_up_in_the_guardian(kernel: RealKernel) -> None:
    def held() -> list[str]:
        directory = f"/proc/{kernel.process.pid}/fd"
        return sorted(os.readlink(f"{directory}/{entry}") for entry in os.listdir(directory))

    port = free_port()
    keeper = Puppet(kernel, 1)
    keeper.do(f"s = tcp('127.0.0.1', {port})")
    before = held()
    for number in range(2, 22):
        puppet = Puppet(kernel, number)
        puppet.do(f"s = tcp('127.0.0.1', {port})")
        puppet.end()
        kernel.fact(facts.Output, worker=number)
        kernel.send(orders.Forget(number))
    end = time.monotonic() + DEADLINE
    while held() != before and time.monotonic() < end:
        kernel.nothing_of(facts.Signalled)
    assert held() == before
    kernel.send(orders.Hello())
    assert [state["worker"] for state in kernel.fact(facts.Snapshot).workers] == [1]


def test_the_guardian_is_small(kernel: RealKernel) -> None:
    port = free_port()
    for number in range(1, 9):
        Puppet(kernel, number).do(f"s = tcp('127.0.0.1', {port})")
    with open(f"/proc/{kernel.process.pid}/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmRSS:"))
    assert int(line.split()[1]) <= 15 * 1024
