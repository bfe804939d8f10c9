"""A worker gets a shared socket only where its own user could have had it, and where the owner means it."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.guardian import port_access
from cluster_service.wire import addresses, facts, orders
from tests.tools.ports import free_port

from .puppet import Puppet
from .test_modes import CLIENT, bind
from .test_ports import answered_by, need_seccomp

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.real import RealKernel

__all__ = ["need_seccomp"]

NOBODY: dict[str, Any] = {"python": "/usr/bin/python3", "user": "nobody"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "udp:127.0.0.1:80", False),
        ("127.0.0.1:80", "0.0.0.0:80", True),
        ("127.0.0.1:80", "[::]:80", False),
        ("127.0.0.1:80", "[::]:80+v4", True),
        ("0.0.0.0:80", "[::]:80+v4", True),
        ("[::1]:80", "[::]:80", True),
        ("[::1]:80", "[::]:80+v4", True),
        ("[::]:80", "[::]:80+v4", True),
        ("[::1]:80", "0.0.0.0:80", False),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", True),
        ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", True),
        ("[::ffff:127.0.0.1]:80", "[::1]:80", False),
        ("[fe80::1%2]:80", "[::]:80", True),
        ("unix:/a", "unix:/a", False),
    ],
)
def test_what_overlaps(one: str, other: str, *, expected: bool) -> None:
    a, b = addresses.parse(one), addresses.parse(other)
    assert port_access.overlap(a, b) is port_access.overlap(b, a) is expected


# ------------------------------------------------------------------ groups


def spawned(kernel: RealKernel, number: int, way: str, **how: Any) -> Puppet:
    puppet = Puppet(kernel, number, share=way, **how)
    if way == "python":
        puppet.do(CLIENT)
    return puppet


def refused(puppet: Puppet, way: str, address: str) -> int:
    """The number of the error that binding *address* (TCP) gives."""
    if way == "python":
        return int(bind(puppet, address).get("errno", 0))
    host, _, port = address.rpartition(":")
    puppet.tell(f"tcp({host.strip('[]')!r}, {port}, {'socket.AF_INET6' if '[' in host else 'socket.AF_INET'})")
    return int(puppet.answer().get("errno", 0))


@pytest.mark.parametrize("way", ["seccomp", "python"])
@pytest.mark.parametrize("other", ["127.0.0.1", "0.0.0.0"])
def test_another_group_is_refused_with_its_name(kernel: RealKernel, way: str, other: str) -> None:
    port = free_port()
    web, api = spawned(kernel, 1, way, tenant="web"), spawned(kernel, 2, way, tenant="api")
    assert refused(web, way, f"127.0.0.1:{port}") == 0
    assert refused(api, way, f"{other}:{port}") == errno.EADDRINUSE
    error = kernel.fact(facts.ListenFailed, worker=2).error
    assert f"{other}:{port} is held by group web" in error
    assert 'set share_with = ["web"] for group api' in error
    assert refused(api, way, f"127.0.0.2:{port}") == 0, "nobody would reach web there"


@pytest.mark.parametrize("way", ["seccomp", "python"])
@pytest.mark.parametrize(("first", "second"), [(["api"], []), ([], ["web"])])
def test_share_with_on_either_side_allows_it(kernel: RealKernel, way: str, first: list[str], second: list[str]) -> None:
    port = free_port()
    web = spawned(kernel, 1, way, tenant="web", share_with=first)
    api = spawned(kernel, 2, way, tenant="api", share_with=second)
    for puppet in (web, api):
        assert refused(puppet, way, f"127.0.0.1:{port}") == 0


def test_inherit_obeys_the_same_rule(kernel: RealKernel) -> None:
    address = f"127.0.0.1:{free_port()}"
    kernel.send(orders.Listen(address, tenant="web"))
    kernel.fact(facts.Listening, worker=None)
    kernel.send(orders.Spawn(1, ["/bin/true"], {}, "/", "api.1", share="inherit", inherit=[address], tenant="api"))
    assert f"{address} is held by group web" in kernel.fact(facts.SpawnFailed, worker=1).error
    Puppet(kernel, 2, share="inherit", inherit=[address], tenant="web").do("socket.socket(fileno=3).getsockname()")


def test_a_port_whose_group_is_gone_is_free(kernel: RealKernel) -> None:
    port = free_port()
    Puppet(kernel, 1, tenant="old").do(f"s = tcp('127.0.0.1', {port})")
    second = Puppet(kernel, 2, tenant="new")
    assert second.fails(f"tcp('127.0.0.1', {port})") == errno.EADDRINUSE
    os.kill(next(state["pid"] for state in workers(kernel) if state["worker"] == 1), 9)
    kernel.fact(facts.Exited, worker=1)
    second.do(f"s = tcp('127.0.0.1', {port})")
    assert answered_by(second, ("127.0.0.1", port))
    third = Puppet(kernel, 3, tenant="old")
    assert third.fails(f"tcp('127.0.0.1', {port})") == errno.EADDRINUSE


def workers(kernel: RealKernel) -> list[dict[str, Any]]:
    kernel.send(orders.Hello())
    return kernel.fact(facts.Snapshot).workers


# ------------------------------------------------------------------ users


@needs_root
@pytest.mark.parametrize("how", [{"tenant": "thief"}, {"tenant": "thief", "share_with": ["victim"]}])
def test_another_user_gets_nothing_of_a_port(kernel: RealKernel, how: dict[str, Any]) -> None:
    port = free_port()
    victim = Puppet(kernel, 1, tenant="victim")
    victim.do(f"s = tcp('0.0.0.0', {port}); a = unix('\\0test-{port}')")
    thief = Puppet(kernel, 2, **NOBODY, **how)
    for host in ("0.0.0.0", "127.0.0.1", "127.0.0.2"):
        assert thief.fails(f"tcp({host!r}, {port})") in (errno.EACCES, errno.EADDRINUSE)
    for v6only in (True, False):  # with True it is another port: IPv6 only
        thief.tell(f"tcp('::', {port}, socket.AF_INET6, v6only={v6only})")
        assert ("errno" in thief.answer()) is not v6only
    assert thief.fails(f"tcp('::ffff:127.0.0.1', {port}, socket.AF_INET6, v6only=False)") != 0
    assert thief.fails(f"unix('\\0test-{port}')") in (errno.EACCES, errno.EADDRINUSE)
    for address in (("127.0.0.1", port), b"\0test-%d" % port):
        assert answered_by(victim, address, "s" if isinstance(address, tuple) else "a")


@needs_root
def test_a_child_with_less_rights_gets_less(kernel: RealKernel) -> None:
    """A worker of root that puts something untrusted into a process of another user."""
    port = free_port()
    first, second = Puppet(kernel, 1), Puppet(kernel, 2)
    first.do(f"s = tcp('127.0.0.1', {port})")
    code = f"""
