"""A worker that calls shutdown(2) on a shared listening socket does not end it for the others."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from cluster_service.guardian import listener_repair
from cluster_service.guardian.port_service import Ports
from cluster_service.guardian.unix_sockets import Place
from cluster_service.wire import facts, orders
from cluster_service.wire.addresses import Address
from tests.tools.ports import free_port

from .puppet import Puppet
from .test_ports import answered_by, need_seccomp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.real import RealKernel

__all__ = ["need_seccomp"]

SHUT = {
    "both ways": "s.shutdown(socket.SHUT_RDWR)",
    "twice": "s.shutdown(socket.SHUT_RDWR)\ntry: s.shutdown(socket.SHUT_RDWR)\nexcept OSError: pass",
    "for reading": "s.shutdown(socket.SHUT_RD)",
    "and closed": "s.shutdown(socket.SHUT_RDWR); s.close()",
}


def two(kernel: RealKernel, call: str) -> list[Puppet]:
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        puppet.do(f"import select; s = {call}")
        kernel.fact(facts.Listening, worker=puppet.number)
    return puppets


def problem_of(kernel: RealKernel, address: str) -> str:
    kernel.send(orders.Hello())
    return str({each["address"]: each["problem"] for each in kernel.fact(facts.Snapshot).listeners}[address])


@pytest.mark.parametrize("call", SHUT.values(), ids=SHUT)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_tcp_port_accepts_again(kernel: RealKernel, host: str, call: str) -> None:
    port = free_port()
    family = "socket.AF_INET6" if ":" in host else "socket.AF_INET"
    one, other = two(kernel, f"tcp({host!r}, {port}, {family})")
    one.do(call)
    other.settle()
    assert answered_by(other, (host, port))


def test_a_loop_that_waits_at_the_socket_goes_on(kernel: RealKernel) -> None:
    port = free_port()
    one, other = two(kernel, f"tcp('127.0.0.1', {port})")
    other.do("e = select.epoll(); e.register(s, select.EPOLLIN)")
    one.do(SHUT["both ways"])
    one.settle()
    other.do("result = e.poll(0)")
    client = socket.create_connection(("127.0.0.1", port))
    assert other.do("result = [list(each) for each in e.poll()]")[0][1] == select.EPOLLIN
    other.do("serve(s)")
    assert int(client.recv(100)) == other.pid
    client.close()


def test_it_is_logged_once_with_the_worker_that_stops(kernel: RealKernel) -> None:
    port = free_port()
    one, other = two(kernel, f"tcp('127.0.0.1', {port})")
    one.do("signal.signal(signal.SIGTERM, lambda *_: s.shutdown(socket.SHUT_RDWR))")
    kernel.send(orders.Signal(1, signal.SIGTERM, "stop"))
    assert kernel.wrote(f"web.1 (pid {one.pid}), which is stopping, shut down the socket")
    other.settle()  # it listens again
    other.do(SHUT["both ways"])
    other.settle()
    assert answered_by(other, ("127.0.0.1", port))
    assert kernel.output().count("shut down the socket") == 1


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_master_hears_of_it(kernel: RealKernel, tmp_path: Path, kind: str) -> None:
    port, path = free_port(), str(tmp_path / "socket")
    one, _ = two(kernel, f"tcp('127.0.0.1', {port})" if kind == "tcp" else f"unix({path!r})")
    one.do(SHUT["both ways"])
    told = kernel.fact(facts.ListenerState)
    assert told.address == (f"127.0.0.1:{port}" if kind == "tcp" else f"unix:{path}")
    assert (told.problem, told.revived) == ("", True)


def test_a_worker_that_closes_its_socket_then_is_reported(kernel: RealKernel) -> None:
    port = free_port()
    one, other = two(kernel, f"tcp('127.0.0.1', {port})")
    other.do("s.close()")
    one.do(SHUT["both ways"])
    assert kernel.fact(facts.Unlistened).worker == 2
    assert not [fact for fact in kernel.pending if isinstance(fact, facts.Unlistened)]
    assert answered_by(one, ("127.0.0.1", port))


def test_a_child_of_a_worker_has_the_socket_for_it(kernel: RealKernel) -> None:
    port = free_port()
    one, other = two(kernel, f"tcp('127.0.0.1', {port})")
    third = Puppet(kernel, 3)
    third.do(f"s = tcp('127.0.0.1', {port}); s.close()")
    other.do("child = os.fork()\nif child == 0: signal.pause()\ns.close()")
    one.do(SHUT["both ways"])
    assert kernel.fact(facts.Unlistened).worker == 3
    assert not [fact for fact in kernel.pending if isinstance(fact, facts.Unlistened)]
    other.do("os.kill(child, 9); os.waitpid(child, 0)")


def test_a_worker_that_shuts_it_down_all_the_time_costs_little(kernel: RealKernel) -> None:
    port = free_port()
    one, other = two(kernel, f"tcp('127.0.0.1', {port})")
    one.do(
        "stop = threading.Event()\n"
        "def spin():\n"
        "    p = select.poll(); p.register(s, 0)\n"
        "    while not stop.is_set():\n"
        "        try: s.shutdown(socket.SHUT_RDWR)\n"
        "        except OSError: stop.wait(0.0001)\n"
        "thread = threading.Thread(target=spin); thread.start()"
    )
    assert kernel.fact(facts.ListenerState).revived
    told = kernel.fact(facts.ListenerState)
    assert told.address == f"127.0.0.1:{port}"
    assert f"more than {listener_repair.REVIVALS_PER_SECOND:g} times a second" in told.problem
    one.do("stop.set(); thread.join()")
    while kernel.fact(facts.ListenerState).problem:
        pass
    other.settle()
    assert answered_by(other, ("127.0.0.1", port))
    assert problem_of(kernel, f"127.0.0.1:{port}") == ""


@pytest.mark.parametrize("call", SHUT.values(), ids=SHUT)
def test_a_unix_socket_is_replaced_at_its_path(kernel: RealKernel, tmp_path: Path, call: str) -> None:
    path = str(tmp_path / "socket")
    one, _ = two(kernel, f"unix({path!r})")
    one.do(call)
    assert {kernel.fact(facts.Unlistened).worker for _ in range(2)} == {1, 2}
    third = Puppet(kernel, 3)
    third.do(f"s = unix({path!r})")
    assert answered_by(third, path)
    assert sorted(os.listdir(tmp_path)) == [".socket.cservice", "socket"]


def test_an_abstract_name_is_reported(kernel: RealKernel) -> None:
    name = f"\0cservice-test-{os.getpid()}"
    one, _ = two(kernel, f"unix({name!r})")
    one.do(SHUT["both ways"])
    assert "cannot listen again" in kernel.fact(facts.ListenerState).problem


@pytest.mark.parametrize("fails", ["remove", "open"])
def test_a_unix_socket_that_cannot_be_replaced_leaves_no_descriptor(tmp_path: Path, fails: str) -> None:
    def step(name: str) -> Iterator[Any]:
        if name == fails:
            raise OSError(errno.EACCES, "refused")
        yield name

    directory = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        place = Place(directory, b"socket", (0, 0), None)
        held = SimpleNamespace(
            kept=SimpleNamespace(place=place, ask=lambda _name, **_: step("remove")),
            address=Address("unix", str(tmp_path / "socket")),
            socket=SimpleNamespace(type=socket.SOCK_STREAM),
            key="key",
        )
        ports = SimpleNamespace(close=lambda _held: None, _make=lambda _want: step("open"))
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match="refused"):
            list(Ports.replace(cast("Any", ports), cast("Any", held)))
        assert os.listdir("/proc/self/fd") == before
    finally:
        os.close(directory)
