"""Workers that make whoever looks at their bind wait: nobody else waits longer than the helper is given."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cluster_service
from cluster_service.guardian.forked_child import Result
from cluster_service.guardian.helper_client import run_here
from cluster_service.guardian.holdings import (
    OPEN_BURST,
    OPENS_PER_SECOND,
    SOCKETS_LIMIT,
    SWEEP_AT,
    Held,
    Holdings,
    Worker,
)  # fmt: skip
from cluster_service.guardian.port_access import Room, Told
from cluster_service.wire import facts, orders
from cluster_service.wire.addresses import parse
from tests.tools.ports import free_port
from tests.tools.processes import children_of
from tests.tools.silent import Silent

from .puppet import Puppet
from .test_modes import CLIENT
from .test_ports import answered_by, need_seccomp, wait_until_it_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_service.guardian.helper_client import Steps
    from tests.contract.real import RealKernel

__all__ = ["need_seccomp"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FAULT = """
import ctypes, fcntl, mmap, struct
libc = ctypes.CDLL(None, use_errno=True)
uffd = libc.syscall({number}, os.O_CLOEXEC)
if uffd < 0:
    raise OSError(ctypes.get_errno(), "userfaultfd")
fcntl.ioctl(uffd, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))  # UFFDIO_API
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0))
fcntl.ioctl(uffd, 0xC020AA00, bytearray(struct.pack("QQQQ", page, 4096, 1, 0)))  # UFFDIO_REGISTER, MISSING
def resolve(content):  # UFFDIO_COPY
    whole = ctypes.create_string_buffer(content.ljust(4096, b"\\0"), 4096)
    fcntl.ioctl(uffd, 0xC028AA03, bytearray(struct.pack("QQQQq", page, ctypes.addressof(whole), 4096, 0, 0)))
""".format(number=282 if platform.machine() == "aarch64" else 323)

BIND = """
stuck = socket.socket()
errors = []
def call():
    errors.append(libc.bind(stuck.fileno(), ctypes.c_void_p(page), 16) and ctypes.get_errno())
thread = threading.Thread(target=call)
thread.start()
"""


def can_fault() -> bool:
    number = 282 if platform.machine() == "aarch64" else 323
    descriptor = ctypes.CDLL(None).syscall(number, os.O_CLOEXEC)
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0)


needs_userfaultfd = pytest.mark.skipif(not can_fault(), reason="needs userfaultfd(2)")


@needs_userfaultfd
def test_an_address_in_a_page_that_does_not_come(kernel: RealKernel) -> None:
    """The kernel does not wait for it on behalf of another process: the thread is left to wait by itself."""
    port, own = free_port(), free_port()
    hostile, good = Puppet(kernel, 1), Puppet(kernel, 2)
    hostile.do(FAULT + BIND)
    kernel.nothing_of(facts.Message)
    good.do(f"s = tcp('127.0.0.1', {port})")
    assert answered_by(good, ("127.0.0.1", port))
    content = f"struct.pack('=H', 2) + struct.pack('!H', {own}) + socket.inet_aton('127.0.0.1')"
    assert hostile.do(f"resolve({content})\nthread.join()\nresult = [errors, stuck.getsockname()[1]]") == [[0], own]


CORK = """
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("127.0.0.1", {port}))
u.setsockopt(socket.IPPROTO_UDP, 1, 1)  # UDP_CORK: the datagram is copied while the socket's lock is held
u.connect(("127.0.0.1", 9))
sender = threading.Thread(target=lambda: libc.send(u.fileno(), ctypes.c_void_p(page), 100, 0))
sender.start()
while open(f"/proc/self/task/{{sender.native_id}}/syscall").read().split()[0] == "running":
    os.sched_yield()
