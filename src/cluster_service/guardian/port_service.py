"""Which socket a ``bind`` gets, whether requested through seccomp, the worker's runtime or the master.

Invariants. The service has one socket per address. Each worker that binds the address gets that socket, if permitted
(``port_access``); the first one creates it. A refused ``bind`` is refused with a sentence. The service's own endpoints
are never handed out.

Not shared, and left to the kernel: port 0 (each caller gets a port of its own), multicast groups, Unix datagram sockets
(which act as mailboxes), sockets bound to one device, and those of another network namespace or root directory.

O_NONBLOCK is a flag of the open file description, which all users of a socket share. It is therefore copied from a
worker only if that worker is the sole user, and otherwise only ever set: an event loop that found its listener blocking
would hang, whereas a program that finds it non-blocking sees at most an error that it must already handle for
interrupted connections.

The helper does everything that could block, in steps (``helper_client.Steps``): opening, listening, file operations.
The only operation performed here on sockets that workers have is ``fcntl`` for O_NONBLOCK, which does not take the
socket's lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING, Any

from cluster_service.machine import shortage

from . import (
    port_access,
    socket_factory,
    untrusted_input,
)
from .bind_requests import LeaveAlone, Want
from .helper_client import ask, run_here
from .helper_tasks import DUTIES
from .holdings import Held
from .per_slot_sockets import PerSlot, socket_for
from .port_access import Refused, Room
from .socket_activation import Given
from .socket_factory import Binder
from .unix_sockets import Kept, Paths, Place, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_service.wire.addresses import Address

    from .helper_client import Answer, Helper, Steps, Tasks
    from .holdings import Holdings, Worker
    from .per_slot_rules import Member
    from .port_access import Told

BACKLOG = 2048
"""Minimum listen backlog of a shared socket; the kernel caps it at net.core.somaxconn."""


class Ports:
    """The sockets that the service holds, as seen by the processes that bind them."""

    def __init__(self, holdings: Holdings, told: Told, helper: Helper, tasks: Tasks) -> None:
        self._holdings = holdings
        self._told = told
        self._helper = helper
        self._tasks = tasks
        self.room = Room(holdings, told, self.close, tasks.add)
        self.paths = Paths(self._start, self._in_use, self.close)
        self.given = Given(holdings, self.paths, told.log)
        self.on_listen: Callable[[Held], None] = lambda _held: None
        self.on_close: Callable[[Held], None] = lambda _held: None
        self.per_slot = PerSlot(holdings, helper, tasks, told.log)

    def find(self, address: Address, key: str = "") -> Held | None:
        """Return the socket held for *address*, or an activated socket that covers it."""
        return self._holdings.held.get(key or str(address)) or self.given.covering(address)

    def _refuse_clash(self, address: Address) -> None:
        clash = self.given.clash(address)
        if clash:
            raise Refused(errno.EADDRINUSE, clash)

    def _start(self, held: Held, begin: Callable[[], Steps[None]]) -> None:
        """Run steps that concern the file of *held*: immediately for an endpoint, which is in our own directory."""
        if held.door:
            run_here(begin(), DUTIES)
        else:
            self._tasks.add(begin)

    # ------------------------------------------------------------ workers

    def bind(self, worker: Worker, want: Want) -> Steps[Held]:
        """Return the socket for *worker*'s bind. Raises Refused, after reporting it, or LeaveAlone."""
        try:
            if worker.is_private:
                held = yield from self.own(worker, want)
            else:
                held = (yield from self._find(worker, want)) or (yield from self._open(worker, want))
            member = yield from self._member(worker, held, want)
            listens = self._give(worker, held, want, member)
        except Refused as refusal:
            self._told.refused(worker, want.address, refusal.sentence)
            raise
        if held.address.kind == "udp":
            held.listening = True
            self.room.tell(worker, held)
        elif listens and not held.asked:
            self._told.bound(worker, held)
        return held

    def _member(self, worker: Worker, held: Held, want: Want) -> Steps[Member | None]:
        """Return the worker's own member socket, or None if it gets the shared one. Raises Refused."""
        others = [other for other in self._overlapping(want.address) if other is not held]
        values = {**_request(want), "joins": True}
        lent = [other.socket.fileno() for other in others]
        opened = self._beside(ask("open", values, lent), others)
        try:
            return (yield from self.per_slot.prepare(worker, held, opened))
        except TimeoutError:
            raise
        except OSError as error:
            raise Refused(error.errno or errno.EINVAL, str(error.strerror)) from None

    def listen(self, worker: Worker, held: Held, backlog: int, binder: Binder | None = None) -> Steps[None]:
        """Make *held* listen on behalf of *worker*. Raises Refused, after reporting it."""
        sock = socket_for(worker, held)
        try:
            yield from self._listen(held, sock, backlog, binder if held.address.kind == "unix" else None)
            yield from self.per_slot.listens(worker, held)
        except TimeoutError:
            yield from self.per_slot.give_up(worker, held)
            raise
        except OSError as error:
            refusal = Refused(error.errno or errno.EINVAL, str(error.strerror))
            self._told.refused(worker, held.address, refusal.sentence)
            raise refusal from None
        self.room.tell(worker, held)

    def listen_own(self, held: Held) -> None:
        """Make *held*, a private socket of a worker that is handed over to it, listen. Raises OSError."""
        if held.address.kind != "udp":
            held.socket.listen(BACKLOG)
        held.listening = True

    def gone(self, worker: Worker) -> None:
        """Release the sockets of *worker*, which has exited."""
        self.per_slot.gone(worker)
        for held in list(self._holdings.held.values()):
            if worker.number not in held.users:
                continue
            held.users.discard(worker.number)
            if held.users:
                continue
            if held.asked or held.quiet or not (held.listening or held.declared):
                self.close(held)  # private; or bound and never used, perhaps to probe whether the port is free
            else:
                self.paths.users_gone(held)

    def own(self, worker: Worker, want: Want) -> Steps[Held]:
        """Return the private socket that *worker* gets in place of *want*. Raises Refused."""
        shared = self._holdings.held.get(want.key or str(want.address))
        if shared is not None and shared.kept is not None:
            yield from shared.kept.ask("restore")  # may have been removed to make room
        held = self._holdings.held.get(port_access.key_of(worker, str(want.address)))
        if held is None:
            try:
                self.room.check_rate(worker)
            except LeaveAlone:
                raise Refused(errno.EMFILE, f"{want.address}: the worker binds too many addresses") from None
            try:
                held = yield from port_access.open_for(worker, want.address, want.kind, want.options)
            except TimeoutError:
                raise
            except OSError as error:
                raise Refused(error.errno or errno.EINVAL, str(error.strerror)) from None
            self._holdings.add_held(held)
        return held

    def own_here(self, worker: Worker, address: Address, kind: int) -> Held:
        """Return the private socket of *worker*, which is being started. Raises Refused."""
        want = Want(address, kind, nonblocking=False, binder=_ourselves(0o077))
        return run_here(self.own(worker, want), DUTIES)

    def check(self, worker: Worker, held: Held) -> None:
        """Raise Refused unless *worker*, which is being started, may inherit *held*."""
        binder = _ourselves(0o077)._replace(uid=worker.uid)
        want = Want(held.address, held.socket.type, nonblocking=False, binder=binder)
        port_access.check(self._holdings, worker, want, held)
        self._adopt(worker, held)

    def _find(self, worker: Worker, want: Want) -> Steps[Held | None]:
        if not want.path_error:
            held = self.find(want.address, want.key)
        elif str(want.address) in worker.binds:
            held = self._holdings.at(str(want.address))  # opened for this group, whatever its path is
        else:
            problem = shortage.explain(OSError(want.path_error, os.strerror(want.path_error)))
            raise Refused(want.path_error, f"{want.address}: {problem}")
        if held is None:
            self._refuse_clash(want.address)
            return None
        port_access.check(self._holdings, worker, want, held)
        if held.socket.type != want.kind:
            raise Refused(errno.EADDRINUSE, f"{want.address} is held by this service as a socket of another kind")
        if held.kept is None or (state := (yield from held.kept.ask("restore"))) == "ours":
            return held
        if state == "other":
            raise Refused(errno.EADDRINUSE, f"{socket_factory.taken(want.address)} (it has replaced our socket)")
        if held.given is not None:
            return held
        self.close(held)  # its directory is gone, or its file cannot be restored
        return None

    def _open(self, worker: Worker, want: Want) -> Steps[Held]:
        port_access.check_new(self._holdings, worker, want)
        self.room.check_rate(worker)
        yield from self.room.make(worker)
        try:
            held = yield from self._make(want)
        except TimeoutError:
            raise
        except OSError as error:
            raise Refused(error.errno or errno.EINVAL, str(error.strerror)) from None
        held.tenant, held.uid = worker.tenant, want.uid
        return held

    def _make(self, want: Want) -> Steps[Held]:
        """Open a socket and hold it. Raises OSError."""
        address, overlapping = want.address, list(self._overlapping(want.address))
        inotify = self.paths.open() if address.path is not None else None
        lent = [held.socket.fileno() for held in overlapping]
        if address.path is not None:
            lent = [want.directory, *([] if inotify is None else [inotify])]
        answer = yield from self._beside(ask("open", _request(want), lent), overlapping)
        (descriptor,) = answer.descriptors
        sock = socket.socket(address.family, want.kind, 0, fileno=descriptor)
        held = Held(address=address, key=want.key or str(address), socket=sock, inode=answer.values["inode"])
        self._holdings.add_held(held)
        if address.path is not None:
            self._keep(held, want, answer.values)
        return held

    def _beside(self, asking: Steps[Answer], overlapping: list[Held]) -> Steps[Answer]:
        """Let the helper operate alongside overlapping sockets, and clean up if it does not finish."""
        parted = [held.socket.fileno() for held in overlapping if held.slots is None]
        try:
            return (yield from asking)
        except OSError as error:
            if parted and error.errno in (errno.ETIMEDOUT, errno.ECONNABORTED):
                yield from ask("part", {}, parted)
            raise

    def _keep(self, held: Held, want: Want, found: dict[str, Any]) -> None:
        device, inode = found["identity"]
        name = os.path.basename(os.fsencode(want.written))
        place = Place(want.directory, name, (device, inode), want.binder)
        self.paths.keep(held, Kept(place, found["watch"]))
        if found["problem"]:
            self._told.log(f"{held.address}: {found['problem']}")

    def _give(self, worker: Worker, held: Held, want: Want, member: Member | None) -> bool:
        """Add *worker* to the users of *held*. Return whether the socket that it gets listens."""
        sock = held.socket if member is None else member.socket
        alone = member is not None or not held.users - {worker.number}
        flags = fcntl.fcntl(sock, fcntl.F_GETFL)
        if want.nonblocking:
            fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        elif alone:
            fcntl.fcntl(sock, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        if worker.exited:  # while the call of its child was processed
            if not (held.users or held.listening or held.declared):
                self.close(held)
            raise LeaveAlone
        held.users.add(worker.number)
        self.room.given(worker)
        self._adopt(worker, held)
        if held.kept is not None:
            held.kept.orphaned = False
        return held.listening if member is None else self.per_slot.assign(worker, held, member)

    def _adopt(self, worker: Worker, held: Held) -> None:
        """Assign *held* to the group of *worker* if it is unassigned or that group has no workers left."""
        if held.tenant is None or port_access.is_free(self._holdings, held):
            held.tenant = worker.tenant

    def _in_use(self, held: Held) -> Steps[bool]:
        """Return whether a live process other than ours has the socket open."""
        pids = [worker.pid for worker in self._holdings.alive()]
        asked = {"inode": held.inode, "workers": pids, "guardian": os.getpid()}
        return bool((yield from ask("in_use", asked)).values["used"])

    # ------------------------------------------------------------ the master

    def declare(self, address: Address, *, door: bool, backlog: int, mode: int, tenant: str | None = None) -> Held:
        """Open and hold *address* for the master, or return the socket already held for it. Raises Refused."""
        key = key_of(address)
        held = self.find(address, key)
        if held is None:
            self._refuse_clash(address)
        if held is not None and held.door != door:
            what = "a door" if held.door else "a shared port"
            raise Refused(errno.EADDRINUSE, f"{address} is held already, as {what}")
        if held is None:
            held = self._declare(address, key, door=door, mode=mode)
        held.declared = True
        if not door and held.tenant is None:
            held.tenant = tenant or None
        if held.given is not None and held.listening:
            return held  # keep the backlog set by its unit
        if held.slots is not None:
            return held  # its workers call listen on their own sockets
        try:
            if address.kind != "udp":
                run_here(self._listen(held, held.socket, backlog, None), DUTIES)
            held.listening = True
        except OSError as error:
            self.close(held)
            raise Refused(error.errno or errno.EINVAL, str(error.strerror)) from None
        return held

    def _declare(self, address: Address, key: str, *, door: bool, mode: int) -> Held:
        kind = socket.SOCK_DGRAM if address.kind == "udp" else socket.SOCK_STREAM
        # The umask sets the exact mode at creation; a chmod afterwards would leave a window.
        want = Want(address, kind, nonblocking=False, binder=_ourselves(0o777 & ~mode), key=key)
        directory = -1
        try:
            if address.path is not None:
                socket_factory.remove_stale(address.path)
                directory = os.open(os.path.dirname(address.path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                want = want._replace(written=address.path, directory=directory)
            held = run_here(self._make(want), DUTIES)
        except OSError as error:
            if directory >= 0:
                os.close(directory)
            raise Refused(error.errno or errno.EINVAL, str(error.strerror)) from None
        held.door = door
        if door and address.kind == "unix":
            untrusted_input.refuse_descriptors(held.socket)  # accepted connections inherit this
        return held

    # ------------------------------------------------------------ both

    def close(self, held: Held) -> None:
        """Close a socket and remove its file."""
        self.on_close(held)
        self.per_slot.forget(held)
        self._holdings.drop_held(held)
        self.paths.release(held)
        for sock in held.sockets:
            if held.door:
                sock.close()
            else:
                self._helper.close(sock.detach())  # may block: a worker may have connected it and set SO_LINGER

    def close_all(self, *, doors: bool = True) -> None:
        """Close every socket, or every socket that is not an endpoint."""
        for held in list(self._holdings.held.values()):
            if doors or not held.door:
                self.close(held)

    def _listen(self, held: Held, sock: socket.socket, backlog: int, binder: Binder | None) -> Steps[None]:
        held.backlog = max(backlog, BACKLOG)
        values = {
            "address": _words(held.address),
            "backlog": held.backlog,
            "again": held.listening and held.address.kind == "tcp",
            "binder": None if binder is None else list(binder),
        }
        others = [other for other in self._overlapping(held.address) if other is not held]
        lent = [sock.fileno(), *(other.socket.fileno() for other in others)]
        yield from self._beside(ask("listen", values, lent), others)
        held.listening = True
        self.on_listen(held)

    def listen_again(self, held: Held) -> Steps[None]:
        """Make *held*, which a worker has shut down, listen again. Raises OSError."""
        yield from self._listen(held, held.socket, held.backlog, None)

    def replace(self, held: Held) -> Steps[None]:
        """Replace *held*, a Unix socket that can no longer listen, with a new one that does. Raises OSError."""
        if held.kept is None:
            raise OSError(errno.EADDRINUSE, "workers have the name open")
        place = held.kept.place
        binder = (place.binder or _ourselves(0o077))._replace(cwd="/")
        want = Want(held.address, held.socket.type, nonblocking=False, binder=binder, key=held.key)
        directory = os.dup(place.directory)
        try:
            try:
                yield from held.kept.ask("remove", given=False)
            finally:
                self.close(held)
            new = yield from self._make(want._replace(written=held.address.path or "", directory=directory))
        except OSError:
            os.close(directory)
            raise
        new.tenant, new.uid, new.declared = held.tenant, held.uid, held.declared
        yield from self._listen(new, new.socket, held.backlog, place.binder)

    def _overlapping(self, address: Address) -> Iterator[Held]:
        for held in self._holdings.held.values():
            if not held.door and not held.asked and port_access.overlap(held.address, address):
                yield held


def _ourselves(umask: int) -> Binder:
    return Binder(os.geteuid(), os.getegid(), tuple(os.getgroups()), umask, "/")


def _request(want: Want) -> dict[str, Any]:
    """Return the values of the helper's ``open`` request."""
    return {
        "address": _words(want.address),
        "type": want.kind,
        "options": list(want.options),
        "binder": list(want.binder),
        "written": want.written,
    }


def _words(address: Address) -> list[Any]:
    return [address.kind, address.host, address.port, address.dual]
