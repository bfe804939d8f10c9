"""A worker's process and the other end of everything that a guardian gives it.

The tests play the guardian: a channel, a ports pair whose requests a thread answers with real shared sockets, two pipes
of output. Nobody sleeps: a test waits for a message, a line, or the process's end, with a deadline that only a failure
reaches.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEADLINE = 30.0
"""Seconds that only a failure uses up."""

WAIT = """
import os, signal
_awake, _waker = os.pipe()
os.set_blocking(_waker, False)
signal.set_wakeup_fd(_waker)
def wait():
    os.read(_awake, 1)
"""
"""For programs: ``wait()`` until a signal, also one that comes the moment before (as ``signal.pause`` does not)."""

ENTRY_POINT = Path(__file__).resolve().parents[2] / "src" / "cluster_service" / "worker" / "entry_point.py"


def interpreters() -> list[str]:
    """Every Python from 3.9 on that is to be found here, one of each version, the current one first."""
    found = {sys.version_info[:2]: sys.executable}
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    candidates = [str(path) for root in roots for path in sorted(root.glob("3.*/bin/python"))]
    candidates += [path for minor in range(9, 20) if (path := shutil.which(f"python3.{minor}"))]
    for path in candidates:
        text = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        ).stdout.split()
        if len(text) == 2:
            version = (int(text[0]), int(text[1]))
            if version >= (3, 9):
                found.setdefault(version, path)
    return [found.pop(sys.version_info[:2])] + [found[version] for version in sorted(found)]


class Worker:
    """A worker's process. Use it in a ``with``; at the end it is killed if it is still there."""

    def __init__(
        self,
        *argv: str,
        python: str = sys.executable,
        share: str = "none",
        channel: bool = True,
        ports: Ports | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Iterable[int] = (),
        before: tuple[str, ...] = (),
    ) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CSERVICE_")}
        environment |= {
            "CSERVICE_NAME": "test", "CSERVICE_GROUP": "web", "CSERVICE_SLOT": "1", "CSERVICE_GENERATION": "1",
            "CSERVICE_REASON": "start", "CSERVICE_SHARE": share, "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        fds = list(pass_fds)
        theirs = None
        if channel:
            self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            environment["CSERVICE_CHANNEL"] = str(theirs.fileno())
            fds.append(theirs.fileno())
            self.channel.settimeout(DEADLINE)
        if ports is not None:
            end = ports.connect()
            environment["CSERVICE_PORTS"] = str(end)
            fds.append(end)
        self.python = python
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self.process = subprocess.Popen(
            [python, *before, str(ENTRY_POINT), *argv],
            env=environment | (env or {}),
            cwd=cwd,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if theirs is not None:
            theirs.close()
        if ports is not None:
            os.close(end)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._grown:
                self.lines.append(line.rstrip("\n"))
                self._grown.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def line(self, text: str) -> str:
        """Wait for the first line of output that contains *text*."""
        end = time.monotonic() + DEADLINE
        with self._grown:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                left = end - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader.is_alive()):
                    raise AssertionError(f"no line with {text!r} in:\n{self.output}")
                self._grown.wait(min(left, 1.0))

    def message(self) -> dict[str, Any] | None:
        """The next message on the channel; None at its end."""
        try:
            data = self.channel.recv(65536)
        except ConnectionResetError:  # it has ended without reading what it was told; what it said comes after that
            data = self.channel.recv(65536)
        return dict(json.loads(data)) if data else None

    def ready(self) -> None:
        """Wait until it says that it is ready."""
        try:
            message = self.message()
        except OSError as error:
            raise AssertionError(f"{error}; output:\n{self.output}") from error
        assert message == {"type": "ready", "ready": True}, f"{message}; output:\n{self.output}"

    def stop(self, timeout: float = 20.0, *, announce: bool = True) -> None:
        """Ask it to stop, as the guardian does: the channel's message, then SIGTERM."""
        if announce:
            self.channel.send(json.dumps({"type": "stop", "timeout": timeout, "reason": "restart"}).encode())
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end; output:\n{self.output}") from None
        self._reader.join(DEADLINE)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        if hasattr(self, "channel"):
            self.channel.close()


class Ports:
    """The guardian's side of ``--share python``: one real socket for each address, handed to whoever binds it."""

    def __init__(self) -> None:
        self.held: dict[str, socket.socket] = {}
        self.requests: list[dict[str, Any]] = []
        self.refuse: int | None = None
        self._ends: list[socket.socket] = []
        self._wake_r, self._wake_w = os.pipe()
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def connect(self) -> int:
        """Make a pair for one worker; return its end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ends.append(ours)
        os.write(self._wake_w, b"n")
        return theirs.detach()

    def _serve(self) -> None:
        while True:
            watched: list[Any] = [self._wake_r, *self._ends]
            ready, _, _ = select.select(watched, [], [])
            if self._wake_r in ready and os.read(self._wake_r, 1) == b"q":
                return
            for end in [end for end in ready if isinstance(end, socket.socket)]:
                try:
                    data = end.recv(65536)
                except ConnectionResetError:  # the worker was killed before it had read our answer
                    data = b""
                if not data:
                    self._ends.remove(end)
                    end.close()
                    continue
                request = json.loads(data)
                reply, fds = getattr(self, "_" + request["type"])(request)
                socket.send_fds(end, [json.dumps(reply).encode()], fds)
                with self._grown:
                    self.requests.append(request)
                    self._grown.notify_all()

    def wait(self, enough: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until what was asked for is *enough*."""
        with self._grown:
            assert self._grown.wait_for(lambda: enough(self.requests), DEADLINE), self.requests

    def _bind(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        address = request["address"]
        if self.refuse is not None:
            return {"ok": False, "errno": self.refuse, "error": "refused by the test"}, []
        if address not in self.held:
            held = socket.socket(request["family"], request["kind"])
            if request["family"] == socket.AF_UNIX:
                held.bind(address.removeprefix("unix:"))
            else:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                host, _, port = address.removeprefix("udp:").removesuffix("+v4").rpartition(":")
                if request["family"] == socket.AF_INET6:
                    held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(request["v6only"]))
                held.bind((host.strip("[]"), int(port)))
            self.held[address] = held
        if request["nonblocking"]:
            os.set_blocking(self.held[address].fileno(), False)
        return {"ok": True, "shared": True}, [self.held[address].fileno()]

    def _listen(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        for held in self.held.values():
            if os.fstat(held.fileno()).st_ino == request["inode"]:
                held.listen(request["backlog"])
                return {"ok": True, "shared": True}, []
        return {"ok": True, "shared": False}, []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._wake_w, b"q")
        self._thread.join()
        for held in [*self.held.values(), *self._ends]:
            held.close()
        os.close(self._wake_r)
        os.close(self._wake_w)


def write(path: Path, text: str) -> str:
    """Write a program (indented as it stands in the test) and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((WAIT if "wait()" in text else "") + textwrap.dedent(text))
    return str(path)


def get(port: int, path: str = "/", *, timeout: float = DEADLINE) -> bytes:
    """One request on its own connection; the whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


class KeepAlive:
    """A keep-alive client on one connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self._rest = b""

    def send(self, path: str = "/") -> None:
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def receive(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body. Raises ConnectionError when there is none."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            while b"0\r\n\r\n" not in self._rest:
                self._more()
            body, _, self._rest = self._rest.partition(b"0\r\n\r\n")
        else:
            length = int(headers.get("content-length", "0"))
            while len(self._rest) < length:
                self._more()
            body, self._rest = self._rest[:length], self._rest[length:]
        return int(first.split()[1]), headers, body

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed")
        self._rest += data

    def ask(self, path: str = "/") -> tuple[int, dict[str, str], bytes]:
        self.send(path)
        return self.receive()

    def closed(self) -> bool:
        """Wait for the server's end of the connection."""
        return self.socket.recv(1) == b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def shared_port() -> Iterator[tuple[socket.socket, int]]:
    """A listening socket as the guardian holds it, and its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as held:
        yield held, held.getsockname()[1]
