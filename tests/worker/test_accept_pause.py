"""Listening sockets that are put parked, and taken back: whatever watches them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import resource
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.worker import accept_pause
from cluster_service.worker.accept_pause import AcceptPause
from cluster_service.worker.listener_parking import connected_ports, discard, park, restore

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
ROOT = Path(__file__).parent.parent.parent
DEADLINE = 20.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


def asked(address: Any) -> socket.socket:
    return socket.create_connection(address, timeout=DEADLINE)


def takes(listener: socket.socket) -> bool:
    """Whether there is a connection to take."""
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_gets_nothing_and_then_what_has_come_meanwhile(loop: str) -> None:
    """In a process of its own: libuv never gives back what it needs for signals."""
    with subprocess.Popen([sys.executable, "-m", __name__, loop], cwd=ROOT, stderr=subprocess.PIPE) as program:
        assert program.communicate()[1] == b""
        assert program.returncode == 0


async def in_a_loop() -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        writer.close()

    async def answer(client: socket.socket) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 10), DEADLINE)

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    (own,) = server.sockets
    address = own.getsockname()
    with asked(address) as first:
        first.setblocking(False)
        assert await answer(first) == b"welcome"  # it is watched by now
    parked = park(own.fileno(), keep=True)
    assert parked is not None
    assert parked.address == address
    with asked(address) as client:
        client.setblocking(False)
        for _ in range(10):
            await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            raise AssertionError(client.recv(10))
        restore(parked)
        assert await answer(client) == b"welcome"
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("edge", [False, True])
def test_an_epoll_of_somebody_else_tells_its_own_number_again(listener: socket.socket, *, edge: bool) -> None:
    """As those of Rust's servers are, which tell a number of theirs rather than the descriptor."""
    with select.epoll() as watching:
        add(watching.fileno(), listener.fileno(), select.EPOLLIN | (select.EPOLLET if edge else 0), 0x1234567890AB)
        before = watched(watching)
        parked = park(listener.fileno(), keep=True)
        assert parked is not None
        with asked(parked.address):
            assert (watched(watching), watching.poll(0)) == ([], [])
            restore(parked)
            assert watched(watching) == before
            assert [events for _, events in watching.poll(DEADLINE)] == [select.EPOLLIN]
            assert takes(listener)


def add(epoll: int, fd: int, events: int, data: int) -> None:
    from cluster_service.worker.listener_parking import Watch, _watch

    _watch(fd, Watch(epoll, events, data))


def watched(epoll: select.epoll) -> list[list[str]]:
    lines = Path(f"/proc/self/fdinfo/{epoll.fileno()}").read_text().splitlines()
    return [line.split()[3:6] for line in lines if line.startswith("tfd:")]


def test_what_began_to_watch_meanwhile_watches_the_socket_itself(listener: socket.socket) -> None:
    """As asyncio does, which tries again a second after there was no descriptor for a connection."""
    with select.epoll() as watching:
        parked = park(listener.fileno(), keep=True)
        assert parked is not None
        watching.register(listener.fileno(), select.EPOLLIN)
        restore(parked)
        with asked(parked.address):
            assert watching.poll(DEADLINE) == [(listener.fileno(), select.EPOLLIN)]


def test_who_polls_the_stand_in_looks_again(listener: socket.socket) -> None:
    parked = park(listener.fileno(), keep=True)
    assert parked is not None
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    polls = threading.Thread(target=poll.poll)
    polls.start()
    while Path(f"/proc/self/task/{polls.native_id}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()
    with asked(parked.address):
        restore(parked)
        polls.join(DEADLINE)
        assert not polls.is_alive()
        assert takes(listener)


def test_one_in_whose_accept_somebody_may_wait_is_left_alone(listener: socket.socket) -> None:
    listener.setblocking(True)
    assert park(listener.fileno(), keep=True) is None


def test_a_unix_socket_is_put_aside_only_for_those_who_take_nobody_from_the_stand_in(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, select.epoll() as watching:
        made.bind(str(tmp_path / "door"))
        made.listen()
        made.setblocking(False)
        assert park(made.fileno(), keep=True) is None
        watching.register(made.fileno(), select.EPOLLIN)
        parked = park(made.fileno(), keep=True)
        assert parked is not None
        restore(parked)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "door"))
            assert watching.poll(DEADLINE) == [(made.fileno(), select.EPOLLIN)]


def test_a_default_timeout_makes_no_descriptor_non_blocking() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.setdefaulttimeout(10.0)
        try:
            connected_ports([ours.fileno()])
        finally:
            socket.setdefaulttimeout(None)
        assert os.get_blocking(ours.fileno())


def test_a_descriptor_that_is_another_by_now_is_left_alone(listener: socket.socket) -> None:
    parked = park(listener.fileno(), keep=True)
    assert parked is not None
    number = listener.detach()
    os.close(number)
    reading, writing = os.pipe()
    assert number in (reading, writing)
    restore(parked)
    os.write(writing, b"still a pipe")
    assert os.read(reading, 20) == b"still a pipe"
    os.close(reading)
    os.close(writing)


