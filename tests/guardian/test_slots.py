"""Each worker has a socket of its own for the same address, and new connections are steered among them."""

from __future__ import annotations

import select
import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING

import pytest

from cluster_service.guardian import connection_steering, helper_tasks
from cluster_service.guardian.connection_steering import Info
from cluster_service.guardian.helper_client import Answer
from cluster_service.guardian.per_slot_rules import Member, Slots
from cluster_service.wire import facts, orders
from tests.tools.ports import free_port

from .puppet import Puppet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_service.guardian.helper_client import Steps
    from tests.contract.real import RealKernel

    from .conftest import Start

# ------------------------------------------------------------------ the program


def run(code: bytes, number: int) -> int:
    """Interpret the program for one random *number*."""
    instructions = list(struct.iter_unpack("=HBBI", code))
    at = 0
    loaded = 0
    while True:
        operation, yes, no, k = instructions[at]
        at += 1
        if operation == 0x20:
            assert k == 0xFFFFF000 + 56  # SKF_AD_RANDOM
            loaded = number
        elif operation == 0x35:
            at += yes if loaded >= k else no
        else:
            assert operation == 0x06
            return int(k)


@pytest.mark.parametrize(
    "weights",
    [(1,), (1, 1), (0, 1), (1, 0), (0, 0, 1, 0), (1, 2, 3), (5, 0, 5), (1000, 1), (1,) * 1000],
    ids=str,
)
def test_each_index_is_drawn_by_its_weight(weights: tuple[int, ...]) -> None:
    code = connection_steering.program(weights)
    assert len(code) // 8 <= 4096  # BPF_MAXINSNS
    samples = 4 * sum(weights)
    drawn = [0] * len(weights)
    for sample in range(samples):
        drawn[run(code, ((2 * sample + 1) << 32) // (2 * samples))] += 1
    assert drawn == [4 * weight for weight in weights]


def test_without_a_weight_there_is_no_program() -> None:
    with pytest.raises(ValueError, match="no socket"):
        connection_steering.program((0, 0))


def test_the_kernel_is_tried_by_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection_steering.probe({}, []).values == {"problem": ""}
    monkeypatch.setattr("cluster_service.guardian.syscalls.attach_reuseport", lambda _sock, _code: None)  # as gVisor
    assert "does not run it" in connection_steering.probe({}, []).values["problem"]


# ------------------------------------------------------------------ the order of the kernel's array


@pytest.fixture
def four() -> Iterator[Slots]:
    """Four sockets that listen on one address; each is worker 1 to 4's."""
    first = socket.socket()
    slots = Slots(Member(first, 0, worker=1, drawn=True), listening=True)
    first.bind(("127.0.0.1", 0))
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    first.listen()
    for worker in (2, 3, 4):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(first.getsockname())
        sock.listen()
        member = Member(sock, 0, worker=worker, drawn=True)
        slots.members.append(member)
        slots.order.append(member)
    yield slots
    for member in slots.members:
        member.socket.close()


def perform(steps: Steps[None]) -> None:
    """Make the helper's calls here."""
    try:
        call = next(steps)
        while True:
            helper_tasks.DUTIES[call.duty](call.values, list(call.descriptors))
            call = steps.send(Answer({}, []))
    except StopIteration:
        return


def reached(slots: Slots) -> int | None:
    """The worker at whose socket the next connection arrives."""
    with socket.create_connection(slots.order[0].socket.getsockname(), 5):
        for member in slots.order:
            member.socket.settimeout(0)
            try:
                member.socket.accept()[0].close()
            except BlockingIOError:
                continue
            return member.worker
    return None


@pytest.mark.parametrize("leaving", [(1,), (4,), (2, 1), (1, 4), (3, 2, 4), (1, 2, 3)], ids=str)
def test_the_mirror_follows_the_kernel(four: Slots, leaving: tuple[int, ...]) -> None:
    for worker in leaving:
        member = four.of(worker)
        assert member is not None
        member.drawn = False
        perform(four.withdraw(member))
        stay = list(four.order)
        for only in stay:  # each index that is left leads to the socket that the mirror has there
            for each in stay:
                each.drawn = each is only
            perform(four.steer())
            assert reached(four) == only.worker
        for each in stay:
            each.drawn = True
        perform(four.steer())


@pytest.mark.parametrize(
    ("states", "weights"),
    [
        # of each socket: whether it is drawn, and whether its worker lives
        ([(True, True), (True, True)], (1, 1)),
        ([(False, True), (True, True)], (0, 1)),
        ([(False, False), (True, True)], (0, 1)),
        ([(False, True), (False, False)], (1, 0)),  # nothing else accepts: the one that leaves does
        ([(False, True), (False, True)], (1, 1)),
        ([(False, False), (False, False)], (1, 1)),  # the queues wait for the next worker
    ],
)
def test_some_socket_is_always_drawn(states: list[tuple[bool, bool]], weights: tuple[int, ...]) -> None:
    with socket.socket() as sock:
        members = [
            Member(sock, 0, worker=number if lives else None, drawn=drawn)
            for number, (drawn, lives) in enumerate(states, 1)
        ]
        slots = Slots(members[0], listening=True)
        slots.members = slots.order = members
        assert slots.weights() == weights


@pytest.mark.parametrize(
    ("looks", "stuck"),
    [
        ([0], False),
        ([3], False),  # it may have come a moment ago
        ([3, 3], True),
        ([3, 5], True),
        ([5, 3], False),  # it takes some
        ([3, 3, 1], True),  # until its queue is empty
        ([3, 3, 0], False),
    ],
    ids=str,
)
def test_a_queue_that_does_not_get_shorter_gets_no_more(looks: list[int], stuck: bool) -> None:
    with socket.socket() as sock:
        members = [Member(sock, 0, worker=number, drawn=True) for number in (1, 2)]
        slots = Slots(members[0], listening=True)
        slots.members = slots.order = members
        for size in looks:
            assert slots.note([size, 0]) == (size > 0)
        assert slots.weights() == ((0, 1) if stuck else (1, 1))
        slots.note([3, 3])
        slots.note([3, 3])
        assert slots.weights() == (1, 1)  # one of them must be drawn


# ------------------------------------------------------------------ what a connection is doing


def info(sent: int, received: int, **more: int) -> Info:
    """A connection on which the worker sent data *sent* milliseconds ago."""
    fields = {"bytes_received": 100, "unsent": 0, "segments_in": 3, "segments_out": 3, "unread": 0, **more}
    return Info(state=1, sent=sent, received=received, rtt=20, **fields)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (info(300, 300, bytes_received=0, segments_in=0, segments_out=0), "fresh"),
        (info(100, 60), "busy"),  # the question is newer than the answer
        (info(60, 100), "answered"),
        (info(60, 5000), "stream"),
        (info(60, 100, unread=1), "busy"),
        (info(60, 100, unsent=1), "busy"),
        (info(60, 60, segments_in=1, segments_out=0), "busy"),  # a connection with its first question
        (info(60, 60, segments_in=1, segments_out=4), "answered"),
        (info(60, 60, segments_in=5, segments_out=10), "answered"),
        (info(60, 60, segments_in=6, segments_out=10), "busy"),
        (info(60, 60, segments_in=2, segments_out=2), "unsure"),
        (info(60, 60, segments_in=5, segments_out=7), "unsure"),
    ],
)
def test_who_has_sent_last_tells_what_a_connection_is_doing(found: Info, kind: str) -> None:
    assert connection_steering.kind_of(found) == kind


