"""The real guardian behind the interface of the contract tests.

Its master is ``relay.py``, which hands its end of the stream to the test. Nobody sleeps: the test waits at the
stream, at the socket where the next relay will come, or at the guardian's end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cluster_service
from cluster_service.wire import facts, framing
from cluster_service.wire.facts import FACTS
from cluster_service.wire.framing import to_json
from cluster_service.wire.orders import Bye, Pong

from . import programs
from .interface import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

F = TypeVar("F")

GUARDIAN = Path(cluster_service.__file__).parent / "guardian" / "__main__.py"
RELAY = Path(__file__).with_name("relay.py")


def memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("test-boot")
    os.write(descriptor, content)
    os.set_inheritable(descriptor, True)
    return descriptor


class RealKernel:
    """A guardian that was started for one test. *boot* overrides parts of the boot message."""

    def __init__(
        self,
        boot: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        connect: bool = True,
        python: str = sys.executable,
        master: Sequence[str] = (),
    ) -> None:
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind("")  # an abstract name of the kernel's choosing
        self.door.listen()
        address = self.door.getsockname()[1:].decode()
        argv = [*(master or [python, "-I", "-S", str(RELAY)]), address]
        relay: dict[str, Any] = {"argv": argv, "cwd": "/", "env": {}}
        message = {
            "name": "contract",
            "run_dir": os.environ.get("XDG_RUNTIME_DIR", tempfile.gettempdir()),
            "master": relay,
            "safe_master": {**relay, "env": {"SAFE": "1"}},
            "stop_timeout": DEADLINE,
            "settings": {"opaque": True},
            **(boot or {}),
        }
        self.log, log = os.pipe()
        os.set_blocking(self.log, False)
        self.text = b""
        memory = memory_file(json.dumps(message).encode())
        lock = message.get("lock_fd")
        self.process = subprocess.Popen(
            [python, "-I", "-S", str(GUARDIAN), "--boot-fd", str(memory), "contract"],
            stdin=subprocess.DEVNULL,
            stdout=log if stdout is None else stdout,
            stderr=log if stderr is None else stderr,
            pass_fds=[memory] if lock is None else [memory, lock],
            env={"PATH": os.environ["PATH"], **(env or {})},
            preexec_fn=prepare,  # noqa: PLW1509 - these tests start no threads
            process_group=0,
        )
        os.close(memory)
        os.close(log)
        self.boot_message: dict[str, Any] = {}
        self.master_pid = 0
        self.relay: socket.socket | None = None
        self.stream: socket.socket | None = None
        self.descriptors: list[int] = []
        self.pending: list[Any] = []
        self.answer_pings = True
        self.closed = False
        self.snapshot: Any = None
        """For those who want to keep it."""
        if connect:
            self.connect()

    # ------------------------------------------------------------ the interface

    def send(self, order: Any) -> None:
        assert self.stream is not None
        self.stream.sendall(framing.encode(to_json(order)))

    def fact(self, kind: type[F], **match: Any) -> F:
        end = time.monotonic() + DEADLINE
        while True:
            for fact in self.pending:
                if isinstance(fact, kind) and all(getattr(fact, key) == value for key, value in match.items()):
                    self.pending.remove(fact)
                    return fact
            if not self.read(end):
                raise AssertionError(f"no {kind.__name__} {match} came; there were: {self.pending}\n{self.output()}")

    def restart_master(self) -> None:
        self.hang_up()
        self.connect()

    def program(self, name: str, *args: str) -> list[str]:
        return programs.argv(name, *args)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            if self.process.poll() is None:
                if self.stream is None:
                    self.process.terminate()
                else:
                    with contextlib.suppress(BrokenPipeError):  # it is ending by itself
                        self.send(Bye())
                    self.hang_up()
                self.wait()
        finally:
            self.process.kill()
            self.process.wait()
            self.hang_up()
            self.door.close()
            os.close(self.log)

    # ------------------------------------------------------------ and more, for the guardian's own tests

    def connect(self) -> None:
        """Take the stream from the relay that the guardian has started, or will start."""
        ready, _, _ = select.select([self.door], [], [], DEADLINE)
        assert ready, f"no master was started\n{self.output()}"
        self.relay, _ = self.door.accept()
        data, descriptors, _, _ = socket.recv_fds(self.relay, 100, 2)
        self.master_pid = int(data)
        self.stream = socket.socket(fileno=descriptors[0])
        with os.fdopen(descriptors[1], "rb") as file:
            file.seek(0)
            self.boot_message = json.load(file)
        self.decoder = framing.Decoder()

    def hang_up(self) -> None:
        """Let this master die."""
        for sock in (self.stream, self.relay):
            if sock is not None:
                sock.close()
        self.stream = self.relay = None
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        self.pending.clear()

    def connect_next(self) -> None:
        """Take the stream of the next master that the guardian starts, without letting this one die."""
        mine, relay = self.stream, self.relay
        self.pending.clear()
        self.connect()
        for sock in (mine, relay):
            if sock is not None:
                sock.close()

    def wait_for_hang_up(self) -> None:
        """Wait until the guardian has closed the stream, which tells a master that it ends; and let this one end."""
        end = time.monotonic() + DEADLINE
        while self.read(end):
            pass
        assert time.monotonic() < end, f"the guardian does not hang up\n{self.output()}"
        self.hang_up()

    def read(self, end: float) -> bool:
        """Take in what the guardian says next. False when *end*, of the monotonic clock, comes first, or its death."""
        assert self.stream is not None
        if not select.select([self.stream], [], [], max(0.0, end - time.monotonic()))[0]:
            return False
        data, descriptors, _, _ = socket.recv_fds(self.stream, 1 << 20, 16)
        self.descriptors += descriptors
        for message in self.decoder.feed(data):
            fact = FACTS.from_json(message)
            if self.answer_pings and isinstance(fact, facts.Ping):
                self.send(Pong())
            else:
                self.pending.append(fact)
        return bool(data)

    def nothing_of(self, kind: type[Any], **match: Any) -> None:
        """Assert that no such fact has come, up to now: an order that is answered proves that all before it was
        read.
        """
        self.send(Echo())
        self.fact(facts.Refused, order="echo")
        assert not [
            fact
            for fact in self.pending
            if isinstance(fact, kind) and all(getattr(fact, key) == value for key, value in match.items())
        ]

    def output(self) -> str:
        """What the service has written so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.log, 1 << 20):
                self.text += data
        return self.text.decode(errors="replace")

    def wrote(self, text: str) -> bool:
        """Wait until the service has written *text*; False when it does not, or has ended without."""
        end = time.monotonic() + DEADLINE
        while text not in self.output():
            select.select([self.log], [], [], max(0.0, end - time.monotonic()))
            try:
                data = os.read(self.log, 1 << 20)
            except BlockingIOError:
                data = b""
            self.text += data
            if not data:
                return False
        return True

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Wait for the guardian's end; return its exit code."""
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            raise AssertionError(f"the guardian does not end\n{self.output()}") from None


@dataclasses.dataclass(frozen=True)
class Echo:
    """An order that the guardian does not know, and refuses."""
