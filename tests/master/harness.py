"""A guardian for a master's process that only takes down orders."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from cluster_service.wire import facts, framing, orders
from cluster_service.wire.framing import to_json
from cluster_service.wire.orders import ORDERS

if TYPE_CHECKING:
    from cluster_service import config

DEADLINE = 20.0

PROGRAM = "from cluster_service.master.main import main; raise SystemExit(main())"


class Guardian:
    """A guardian for one master after another. Nothing that is ordered is done."""

    def __init__(self, settings: config.Settings) -> None:
        self.settings = settings
        self.notebook = ""
        self.starts = 0
        self.answers = True
        """Whether the master is told what has become of its doors: that they are not opened."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start a master, and answer its hello."""
        self.start_master()
        self.greet()
        self.until(orders.Listen)  # of a door: from here it acts on what it hears

    def start_master(self) -> None:
        """Start a master, and wait for its hello."""
        self.starts += 1
        self.stream, theirs = socket.socketpair()
        boot = os.memfd_create("boot")
        os.write(boot, json.dumps({"settings": self.settings.to_json()}).encode())
        environ = {**os.environ, "CSERVICE_GUARDIAN_FD": str(theirs.fileno()), "CSERVICE_BOOT_FD": str(boot)}
        self.master = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=environ, pass_fds=[theirs.fileno(), boot], cwd="/"
        )
        theirs.close()
        os.close(boot)
        self.decoder = framing.Decoder()
        self.heard: list[Any] = []
        self.until(orders.Hello)

    def greet(self) -> None:
        """Answer its hello."""
        share = {"seccomp": "", "python": "", "inherit": "", "none": ""}
        self.send(facts.Snapshot(1, os.getpid(), 0.0, [], [], self.notebook, 0, self.starts, share=share))

    def kill(self) -> None:
        """Let the master die at once."""
        self.master.kill()
        self.master.wait()
        self.stream.close()

    def send(self, fact: Any) -> None:
        self.stream.sendall(framing.encode(to_json(fact)))

    def until(self, kind: type[Any]) -> list[Any]:
        """Everything that it orders, up to an order of *kind*."""
        taken: list[Any] = []
        while True:
            while self.heard:
                order = self.heard.pop(0)
                taken.append(order)
                if isinstance(order, orders.Note):
                    self.notebook = order.text
                elif isinstance(order, orders.Listen) and self.answers:
                    self.send(facts.ListenFailed(order.address, "no door is opened here"))
                if isinstance(order, kind):
                    return taken
            assert select.select([self.stream], [], [], DEADLINE)[0], f"no {kind.__name__}: {taken}"
            data = self.stream.recv(1 << 20)
            assert data, f"the master has ended: {taken}"
            self.heard += [ORDERS.from_json(message) for message in self.decoder.feed(data)]

    def told(self, signal: str) -> list[Any]:
        """What it orders at once when it is told of *signal*."""
        self.send(facts.Signalled(signal))
        self.send(facts.Ping())
        return self.until(orders.Pong)