def test_a_real_connection_is_told_by_tcp_info() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5) as client:
        assert connection_steering.queue_of(server) == 1
        theirs, _ = server.accept()
        with theirs:
            assert connection_steering.kind_of(connection_steering.read_info(theirs)) == "fresh"
            client.sendall(b"question")
            assert connection_steering.kind_of(connection_steering.read_info(theirs)) == "busy"
            theirs.recv(100)
            theirs.sendall(b"answer")
            client.recv(100)
            assert connection_steering.kind_of(connection_steering.read_info(theirs)) == "answered"


# ------------------------------------------------------------------ workers


@pytest.fixture
def need_seccomp(kernel: RealKernel) -> None:
    if kernel.snapshot.share["seccomp"]:
        pytest.skip(kernel.snapshot.share["seccomp"])


def puppet(kernel: RealKernel, number: int, drain: float = 20.0) -> Puppet:
    return Puppet(kernel, number, listen="per-slot", drain=drain)


def opened(kernel: RealKernel, *numbers: int) -> tuple[int, list[Puppet]]:
    """Workers that listen on one port."""
    port = free_port()
    puppets = [puppet(kernel, number) for number in numbers]
    for each in puppets:
        listen(kernel, each, port)
    return port, puppets


def listen(kernel: RealKernel, one: Puppet, port: int) -> None:
    one.do(f"s = tcp('127.0.0.1', {port}); connections = []")
    kernel.fact(facts.Listening, worker=one.number)


def take(port: int, one: Puppet) -> socket.socket:
    """Connect, and let *one* accept it."""
    client = socket.create_connection(("127.0.0.1", port), 20)
    one.do("connections.append(s.accept()[0])")
    return client


@pytest.mark.usefixtures("need_seccomp")
def test_a_stop_waits_for_the_queue_and_for_the_answer(kernel: RealKernel) -> None:
    port, (first, second) = opened(kernel, 1, 2)
    kernel.send(orders.Signal(2, signal.SIGTERM, "stop", drain=0.0))  # only so that all connections go to the first
    kernel.fact(facts.Exited, worker=2)
    del second
    with take(port, first) as client:
        client.sendall(b"question")
        first.do("connections[0].recv(100)")
        third = puppet(kernel, 3)
        listen(kernel, third, port)
        kernel.send(orders.Signal(1, signal.SIGTERM, "stop", drain=20.0))
        third.do(f"t = tcp('127.0.0.1', {free_port()})")  # binds are served after what was asked before
        for _ in range(8):  # the first gets no new connection, though it lives
            with take(port, third):
                pass
        first.do("connections[0].sendall(b'answer')")
        assert client.recv(100) == b"answer"
        assert client.recv(100) == b""
    assert kernel.fact(facts.Exited, worker=1).signal == signal.SIGTERM