"""


@needs_userfaultfd
def test_a_lock_of_a_shared_socket_that_is_held(kernel: RealKernel) -> None:
    port, other = free_port(), free_port()
    hostile = Puppet(kernel, 1)
    hostile.do(FAULT + CORK.format(port=port))
    second, good = Puppet(kernel, 2), Puppet(kernel, 3)
    second.tell(f"v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v.bind(('0.0.0.0', {port}))")
    kernel.nothing_of(facts.Exited)
    good.do(f"s = tcp('127.0.0.1', {other})")
    assert answered_by(good, ("127.0.0.1", other))
    hostile.do("resolve(b'x')\nsender.join()")
    assert "fault" not in second.answer()


@needs_root
@needs_userfaultfd
def test_a_descriptor_that_cannot_be_replaced(kernel: RealKernel, unread: Path) -> None:
    """Closing the file that stands there waits, and the kernel holds the lock of the listener meanwhile."""
    port, other = free_port(), free_port()
    hostile, good = Puppet(kernel, 1), Puppet(kernel, 2)
    hostile.do(f"file = os.open({str(unread)!r}, os.O_RDONLY)\n" + FAULT + CORK.format(port=port))
    before = set(children_of(kernel.process.pid))
    hostile.do(
        "w = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); number = w.detach()\n"
        "def call():\n"
        f"    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 0, fileno=number).bind(('0.0.0.0', {port}))\n"
        "    except OSError: pass\n"
        "threading.Thread(target=call).start()"
    )
    (helper,) = (pid for pid in before if pid not in (kernel.master_pid, hostile.pid, good.pid) and is_fork(pid))
    wait_until_it_calls(helper, 204 if platform.machine() == "aarch64" else 51)  # getsockname, of the corked socket
    hostile.do("os.dup2(file, number); resolve(b'x')")
    kernel.nothing_of(facts.Exited)
    good.do(f"s = tcp('127.0.0.1', {other})")
    assert answered_by(good, ("127.0.0.1", other))
    said = f"passing on the socket of udp:0.0.0.0:{port} took longer than 1 s; its binds are no longer shared"
    assert kernel.wrote(f"web.1 (pid {hostile.pid}): {said}")


def is_fork(pid: int) -> bool:
    """Whether *pid* was forked from the guardian without exec."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return b"helper" in file.read()


def mounted(place: Path, *, mute: bool) -> Iterator[Path]:
    place.mkdir()
    try:
        found = Silent(place, mute=mute)
    except OSError as error:
        pytest.skip(f"needs FUSE: {error}")
    try:
        yield place
    finally:
        found.close()
        place.rmdir()


@pytest.fixture
def silent(run_dir: Path) -> Iterator[Path]:
    """A directory in which nothing can even be looked up."""
    yield from mounted(run_dir / "silent", mute=True)


@pytest.fixture
def unread(run_dir: Path) -> Iterator[Path]:
    """A file that can be mapped, and whose page does not come."""
    for place in mounted(run_dir / "unread", mute=False):
        yield place / "page"


@needs_root
def test_an_address_in_a_file_that_cannot_be_read(kernel: RealKernel, unread: Path) -> None:
    port, own = free_port(), free_port()
    hostile, good = Puppet(kernel, 1), Puppet(kernel, 2)
    hostile.do(
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.mmap.restype = ctypes.c_void_p\n"
        f"file = os.open({str(unread)!r}, os.O_RDONLY)\n"
        "page = libc.mmap(None, ctypes.c_size_t(4096), 1, 2, file, ctypes.c_long(0))\n" + BIND
    )
    kernel.nothing_of(facts.Message)  # the guardian answers its master
    good.do(f"s = tcp('127.0.0.1', {port})")  # it is served when the time is over
    assert answered_by(good, ("127.0.0.1", port))
    said = "reading the address of a bind took longer than 1 s; its binds are no longer shared"
    assert kernel.wrote(f"web.1 (pid {hostile.pid}): {said}")
    hostile.do(f"t = tcp('127.0.0.1', {own})")  # its calls are left to the kernel
    kernel.nothing_of(facts.Listening, worker=1)
    assert good.fails(f"tcp('127.0.0.1', {own})") == errno.EADDRINUSE
    assert kernel.output().count("no longer shared") == 1
    os.kill(hostile.pid, 9)
    good.settle()


@needs_root
@pytest.mark.parametrize("way", ["seccomp", "python"])
def test_a_path_in_a_file_system_that_does_not_answer(kernel: RealKernel, silent: Path, way: str) -> None:
    port = free_port()
    hostile, good = Puppet(kernel, 1, share=way), Puppet(kernel, 2)
    if way == "python":
        hostile.do(CLIENT)
        hostile.tell(f"result = ask(type='bind', family=1, kind=1, address='unix:{silent}/x')")
        expected = "a bind"
    else:
        hostile.tell(f"unix({str(silent / 'x')!r})")
        expected = "reading the address of a bind"
    kernel.nothing_of(facts.Exited)
    good.do(f"s = tcp('127.0.0.1', {port})")
    assert answered_by(good, ("127.0.0.1", port))
    assert kernel.wrote(f"web.1 (pid {hostile.pid}): {expected} took longer than 1 s; its binds are no longer shared")
    os.kill(hostile.pid, 9)
    kernel.fact(facts.Exited, worker=1)


def test_a_shared_socket_that_lingers_at_its_close(kernel: RealKernel) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        hostile, good = Puppet(kernel, 1), Puppet(kernel, 2)
        hostile.do(
            f"import struct; s = socket.socket(); s.bind(('127.0.0.1', {free_port()}))\n"
            f"s.connect({listener.getsockname()!r}); s.setblocking(False)\n"
            "s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 3600))\n"
            "try:\n"
            "    while True: s.send(bytes(65536))\n"
            "except BlockingIOError: pass"
        )
        os.kill(hostile.pid, 9)
        kernel.fact(facts.Exited, worker=1)  # we hold the last descriptor, and close it
        good.settle()


