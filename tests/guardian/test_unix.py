"""Unix sockets as files: shared, kept where clients look for them, and made in the worker's name."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from cluster_service.wire import facts, orders

from .puppet import Puppet
from .test_ports import answered_by, ask, need_seccomp

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.real import RealKernel

    from .conftest import Start

__all__ = ["need_seccomp"]

BIND = """
if os.path.exists({path!r}):
    os.unlink({path!r})
s = unix({path!r})
"""


@pytest.fixture
def path(run_dir: Path) -> str:
    return str(run_dir / "app.sock")


def names_in(run_dir: Path) -> list[str]:
    """The names of the app's socket; the service's own files are there too."""
    return sorted(name for name in os.listdir(run_dir) if "app.sock" in name)


def test_the_second_worker_unlinks_the_path_before_it_binds(kernel: RealKernel, path: str) -> None:
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        puppet.do(BIND.format(path=path))
        assert kernel.fact(facts.Listening, worker=puppet.number).address == f"unix:{path}"
        assert puppet.do("result = s.getsockname()") == path
    for puppet in puppets:
        assert answered_by(puppet, path)


def test_the_old_worker_unlinks_the_path_when_it_stops(kernel: RealKernel, path: str) -> None:
    old, new = Puppet(kernel, 1), Puppet(kernel, 2)
    for puppet in (old, new):
        puppet.do(BIND.format(path=path))
    old.do(f"s.close(); os.unlink({path!r})")
    new.settle()
    assert answered_by(new, path)
    new.do(f"os.rename({path!r}, {path + '.old'!r}); os.unlink({path + '.old'!r})")
    new.settle()
    assert answered_by(new, path)


def test_what_is_queued_survives_the_only_worker(kernel: RealKernel, path: str) -> None:
    first = Puppet(kernel, 1)
    first.do(BIND.format(path=path))
    os.kill(first.pid, 9)
    kernel.fact(facts.Exited, worker=1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        second = Puppet(kernel, 2)
        second.do(BIND.format(path=path) + "serve(s)")
        assert int(client.recv(100)) == second.pid


def test_a_socket_that_its_program_removes_is_let_go(kernel: RealKernel, run_dir: Path) -> None:
    """As multiprocessing does with its private ones: the directory must be empty then."""
    directory = run_dir / "private"
    puppet = Puppet(kernel, 1)
    puppet.do(
        f"os.mkdir({str(directory)!r}); path = {str(directory / 'x')!r}; s = unix(path); s.close(); os.unlink(path)"
    )
    puppet.settle()
    puppet.do(f"os.rmdir({str(directory)!r})")
    kernel.send(orders.Hello())
    assert kernel.fact(facts.Snapshot).listeners == []


def clear_notify_sockets(run_dir: Path) -> None:
    """Remove what a killed guardian without a lock has left: the next one has a directory of another name."""
    for path in run_dir.glob("*.notify"):
        shutil.rmtree(path)


def test_close_removes_the_file(kernel: RealKernel, path: str, run_dir: Path) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do(BIND.format(path=path))
    assert len(names_in(run_dir)) == 2
    puppet.end()
    kernel.send(orders.Close(f"unix:{path}"))
    Puppet(kernel, 2).settle()
    assert names_in(run_dir) == []


def test_a_file_that_is_anothers_is_left_alone(kernel: RealKernel, path: str) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do(BIND.format(path=path))
    with socket.socket(socket.AF_UNIX) as stranger:
        os.rename(path, path + ".moved")
        puppet.settle()
        os.unlink(path + ".moved")
        stranger.bind(path + ".new")
        stranger.listen()
        os.rename(path + ".new", path)
        second = Puppet(kernel, 2)
        assert second.fails(f"unix({path!r})") == errno.EADDRINUSE
        assert path in kernel.fact(facts.ListenFailed, worker=2).error
        kernel.send(orders.Close(f"unix:{path}"))
        puppet.settle()
        assert os.path.exists(path)
        os.unlink(path)


def test_a_path_that_a_stranger_serves(kernel: RealKernel, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(path)
        stranger.listen()
        puppet = Puppet(kernel, 1)
        assert puppet.fails(f"unix({path!r})") == errno.EADDRINUSE
        assert f"unix:{path} is taken: pid {os.getpid()} (" in kernel.fact(facts.ListenFailed, worker=1).error
    assert puppet.fails(f"unix({path!r})") == errno.EADDRINUSE
    assert "nobody listens" in kernel.fact(facts.ListenFailed, worker=1).error
    os.unlink(path)


def test_relative_paths_are_those_of_the_worker(kernel: RealKernel, run_dir: Path, path: str) -> None:
    first, second = Puppet(kernel, 1, cwd=str(run_dir)), Puppet(kernel, 2)
    first.do("s = unix('app.sock')")
    assert kernel.fact(facts.Listening, worker=1).address == f"unix:{path}"
    assert first.do("result = s.getsockname()") == "app.sock"
    second.do(BIND.format(path=path))
    assert answered_by(first, path)
    assert answered_by(second, path)


def test_one_directory_under_two_names_is_one_directory(kernel: RealKernel, run_dir: Path) -> None:
    (run_dir / "real").mkdir()
    (run_dir / "link").symlink_to("real")
    first, second = Puppet(kernel, 1), Puppet(kernel, 2)
    first.do(BIND.format(path=str(run_dir / "real" / "x")))
    second.do(BIND.format(path=str(run_dir / "link" / "x")))
    assert answered_by(second, str(run_dir / "real" / "x"))
    kernel.send(orders.Close(f"unix:{run_dir}/real/x"))
    first.settle()
    (run_dir / "link").unlink()
    (run_dir / "real").rmdir()


def test_abstract_names_are_shared(kernel: RealKernel) -> None:
    name = f"test-{os.getpid()}"
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        puppet.do(f"s = unix('\\0{name}')")
        assert kernel.fact(facts.Listening, worker=puppet.number).address == f"unix:@{name}"
    for puppet in puppets:
        assert answered_by(puppet, b"\0" + name.encode())


def test_seqpacket_sockets_are_shared(kernel: RealKernel, path: str) -> None:
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for puppet in puppets:
        puppet.do(BIND.format(path=path).replace("unix(", "unix(kind=socket.SOCK_SEQPACKET, path="))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        puppets[1].tell("serve(s)")
        client.connect(path)
        assert int(client.recv(100)) == puppets[1].pid
        puppets[1].answer()
    assert Puppet(kernel, 3).fails(f"unix({path!r})") == errno.EADDRINUSE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_file_is_made_in_the_name_of_the_worker(kernel: RealKernel, run_dir: Path, path: str) -> None:
    how = {"python": "/usr/bin/python3", "user": "nobody"}
    puppets = [Puppet(kernel, number, **how) for number in (1, 2)]
    assert puppets[0].fails(f"unix({path!r})") == errno.EACCES  # the directory is root's
    assert path in kernel.fact(facts.ListenFailed, worker=1).error
    run_dir.chmod(0o777)
    for puppet in puppets:
        puppet.do("os.umask(0o027)\n" + BIND.format(path=path))
    status = os.stat(path)
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (65534, 0o750)
    puppets[0].do(f"os.unlink({path!r})")
    puppets[0].settle()
    for puppet in puppets:
        assert answered_by(puppet, path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert int.from_bytes(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8], "little") == 65534


def test_what_a_killed_guardian_left_is_replaced(start: Start, path: str, run_dir: Path) -> None:
    kernel = start()
    puppet = Puppet(kernel, 1)
    puppet.do(BIND.format(path=path))
    kernel.process.kill()
    kernel.process.wait()
    os.kill(puppet.pid, 9)
    assert len(names_in(run_dir)) == 2
    second = start()
    heir = Puppet(second, 1)
    heir.do(BIND.format(path=path))
    assert answered_by(heir, path)
    second.close()
    assert names_in(run_dir) == []
    clear_notify_sockets(run_dir)


def test_ask_is_fair() -> None:
    """The tests' own client fails when nobody is there."""
    with pytest.raises(FileNotFoundError):
        ask("/nonexistent/socket")