if (child := os.fork()) == 0:
    os.setgid(65534); os.setuid(65534)
    try:
        tcp('127.0.0.1', {port})
    except OSError as error:
        os._exit(error.errno)
    os._exit(0)
result = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
    assert second.do(code) == errno.EACCES


@needs_root
def test_a_group_may_have_had_another_user_before(kernel: RealKernel) -> None:
    """A release with another ``user`` replaces one whose workers serve on."""
    port = free_port()
    old = Puppet(kernel, 1, tenant="web")
    old.do(f"s = tcp('127.0.0.1', {port})")
    new = Puppet(kernel, 2, **NOBODY, tenant="web")
    new.do(f"s = tcp('127.0.0.1', {port})")
    for puppet in (old, new):
        assert answered_by(puppet, ("127.0.0.1", port))


@needs_root
def test_what_the_owner_named_for_a_group_is_the_groups_whoever_it_runs_as(kernel: RealKernel, run_dir: Path) -> None:
    address = f"unix:{run_dir}/app.sock"  # where nobody but root may go
    kernel.send(orders.Listen(address, tenant="web"))
    kernel.fact(facts.Listening, worker=None)
    web = Puppet(kernel, 1, **NOBODY, tenant="web", binds=[address])
    web.do(f"s = unix({str(run_dir / 'app.sock')!r})")
    assert answered_by(web, str(run_dir / "app.sock"))
    thief = Puppet(kernel, 2, **NOBODY, tenant="thief")
    assert thief.fails(f"unix({str(run_dir / 'app.sock')!r})") == errno.EACCES


# ------------------------------------------------------------------ paths


@needs_root
@pytest.mark.parametrize("way", ["seccomp", "python"])
@pytest.mark.parametrize(
    ("tenant", "directory", "file", "may"),
    [
        ("thief", 0o700, 0o600, False),
        ("thief", 0o777, 0o666, False),  # the socket is another group's
        ("web", 0o700, 0o600, False),  # it does not come there
        ("web", 0o755, 0o666, False),  # it could connect, but not serve there
        ("web", 0o777, 0o600, False),  # it could not connect
        ("web", 0o777, 0o666, True),
    ],
)
def test_a_path_of_another_user(
    kernel: RealKernel, run_dir: Path, way: str, tenant: str, directory: int, file: int, *, may: bool
) -> None:
    run_dir.chmod(0o755)
    place = run_dir / "place"
    place.mkdir()
    place.chmod(directory)
    path = str(place / "v.sock")
    victim = Puppet(kernel, 1, tenant="web")
    victim.do(f"os.umask(0o777 & ~{file}); s = unix({path!r})")
    other = spawned(kernel, 2, way, **NOBODY, tenant=tenant)
    if way == "python":
        number = bind(other, f"unix:{path}", family=1).get("errno", 0)
    else:
        other.tell(f"unix({path!r})")
        number = other.answer().get("errno", 0)
    assert number == 0 if may else number in (errno.EACCES, errno.EADDRINUSE)
    assert answered_by(victim, path)