def test_threads_of_one_worker_do_not_keep_others_from_their_turn(kernel: RealKernel) -> None:
    flood, good = Puppet(kernel, 1), Puppet(kernel, 2)
    flood.do(
        "over = threading.Event()\n"
        "def bind():\n"
        "    while not over.is_set():\n"
        "        with socket.socket() as s: s.bind(('127.0.0.1', 0))\n"
        "threads = [threading.Thread(target=bind) for _ in range(8)]\n"
        "for thread in threads: thread.start()"
    )
    for _ in range(10):
        good.do(f"s = tcp('127.0.0.1', {free_port()})")
    flood.do("over.set()\nfor thread in threads: thread.join()")


# ------------------------------------------------------------------ sockets that are closed again


def listeners(kernel: RealKernel) -> list[str]:
    kernel.send(orders.Hello())
    return [listener["address"] for listener in kernel.fact(facts.Snapshot).listeners]


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]


CALLS = {
    "udp": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', port))",
    "bound": "s = socket.socket(); s.bind(('127.0.0.1', port))",
    "listening": "s = socket.socket(); s.bind(('127.0.0.1', port)); s.listen()",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_sockets_that_were_closed_again_are_released(kernel: RealKernel, call: str) -> None:
    port = free_port()
    puppet = Puppet(kernel, 1)
    puppet.do(f"keep = tcp('127.0.0.1', {port})")
    ports = free_ports(200)
    puppet.do(f"for port in {ports}:\n    {call}\n    s.close()")
    assert len(listeners(kernel)) <= SWEEP_AT + 1
    assert len(os.listdir(f"/proc/{kernel.process.pid}/fd")) < SWEEP_AT + 30
    assert answered_by(puppet, ("127.0.0.1", port), "keep")
    assert kernel.fact(facts.Released).address.endswith(f"127.0.0.1:{ports[0]}")
    told = [fact for fact in kernel.pending if isinstance(fact, facts.Listening)]
    assert len(told) <= 2 * SWEEP_AT, "it is reported what lasts"


@pytest.mark.parametrize("holder", ["self", "child", "orphan", "other worker"])
def test_a_socket_that_is_open_somewhere_stays(kernel: RealKernel, holder: str) -> None:
    port = free_port()
    puppet, other = Puppet(kernel, 1), Puppet(kernel, 2)
    bind = f"u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', {port}))"
    puppet.do(bind)
    if holder == "other worker":
        other.do(bind)
    elif holder != "self":
        again = "\n    if os.fork(): os._exit(0)" if holder == "orphan" else ""
        puppet.do(f"child = os.fork()\nif child == 0:{again}\n    signal.pause()")
        if holder == "orphan":
            puppet.do("os.waitpid(child, 0)")
    if holder != "self":
        puppet.do("u.close()")
    puppet.do(f"for port in {free_ports(3 * SWEEP_AT)}:\n    {CALLS['bound']}\n    s.close()")
    kernel.fact(facts.Released)
    assert f"udp:127.0.0.1:{port}" in listeners(kernel)
    if holder == "child":
        puppet.do("os.kill(child, 9); os.waitpid(child, 0)")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_one_socket_that_was_closed_again_is_released_by_time(kernel: RealKernel, call: str) -> None:
    port, closed = free_ports(2)
    puppet = Puppet(kernel, 1)
    puppet.do(f"keep = tcp('127.0.0.1', {port})")
    puppet.do(f"port = {closed}\n{call}\ns.close()")
    assert kernel.fact(facts.Released).address.endswith(f"127.0.0.1:{closed}")
    assert listeners(kernel) == [f"127.0.0.1:{port}"]
    assert answered_by(puppet, ("127.0.0.1", port), "keep")
    puppet.do(f"s = tcp('127.0.0.1', {closed})")
    assert kernel.fact(facts.Listening, address=f"127.0.0.1:{closed}", bound=False)


@needs_root
def test_where_descriptors_cannot_be_seen_every_socket_counts_as_open() -> None:
    values = {"root": os.getpid(), "guardian": 1, "without": [], "inodes": [1, 2]}
    code = f"from cluster_service.guardian import helper_tasks; print(helper_tasks.open_sockets({values}, []).values)"
    env = {"PYTHONPATH": str(Path(cluster_service.__file__).parents[1])}
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code], check=True, capture_output=True, text=True, env=env, user=65534, group=65534
    )
    assert done.stdout == "{'open': [1, 2]}\n"


