"""Starting workers, and what happens around their descriptors until they have ended.

A worker is known from its fork on, but the master hears of it, and its descriptors are listened to, only once its
program has been executed: so no fact about a worker comes before ``Spawned``, and none but ``Output`` after
``Exited``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster_service.machine import shortage
from cluster_service.wire import addresses, facts

from . import child, cleaner, limits, posix, pyports, seccomp, spawn
from .holdings import Worker
from .ports import Want
from .spawn import CannotSpawn, Progress, Resources

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire.orders import Spawn

    from .channels import Channels
    from .holdings import Held, Holdings
    from .limits import Limits
    from .logclient import Logs
    from .loop import Loop
    from .ports import Ports
    from .reap import End

_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


class Workers:
    """Every worker's process."""

    def __init__(self, holdings: Holdings, loop: Loop, logs: Logs, ports: Ports, found: Limits, instance: str) -> None:
        self._holdings = holdings
        self._loop = loop
        self._logs = logs
        self._ports = ports
        self._found = found
        """The limits of the guardian's own start."""
        self._instance = instance
        self._python = pyports.Service(holdings, ports)
        self._launches: dict[int, tuple[Worker, Progress, tuple[int, int]]] = {}
        self.channels: Channels
        self.tell: Callable[..., None]

    # ------------------------------------------------------------ start

    def spawn(self, order: Spawn) -> None:
        """Fork and exec. What becomes of it is told as a fact."""
        self._holdings.last_worker = order.worker
        worker = Worker(order.worker, order.label, meta=order.meta, share=order.share)
        try:
            with Resources() as resources:
                self._fork(worker, order, resources)
        except (CannotSpawn, limits.Failure) as error:
            self._not_forked(worker, str(error))
        except (OSError, MemoryError) as error:
            self._not_forked(worker, f"the worker cannot be started: {shortage.explain(error)}")

    def _not_forked(self, worker: Worker, why: str) -> None:
        self._ports.gone(worker)
        self.tell(facts.SpawnFailed(worker.number, why))

    def _fork(self, worker: Worker, order: Spawn, resources: Resources) -> None:
        identity = spawn.identity_of(order.user, order.group)
        spawn.check_share(order.share, identity, self._holdings.share)
        worker.uid = identity.user_id
        worker.is_private = order.private
        if order.private and order.share == "none":
            raise CannotSpawn(
                "it is to be tried on ports of its own, and with --share none it opens them itself; "
                "choose another --share, or upgrade without a test and a health check"
            )
        inherited = [self._inherited(worker, text) for text in order.inherit] if order.share == "inherit" else []
        descriptors = [held.socket.fileno() for held in inherited]
        env = {**order.env, cleaner.VARIABLE: self._instance}
        if inherited:
            env["LISTEN_FDS"] = str(len(inherited))
            names = [held.asked or held.given or str(held.address) for held in inherited]
            env["LISTEN_FDNAMES"] = ":".join(name.replace(":", "_") for name in names)
        if order.channel:
            worker.channel, theirs = resources.pair(socket.SOCK_SEQPACKET)
            env["CSERVICE_CHANNEL"] = str(_FIRST_DESCRIPTOR + len(descriptors))
            descriptors.append(theirs.fileno())
            worker.board = resources.board()
            if worker.board >= 0:
                env["CSERVICE_BOARD"] = str(_FIRST_DESCRIPTOR + len(descriptors))
                descriptors.append(worker.board)
        if order.channel and order.check:
            worker.check, worker.check_address = resources.check_socket()
            env["CSERVICE_CHECK"] = str(_FIRST_DESCRIPTOR + len(descriptors))
            descriptors.append(worker.check.fileno())
        if order.share == "python":
            worker.ports, theirs = resources.pair(socket.SOCK_SEQPACKET)
            env["CSERVICE_PORTS"] = str(_FIRST_DESCRIPTOR + len(descriptors))
            descriptors.append(theirs.fileno())
        worker.notify, env["NOTIFY_SOCKET"] = resources.notify_socket()
        outs, errs = resources.pipe(), resources.pipe()
        plan = child.Plan(
            argv=order.argv,
            env=env,
            cwd=order.cwd,
            stdout=outs[1],
            stderr=errs[1],
            descriptors=descriptors,
            limits=limits.for_worker(self._found, order),
            identity=identity,
            machine=posix.MACHINE if order.share == "seccomp" else None,
            death_signal=signal.SIGTERM,
            listen_fds=bool(inherited),
            keep_stdin=order.keep_stdin,
        )
        launch = spawn.launch(plan)
        resources.keep(worker.channel, worker.ports, worker.notify, worker.check, worker.board, outs[0], errs[0])
        worker.pid = launch.pid
        worker.started_at = self._loop.now()
        self._holdings.add_worker(worker)
        for held in inherited:
            held.users.add(worker.number)
            if held.asked:
                worker.private[held.asked] = str(held.address)
        self._launches[worker.number] = (worker, Progress(launch), (outs[0], errs[0]))
        self._loop.watch(launch.sock.fileno(), lambda _events: self._launching(worker))

    def _inherited(self, worker: Worker, text: str) -> Held:
        try:
            address = addresses.parse(text)
            held = self._ports.find(address)
            if held is not None and not held.door and worker.is_private:
                held = self._ports.own(worker, Want(address, held.socket.type, nonblocking=False))
                self._ports.listen_own(held)
        except addresses.AddressError as error:
            raise CannotSpawn(str(error)) from None
        if held is None or held.door:
            raise CannotSpawn(f"{text} cannot be passed to the worker: the service does not hold it")
        return held

    def _launching(self, worker: Worker) -> None:
        """Go on with a launch, as far as it has come."""
        _, progress, _ = self._launches[worker.number]
        ended = progress.read()
        if progress.deaf:
            os.kill(worker.pid, signal.SIGKILL)
        if ended:
            self._launched(worker)

    def _launched(self, worker: Worker) -> None:
        """The program has been executed, or will never be."""
        _, progress, (out, err) = self._launches.pop(worker.number)
        self._loop.drop(progress.sock.fileno())
        progress.sock.close()
        if progress.error:
            self._never_was(worker, progress, (out, err))
            return
        worker.launched = True
        self._logs.add(worker.number, worker.label, out, err)
        if worker.channel is not None:
            self._loop.watch(worker.channel.fileno(), lambda _events: self._channel(worker))
        if worker.ports is not None:
            self._loop.watch(worker.ports.fileno(), lambda _events: self._python_ports(worker))
        if worker.notify is not None:
            self._loop.watch(worker.notify.fileno(), lambda _events: self.channels.read_notify(worker))
        if progress.listener is not None:
            self._listen_to(seccomp.Listener(worker, progress.listener, self._holdings, self._ports))
        self.tell(facts.Spawned(worker.number, worker.pid, worker.started_at))
        self.tell_monitoring(worker)
        for asked, address in worker.private.items():  # those that it has inherited
            self.tell(facts.Listening(address, worker.number, asked=asked))

    def tell_monitoring(self, worker: Worker) -> None:
        """Send the master what it needs to observe *worker*: nothing, for a program without our runtime."""
        if worker.board < 0 and worker.check is None:
            return
        has_board = worker.board >= 0
        inode = os.fstat(worker.board).st_ino if has_board else 0
        fact = facts.Monitoring(worker.number, worker.uid, has_board, inode, worker.check_address)
        try:
            self.tell(fact, worker.board if has_board else None)
        except OSError:  # no descriptor to spare for the copy that waits: the worker is not observed
            self.tell(replace(fact, descriptor=False))

    def _never_was(self, worker: Worker, progress: Progress, pipes: tuple[int, int]) -> None:
        """Take the worker back: its process ends by itself, and is reaped as a stranger."""
        self._holdings.forget_worker(worker)
        for descriptor in pipes if progress.listener is None else (*pipes, progress.listener):
            os.close(descriptor)
        self._close(worker)
        self._ports.gone(worker)
        self.tell(facts.SpawnFailed(worker.number, progress.error))

    # ------------------------------------------------------------ life

    def _listen_to(self, listener: seccomp.Listener) -> None:
        def ready(events: int) -> None:
            if events & select.EPOLLIN:
                listener.answer_one()
            elif events & (select.EPOLLHUP | select.EPOLLERR):  # the last process under this filter has ended
                self._loop.drop(listener.descriptor)
                os.close(listener.descriptor)

        self._loop.watch(listener.descriptor, ready)

    def _channel(self, worker: Worker) -> None:
        if not self.channels.read_channel(worker):
            self._end(worker.channel)
            worker.channel = None

    def _python_ports(self, worker: Worker) -> None:
        if not self._python.answer_one(worker):
            self._end(worker.ports)
            worker.ports = None

    def _end(self, sock: socket.socket | None) -> None:
        if sock is not None:
            self._loop.drop(sock.fileno())
            sock.close()

    def _close(self, worker: Worker) -> None:
        for sock in (worker.channel, worker.ports, worker.notify, worker.check):
            self._end(sock)
        worker.channel = worker.ports = worker.notify = worker.check = None
        if worker.board >= 0:
            os.close(worker.board)
            worker.board = -1

    # ------------------------------------------------------------ end

    def reaped(self, worker: Worker, end: End) -> None:
        """The worker's process has ended."""
        if worker.number in self._launches:
            self._launches[worker.number][1].read()
            self._launched(worker)
            if worker.number not in self._holdings.workers:
                return
        with contextlib.suppress(OSError, MemoryError):  # its last words; that it has ended must be told in any case
            self.channels.read_notify(worker)
        if worker.channel is not None:
            with contextlib.suppress(OSError, MemoryError):
                self.channels.read_channel(worker)
        self._close(worker)
        self._holdings.by_pid.pop(worker.pid, None)
        worker.exited, worker.code, worker.signal = True, end.code, end.signal
        self._ports.gone(worker)
        self.tell(facts.Exited(worker.number, end.code, end.signal))
        self._logs.exited(worker.number, failed=end.failed)

    def tail(self, number: int, lines: list[str]) -> None:
        """The log writer has told the last lines of a worker, or did not in time."""
        if number > 0:
            worker = self._holdings.workers.get(number)
            if worker is not None:
                worker.output = lines
            self.tell(facts.Output(number, lines))
