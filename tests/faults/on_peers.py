"""Peers that the service must not trust: a worker that attacks it, and processes that neither read nor write."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.hostile.deeds import CHILD_SECONDS
from tests.tools.service import CSERVICE

from .subject import GROUPS, KEY
from .world import Gone

if TYPE_CHECKING:
    from random import Random

    from .world import World

ANSWER = 30.0
"""Seconds for an answer of a service whose output is not read."""
STREAMS = 20
CHATTER = """
import sys, time
print("x" * 100 * 1024, flush=True)
while True:
    time.sleep(60)
"""
"""A worker that writes more than the service's own output takes, were it not read."""


def hostile(world: World, random: Random) -> None:
    """The worker of the hostile group attacks the service; whatever becomes of it, its end is reported."""
    with world.hurting():
        seen = len(world.subject.events)
        with world.subject.hostile_worker() as worker:
            if worker is None:
                raise Gone("no hostile worker has come up")
            world.story.tell("hostile", pid=worker.pid)
            try:
                report = worker.perform("deeds", str(random.getrandbits(32)), random.randint(2, 6))
            except TimeoutError:
                report = None  # stopped, frozen with the guardian, or killed as one that hangs
            if report is not None and report["violations"]:
                world.story.breaks(
                    "ports", f"the hostile worker was given what it may not have: {report['violations']}"
                )
            with contextlib.suppress(OSError, TimeoutError):
                worker.end(random.choice(("exit", "kill")))
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL) if report is None else None
        world.subject.until(
            lambda: any(
                each["type"] == "master_start" or (each["type"] == "worker_exit" and each["pid"] == worker.pid)
                for each in list(world.subject.events)[seen:]
            ),
            f"the end of the hostile worker (pid {worker.pid})",
        )
        world.last(CHILD_SECONDS + 1)  # of a child that it has left


def clients(world: World, random: Random) -> None:
    """Clients of both endpoints send half a request, or ask for the events and never read."""
    with contextlib.ExitStack() as stack:
        for number in range(STREAMS):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX if number % 2 else socket.AF_INET))
            sock.settimeout(5)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                sock.connect(str(world.subject.door) if number % 2 else ("127.0.0.1", world.subject.door_port))
                head = (
                    f"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nX-Access-Key: {KEY}\r\nLast-Event-ID: 0\r\n\r\n"
                )
                sock.sendall(head.encode()[: random.choice((10, 60, len(head)))])
        world.last(random.uniform(2, 6))


def silent_log_writer(world: World, random: Random) -> None:
    """The log writer is stopped while workers write more than their pipes hold."""
    with world.hurting(), world.stopped(world.pid("log writer")):
        for group in GROUPS:
            with contextlib.suppress(OSError, AssertionError):
                world.subject.deed(group, "talk")
        world.last(random.uniform(1, 8))


def unread_output(world: World, random: Random) -> None:
    """A service beside this one, whose standard output and error are a pipe that is full and not read."""
    with tempfile.TemporaryDirectory(prefix="cs-unread-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "chatter.py").write_text(CHATTER, encoding="ascii")
        env = {**os.environ, "XDG_RUNTIME_DIR": name, "XDG_STATE_HOME": f"{name}/state"}
        command = [
            CSERVICE,
            "start",
            "--name",
            "unread",
            "--ready-after",
            "50ms",
            "-w",
            "2",
            str(folder / "chatter.py"),
        ]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, cwd=folder
        ) as process:
            try:
                world.last(random.uniform(1, 3))
                for words in (("health",), ("restart", "all", "--no-wait"), ("workers",)):
                    done = subprocess.run(
                        [CSERVICE, "--name", "unread", *words],
                        env=env,
                        capture_output=True,
                        timeout=ANSWER,
                        check=False,
                    )
                    if done.returncode not in (0, 1):
                        world.story.breaks(
                            "in time", f"{words[0]} is not answered while the output is not read: {done}"
                        )
            except subprocess.TimeoutExpired as late:
                world.story.breaks("in time", f"a service whose output is not read does not answer: {late}")
            finally:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=ANSWER)
                if process.poll() is None:
                    world.story.breaks("6 nothing left", "a service whose output was not read does not end")
                    process.kill()
                    process.communicate()
