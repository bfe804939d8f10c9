"""What a worker can do to the guardian by what it sends: nothing that any other worker would notice."""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from cluster_service.guardian import (
    master_link,
    reaping,
    untrusted_input,
    worker_channels,
)
from cluster_service.guardian.event_loop import LONGEST_PAUSE, Faults, Loop
from cluster_service.guardian.helper_client import Helper
from cluster_service.guardian.holdings import Holdings, Worker
from cluster_service.guardian.master_link import Link
from cluster_service.guardian.sd_notify import NotifySockets
from cluster_service.guardian.worker_channels import Channels
from cluster_service.guardian.worker_processes import Workers
from cluster_service.machine import files
from cluster_service.wire import facts, orders

from .puppet import Puppet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.real import RealKernel

DEADLINE = 20.0
RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)


class Clock(Loop):
    """A loop whose clock stands until it is moved."""

    time = 1000.0

    def now(self) -> float:
        return self.time


class Guardian(NamedTuple):
    """The parts that receive from one worker, without the rest of the guardian."""

    loop: Clock
    channels: Channels
    helper: Helper
    worker: Worker
    theirs: socket.socket
    """The worker's end of its channel."""
    notify: str
    told: list[Any]
    log: list[str]
    busy: set[int]
    """Workers for which the link has no room."""

    def turn(self, seconds: float = 0.0) -> None:
        """Serve what is ready, and then what has become due."""
        self.loop.turn(seconds)
        self.channels.tick(self.loop.now())
        self.helper.tick(self.loop.now())

    def until(self, done: Any) -> None:
        """Serve until *done* says so. Children of this process are reaped as the guardian would."""
        for _ in range(1000):
            if done():
                return
            self.loop.turn(0.05)
            for pid, _end in reaping.ended():
                self.helper.reaped(pid)
        raise AssertionError(f"{self.told} {self.log}")

    def send(self, message: Any) -> None:
        self.theirs.send(message if isinstance(message, bytes) else json.dumps(message).encode())


def build(run_dir: Path, *, refuse: bool) -> Iterator[Guardian]:
    loop, told, log, busy = Clock(), list[Any](), list[str](), set[int]()
    helper = Helper(loop, {untrusted_input.DISCARD: untrusted_input.discard}, log.append)
    made = Channels(loop, helper, log.append)
    made.tell = told.append
    made.greeted = lambda: True
    made.room = lambda number: number not in busy
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if refuse:
        untrusted_input.refuse_descriptors(ours)
    theirs.settimeout(DEADLINE)
    sockets = NotifySockets(str(run_dir), "test", locked=True)
    notify, name = sockets.open(1, os.getuid())
    worker = Worker(1, "web.1", pid=4711, uid=os.getuid(), channel=ours, notify=notify, notify_name=name)
    made.add(worker)
    yield Guardian(loop, made, helper, worker, theirs, name, told, log, busy)
    made.remove(worker)
    made.close(worker, worker.channel)
    made.close(worker, worker.notify)
    theirs.close()
    sockets.close()
    if helper.pid is not None:
        os.kill(helper.pid, signal.SIGKILL)  # as at the guardian's end: it may wait in close
    helper.end()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    loop.close()


@pytest.fixture
def guardian(run_dir: Path) -> Iterator[Guardian]:
    yield from build(run_dir, refuse=True)


@pytest.fixture
def old_guardian(run_dir: Path) -> Iterator[Guardian]:
    """On a kernel before Linux 6.16: no socket refuses descriptors."""
    yield from build(run_dir, refuse=False)


