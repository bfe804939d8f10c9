"""bind and listen, as a seccomp filter shows them to the guardian: arguments of all sorts, and threads that vanish."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from . import values
from .places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
FAMILIES = tuple(int(family) for family in socket.AddressFamily)
POINTERS = (0, 1, 4096, 0x7FFFFFFFF000, 2**47, 2**63, 2**64 - 8)
LENGTHS = (0, 1, 2, 3, 8, 16, 28, 110, 127, 128, 129, 4096, 2**31, 2**32 - 1)
NUMBERS = (-1, -100, 0, 1, 2, 99999, 2**31 - 1, -(2**31))
BACKLOGS = (-1, 0, 1, 128, 4096, 2**31 - 1, -(2**31))
CHILD_SECONDS = 2


def inputs(random: Random, count: int) -> Iterator[dict[str, Any]]:
    """Single calls for the most part; races, forks, namespaces, kills and series of ports now and then."""
    for _ in range(count):
        given: dict[str, Any] = {"place": random.choice(Places.KINDS), "number": random.getrandbits(32)}
        how = random.random()
        if how < 0.45:
            given |= {"do": "bind", "backlog": random.choice((None, None, *BACKLOGS)), "keep": random.random() < 0.05}
        elif how < 0.65:
            data = values.garble(random, bytes([random.choice((1, 2, 10)), 0]) + bytes(random.randrange(130)))
            given |= {"do": "raw", "data": data, "length": random.choice((len(data), len(data), *LENGTHS))}
            given |= {"family": random.choice((1, 2, 10, *FAMILIES)), "type": random.choice((1, 2, 3, 5))}
        elif how < 0.8:
            given |= {"do": "pointer", "pointer": random.choice(POINTERS), "length": random.choice(LENGTHS)}
        elif how < 0.88:
            given |= {"do": "descriptor", "descriptor": random.choice(NUMBERS), "backlog": random.choice(BACKLOGS)}
        else:
            given |= {"do": random.choice(("race", "fork", "namespace", "kill", "series", "threads", "inherit"))}
        yield given


class Target:
    """The system calls of this process and of its children."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._places = Places()
        self._kept: list[socket.socket] = []

    def perform(self, given: dict[str, Any]) -> bool:
        """Carry out one input."""
        deed = getattr(self, "_" + given["do"])
        try:
            return bool(deed(given))
        except OSError:
            return False  # no descriptor, no process: the input was not performed

    # ------------------------------------------------------------ one call

    def _bind(self, given: dict[str, Any]) -> bool:
        family, type_, data = self._places.sockaddr(given["place"], given["number"])
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.socket(family, type_))
            bound = call_bind(sock.fileno(), data, len(data)) == 0
            if bound and self._places.forbidden(given["place"]):
                self.violations.append(f"this user could not have bound {given['place']}, and was given its socket")
            if bound and given.get("backlog") is not None:
                LIBC.listen(sock.fileno(), given["backlog"])
            if bound and given.get("keep") and len(self._kept) < 20:
                self._kept.append(sock)
                stack.pop_all()
            return bound

    def _raw(self, given: dict[str, Any]) -> bool:
        try:
            sock = socket.socket(given["family"], given["type"])
        except OSError:
            sock = socket.socket()
        with sock:
            return call_bind(sock.fileno(), given["data"], given["length"]) == 0

    def _pointer(self, given: dict[str, Any]) -> bool:
        with socket.socket() as sock:
            return int(LIBC.bind(sock.fileno(), ctypes.c_void_p(given["pointer"]), ctypes.c_uint(given["length"]))) == 0

    def _descriptor(self, given: dict[str, Any]) -> bool:
        _, _, data = self._places.sockaddr(given["place"], given["number"])
        bound = call_bind(given["descriptor"], data, len(data)) == 0
        return LIBC.listen(given["descriptor"], given["backlog"]) == 0 or bound

    # ------------------------------------------------------------ more than one

    def _race(self, given: dict[str, Any]) -> bool:
        """Another thread closes the descriptor, and opens others under its number, while bind is under way."""
        family, type_, data = self._places.sockaddr(given["place"], given["number"])
        number = socket.socket(family, type_).detach()
        spare = os.open("/dev/null", os.O_RDONLY)
        over = threading.Event()

        def replace() -> None:
            while not over.is_set():
                os.dup2(spare, number)
                with contextlib.suppress(OSError), socket.socket(family, type_) as other:
                    os.dup2(other.fileno(), number)

        thread = threading.Thread(target=replace)
        thread.start()
        bound = [call_bind(number, data, len(data)) == 0 for _ in range(20)]
        over.set()
        thread.join()
        os.close(number)
        os.close(spare)
        return any(bound)

    def _threads(self, given: dict[str, Any]) -> bool:
        """Many threads bind at the same time."""
        threads = [
            threading.Thread(target=self._bind, args=({**given, "number": given["number"] + number},))
            for number in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return True

    def _series(self, given: dict[str, Any]) -> bool:
        """A hundred ports, one after the other, each closed again; half of them after listen."""
        for number in range(100):
            with contextlib.suppress(OSError), socket.socket() as sock:
                family, _, data = self._places.sockaddr("port", given["number"] + number)
                if family == sock.family and call_bind(sock.fileno(), data, len(data)) == 0 and number % 2:
                    LIBC.listen(sock.fileno(), 8)
        return True

    # ------------------------------------------------------------ in children

    def _fork(self, given: dict[str, Any]) -> bool:
        """A child binds and exits."""
        return _in_child(lambda: self._bind({**given, "backlog": 8}), CHILD_SECONDS)

    def _kill(self, given: dict[str, Any]) -> bool:
        """A child whose threads are in the middle of bind is killed."""

        def binding() -> None:
            for _ in range(4):
                threading.Thread(target=self._forever, args=(given,), daemon=True).start()
            time.sleep(CHILD_SECONDS)

        return _in_child(binding, 0.02)

    def _forever(self, given: dict[str, Any]) -> None:
        while True:
            self._bind({**given, "number": given["number"] + 1})

    def _namespace(self, given: dict[str, Any]) -> bool:
        """A child binds in a network or file system of its own, where the same address is another one."""

        def elsewhere() -> None:
            uid = os.getuid()
            if LIBC.unshare(CLONE_NEWUSER | (CLONE_NEWNET if given["number"] % 2 else CLONE_NEWNS)):
                return
            with contextlib.suppress(OSError):
                for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1")):
                    with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                        file.write(line)
                if given["number"] % 3 == 0:
                    os.chroot(os.environ.get("FUZZ_PLACES", "/tmp"))
            self._bind({**given, "backlog": 8})

        return _in_child(elsewhere, CHILD_SECONDS)

    def _inherit(self, given: dict[str, Any]) -> bool:
        """The parent binds, the child listens, and the parent closes meanwhile."""
        family, type_, data = self._places.sockaddr(given["place"], given["number"])
        with socket.socket(family, type_) as sock:
            if call_bind(sock.fileno(), data, len(data)):
                return False
            return _in_child(lambda: [LIBC.listen(sock.fileno(), 8) for _ in range(20)], 0.05)


def call_bind(descriptor: int, data: bytes, length: int) -> int:
    """Call bind with these bytes and this length."""
    buffer = ctypes.create_string_buffer(data, max(1, len(data)))
    return int(LIBC.bind(ctypes.c_int(descriptor), buffer, ctypes.c_uint(length & 0xFFFFFFFF)))


def _in_child(work: Any, seconds: float) -> bool:
    """Run *work* in a forked child, which is killed after *seconds*. True when it had ended by itself."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:  # whatever is raised, it must never return into the parent's code
            os._exit(0)
    process = os.pidfd_open(pid)
    try:
        ended = bool(select.select([process], [], [], seconds)[0])
        if not ended:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.waitpid(pid, 0)
        return ended
    finally:
        os.close(process)
