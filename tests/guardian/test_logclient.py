"""The guardian and the log writer never wait for each other. The test is the writer, and turns the guardian's clock."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.guardian import spawn
from cluster_service.guardian.boot_message import Boot, Start
from cluster_service.guardian.helper_client import Answer
from cluster_service.guardian.log_client import EXITED_LIMIT, TAIL_PATIENCE, WRITER_TIMEOUT, Logs
from cluster_service.guardian.log_sources import READ_PIPES, TAIL_CHARACTERS, TAIL_LINES
from cluster_service.guardian.process_limits import Limits
from cluster_service.machine import descriptor_passing
from tests.contract.interface import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_service.guardian.forked_child import Plan


class Loop:
    """Has a clock, and serves what is watched when it is asked to."""

    def __init__(self) -> None:
        self.time = 0.0
        self.watched: dict[int, Callable[[int], None]] = {}
        self.events: dict[int, int] = {}

    def now(self) -> float:
        return self.time

    def watch(self, descriptor: int, handler: Callable[[int], None]) -> None:
        self.watched[descriptor], self.events[descriptor] = handler, select.EPOLLIN

    def change(self, descriptor: int, events: int) -> None:
        self.events[descriptor] = events

    def drop(self, descriptor: int) -> None:
        self.watched.pop(descriptor, None)

    def turn(self) -> None:
        for descriptor, handler in list(self.watched.items()):
            handler(self.events[descriptor])


class Helper:
    """Does everything at once."""

    def __init__(self, logs: Logs) -> None:
        self.duties = {READ_PIPES: logs.discarder.read}
        self.close = os.close

    def ask(
        self, duty: str, values: dict[str, Any], descriptors: list[int], on_answer: Callable[[Answer], None]
    ) -> None:
        on_answer(Answer(self.duties[duty](values, descriptors).values, []))


class Scene:
    """The guardian's side, and the writers that it starts: each is a process that does nothing, and our socket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = Loop()
        start = Start([], "/", {})
        boot = Boot("contract", "/", start, start, {})
        self.can_start = True
        self.ends: list[socket.socket] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.tails: dict[int, list[str]] = {}
        monkeypatch.setattr(spawn, "launch", self._launch)
        self.logs = Logs(self.loop, Limits({}), boot)  # type: ignore[arg-type]
        self.logs.helper = Helper(self.logs)  # type: ignore[assignment]
        self.logs.on_tail = self.tails.__setitem__
        self.writes: list[int] = []

    def _launch(self, plan: Plan) -> spawn.Launch:
        if not self.can_start:
            raise spawn.CannotSpawn("no process left")
        self.ends.append(socket.socket(fileno=os.dup(plan.descriptors[0])))
        process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        self.processes.append(process)
        return spawn.Launch(process.pid, socket.socket(socket.AF_UNIX))

    def after(self, seconds: float) -> None:
        """Let time pass, with every deadline in it met in turn."""
        end = self.loop.time + seconds
        while (due := self.logs.deadline()) is not None and due <= end:
            self.loop.time = max(self.loop.time, due)
            before = self.logs.deadline()
            self.logs.tick(self.loop.time)
            assert self.logs.deadline() != before, "what is due is done"
        self.loop.time = end

    def worker(self, number: int, label: str = "") -> int:
        """Add a worker; return the end of the pipe that it writes to."""
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        os.close(err_end)
        self.logs.add(number, label or f"web.{number}", out, err)
        os.set_blocking(out_end, False)
        self.writes.append(out_end)
        return out_end

    def receive(self) -> list[dict[str, Any]]:
        """Everything that the last writer was sent, as far as it takes to read it; its descriptors are closed."""
        messages: list[dict[str, Any]] = []
        while True:
            try:
                data, descriptors, _ = descriptor_passing.receive(self.ends[-1], 1 << 20, 1)
            except BlockingIOError:
                self.loop.turn()
                try:
                    data, descriptors, _ = descriptor_passing.receive(self.ends[-1], 1 << 20, 1)
                except BlockingIOError:
                    return messages
            for descriptor in descriptors:
                os.close(descriptor)
            messages.append({**json.loads(data), **({"pipe": True} if descriptors else {})})

    def answer(self, **message: Any) -> None:
        descriptor_passing.send(self.ends[-1], json.dumps(message).encode())
        self.loop.turn()

    def reap(self, *, failed: bool = False) -> None:
        """The last writer has ended; and the guardian sees it."""
        if failed:
            self.processes[-1].kill()
        assert self.processes[-1].wait(DEADLINE) == -signal.SIGKILL
        self.ends[-1].close()
        self.logs.reaped(self.loop.time)

    def close(self) -> None:
        self.logs.end()
        for process in self.processes:
            process.kill()
            process.wait()
        for end in self.ends:
            end.close()
        for descriptor in self.writes:
            os.close(descriptor)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(monkeypatch)
    yield made
    made.close()


