"""``--share python``: sockets of Python's own that the guardian replaces by the service's."""

from __future__ import annotations

import contextlib
import errno
import queue
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.tools.ports import free_port
from tests.worker.harness import DEADLINE, Ports, Worker, write

if TYPE_CHECKING:
    from pathlib import Path


def run(
    tmp_path: Path, ports: Ports | None, program: str, *args: str, python: str | None = None, share: str = "python"
) -> list[str]:
    """The lines that *program* prints; it must end by itself."""
    script = write(tmp_path / "worker.py", program)
    env = {"PYTHONWARNINGS": "ignore"}  # of forks: early 3.13 counts the threads too late
    python = python or sys.executable
    with Worker("script", script, *args, share=share, ports=ports, env=env, python=python) as worker:
        assert worker.wait() == 0, worker.output
        return worker.lines


def test_tcp(python: str, tmp_path: Path) -> None:
    port = free_port()
    with Ports() as ports:
        lines = run(
            tmp_path, ports,
            """
            import os, socket, sys
            s = socket.socket()
            before = s.fileno()
            s.settimeout(5)
            s.bind(("localhost", int(sys.argv[1])))
            s.listen(7)
            print(s.fileno() == before, s.gettimeout(), os.get_inheritable(s.fileno()), s.getsockname()[1])
            print(os.fstat(s.fileno()).st_ino)
            t = socket.socket()
            os.set_inheritable(t.fileno(), True)
            t.setblocking(False)
            t.bind(("127.0.0.1", int(sys.argv[1])))
            number = t.fileno()
            print(os.fstat(number).st_ino, os.get_inheritable(number), t.gettimeout(), os.get_blocking(s.fileno()))
            """,
            str(port), python=python,
        )  # fmt: skip
        import os

        inode = os.fstat(ports.held[f"127.0.0.1:{port}"].fileno()).st_ino
        assert lines == [f"True 5.0 False {port}", str(inode), f"{inode} True 0.0 False"]
        assert [request["type"] for request in ports.requests] == ["bind", "listen", "bind"]
        assert ports.requests[0] == {
            "type": "bind", "family": 2, "kind": 1, "address": f"127.0.0.1:{port}", "v6only": False,
            "nonblocking": True,
        }  # fmt: skip
        assert ports.requests[1] == {"type": "listen", "inode": inode, "backlog": 7}


PROGRAM = """
import socket, sys
family, kind, address = getattr(socket, sys.argv[1]), getattr(socket, sys.argv[2]), eval(sys.argv[3])
s = socket.socket(family, kind)
if len(sys.argv) > 4:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(sys.argv[4]))
s.bind(address)
if kind == socket.SOCK_STREAM:
    s.listen()
print("up")
"""


@pytest.mark.parametrize(
    ("family", "kind", "address", "canonical", "more"),
    [
        ("AF_INET", "SOCK_STREAM", "('', {port})", "0.0.0.0:{port}", ()),
        ("AF_INET", "SOCK_DGRAM", "('127.0.0.1', {port})", "udp:127.0.0.1:{port}", ()),
        ("AF_INET6", "SOCK_STREAM", "('::1', {port})", "[::1]:{port}", ()),
        ("AF_INET6", "SOCK_STREAM", "('::', {port}, 0, 0)", "[::]:{port}+v4", ("0",)),
        ("AF_INET6", "SOCK_STREAM", "('::', {port})", "[::]:{port}", ("1",)),
        ("AF_UNIX", "SOCK_STREAM", "'{path}'", "unix:{path}", ()),
        ("AF_UNIX", "SOCK_STREAM", "b'{path}'", "unix:{path}", ()),
    ],
)
def test_addresses_are_spelled_as_the_guardian_spells_them(
    tmp_path: Path, family: str, kind: str, address: str, canonical: str, more: tuple[str, ...]
) -> None:
    port, path = free_port(), tmp_path / "a.sock"
    with Ports() as ports:
        lines = run(tmp_path, ports, PROGRAM, family, kind, address.format(port=port, path=path), *more)
        assert lines == ["up"]
        assert [request["address"] for request in ports.requests if request["type"] == "bind"] == [
            canonical.format(port=port, path=path)
        ]


@pytest.mark.parametrize(
    ("family", "kind", "address"),
    [
        ("AF_INET", "SOCK_STREAM", "('127.0.0.1', 0)"),
        ("AF_INET", "SOCK_DGRAM", "('', 0)"),
        ("AF_UNIX", "SOCK_STREAM", "''"),
        ("AF_UNIX", "SOCK_DGRAM", "'{path}'"),
    ],
)
def test_what_is_not_shared_is_left_alone(tmp_path: Path, family: str, kind: str, address: str) -> None:
    with Ports() as ports:
        assert run(tmp_path, ports, PROGRAM, family, kind, address.format(path=tmp_path / "b.sock")) == ["up"]
        assert all(request["type"] == "listen" for request in ports.requests)


