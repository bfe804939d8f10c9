"""A worker that does what the test tells it, on its channel; so that nothing in a test depends on time."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from cluster_service.wire import facts, orders

if TYPE_CHECKING:
    from tests.contract.real import RealKernel

PROGRAM = """
import json, os, signal, socket, sys, threading
channel = socket.socket(fileno=int(os.environ["CSERVICE_CHANNEL"]))
channel.set_inheritable(False)
names = {"channel": channel, "os": os, "signal": signal, "socket": socket, "sys": sys, "threading": threading}
exec('''
def tcp(host, port, family=socket.AF_INET, v6only=None, blocking=True, listen=True):
    s = socket.socket(family)
    if v6only is not None:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    s.setblocking(blocking)
    s.bind((host, port))
    if listen:
        s.listen()
    return s
def unix(path, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind(path)
    s.listen()
    return s
def serve(s):
    connection, _ = s.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
''', names)
while True:
    data = channel.recv(65536)
    if not data:
        break
    names["result"] = None
    try:
        exec(json.loads(data)["code"], names)
        reply = {"type": "done", "result": names["result"]}
    except OSError as error:
        reply = {"type": "done", "errno": error.errno}
    except Exception as error:
        reply = {"type": "done", "fault": repr(error)}
    channel.send(json.dumps(reply).encode())
"""


class Puppet:
    """Worker *number* of *kernel*. *how*: further fields of the Spawn order."""

    def __init__(self, kernel: RealKernel, number: int, *, python: str = sys.executable, **how: Any) -> None:
        self.kernel = kernel
        self.number = number
        fields: dict[str, Any] = {
            "env": {"PATH": os.environ["PATH"]},
            "cwd": "/",
            "label": f"web.{number}",
            "share": "seccomp",
            **how,
        }
        kernel.send(orders.Spawn(number, [python, "-I", "-S", "-c", PROGRAM], channel=True, **fields))
        self.pid = kernel.fact(facts.Spawned, worker=number).pid

    def tell(self, code: str) -> None:
        """Let it begin to run *code*."""
        self.kernel.send(orders.Tell(self.number, {"type": "do", "code": code}))

    def answer(self) -> dict[str, Any]:
        """What came of the oldest *code* that was not asked for yet."""
        return self.kernel.fact(facts.Message, worker=self.number).message

    def do(self, code: str) -> Any:
        """Run *code*; return what it left in ``result``."""
        self.tell(code)
        answer = self.answer()
        assert "errno" not in answer, os.strerror(answer["errno"])
        assert "fault" not in answer, answer["fault"]
        return answer["result"]

    def fails(self, code: str) -> int:
        """Run *code*; return the number of the OSError that it must raise."""
        self.tell(code)
        answer = self.answer()
        assert "errno" in answer, answer
        return int(answer["errno"])

    def settle(self) -> None:
        """Return when the guardian and its helper have done everything that was begun before, and what follows from it.

        They keep the order: the first call is behind what was begun, the second behind what that has added.
        """
        self.do("for _ in range(2): socket.socket().bind(('127.0.0.1', 0))")

    def end(self) -> facts.Exited:
        """Let it end by itself."""
        self.tell("os._exit(0)")
        return self.kernel.fact(facts.Exited, worker=self.number)