@needs_root
def test_a_symlink_does_not_lead_there(kernel: RealKernel, run_dir: Path) -> None:
    run_dir.chmod(0o755)
    for name, mode in (("private", 0o700), ("open", 0o777)):
        (run_dir / name).mkdir()
        (run_dir / name).chmod(mode)
    (run_dir / "open" / "way").symlink_to(run_dir / "private")
    victim = Puppet(kernel, 1, tenant="web")
    victim.do(f"s = unix({str(run_dir / 'private' / 'v.sock')!r})")
    thief = Puppet(kernel, 2, **NOBODY, tenant="web")
    assert thief.fails(f"unix({str(run_dir / 'open' / 'way' / 'v.sock')!r})") == errno.EACCES


@needs_root
def test_nothing_is_removed_that_the_user_could_not_remove(kernel: RealKernel, run_dir: Path) -> None:
    """Its files are looked after in its own name, so a directory that was exchanged does not lend it our rights."""
    run_dir.chmod(0o755)
    place = run_dir / "open"
    place.mkdir()
    place.chmod(0o777)
    worker = Puppet(kernel, 1, **NOBODY)
    worker.do(f"s = unix({str(place / 'x')!r})")
    place.chmod(0o755)
    kernel.send(orders.Close(f"unix:{place}/x"))
    worker.settle()
    assert sorted(os.listdir(place)) == [".x.cservice", "x"]
    for name in (".x.cservice", "x"):
        (place / name).unlink()


# ------------------------------------------------------------------ namespaces

UNSHARE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if (child := os.fork()) == 0:
    try:
        if libc.unshare({flags}) != 0:
            os._exit(99)
        {more}
        {bind}
        os._exit(0)
    except OSError as error:
        os._exit(error.errno)
result = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
MOUNT = (
    "libc.mount(b'none', b'/', None, 0x44000, None); "  # MS_REC | MS_PRIVATE
    "libc.mount(b'tmpfs', {directory!r}.encode(), b'tmpfs', 0, None)"
)
NEWNS, NEWUSER, NEWNET = 0x00020000, 0x10000000, 0x40000000


@needs_root
@pytest.mark.parametrize(
    ("flags", "more", "shared"),
    [
        (NEWNS, MOUNT, False),
        (NEWUSER, "pass", False),
        (0, "os.chroot({directory!r})", False),
        (0, "pass", True),
    ],
)
def test_a_path_in_another_namespace_or_root_is_left_to_the_kernel(
    kernel: RealKernel, run_dir: Path, flags: int, more: str, *, shared: bool
) -> None:
    directory = run_dir / "place"
    directory.mkdir()
    directory.chmod(0o777)
    inside = "/x" if "chroot" in more else str(directory / "x")
    code = f"unix({inside!r}); os.unlink({inside!r})" if not shared else f"unix({inside!r})"
    puppet = Puppet(kernel, 1)
    result = puppet.do(UNSHARE.format(flags=flags, more=more.format(directory=str(directory)), bind=code))
    if result == 99:
        pytest.skip("no such namespace is to be had here")
    assert result in (0, errno.EACCES) if flags == NEWUSER else result == 0
    kernel.send(orders.Hello())
    assert [listener["address"] for listener in kernel.fact(facts.Snapshot).listeners] == (
        [f"unix:{inside}"] if shared else []
    )


@needs_root
@pytest.mark.parametrize("flags", [NEWNET, NEWUSER])
def test_a_port_in_another_namespace_is_left_to_the_kernel(kernel: RealKernel, flags: int) -> None:
    port = free_port()
    first = Puppet(kernel, 1)
    first.do(f"s = tcp('0.0.0.0', {port})")
    second = Puppet(kernel, 2)
    result = second.do(UNSHARE.format(flags=flags, more="pass", bind=f"tcp('0.0.0.0', {port})"))
    if result == 99:
        pytest.skip("no such namespace is to be had here")
    assert result == (0 if flags == NEWNET else errno.EADDRINUSE)
    kernel.nothing_of(facts.Listening, worker=2)
    with socket.create_connection(("127.0.0.1", port)):
        first.do("s.accept()")
