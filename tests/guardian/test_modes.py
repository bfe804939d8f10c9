"""The other ways to share a port: by the runtime in the worker, by inheritance, not at all."""

from __future__ import annotations

import array
import errno
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from cluster_service.wire import facts, orders
from tests.tools.ports import free_port

from .puppet import Puppet
from .test_ports import answered_by

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.real import RealKernel

# What the runtime in a worker does, in few lines.
CLIENT = """
import json
pair = socket.socket(fileno=int(os.environ["CSERVICE_PORTS"]))
def ask(**request):
    pair.send(json.dumps(request).encode())
    data, descriptors, _, _ = socket.recv_fds(pair, 65536, 1)
    reply = json.loads(data)
    reply["descriptors"] = len(descriptors)
    if descriptors:
        global s
        s = socket.socket(fileno=descriptors[0])
    return reply
"""


def python_worker(kernel: RealKernel, number: int, **how: Any) -> Puppet:
    puppet = Puppet(kernel, number, share="python", **how)
    puppet.do(CLIENT)
    return puppet


def bind(puppet: Puppet, address: str, **more: Any) -> Any:
    request = {
        "type": "bind",
        "family": 2,
        "kind": 1,
        "address": address,
        "v6only": False,
        "nonblocking": False,
        **more,
    }
    return puppet.do(f"result = ask(**json.loads({json.dumps(request)!r}))")


def listen(puppet: Puppet) -> Any:
    return puppet.do("result = ask(type='listen', inode=os.fstat(s.fileno()).st_ino, backlog=5)")