@pytest.mark.usefixtures("need_seccomp")
def test_the_wait_has_an_end(kernel: RealKernel) -> None:
    port, (first,) = opened(kernel, 1)
    with take(port, first) as client:
        client.sendall(b"question")
        kernel.send(orders.Signal(1, signal.SIGTERM, "stop", drain=0.5))
        kernel.fact(facts.Exited, worker=1)
    assert kernel.wrote("drain_timeout")


@pytest.mark.usefixtures("need_seccomp")
def test_the_queue_of_a_crashed_worker_waits_for_the_next(kernel: RealKernel) -> None:
    port, (first,) = opened(kernel, 1)
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        first.tell("os._exit(1)")
        kernel.fact(facts.Exited, worker=1)
        second = puppet(kernel, 2)
        listen(kernel, second, port)
        second.tell("serve(s)")
        assert int(client.recv(100)) == second.pid


@pytest.mark.usefixtures("need_seccomp")
def test_a_worker_that_shuts_its_socket_down_takes_only_itself_away(kernel: RealKernel) -> None:
    port, (first, second, third) = opened(kernel, 1, 2, 3)
    first.do("s.shutdown(socket.SHUT_RDWR)")  # the last of the kernel's array takes its place
    assert kernel.fact(facts.Unlistened, worker=1).address == f"127.0.0.1:{port}"
    second.do(f"t = tcp('127.0.0.1', {free_port()})")
    kernel.send(orders.Signal(2, signal.SIGKILL, "kill"))
    kernel.fact(facts.Exited, worker=2)
    third.do(f"t = tcp('127.0.0.1', {free_port()})")
    for _ in range(8):
        with take(port, third):
            pass
    first.do("s.listen()")
    assert kernel.fact(facts.Listening, worker=1, address=f"127.0.0.1:{port}")
    kernel.send(orders.Signal(3, signal.SIGKILL, "kill"))
    kernel.fact(facts.Exited, worker=3)
    first.do(f"u = tcp('127.0.0.1', {free_port()})")
    for _ in range(8):
        with take(port, first):
            pass


@pytest.mark.usefixtures("need_seccomp")
def test_a_worker_that_hangs_keeps_few_connections(kernel: RealKernel) -> None:
    port, (hung, second) = opened(kernel, 1, 2)
    second.tell("while True: serve(s)")
    clients: list[socket.socket] = []
    answered = 0
    while answered < 20 and len(clients) < 200:  # in a row: at random that happens once in a million times
        clients.append(socket.create_connection(("127.0.0.1", port), 20))
        answered = answered + 1 if select.select([clients[-1]], [], [], 0.1)[0] else 0
    assert answered == 20
    hung.do("for _ in range(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24]): serve(s)")
    for client in clients:
        client.settimeout(20)
        assert client.recv(100)
        client.close()
    kernel.send(orders.Signal(2, signal.SIGKILL, "kill"))


ANSWERS_AT_THE_SECOND = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
first, _ = server.accept()
first.recv(100)
second, _ = server.accept()
first.sendall(b"answer")
first.close()
second.close()
while True:
    server.accept()
"""


def test_the_guardian_waits_without_a_master_too(kernel: RealKernel) -> None:
    if kernel.snapshot.share["seccomp"]:
        pytest.skip(kernel.snapshot.share["seccomp"])
    port = free_port()
    argv = [sys.executable, "-I", "-S", "-c", ANSWERS_AT_THE_SECOND, str(port)]
    how = {"share": "seccomp", "listen": "per-slot", "drain": 20.0}
    kernel.send(orders.Spawn(1, argv, env={}, cwd="/", label="web.1", **how))  # type: ignore[arg-type]
    kernel.fact(facts.Listening, worker=1)
    with socket.create_connection(("127.0.0.1", port), 20) as first:
        first.sendall(b"question")
        kernel.hang_up()
        kernel.signal(signal.SIGTERM)
        assert kernel.wrote("stopping 1 workers without it")
        with socket.create_connection(("127.0.0.1", port), 20):  # nothing else accepts, so it still does
            assert first.recv(100) == b"answer"
    assert kernel.wait() == 0


def test_without_steering_one_socket_is_shared(start: Start) -> None:
    kernel = start(env={connection_steering.VARIABLE: "1"})
    if kernel.snapshot.share["seccomp"]:
        pytest.skip(kernel.snapshot.share["seccomp"])
    port, puppets = opened(kernel, 1, 2)
    assert kernel.wrote("cannot be steered here")
    for each in puppets:
        each.tell("serve(s)")
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            assert int(client.recv(100)) == each.pid
        each.answer()
