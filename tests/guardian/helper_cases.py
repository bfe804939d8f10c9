"""Cases of the helper process, each run in a process of its own: ``helper_cases.py SOURCE CASE``.

The helper is forked from the process that uses it, which must not be the one of the tests.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

sys.path.insert(0, sys.argv[1])

from cluster_service.guardian.event_loop import Loop
from cluster_service.guardian.forked_child import Result
from cluster_service.guardian.helper_client import LIMIT_SECONDS, Answer, Helper

if TYPE_CHECKING:
    from collections.abc import Sequence


def echo(values: dict[str, Any], descriptors: list[int]) -> Result:
    found = {**values, "pid": os.getpid(), "open": len(os.listdir("/proc/self/fd"))}
    return Result(found, [os.dup(descriptor) for descriptor in descriptors])


def wait(_values: dict[str, Any], descriptors: list[int]) -> Result:
    os.read(descriptors[0], 1)
    return Result({})


def fail(_values: dict[str, Any], _descriptors: list[int]) -> Result:
    raise OSError(errno.EACCES, "no")


def crash(_values: dict[str, Any], _descriptors: list[int]) -> NoReturn:
    os._exit(9)


def fault(_values: dict[str, Any], _descriptors: list[int]) -> Result:
    raise KeyError("mistake")


loop = Loop()
lines: list[str] = []
helper = Helper(loop, {"echo": echo, "wait": wait, "fail": fail, "crash": crash, "fault": fault}, lines.append)


def turn() -> None:
    """Go through one round of the guardian's loop."""
    helper.tick(loop.now())
    deadline = helper.deadline()
    loop.turn(10 if deadline is None else max(0.0, deadline - loop.now()))
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        assert helper.reaped(pid)


def ask(duty: str, values: dict[str, Any] | None = None, descriptors: Sequence[int] = ()) -> list[Answer]:
    """Send a request; the list gets its answer."""
    answers: list[Answer] = []
    begun = time.monotonic()
    helper.ask(duty, values or {}, descriptors, answers.append)
    assert time.monotonic() - begun < LIMIT_SECONDS, "ask has waited"
    return answers


def answer(answers: list[Answer]) -> Answer:
    while not answers:
        turn()
    return answers[0]


def idle() -> None:
    while helper.busy:
        turn()


mine = len(os.listdir("/proc/self/fd"))


def forked_when_needed() -> None:
    assert helper.pid is None
    reader, writer = os.pipe()
    first = answer(ask("echo", {"a": [1, "\udcff"]}, [writer]))
    assert first.values["a"] == [1, "\udcff"]
    assert first.values["pid"] == helper.pid != os.getpid()
    assert first.values["open"] <= 6, "it has kept descriptors of the guardian"
    os.write(first.descriptors[0], b"x")
    assert os.read(reader, 1) == b"x"
    assert answer(ask("echo")).values["pid"] == first.values["pid"]


def in_order() -> None:
    reader, writer = os.pipe()
    done: list[str] = []
    helper.ask("wait", {}, [reader], lambda _answer: done.append("wait"))
    helper.ask("echo", {}, [], lambda _answer: done.append("echo"))
    os.write(writer, b"x")
    idle()
    assert done == ["wait", "echo"]


def a_lent_descriptor_may_be_given_away() -> None:
    """Before its request is sent: everything keeps its order."""
    reader, writer = os.pipe()
    waiting = ask("wait", {}, [reader])
    lent, far = os.pipe()
    behind = ask("echo", {}, [far])
    helper.close(far)
    os.write(writer, b"x")
    answer(waiting)
    os.write(answer(behind).descriptors[0], b"y")
    assert os.read(lent, 1) == b"y"


def one_that_waits_is_replaced() -> None:
    reader, _writer = os.pipe()
    waiting = ask("wait", {}, [reader])
    behind = ask("echo")
    killed = helper.pid
    assert answer(waiting)[2:4] == (errno.ETIMEDOUT, "it took longer than 1 s")
    assert answer(behind).values["pid"] not in (killed, os.getpid())
    assert answer(behind).error == 0


def one_that_ends_is_replaced() -> None:
    assert answer(ask("crash")).error == errno.ECONNABORTED
    pid = answer(ask("echo")).values["pid"]
    os.kill(pid, signal.SIGKILL)
    assert answer(ask("echo")).values["pid"] != pid


def failures() -> None:
    assert answer(ask("fail"))[2:4] == (errno.EACCES, "no")
    assert lines == []
    assert answer(ask("fault")).error == errno.EIO
    assert "mistake" in lines[0]
    assert answer(ask("unknown")).error == errno.EIO
    assert len(lines) == 1, "a fault is reported once a minute"


def close_never_lingers_here() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        senders = []
        for _ in range(3):
            sender = socket.create_connection(listener.getsockname())
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
            sender.setblocking(False)
            try:
                while True:
                    sender.send(b"x" * 65536)
            except BlockingIOError:
                senders.append(sender.detach())
        begun = time.monotonic()
        for descriptor in senders:
            helper.close(descriptor)
        assert time.monotonic() - begun < LIMIT_SECONDS
        idle()
        assert len(os.listdir("/proc/self/fd")) <= mine + 2, "copies are left"  # the listener and the pair


def many_are_closed_in_few_messages() -> None:
    ends = []
    for _ in range(600):
        reader, writer = os.pipe()
        helper.close(writer)
        ends.append(reader)
    idle()
    for reader in ends:
        assert os.read(reader, 1) == b"", "it is open still"
        os.close(reader)
    assert len(os.listdir("/proc/self/fd")) <= mine + 1


def end_cancels_what_is_left() -> None:
    reader, writer = os.pipe()
    waiting, behind = ask("wait", {}, [reader]), ask("echo")
    helper.end()
    assert waiting[0].error == behind[0].error == errno.ECANCELED
    late = ask("echo")
    assert late[0].error == errno.ECANCELED
    os.write(writer, b"x")
    os.waitpid(-1, 0)


def no_process_to_be_had() -> None:
    def refuse() -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, "no process")

    fork, os.fork = os.fork, refuse
    reader, writer = os.pipe()
    assert ask("echo")[0].error == errno.EAGAIN
    helper.close(writer)
    assert helper.busy, "it is tried again"
    os.fork = fork
    idle()
    assert os.read(reader, 1) == b""


def small() -> None:
    pid = answer(ask("echo")).values["pid"]
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        sizes = {line.split()[0]: int(line.split()[1]) for line in list(file)[1:]}
    assert sizes["Private_Dirty:"] <= 4096, sizes


def ends_with_the_guardian() -> None:
    """Be killed while the helper waits; the pid that is written is the helper's."""
    reader, _writer = os.pipe()
    ask("wait", {}, [reader])
    os.write(1, b"%d" % (helper.pid or 0))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    globals()[sys.argv[2]]()