def fill(pipe: int) -> int:
    """Write until the pipe is full; return how many lines that were."""
    count = 0
    while True:
        try:
            os.write(pipe, b"x" * 99 + b"\n")
        except BlockingIOError:
            return count
        count += 1


def test_a_writer_that_does_not_read_gets_everything_later(scene: Scene) -> None:
    scene.logs.start(0.0)
    scene.receive()
    scene.answer(pong=True)
    for number in range(1, 301):
        scene.worker(number)
        scene.logs.release(number)
        scene.logs.exited(number, failed=True)
    messages = scene.receive()
    assert [each["do"] for each in messages] == ["add", "add", "release", "exited"] * 300
    assert all(each["do"] != "add" or each["pipe"] for each in messages)
    scene.after(TAIL_PATIENCE)
    assert len(scene.tails) == 300, "and the last words are given up in time"


def test_lines_of_the_service_are_bounded_and_the_lost_ones_counted(scene: Scene) -> None:
    scene.logs.start(0.0)
    for number in range(5000):
        scene.logs.line(f"line {number}")
    assert [each["do"] for each in scene.receive()] == ["config", "ping"]
    scene.answer(pong=True)
    lines = [each["text"] for each in scene.receive()]
    assert lines[:-1] == [f"line {number}" for number in range(1000)]
    assert lines[-1] == "4000 lines of the service were lost: the log writer did not read them"
    for _ in range(50):
        scene.logs.line("\U0001f600" * 100_000)
    assert sum(len(each["text"]) for each in scene.receive()) < 2 << 20


def test_a_stopped_writer_is_replaced_and_its_pipes_are_emptied(scene: Scene) -> None:
    scene.logs.start(0.0)
    scene.receive()
    scene.answer(pong=True)
    pipe = scene.worker(1)
    assert [each["do"] for each in scene.receive()] == ["add", "add"]
    lines = fill(pipe)
    scene.after(WRITER_TIMEOUT - 0.1)
    assert [each["do"] for each in scene.receive()] == ["ping"]
    assert fill(pipe) == 0
    scene.after(0.1)
    assert fill(pipe) == lines, "the worker goes on"
    scene.after(1.0)
    scene.reap()
    scene.after(1.0)
    assert [each["do"] for each in scene.receive()] == ["config", "ping"], "nothing else until it has answered"
    scene.after(1.0)
    scene.answer(pong=True)
    received = scene.receive()
    assert [each["do"] for each in received] == ["add", "line", "line"], "the other pipe was at its end"
    assert "which has not answered for 10 s; starting another" in received[1]["text"]
    assert received[2]["text"].endswith("lines of web.1 lost: no log writer read them")


def test_what_is_lost_is_counted_for_each_worker(scene: Scene) -> None:
    scene.can_start = False
    scene.logs.start(0.0)
    pipes = {number: scene.worker(number) for number in (1, 2)}
    os.write(pipes[1], b"one\ntwo\nthree\n")
    os.write(pipes[2], b"no newline")
    scene.after(WRITER_TIMEOUT - 0.5)
    scene.can_start = True
    scene.after(1.5)
    assert [each["do"] for each in scene.receive()] == ["config", "ping"]
    scene.answer(pong=True)
    assert [each["text"] for each in scene.receive() if each["do"] == "line"] == [
        "3 lines of web.1 lost: no log writer read them",
        "1 line of web.2 lost: no log writer read them",
    ]
    os.write(pipes[1], b"kept\n")
    scene.after(WRITER_TIMEOUT / 4)
    with pytest.raises(BlockingIOError):
        descriptor_passing.receive(scene.ends[-1], 1, 0)