def test_python_workers_share_a_port(kernel: RealKernel) -> None:
    address = f"127.0.0.1:{free_port()}"
    puppets = [python_worker(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        assert bind(puppet, address) == {"ok": True, "shared": True, "descriptors": 1}
        assert listen(puppet) == {"ok": True, "shared": True, "descriptors": 0}
        assert kernel.fact(facts.Listening, worker=puppet.number).address == address
    for puppet in puppets:
        assert answered_by(puppet, ("127.0.0.1", int(address.rpartition(":")[2])))


def test_python_and_seccomp_workers_share_with_one_another(kernel: RealKernel) -> None:
    port = free_port()
    python, seccomp = python_worker(kernel, 1), Puppet(kernel, 2)
    bind(python, f"[::]:{port}+v4")
    listen(python)
    seccomp.do(f"s = tcp('::', {port}, socket.AF_INET6, v6only=False)")
    assert answered_by(python, ("::1", port))
    assert answered_by(seccomp, ("127.0.0.1", port))


def test_python_dual_stack_may_be_said_either_way(kernel: RealKernel) -> None:
    port = free_port()
    puppet = python_worker(kernel, 1)
    bind(puppet, f"[::]:{port}", family=10, v6only=False)
    listen(puppet)
    assert kernel.fact(facts.Listening).address == f"[::]:{port}+v4"


def test_python_failures_and_what_is_not_shared(kernel: RealKernel) -> None:
    puppet = python_worker(kernel, 1)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        reply = bind(puppet, f"127.0.0.1:{stranger.getsockname()[1]}")
        assert (reply["ok"], reply["errno"]) == (False, errno.EADDRINUSE)
        assert f"pid {os.getpid()}" in reply["error"]
        kernel.fact(facts.ListenFailed, worker=1)
    assert bind(puppet, "udp:224.0.0.251:5353", kind=2) == {"ok": True, "shared": False, "descriptors": 0}
    assert bind(puppet, "udp:127.0.0.1:5353", kind=3)["shared"] is False
    for unnamed in ("127.0.0.1:0", "[::]:0+v4", "unix:"):
        assert bind(puppet, unnamed)["shared"] is False
    for bad in ("nonsense", "127.0.0.1:70000"):
        assert bind(puppet, bad)["errno"] == errno.EINVAL
    for code in ("ask(type='nonsense')", "ask(x=1)", "ask(type='bind')"):
        assert puppet.do(f"result = {code}")["errno"] == errno.EINVAL
    assert puppet.do("result = ask(type='listen', inode=1, backlog=5)") == {
        "ok": True,
        "shared": False,
        "descriptors": 0,
    }


def test_python_unix_paths(kernel: RealKernel, run_dir: Path) -> None:
    puppet = python_worker(kernel, 1, cwd=str(run_dir))
    bind(puppet, "unix:relative.sock")
    listen(puppet)
    assert kernel.fact(facts.Listening).address == f"unix:{run_dir}/relative.sock"
    assert answered_by(puppet, str(run_dir / "relative.sock"))


def test_inherited_sockets_are_passed_the_way_of_systemd(kernel: RealKernel, run_dir: Path) -> None:
    port = free_port()
    addresses = [f"127.0.0.1:{port}", f"udp:127.0.0.1:{port}", f"unix:{run_dir}/x"]
    for address in addresses:
        kernel.send(orders.Listen(address))
        kernel.fact(facts.Listening, address=address)
    puppets = [Puppet(kernel, number, share="inherit", inherit=addresses) for number in (1, 2)]
    for puppet in puppets:
        environment = puppet.do(
            "result = [os.environ[name] for name in ('LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES', 'CSERVICE_CHANNEL')]"
        )
        names = f"127.0.0.1_{port}:udp_127.0.0.1_{port}:unix_{run_dir}/x"
        assert environment == ["3", str(puppet.pid), names, "6"]
        assert puppet.do("result = [socket.socket(fileno=os.dup(n)).getsockname() for n in (3, 4, 5)]") == [
            ["127.0.0.1", port],
            ["127.0.0.1", port],
            f"{run_dir}/x",
        ]
        puppet.do("s = socket.socket(fileno=3)\nu = socket.socket(fileno=5)")
        assert answered_by(puppet, ("127.0.0.1", port))
        assert answered_by(puppet, f"{run_dir}/x", "u")
    kernel.nothing_of(facts.Listening)


def test_none_leaves_everything_to_the_program(kernel: RealKernel) -> None:
    port = free_port()
    first, second = (Puppet(kernel, number, share="none") for number in (1, 2))
    first.do(f"s = tcp('127.0.0.1', {port})")
    assert second.fails(f"tcp('127.0.0.1', {port})") == errno.EADDRINUSE
    assert (
        first.do("result = [name for name in os.environ if name.startswith('LISTEN_') or name == 'CSERVICE_PORTS']")
        == []
    )
    kernel.nothing_of(facts.Listening)


def test_an_unknown_way_is_refused(kernel: RealKernel) -> None:
    kernel.send(orders.Spawn(1, ["/bin/true"], {}, "/", "web.1", share="magic"))
    assert "seccomp" in kernel.fact(facts.SpawnFailed).error


def test_a_door_comes_with_its_descriptor_to_every_master(kernel: RealKernel, run_dir: Path) -> None:
    path = run_dir / "test.sock"
    order = orders.Listen(f"unix:{path}", door=True, mode=0o600)
    inodes = set()
    for _ in range(2):
        kernel.send(order)
        assert kernel.fact(facts.Listening).descriptor
        assert path.stat().st_mode & 0o777 == 0o600
        inodes.add(os.fstat(kernel.descriptors[0]).st_ino)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            kernel.restart_master()  # it waits in the queue
            kernel.send(orders.Hello())
            kernel.send(order)
            kernel.fact(facts.Listening)
            with socket.socket(fileno=os.dup(kernel.descriptors[0])) as door, door.accept()[0] as connection:
                connection.send(b"here")
                assert client.recv(10) == b"here"
    assert len(inodes) == 1


def test_doors_and_stale_files(kernel: RealKernel, run_dir: Path) -> None:
    path = run_dir / "door.sock"
    order = orders.Listen(f"unix:{path}", door=True, mode=0o600)
    path.write_text("not a socket", encoding="ascii")
    kernel.send(order)
    assert "not a socket" in kernel.fact(facts.ListenFailed).error
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        kernel.send(order)
        assert "answers" in kernel.fact(facts.ListenFailed).error
    kernel.send(order)  # now it is stale
    kernel.fact(facts.Listening)
    kernel.send(orders.Listen(f"unix:{path}"))
    assert "as a door" in kernel.fact(facts.ListenFailed).error
    kernel.send(orders.Close(f"unix:{path}"))
    kernel.nothing_of(facts.Listening)
    assert not path.exists()
    kernel.send(orders.Listen("nonsense"))
    assert "nonsense" in kernel.fact(facts.ListenFailed).error


def test_descriptors_of_a_door_are_of_the_door(kernel: RealKernel) -> None:
    port = free_port()
    kernel.send(orders.Listen(f"127.0.0.1:{port}", door=True))
    kernel.fact(facts.Listening)
    assert array.array("i", kernel.descriptors)
    with socket.socket(fileno=os.dup(kernel.descriptors[0])) as door:
        assert door.getsockname() == ("127.0.0.1", port)


def test_python_worker_that_reads_no_replies_stops_only_itself(kernel: RealKernel) -> None:
    other = python_worker(kernel, 1)
    puppet = Puppet(kernel, 2, share="python")
    request = {"type": "bind", "family": 2, "kind": 1, "address": f"127.0.0.1:{free_port()}", "nonblocking": False}
    puppet.do(
        "import json\npair = socket.socket(fileno=int(os.environ['CSERVICE_PORTS']))\n"
        f"request = json.dumps({request!r}).encode()\n"
        "try:\n while True: pair.send(request)\n"
        "except (BrokenPipeError, ConnectionResetError): result = 'closed'"
    )
    assert bind(other, f"127.0.0.1:{free_port()}")["ok"]
    assert listen(other)["ok"]
    puppet.end()
    other.end()