def lingering() -> socket.socket:
    """A socket that keeps whoever closes it last waiting for an hour."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    try:
        while True:
            ours.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    HELD.append(theirs)
    return ours


HELD: list[socket.socket] = []


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    yield
    for sock in HELD:
        sock.close()
    HELD.clear()


def pass_on(sock: socket.socket, data: bytes, passed: socket.socket) -> None:
    """Send *data* with *passed*, of which the receiver then has the only copy."""
    sock.sendmsg([data], [(*RIGHTS, array.array("i", [passed.fileno()]))])
    passed.close()


# ------------------------------------------------------------------ descriptors


def test_the_kernel_refuses_descriptors_where_it_can(guardian: Guardian) -> None:
    with socket.socket() as passed, pytest.raises(PermissionError):
        pass_on(guardian.theirs, b"{}", passed)


def test_the_owner_s_endpoint_refuses_descriptors(kernel: RealKernel, run_dir: Path) -> None:
    path = run_dir / "door"
    kernel.send(orders.Listen(f"unix:{path}", door=True))
    kernel.fact(facts.Listening)
    with socket.socket(socket.AF_UNIX) as client, socket.socket() as passed:
        client.connect(str(path))
        with pytest.raises(PermissionError):
            pass_on(client, b"GET / HTTP/1.1", passed)


@pytest.mark.parametrize("credentials", [0, 1])
@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_datagram_with_descriptors_stays_where_it_is(kind: int, credentials: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    uid = os.getuid() if credentials else None
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, credentials)
        theirs.send(b"one")
        assert untrusted_input.receive(ours, 100) == (b"one", uid, False)
        a, b = os.pipe()
        socket.send_fds(theirs, [b"two"], [b])
        os.close(b)
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            assert untrusted_input.receive(ours, 100) == (b"two", uid, True)
        assert len(os.listdir("/proc/self/fd")) == len(before)
        assert not select.select([a], [], [], 0)[0]  # nobody has closed the other end
        os.close(a)


def test_an_old_kernel_s_channel_with_a_descriptor_is_closed_elsewhere(old_guardian: Guardian) -> None:
    guardian = old_guardian
    guardian.send({"type": "ready"})
    inner, outer = socket.socketpair()
    pass_on(inner, b".", lingering())  # within another, so that no option of it can be changed
    inner.close()
    pass_on(guardian.theirs, b'{"type": "x"}', outer)
    guardian.until(lambda: guardian.worker.channel is None)
    assert guardian.told == [facts.Ready(1)]
    with contextlib.suppress(ConnectionResetError):  # there was something left in its queue
        assert guardian.theirs.recv(1) == b""
    guardian.loop.time += 100.0
    guardian.helper.tick(guardian.loop.time)  # the helper still waits in close, and is killed for it
    guardian.channels.tick(guardian.loop.time)
    assert "file descriptors" in guardian.log[-1]
    assert "web.1 (pid 4711)" in guardian.log[-1]


def test_a_barrier_of_sd_notify_ends_when_it_has_been_read(guardian: Guardian) -> None:
    a, b = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(guardian.notify)
        client.send(b"STATUS=before")
        socket.send_fds(client, [b"BARRIER=1"], [b])
        os.close(b)
        client.send(b"STATUS=after")
        guardian.until(lambda: guardian.told[-1:] == [facts.Notified(1, {"STATUS": "after"})])
    assert os.read(a, 1) == b""
    os.close(a)


def test_a_descriptor_that_cannot_be_closed_costs_the_worker_its_notify_socket(guardian: Guardian) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(guardian.notify)
        for _ in range(3):
            inner, outer = socket.socketpair()
            pass_on(inner, b".", lingering())
            inner.close()
            pass_on(client, b"STATUS=x", outer)
        guardian.turn(DEADLINE)
        assert guardian.told == [facts.Notified(1, {"STATUS": "x"})]
        guardian.send({"type": "ready"})
        guardian.until(lambda: guardian.told[-1:] == [facts.Ready(1)])  # meanwhile everything else goes on
        guardian.loop.time += 100.0  # to the helper, which waits in close
        guardian.helper.tick(guardian.loop.time)
        assert guardian.worker.notify is None
        with pytest.raises((ConnectionRefusedError, BrokenPipeError)):
            client.send(b"STATUS=y")


# ------------------------------------------------------------------ who may send


def test_only_the_worker_s_user_can_reach_its_notify_socket(run_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    sockets = NotifySockets(str(run_dir), "test", locked=True)
    sock, path = sockets.open(7, 12345)
    try:
        for uid, expected in ((12345, 0), (54321, 1)):
            pid = os.fork()
            if pid == 0:
                os.setgroups([])
                os.setuid(uid)
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                    try:
                        client.sendto(b"READY=1", path)
                    except PermissionError:
                        os._exit(1)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == expected
        assert untrusted_input.receive(sock, 100).uid == 12345
        with pytest.raises(BlockingIOError):
            untrusted_input.receive(sock, 100)
    finally:
        sock.close()
        sockets.close()
    assert not os.path.exists(os.path.dirname(path))


def test_a_directory_of_somebody_else_is_not_used(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SHARED", (str(run_dir),))
    (directory, _mode), *_ = files.directories(str(run_dir), "test", own=False)
    os.mkdir(directory, 0o777)
    sockets = NotifySockets(str(run_dir), "test", locked=False)
    uid = os.geteuid() + 1  # not ours, so that the run directory is of no use
    sock, name = sockets.open(1, uid)
    sock.close()
    if os.geteuid() == 0:
        assert os.path.dirname(name) != directory
    else:
        assert name.startswith("@")  # a socket cannot be given away either
    sockets.close()


def test_what_a_killed_service_left_is_removed_by_the_next(run_dir: Path) -> None:
    left, path = NotifySockets(str(run_dir), "test", locked=True).open(1, os.geteuid())
    left.close()
    assert os.path.exists(path)
    NotifySockets(str(run_dir), "test", locked=True)
    assert not os.path.exists(path)


# ------------------------------------------------------------------ how much they may send


def test_a_worker_that_sends_too_much_is_not_read_for_a_while(guardian: Guardian) -> None:
    sent = 0
    guardian.theirs.setblocking(False)
    for _ in range(int(untrusted_input.MESSAGE_BURST) + 1000):
        try:
            guardian.theirs.send(b'{"type": "got", "id": "1"}')
            sent += 1
        except BlockingIOError:
            guardian.turn()
    for _ in range(200):  # what is still in the socket
        guardian.turn()
    assert len(guardian.told) == untrusted_input.MESSAGE_BURST
    assert sent > untrusted_input.MESSAGE_BURST
    guardian.turn()
    guardian.loop.time += 1.0
    guardian.turn()
    guardian.turn()
    assert len(guardian.told) > untrusted_input.MESSAGE_BURST
    guardian.loop.time += worker_channels.REPORT_SECONDS
    guardian.turn()
    assert guardian.log
    assert guardian.log[0].startswith("web.1 (pid 4711) sends too many messages: not read for ")


def test_invalid_messages_are_counted_and_logged_once(guardian: Guardian) -> None:
    for _ in range(10):
        guardian.send(b"[" * 60_000)
        guardian.turn()
    guardian.send({"type": "notify", "fields": {"EXTEND_TIMEOUT_USEC": "9" * 400}})
    guardian.turn()
    assert guardian.told == [facts.Notified(1, {"EXTEND_TIMEOUT_USEC": str(86400 * 10**6)})]
    assert not guardian.log
    guardian.loop.time += worker_channels.REPORT_SECONDS
    guardian.turn()
    assert len(guardian.log) == 1
    assert "web.1 (pid 4711) sent 10 invalid messages" in guardian.log[0]


def test_what_is_known_of_a_worker_does_not_grow(guardian: Guardian) -> None:
    for number in range(500):
        guardian.send({"type": "notify", "fields": {f"X_{number}": "x" * 1000, "STATUS": "x" * 10_000}})
        guardian.turn()
    assert sum(len(name) + len(value) for name, value in guardian.worker.notified.items()) < 1000


def test_the_state_of_a_worker_is_sent_when_there_is_room_again(guardian: Guardian) -> None:
    guardian.busy.add(1)
    for number in range(50):
        guardian.send({"type": "notify", "fields": {"STATUS": str(number)}})
    guardian.send({"type": "notify", "fields": {"READY": "1"}})
    guardian.send({"type": "ready"})
    guardian.send({"type": "got", "id": "1"})
    guardian.turn()
    assert guardian.told == []
    guardian.busy.clear()
    guardian.loop.time += worker_channels.PAUSE_SECONDS
    guardian.turn()
    assert guardian.told == [facts.Notified(1, {"STATUS": "49", "READY": "1"}), facts.Ready(1)]


def test_messages_kept_for_the_next_master_are_each_worker_s_own(guardian: Guardian) -> None:
    guardian.channels.greeted = lambda: False
    for number in range(worker_channels.MAX_KEPT + 5):
        guardian.send({"type": "got", "id": str(number)})
        guardian.turn()
    for _ in range(20):
        guardian.send({"type": "trigger", "id": "big", "name": "x", "args": ["x" * 50_000], "options": {}})
        guardian.turn()
    guardian.channels.deliver_kept()
    sizes = [len(json.dumps(fact.message)) for fact in guardian.told]
    assert len(sizes) <= worker_channels.MAX_KEPT
    assert sum(sizes) <= worker_channels.MAX_KEPT_BYTES
    assert sizes[-1] > 50_000


def test_a_worker_s_share_of_the_link_leaves_room_for_facts() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        made = Link(ours)
        message = {"type": "x", "text": "x" * 60_000}
        for number in (1, 2):
            while made.room(number):
                made.send(facts.Message(number, message))
        made.send(facts.Message(1, message))
        made.send(facts.Exited(1, 0))
        assert made.room(3)
        theirs.setblocking(False)
        received = 0
        try:
            while True:
                received += len(theirs.recv(1 << 20))
                made.flush()
        except BlockingIOError:
            pass
        assert 2 * master_link.WORKER_SHARE < received < 2 * master_link.WORKER_SHARE + (1 << 20)
        assert made.room(1)
        made.close()


# ------------------------------------------------------------------ what fails does not spread


def test_each_step_is_taken_whatever_becomes_of_the_others() -> None:
    log: list[str] = []
    faults = Faults(log.append, lambda: 1.0)
    done: list[int] = []

    def fails() -> None:
        raise RuntimeError("broken")

    for _ in range(3):
        faults.run("web.1 (pid 7)", lambda: done.append(1), fails, lambda: done.append(2))
    assert done == [1, 2] * 3
    assert len(log) == 1
    assert "web.1 (pid 7)" in log[0]
    assert "RuntimeError: broken" in log[0]


class Broken:
    """Stands in for a part of the guardian of which every call fails."""

    def __getattr__(self, name: str) -> Any:
        def fails(*_: object, **__: object) -> None:
            raise RuntimeError(f"{name} is broken")

        return fails


def test_an_exit_is_told_whatever_else_fails() -> None:
    told, log = list[Any](), list[str]()
    broken: Any = Broken()
    holdings = Holdings(1, 0.0)
    faults = Faults(log.append, lambda: 1.0)
    made = Workers(holdings, broken, broken, broken, broken, broken, broken, "", broken, broken, faults, broken)
    made.tell = told.append
    worker = Worker(1, "web.1", pid=4711)
    holdings.add_worker(worker)
    made.reaped(worker, reaping.End(None, 9))
    assert told == [facts.Exited(1, signal=9)]
    assert worker.exited
    assert not holdings.by_pid
    assert "web.1 (pid 4711)" in log[0]


def test_an_exit_is_told_whatever_the_worker_sent_before(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.tell(
        "channel.setblocking(False)\n"
        "for data in (b'[' * 60000, b'{' * 60000, b'NaN', b'1' * 60000, b'\\xff', b'{\"type\": 1}'):\n"
        "    channel.send(data)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert kernel.fact(facts.Exited, worker=1).signal == 9
    assert kernel.wrote("web.1 (pid ")
    assert kernel.wrote("sent 6 invalid messages")
    kernel.send(orders.Forget(1))


def test_a_hostile_worker_takes_nothing_from_another(kernel: RealKernel) -> None:
    """It passes sockets that linger for an hour, and floods its channel. The other starts, speaks and ends."""
    evil = Puppet(kernel, 1)
    evil.tell(
        "import array, struct\n"
        "keep = []\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "client.connect(os.environ['NOTIFY_SOCKET'])\n"
        "for n in range(5):\n"
        "    c = socket.create_connection(server.getsockname()); keep.append(server.accept()); c.setblocking(False)\n"
        "    try:\n"
        "        while True: c.send(bytes(65536))\n"
        "    except BlockingIOError: pass\n"
        "    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 3600))\n"
        "    x, y = socket.socketpair()\n"
        "    rights = socket.SOL_SOCKET, socket.SCM_RIGHTS\n"
        "    x.sendmsg([b'.'], [(*rights, array.array('i', [c.fileno()]))]); c.close(); x.close()\n"
        "    client.sendmsg([b'STATUS=' + str(n).encode()], [(*rights, array.array('i', [y.fileno()]))])\n"
        "    threading.Thread(target=y.close).start()  # where it comes last, it lingers here\n"
        "channel.send(b'{\"type\": \"sent\"}')\n"
        "while True: channel.send(b'{\"type\": \"x\", \"text\": \"%s\"}' % (b'x' * 50_000))"
    )
    kernel.fact(facts.Message, worker=1)
    good = Puppet(kernel, 2)
    assert good.do("result = 7") == 7
    assert good.end().code == 0
    os.kill(evil.pid, 9)
    assert kernel.fact(facts.Exited, worker=1).signal == 9


@pytest.mark.parametrize("way", ["channel", "notify"])
def test_a_fault_at_one_message_does_not_make_the_guardian_deaf(guardian: Guardian, way: str) -> None:
    faults: list[str] = []
    guardian.loop.on_fault = lambda _error, where: faults.append(where)
    taken = guardian.channels.tell

    def fail(_fact: Any, _descriptor: int | None = None) -> None:
        guardian.channels.tell = taken
        raise RuntimeError("a mistake of the guardian's")

    guardian.channels.tell = fail
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for status in ("first", "second"):
            if way == "notify":
                sender.sendto(f"STATUS={status}".encode(), guardian.notify)
            else:
                guardian.send({"type": "notify", "fields": {"STATUS": status}})
            guardian.turn()
    assert len(faults) == 1
    guardian.loop.time += LONGEST_PAUSE
    guardian.turn()
    assert guardian.told == [facts.Notified(1, {"STATUS": "second"})]