def test_errors_are_those_of_bind_alone(tmp_path: Path) -> None:
    program = """
        import socket, sys
        for address in [("127.0.0.1", int(sys.argv[1])), ("no.such.host.invalid", 80), "text", ("127.0.0.1", 70000)]:
            try:
                socket.socket().bind(address)
            except Exception as error:
                print(type(error).__name__, error)
        """
    with Ports() as ports, socket.create_server(("127.0.0.1", 0)) as taken:
        ports.refuse = errno.EADDRINUSE
        port = str(taken.getsockname()[1])
        assert run(tmp_path, ports, program, port) == run(tmp_path, None, program, port, share="none")


def test_threads_and_forks_ask_one_at_a_time(python: str, tmp_path: Path) -> None:
    with Ports() as ports:
        lines = run(
            tmp_path, ports,
            """
            import os, socket, sys, threading
            first = int(sys.argv[1])
            def bind(n):
                for _ in range(20):
                    with socket.socket() as s:
                        s.bind(("127.0.0.1", first + n % 2))
                        assert s.getsockname()[1] == first + n % 2
            children = []
            for n in range(3):
                pid = os.fork()
                if not pid:
                    bind(n)
                    os._exit(0)
                children.append(pid)
            threads = [threading.Thread(target=bind, args=(n,)) for n in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            print([os.waitpid(pid, 0)[1] for pid in children])
            """,
            str(free_port()), python=python,
        )  # fmt: skip
        assert lines == ["[0, 0, 0]"]


def test_asyncio_serves_from_the_shared_socket(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import asyncio, os, sys
        async def answer(reader, writer):
            writer.write(str(os.getpid()).encode())
            writer.close()
        async def main():
            server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]))
            await server.serve_forever()
        asyncio.run(main())
        """,
    )
    port = free_port()
    with Ports() as ports, contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker("script", script, str(port), python=python, share="python", ports=ports))
            for _ in range(2)
        ]
        ports.wait(lambda requests: sum(request["type"] == "listen" for request in requests) == 2)
        answered: set[int] = set()
        for worker in workers:
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                    answered.add(int(b"".join(iter(lambda: client.recv(100), b""))))
            if worker is workers[0]:
                worker.stop()
                assert worker.wait() == 0, worker.output
        assert workers[1].pid in answered
        assert answered <= {worker.pid for worker in workers}


def test_once_the_service_is_gone_sockets_are_bound_as_ever(tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import socket, sys
        with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as s:
            print(s.getsockname()[1])
        """,
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    env = {"CSERVICE_PORTS": str(theirs.fileno())}
    port = str(free_port())
    with theirs, Worker("script", script, port, share="python", env=env, pass_fds=[theirs.fileno()]) as worker:
        assert worker.wait() == 0, worker.output
        assert worker.lines == [port]


@pytest.mark.parametrize("share", ["seccomp", "inherit", "none"])
def test_in_other_modes_nothing_is_changed(python: str, tmp_path: Path, share: str) -> None:
    program = """
        import sys
        before = set(sys.modules)
        import _socket, socket
        ours, theirs = socket.socket, _socket.socket
        print("socket" in before, ours.bind is theirs.bind, ours.listen is theirs.listen)
        """
    assert run(tmp_path, None, program, python=python, share=share) == ["False True True"]


class Interrupting(Ports):
    """Has the worker's signal handled in the middle of each of its questions: it is answered when that is done."""

    def __init__(self) -> None:
        self._worker: queue.Queue[Worker] = queue.Queue()
        super().__init__()

    def meet(self, worker: Worker) -> None:
        self._worker.put(worker)

    def _listen(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        worker = self._worker.get(timeout=DEADLINE)
        worker.process.send_signal(signal.SIGUSR1)
        worker.line("handled")
        return super()._listen(request)


def test_a_signals_handler_may_listen_in_the_middle_of_a_question(python: str, tmp_path: Path) -> None:
    """As the drain does when SIGTERM comes while the program binds: it must not wait for itself."""
    script = write(
        tmp_path / "worker.py",
        """
        import signal, socket, sys
        def handle(number, frame):
            with socket.socket() as other:
                other.bind(("127.0.0.1", 0))
                other.listen()
            print("handled")
        signal.signal(signal.SIGUSR1, handle)
        with socket.socket() as mine:
            mine.bind(("127.0.0.1", int(sys.argv[1])))
            mine.listen()
        print("listened")
        """,
    )
    with (
        Interrupting() as ports,
        Worker("script", script, str(free_port()), python=python, share="python", ports=ports) as worker,
    ):
        ports.meet(worker)
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["handled", "listened"]


def test_a_program_that_closed_the_descriptor_is_told_why_its_port_is_not_shared(python: str, tmp_path: Path) -> None:
    port = free_port()
    with Ports() as ports:
        lines = run(
            tmp_path, ports,
            """
            import os, socket, sys
            os.closerange(3, 256)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                s = socket.socket(type=kind)
                s.bind(("127.0.0.1", int(sys.argv[1])))
            print("bound")
            """,
            str(port), python=python,
        )  # fmt: skip
        assert not ports.held
    assert "bound" in lines
    assert sum("closed the descriptor through which its ports are shared" in line for line in lines) == 1