def test_one_that_is_aside_is_known_by_its_own_address_and_not_put_aside_twice(listener: socket.socket) -> None:
    first = park(listener.fileno(), keep=True)
    second = park(listener.fileno(), keep=False)
    assert first is not None
    assert second is not None
    assert second.address == first.address
    discard(first)


def test_only_what_listens_is_put_aside_and_only_where_it_is_wanted(listener: socket.socket) -> None:
    address = listener.getsockname()
    assert park(listener.fileno(), keep=True, at={"elsewhere"}) is None
    with asked(address) as client:
        assert address[1] not in connected_ports([client.fileno(), listener.fileno()])
        taken, _ = listener.accept()
        with taken:
            assert connected_ports([client.fileno(), listener.fileno(), taken.fileno()]) > {address[1]}
    with asked(address) as client:
        assert park(client.fileno(), keep=True) is None
        assert takes(listener)


class Now:
    """What ``AcceptPause`` takes for the time, and for the sockets of this process."""

    def __init__(self) -> None:
        self.at = 100.0
        self.sockets: list[int] = []


@pytest.fixture
def now(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Now]:
    """With a connection that is held."""
    made = Now()
    monkeypatch.setattr(accept_pause, "time", SimpleNamespace(monotonic=lambda: made.at))
    monkeypatch.setattr(accept_pause, "sockets", lambda: made.sockets)
    with asked(listener.getsockname()), listener.accept()[0] as held:
        made.sockets += [listener.fileno(), held.fileno()]
        yield made


def stuck(own: AcceptPause, now: Now) -> None:
    """Have it be stuck for long enough."""
    own.update(stuck=True)
    now.at += 1.0
    own.update(stuck=True)


def test_connections_are_left_while_it_is_stuck(
    listener: socket.socket, now: Now, capsys: pytest.CaptureFixture[str]
) -> None:
    own = AcceptPause()
    address = listener.getsockname()
    for now.at, is_stuck, left in [
        (100.0, True, False),
        (100.4, True, False),
        (100.5, True, True),
        (101.0, True, True),
        (101.2, False, False),
        (101.3, True, False),
        (101.9, True, True),
        (102.0, False, False),
    ]:
        own.update(stuck=is_stuck)
        with asked(address):
            assert takes(listener) != left, now.at
    assert capsys.readouterr().err.count("paused accepting new connections") == 1


def test_what_the_program_listens_on_for_itself_is_left_alone(listener: socket.socket, now: Now) -> None:
    own = AcceptPause()
    address = listener.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as another:
        another.setblocking(False)
        now.sockets.append(another.fileno())
        stuck(own, now)
        with asked(address), asked(another.getsockname()):
            assert (takes(listener), takes(another)) == (False, True)
        own.update(stuck=False)


def test_where_no_connection_is_held_the_first_one_shows_where_they_come_in(
    listener: socket.socket, now: Now, capsys: pytest.CaptureFixture[str]
) -> None:
    own = AcceptPause()
    address = listener.getsockname()
    held = now.sockets.pop()
    stuck(own, now)
    with asked(address):
        assert takes(listener)
    assert capsys.readouterr().err == ""
    now.sockets.append(held)
    now.at += 1.0
    own.update(stuck=True)
    with asked(address):
        assert not takes(listener)
    own.update(stuck=False)


def test_a_second_address_is_left_as_soon_as_a_connection_is_held_there(listener: socket.socket, now: Now) -> None:
    own = AcceptPause()
    with socket.create_server(("127.0.0.1", 0)) as second:
        second.setblocking(False)
        address = second.getsockname()
        now.sockets.append(second.fileno())
        stuck(own, now)
        with asked(address), second.accept()[0] as held:
            now.sockets.append(held.fileno())
            now.at += 1.0
            own.update(stuck=True)
            with asked(address):
                assert not takes(second)
                own.update(stuck=False)
                assert takes(second)


def test_where_there_is_no_descriptor_nothing_is_left_and_nothing_breaks(listener: socket.socket, now: Now) -> None:
    own = AcceptPause()
    address = listener.getsockname()
    own.update(stuck=True)
    now.at += 1.0
    with none_left():
        own.update(stuck=True)
    with asked(address):
        assert takes(listener)
    now.at += 1.0
    own.update(stuck=True)
    with none_left():
        own.update(stuck=False)
    with asked(address):
        assert takes(listener)


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    """Every descriptor is taken."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_at_a_stop_they_stay_as_they_are_and_nothing_is_kept(listener: socket.socket, now: Now) -> None:
    own = AcceptPause()
    address = listener.getsockname()
    stuck(own, now)
    own.end()
    own.update(stuck=False)
    with pytest.raises(ConnectionRefusedError):
        asked(address)
    assert park(listener.fileno(), keep=False).address == address  # type: ignore[union-attr]


def test_a_stop_in_the_middle_of_it_is_heard_at_its_end(
    listener: socket.socket, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = AcceptPause()

    def sockets() -> list[int]:
        own.end()  # as a signal's handler does
        return now.sockets

    monkeypatch.setattr(accept_pause, "sockets", sockets)
    address = listener.getsockname()
    stuck(own, now)
    with pytest.raises(ConnectionRefusedError):
        asked(address)


if __name__ == "__main__":
    own_loop = importlib.import_module(sys.argv[1])
    own_loop.run(in_a_loop())
