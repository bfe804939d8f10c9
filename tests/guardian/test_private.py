"""Sockets of one worker's own: whatever it binds, nobody reaches it but who is told where it is."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.wire import addresses, facts, orders
from tests.tools.ports import free_port

from .puppet import Puppet
from .test_modes import bind, listen, python_worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.real import RealKernel


def by_seccomp(kernel: RealKernel, number: int, address: str, **how: Any) -> Puppet:
    puppet = Puppet(kernel, number, **how)
    where = addresses.parse(address)
    if where.kind == "unix":
        puppet.do(f"s = unix({where.host!r})")
    else:
        puppet.do(f"s = tcp({where.host!r}, {where.port}, socket.AddressFamily({where.family}))")
    return puppet


def by_the_runtime(kernel: RealKernel, number: int, address: str, **how: Any) -> Puppet:
    puppet = python_worker(kernel, number, **how)
    where = addresses.parse(address)
    assert bind(puppet, address, family=where.family)["ok"]
    assert listen(puppet)["ok"]
    return puppet


def by_inheritance(kernel: RealKernel, number: int, address: str, **how: Any) -> Puppet:
    kernel.send(orders.Listen(address))
    kernel.fact(facts.Listening, worker=None)
    puppet = Puppet(kernel, number, share="inherit", inherit=[address], **how)
    puppet.do("s = socket.socket(fileno=3)")
    return puppet


WAYS: dict[str, Callable[..., Puppet]] = {
    "seccomp": by_seccomp,
    "python": by_the_runtime,
    "inherit": by_inheritance,
}


def connect(address: str) -> socket.socket:
    where = addresses.parse(address)
    client = socket.socket(where.family, socket.SOCK_STREAM)
    try:
        client.connect(where.sockaddr())
    except OSError:
        client.close()
        raise
    return client


FAMILIES = ("127.0.0.1:{}", "0.0.0.0:{}", "[::1]:{}", "unix:{}/app.sock")


@pytest.mark.parametrize(("way", "family"), [(way, family) for way in WAYS for family in FAMILIES])
def test_it_is_reached_where_it_is_told_to_be_and_nowhere_else(
    kernel: RealKernel, way: str, family: str, tmp_path: Path
) -> None:
    address = family.format(tmp_path if family.startswith("unix") else free_port())
    other = WAYS[way](kernel, 1, address)
    own = WAYS[way](kernel, 2, address, private=True)
    told = kernel.fact(facts.Listening, worker=2)
    assert told.asked == address
    assert told.address != address
    for where, puppet in ((told.address, own), (address, other)):
        with connect(where.replace("0.0.0.0", "127.0.0.1")) as client:
            puppet.do("serve(s)")
            assert client.recv(100) == str(puppet.pid).encode()
    kernel.send(orders.Hello())
    snapshot = kernel.fact(facts.Snapshot)
    assert [each["address"] for each in snapshot.listeners] == [address]
    state = next(each for each in snapshot.workers if each["worker"] == 2)
    assert state["private"] == {address: told.address}
    with connect(told.address) as queued:
        own.end()
        with contextlib.suppress(ConnectionResetError):
            assert queued.recv(1) == b""  # at the latest when the socket is closed
    with pytest.raises(OSError):
        connect(told.address).close()


def test_the_same_address_twice_is_the_same_socket(kernel: RealKernel) -> None:
    port = free_port()
    puppet = Puppet(kernel, 1, private=True)
    first = puppet.do(f"a = tcp('127.0.0.1', {port}); result = a.getsockname()[1]")
    second = puppet.do(f"b = tcp('127.0.0.1', {port}); result = b.getsockname()[1]")
    third = puppet.do(f"c = tcp('127.0.0.1', {free_port()}); result = c.getsockname()[1]")
    assert first == second
    assert len({first, third, port}) == 3


def test_udp(kernel: RealKernel) -> None:
    port = free_port()
    puppet = Puppet(kernel, 1, private=True)
    puppet.do(f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', {port}))")
    told = kernel.fact(facts.Listening, worker=1)
    assert told.asked == f"udp:127.0.0.1:{port}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", addresses.parse(told.address).sockaddr())
        assert puppet.do("result = s.recv(100).decode()") == "hello"


def test_who_shares_nothing_cannot_be_kept_apart(kernel: RealKernel) -> None:
    kernel.send(orders.Spawn(1, ["/bin/true"], dict(os.environ), "/", "web.0", share="none", private=True))
    assert "ports of its own" in kernel.fact(facts.SpawnFailed, worker=1).error


def test_a_socket_may_be_bound_once_more_to_what_it_is_bound_to(kernel: RealKernel) -> None:
    """As it is when a signal interrupts the call, which is then made again."""
    port = free_port()
    puppet = Puppet(kernel, 1, private=True)
    puppet.do(f"s = tcp('127.0.0.1', {port}, listen=False); s.bind(('127.0.0.1', {port})); s.listen()")
    assert puppet.fails(f"s.bind(('127.0.0.1', {free_port()}))") == errno.EINVAL


def test_a_file_that_it_removes_to_make_room_is_back_when_it_has_bound(kernel: RealKernel, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    other = Puppet(kernel, 1)
    other.do(f"s = unix({str(path)!r})")
    own = Puppet(kernel, 2, private=True)
    own.do(f"os.unlink({str(path)!r}); s = unix({str(path)!r}); os.chmod({str(path)!r}, 0o666)")
    with connect(f"unix:{path}") as client:
        other.do("serve(s)")
        assert client.recv(100) == str(other.pid).encode()


def test_it_may_have_the_address_of_a_door(kernel: RealKernel) -> None:
    address = f"127.0.0.1:{free_port()}"
    kernel.send(orders.Listen(address, door=True))
    kernel.fact(facts.Listening, worker=None)
    puppet = by_seccomp(kernel, 1, address, private=True)
    assert kernel.fact(facts.Listening, worker=puppet.number).asked == address
