"""Starting workers, and managing their descriptors until they have ended.

A worker is known as soon as it is forked, but the guardian reports it to the master and watches its descriptors only
after its program has been executed. Therefore no fact about a worker precedes ``Spawned``, and only ``Output`` follows
``Exited``.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster_service.machine import shortage
from cluster_service.wire import addresses, facts

from . import (
    cleaner,
    forked_child,
    process_limits,
    python_ports,
    seccomp,
    spawn,
    syscalls,
)
from .holdings import Worker
from .port_access import Refused
from .spawn import CannotSpawn, Progress, Resources
from .unix_sockets import key_of
from .untrusted_input import refuses_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire.orders import Spawn

    from .event_loop import Faults, Loop
    from .helper_client import Helper, Tasks
    from .holdings import Held, Holdings
    from .leftover_processes import Remains
    from .log_client import Logs
    from .port_service import Ports
    from .process_limits import Limits
    from .reaping import End
    from .sd_notify import NotifySockets
    from .service_end import Ending
    from .worker_channels import Channels

_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


class Workers:
    """The processes of all workers."""

    def __init__(
        self,
        holdings: Holdings,
        loop: Loop,
        logs: Logs,
        ports: Ports,
        found: Limits,
        helper: Helper,
        tasks: Tasks,
        instance: str,
        channels: Channels,
        notify: NotifySockets,
        faults: Faults,
        remains: Remains,
    ) -> None:
        self._holdings = holdings
        self._helper = helper
        self._tasks = tasks
        self._loop = loop
        self._logs = logs
        self._ports = ports
        self._found = found
        """The limits with which the guardian was started."""
        self._instance = instance
        self._python = python_ports.Service(holdings, ports, logs.line, self._close_ports)
        self._launches: dict[int, tuple[Worker, Progress, tuple[int, int]]] = {}
        self._channels = channels
        self._notify = notify
        self._faults = faults
        self._remains = remains
        self._marks = process_limits.marks_of(instance)
        self.tell: Callable[..., None]
        self.ending: Ending

    # ------------------------------------------------------------ start

    def spawn(self, order: Spawn) -> None:
        """Fork and exec a worker. The outcome is reported as a fact."""
        self._holdings.last_worker = order.worker
        worker = Worker(order.worker, order.label, meta=order.meta, share=order.share, tenant=order.tenant)
        worker.stop_signal = order.stop_signal
        worker.mark = self._marks | order.worker
        worker.binds = frozenset(order.binds)
        worker.per_slot, worker.drain = order.listen == "per-slot", order.drain
        self._holdings.partners[order.tenant] = frozenset(order.share_with)
        try:
            with Resources() as resources:
                self._fork(worker, order, resources)
        except (CannotSpawn, process_limits.Failure) as error:
            self._not_forked(worker, str(error))
        except (OSError, MemoryError) as error:
            self._not_forked(worker, f"the worker cannot be started: {shortage.explain(error)}")

    def _not_forked(self, worker: Worker, why: str) -> None:
        """Release what was prepared for the worker. Resources has already closed its socket pairs and pipes."""
        worker.channel = worker.ports = worker.check = None
        worker.board = -1
        self._faults.run(str(worker), *self._releases(worker), lambda: self.tell(facts.SpawnFailed(worker.number, why)))

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
            worker.check, worker.check_address = resources.check_socket(self._notify.open_check(worker.number))
            env["CSERVICE_CHECK"] = str(_FIRST_DESCRIPTOR + len(descriptors))
            descriptors.append(worker.check.fileno())
        if order.share == "python":
            worker.ports, theirs = resources.pair(socket.SOCK_SEQPACKET)
            env["CSERVICE_PORTS"] = str(_FIRST_DESCRIPTOR + len(descriptors))
            descriptors.append(theirs.fileno())
        worker.notify, worker.notify_name = self._notify.open(worker.number, worker.uid)
        env["NOTIFY_SOCKET"] = worker.notify_name
        outs, errs = resources.pipe(), resources.pipe()
        plan = forked_child.Plan(
            argv=order.argv,
            env=env,
            cwd=order.cwd,
            stdout=outs[1],
            stderr=errs[1],
            descriptors=descriptors,
            limits=process_limits.for_worker(self._found, order, worker.mark),
            identity=identity,
            machine=syscalls.MACHINE if order.share == "seccomp" else None,
            death_signal=worker.stop_signal,
            listen_fds=bool(inherited),
            keep_stdin=order.keep_stdin,
        )
        launch = spawn.launch(plan)
        resources.keep(worker.channel, worker.ports, worker.check, worker.board, outs[0], errs[0])
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
            held = self._ports.find(address, key_of(address))
            if held is None or held.door:
                raise CannotSpawn(f"{text} cannot be passed to the worker: the service does not hold it")
            if worker.is_private:
                held = self._ports.own_here(worker, address, held.socket.type)
                self._ports.listen_own(held)
            else:
                self._ports.check(worker, held)
        except addresses.AddressError as error:
            raise CannotSpawn(str(error)) from None
        except Refused as refusal:
            raise CannotSpawn(refusal.sentence) from None
        return held

    def _launching(self, worker: Worker) -> None:
        """Continue a launch with the data received so far."""
        _, progress, _ = self._launches[worker.number]
        ended = progress.read()
        if progress.deaf:
            os.kill(worker.pid, signal.SIGKILL)
        if ended:
            self._launched(worker)

    def _launched(self, worker: Worker) -> None:
        """Finish a launch: the program has been executed, or cannot be."""
        _, progress, pipes = self._launches.pop(worker.number)
        self._faults.run(str(worker), lambda: self._loop.drop(progress.sock.fileno()), progress.sock.close)
        if progress.error:
            self._never_was(worker, progress, pipes)
        else:
            self._begin(worker, progress, pipes)

    def _begin(self, worker: Worker, progress: Progress, pipes: tuple[int, int]) -> None:
        """Watch the worker's descriptors and report the worker."""
        worker.launched = True
        self._faults.run(
            str(worker),
            lambda: self._logs.add(worker.number, worker.label, *pipes),
            lambda: self._channels.add(worker),
            lambda: self._watch_ports(worker),
            lambda: self._watch_listener(worker, progress),
            lambda: self.tell(facts.Spawned(worker.number, worker.pid, worker.started_at)),
            lambda: self.tell_monitoring(worker),
        )
        for asked, address in worker.private.items():  # the inherited ones
            self.tell(facts.Listening(address, worker.number, asked=asked))

    def tell_monitoring(self, worker: Worker) -> None:
        """Send the master what it needs to observe *worker*; nothing for a program without our runtime."""
        if worker.board < 0 and worker.check is None:
            return
        has_board = worker.board >= 0
        inode = os.fstat(worker.board).st_ino if has_board else 0
        fact = facts.Monitoring(worker.number, worker.uid, has_board, inode, worker.check_address)
        try:
            self.tell(fact, worker.board if has_board else None)
        except OSError:  # no free descriptor for the queued copy: the worker is not observed
            self.tell(replace(fact, descriptor=False))

    def _watch_listener(self, worker: Worker, progress: Progress) -> None:
        if progress.listener is not None:
            arguments = (self._holdings, self._ports, self._helper, self._logs.line)
            self._listen_to(seccomp.Listener(worker, progress.listener, *arguments))

    def _never_was(self, worker: Worker, progress: Progress, pipes: tuple[int, int]) -> None:
        """Discard a worker that was not executed: its process exits by itself and is reaped as an orphan."""
        self._holdings.forget_worker(worker)
        descriptors = pipes if progress.listener is None else (*pipes, progress.listener)
        self._faults.run(
            str(worker),
            *(functools.partial(os.close, descriptor) for descriptor in descriptors),
            *self._releases(worker),
            lambda: self.tell(facts.SpawnFailed(worker.number, progress.error)),
        )

    # ------------------------------------------------------------ life

    def _listen_to(self, listener: seccomp.Listener) -> None:
        """Wait for a notification. *listener* is not polled while a notification is queued or being processed."""

        def ready(events: int) -> None:
            self._loop.drop(listener.descriptor)
            if events & select.EPOLLIN:
                self._tasks.add(listener.receive, again)
            else:  # the last process under this filter has ended
                os.close(listener.descriptor)

        def again() -> None:
            if listener.descriptor >= 0:
                self._loop.watch(listener.descriptor, ready)

        again()

    def _watch_ports(self, worker: Worker) -> None:
        """Wait for a request, unless the worker has ended or closed its end."""

        def ready(sock: socket.socket) -> None:
            self._loop.drop(sock.fileno())
            self._tasks.add(lambda: self._python.receive(worker), lambda: self._watch_ports(worker))

        sock = worker.ports
        if sock is not None:
            self._loop.watch(sock.fileno(), lambda _events: ready(sock))

    def _close_ports(self, worker: Worker) -> None:
        sock, worker.ports = worker.ports, None
        self._channels.close(worker, sock)

    def _close_board(self, worker: Worker) -> None:
        board, worker.board = worker.board, -1
        if board >= 0:
            os.close(board)

    def _close_check(self, worker: Worker) -> None:
        """Close the check socket. Queued connections may carry descriptors, which the worker could have re-enabled."""
        sock, worker.check = worker.check, None
        if sock is None:
            return
        if not worker.launched and refuses_descriptors(sock):
            sock.close()
        else:
            self._helper.close(sock.detach())

    # ------------------------------------------------------------ end

    def _releases(self, worker: Worker) -> list[Callable[[], object]]:
        """Return the steps that release the resources held for *worker*; each runs even if others fail."""
        return [
            lambda: self._channels.close(worker, worker.channel),
            lambda: self._channels.close(worker, worker.notify),
            lambda: self._notify.remove(worker.notify_name),
            lambda: self._notify.remove(worker.check_address.removeprefix("unix:")),
            lambda: self._close_ports(worker),
            lambda: self._close_board(worker),
            lambda: self._close_check(worker),
            lambda: self._ports.gone(worker),
        ]

    def reaped(self, worker: Worker, end: End) -> None:
        """Handle the end of a worker's process. It is reported in any case, whatever fails."""
        if worker.number in self._launches:
            launch = self._launches[worker.number][1]
            self._faults.run(str(worker), launch.read, lambda: self._launched(worker))
            if worker.number not in self._holdings.workers:
                return
        self._faults.run(str(worker), lambda: self._channels.remove(worker))  # its last messages precede its exit
        self._holdings.by_pid.pop(worker.pid, None)
        worker.exited, worker.code, worker.signal = True, end.code, end.signal
        self._faults.run(
            str(worker),
            lambda: self._count_left(worker),
            *self._releases(worker),
            lambda: self.tell(facts.Exited(worker.number, end.code, end.signal, worker.left)),
            lambda: self._logs.exited(worker.number, failed=end.failed),
            lambda: self.ending.left(worker),
        )

    def _count_left(self, worker: Worker) -> None:
        worker.left = self._remains.count(worker)

    def tail(self, number: int, lines: list[str]) -> None:
        """Report the last lines of a worker, or none if the log writer did not send them in time."""
        if number > 0:
            worker = self._holdings.workers.get(number)
            if worker is not None:
                worker.output = lines
            self.tell(facts.Output(number, lines))