class Looks:
    """A worker with one socket of its own, and the clock by which it is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.count, self.still = 100.0, 0, [4711]
        self.holdings = Holdings(1, 0.0)
        self.worker = Worker(1, "web.1", pid=2)
        self.holdings.add_worker(self.worker)
        address = parse("127.0.0.1:80")
        self.held = Held(address=address, key="x", socket=None, inode=4711, users={1})  # type: ignore[arg-type]
        self.holdings.add_held(self.held)
        told = Told(*(lambda *_: None,) * 5)
        self.room = Room(self.holdings, told, self.holdings.drop_held, self.run)
        monkeypatch.setattr("time.monotonic", lambda: self.time)

    def run(self, begin: Callable[[], Steps[None] | None]) -> None:
        steps = begin()
        assert steps is not None
        run_here(steps, {"open_sockets": self.look})

    def look(self, _values: dict[str, Any], _descriptors: list[int]) -> Result:
        self.count += 1
        return Result({"open": self.still})

    def until(self, end: float) -> None:
        while (due := self.room.deadline()) is not None and due <= end:
            self.time = due
            self.room.tick(due)
        self.time = end


def test_a_socket_that_stays_open_is_looked_at_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    assert looks.room.deadline() is None
    looks.room.given(looks.worker)
    looks.until(100.0 + 24 * 3600)
    assert looks.count == 14  # after 3, 9, 21 ... seconds: 3 * (2**14 - 1) is less than a day, and one more is not
    looks.still = []
    looks.until(100.0 + 48 * 3600)
    assert looks.holdings.held == {}
    assert looks.room.deadline() is None, "nothing is left that could be closed"


@pytest.mark.parametrize("why", ["stopping", "exited", "gone", "shared", "declared"])
def test_what_is_not_a_workers_alone_is_not_looked_at(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    looks = Looks(monkeypatch)
    looks.room.given(looks.worker)
    if why == "stopping":
        looks.worker.signals.append("stop")
    elif why == "exited":
        looks.worker.exited = True
    elif why == "gone":
        looks.holdings.forget_worker(looks.worker)
    elif why == "shared":
        looks.held.users.add(2)
    else:
        looks.held.declared = True
    looks.until(1e6)
    assert looks.count == 0
    assert looks.room.deadline() is None
    assert looks.holdings.held


def test_a_worker_shares_so_many_sockets_and_no_more(kernel: RealKernel) -> None:
    puppet, other = Puppet(kernel, 1), Puppet(kernel, 2)
    listen = f"    {CALLS['listening']}\n    open.append(s)"
    ports = free_ports(SOCKETS_LIMIT + 5)
    puppet.do(f"open = []\nfor port in {ports[:SOCKETS_LIMIT]}:\n{listen}")
    assert len(listeners(kernel)) == SOCKETS_LIMIT
    puppet.do(f"for port in {ports[SOCKETS_LIMIT:]}:\n{listen}")
    assert len(listeners(kernel)) == SOCKETS_LIMIT
    said = f"web.1 (pid {puppet.pid}) uses {SOCKETS_LIMIT} sockets; what it binds beyond that is not shared"
    assert kernel.wrote(said)
    other.do(f"s = tcp('127.0.0.1', {free_port()})")
    assert kernel.output().count("beyond that") == 1
    with socket.create_connection(("127.0.0.1", ports[SOCKETS_LIMIT])):
        puppet.do(f"open[{SOCKETS_LIMIT}].accept()")


def test_what_was_closed_makes_room_at_the_limit(kernel: RealKernel) -> None:
    puppet, other = Puppet(kernel, 1), Puppet(kernel, 2)
    listen = f"    {CALLS['listening']}\n    open.append(s)"
    puppet.do(f"open = []\nfor port in {free_ports(SOCKETS_LIMIT)}:\n{listen}")
    puppet.do("while open: open.pop().close()")
    port = free_port()
    for each in (puppet, other):
        each.do(f"s = tcp('127.0.0.1', {port})")
        assert answered_by(each, ("127.0.0.1", port))
    assert listeners(kernel) == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_worker_that_binds_new_addresses_without_end_is_left_to_the_kernel(kernel: RealKernel, call: str) -> None:
    puppet = Puppet(kernel, 1)
    binds = int(OPEN_BURST) * 2
    puppet.do(f"for port in range(9000, {9000 + binds}):\n    {call}\n    s.close()")
    assert kernel.wrote(f"web.1 (pid {puppet.pid}) binds more than {OPENS_PER_SECOND:g} new addresses a second")
    assert len(listeners(kernel)) <= SOCKETS_LIMIT
    opened = sum(isinstance(fact, facts.Released) for fact in kernel.pending)
    assert opened < binds, "the master hears of as many as it has time for"