def test_writers_that_die_at_once_are_started_ever_more_seldom_and_stop_no_worker(scene: Scene) -> None:
    scene.logs.start(0.0)
    pipe = scene.worker(1)
    for _ in range(8):
        started = len(scene.processes)
        scene.reap(failed=True)
        while len(scene.processes) == started:
            scene.after(0.5)
    assert scene.loop.time > 50
    fill(pipe)
    scene.after(1.0)
    assert fill(pipe) > 0


def test_a_writer_that_sends_what_is_no_message_is_replaced(scene: Scene) -> None:
    scene.worker(1)
    for garbage in (b"{", b"[]", b'{"tail": []}', b'{"closed": 1}', b"[" * 100_000, b'{"lost": "x", "stream": 1}'):
        scene.logs.start(scene.loop.time)
        descriptor_passing.send(scene.ends[-1], garbage)
        scene.loop.turn()
        scene.reap()


def test_time_in_which_the_guardian_did_not_run_does_not_count(scene: Scene) -> None:
    scene.logs.start(0.0)
    scene.receive()
    scene.answer(pong=True)
    scene.loop.time = 1000.0
    scene.logs.suspended(1000.0)
    scene.logs.tick(1000.0)
    assert scene.receive() == []
    assert scene.processes[-1].poll() is None


def test_pipes_of_dead_workers_that_others_hold_open_are_bounded(scene: Scene) -> None:
    scene.logs.start(0.0)
    scene.receive()
    scene.answer(pong=True)
    dropped: list[int] = []
    for number in range(1, EXITED_LIMIT + 4):
        (out, end), (err, err_end) = os.pipe(), os.pipe()
        os.close(err_end)
        scene.logs.add(number, "web.1", out, err)
        scene.writes.append(end)
        scene.logs.exited(number, failed=True)
        dropped += [each["source"] for each in scene.receive() if each["do"] == "drop"]
        scene.answer(tail=number, lines=["x" * 1000] * 40)
    assert scene.tails[1] == ["x" * TAIL_CHARACTERS] * TAIL_LINES
    assert dropped == [1, 2]


def test_at_the_end_it_has_time_only_while_it_takes_something(scene: Scene) -> None:
    scene.logs.start(0.0)
    scene.receive()
    scene.answer(pong=True)
    pipe = scene.worker(1)
    scene.receive()
    os.write(pipe, b"five\n")
    for line in range(20):
        scene.logs.line(f"line {line} " + "." * 8000)
    assert scene.logs.finish(0.5)
    for _ in range(5):  # it reads, but slowly
        scene.loop.time += 0.375
        descriptor_passing.receive(scene.ends[-1], 1 << 20, 1)
        assert scene.logs.finish(0.5)
    scene.receive()
    for _ in range(5):  # it has read everything, and writes to a slow output
        scene.loop.time += 0.375
        scene.answer(pong=True)
        assert scene.logs.finish(0.5)
    assert scene.ends[-1].recv(1) == b"", "it was told that nothing more comes"
    scene.loop.time += 0.375
    assert scene.logs.finish(0.5)
    scene.loop.time += 0.125
    assert not scene.logs.finish(0.5)
    assert scene.logs.lost() == "5 bytes of output"


def test_what_a_writer_has_not_taken_is_counted(scene: Scene) -> None:
    scene.logs.start(0.0)
    scene.receive()
    scene.answer(pong=True)
    for line in range(300):
        scene.logs.line(f"line {line} " + "." * 2000)
    assert scene.logs.finish(0.5)
    scene.loop.time += 0.5
    assert not scene.logs.finish(0.5)
    waits = len(scene.receive())
    lost = scene.logs.lost()
    assert lost == "", "now it has everything"
    assert waits == 300
