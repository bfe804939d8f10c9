"""One handler per order. Each performs the order or reports why not; all are idempotent."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster_service.machine import shortage
from cluster_service.wire import addresses, facts, orders
from cluster_service.wire.framing import UnknownRecord

from . import reaping, worker_channels
from .port_access import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from .event_loop import Faults
    from .holdings import Held, Holdings, Worker
    from .leftover_processes import Remains
    from .log_client import Logs
    from .master_supervisor import Keeper
    from .per_slot_sockets import Leaving
    from .port_service import Ports
    from .service_end import Ending
    from .worker_processes import Workers

NOTEBOOK_LIMIT = 8 * 1024 * 1024
"""Maximum size of the checkpoint in characters: half of what a frame can carry, to leave room in a snapshot."""


class No(Exception):
    """An order was not carried out, with the reason."""

    def __init__(self, why: str, worker: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.worker = worker


class Verbs:
    """The handlers of orders, by type."""

    def __init__(
        self,
        holdings: Holdings,
        keeper: Keeper,
        workers: Workers,
        open_ports: Ports,
        logs: Logs,
        faults: Faults,
        remains: Remains,
        now: Callable[[], float],
    ) -> None:
        self._holdings = holdings
        self._keeper = keeper
        self._workers = workers
        self._ports = open_ports
        self._logs = logs
        self._faults = faults
        self._remains = remains
        self._now = now
        self.ending: Ending
        self.leaving: Leaving
        self.deliver_kept: Callable[[], None]
        self._table: dict[type, Callable[[Any], None]] = {
            orders.Hello: self._hello,
            orders.Note: self._note,
            orders.Spawn: self._spawn,
            orders.Signal: self._signal,
            orders.Tell: self._tell,
            orders.Forget: self._forget,
            orders.Listen: self._listen,
            orders.Close: self._close,
            orders.Log: lambda order: self._logs.line(order.line),
            orders.Pong: lambda _order: None,  # no action: the keeper has already noted the message
            orders.Status: self._status,
            orders.InspectOutput: self._inspect_output,
            orders.Stopping: lambda order: self.ending.taken_over(order.deadline),
            orders.Bye: lambda order: self.ending.finish(order.code),
        }

    def carry_out(self, message: dict[str, Any]) -> None:
        """Carry out the order in *message*; failures are reported as Refused."""
        name = str(message.get("type"))
        try:
            order = orders.ORDERS.from_json(message)
            self._table[type(order)](order)
        except No as no:
            self._keeper.tell(facts.Refused(name, no.why, no.worker))
        except (UnknownRecord, TypeError, ValueError, AttributeError, KeyError) as error:
            self._keeper.tell(facts.Refused(name, f"it is no proper order: {error}"))
        except (OSError, MemoryError) as error:
            self._keeper.tell(facts.Refused(name, f"it cannot be carried out: {shortage.explain(error)}"))
        except Exception as error:  # noqa: BLE001 - the orders after it must still be carried out
            self._faults.report(error, f"order {name}")
            self._keeper.tell(facts.Refused(name, f"it cannot be carried out: {error!r}"))

    def _hello(self, order: orders.Hello) -> None:
        master = self._keeper.master
        if master is None:
            return
        master.link.greeted = True
        if order.version != orders.VERSION:
            raise No(f"version {order.version} of the protocol is not spoken here, only {orders.VERSION}")
        self._holdings.hangups = 0
        self._holdings.status = replace(self._holdings.status, hangups=0)
        self._keeper.tell(self._holdings.snapshot(orders.VERSION))
        self.deliver_kept()

    def _note(self, order: orders.Note) -> None:
        if len(order.text) > NOTEBOOK_LIMIT:
            raise No(f"a notebook of {len(order.text)} characters is over the limit of {NOTEBOOK_LIMIT}")
        self._holdings.notebook = order.text

    def _status(self, order: orders.Status) -> None:
        self._holdings.status = order
        if order.phase == "serving":
            self._ports.given.tell_unused()

    def _inspect_output(self, order: orders.InspectOutput) -> None:
        number = order.worker
        self._logs.inspect(number, lambda blocked: self._keeper.tell(facts.OutputInspected(number, blocked)))

    def _spawn(self, order: orders.Spawn) -> None:
        if order.worker <= self._holdings.last_worker:
            raise No(f"worker {order.worker} was spawned before: numbers only grow", order.worker)
        if not order.argv or self.ending.draining:
            raise No("there is no program to run" if not order.argv else "the service is ending", order.worker)
        self._workers.spawn(order)

    def _worker(self, number: int) -> Worker:
        worker = self._holdings.workers.get(number)
        if worker is None:
            raise No(f"there is no worker {number}", number)
        return worker

    def _signal(self, order: orders.Signal) -> None:
        worker = self._worker(order.worker)
        if order.order in worker.signals:
            raise No(f"worker {worker.number} was sent {order.order} before", worker.number)
        if worker.exited and not order.whole_group:
            raise No(f"worker {worker.number} has exited", worker.number)
        if order.order == "sweep" and worker.exited:
            needs_port = worker.share == "none" and worker.code != 0 and "stop" not in worker.signals
            self._remains.end(worker, self._now(), 0.0 if needs_port else order.after)
        elif order.whole_group:
            reaping.signal_group(worker.pid, order.signal, leader_lives=not worker.exited, others=self._holdings.by_pid)
        elif order.order == "stop":
            self.leaving.begin(worker, order.drain, lambda: self._kill(worker, order.signal), order.signal)
        else:
            os.kill(worker.pid, order.signal)
        worker.signals.append(order.order)
        worker.killed |= order.signal == signal.SIGKILL

    @staticmethod
    def _kill(worker: Worker, number: int) -> None:
        if not worker.exited:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)

    def _tell(self, order: orders.Tell) -> None:
        worker = self._worker(order.worker)
        if order.message.get("type") == "stop" and self._ports.per_slot.of(worker):
            self.leaving.begin(worker, 0.0, lambda: self._send(worker, order.message))
            return
        self._send(worker, order.message)

    def _send(self, worker: Worker, message: dict[str, Any]) -> None:
        why = worker_channels.send(worker, message)
        if why:
            self._keeper.tell(facts.Refused("tell", f"worker {worker.number}: {why}", worker.number))

    def _forget(self, order: orders.Forget) -> None:
        worker = self._holdings.workers.get(order.worker)
        if worker is None:
            return
        if not worker.exited:
            raise No(f"worker {worker.number} has not exited", worker.number)
        self._holdings.forget_worker(worker)

    def _listen(self, order: orders.Listen) -> None:
        try:
            address = addresses.parse(order.address)
            held = self._ports.declare(
                address, door=order.door, backlog=order.backlog, mode=order.mode, tenant=order.tenant
            )
        except addresses.AddressError as error:
            self._keeper.tell(facts.ListenFailed(order.address, str(error)))
        except Refused as refusal:
            self._keeper.tell(facts.ListenFailed(order.address, refusal.sentence))
        except (OSError, MemoryError) as error:
            self._keeper.tell(facts.ListenFailed(order.address, f"{order.address}: {shortage.explain(error)}"))
        else:
            self._listening(order, held)

    def _listening(self, order: orders.Listen, held: Held) -> None:
        try:
            descriptor = held.socket.fileno() if order.door else None
            self._keeper.tell(facts.Listening(order.address, descriptor=order.door, inode=held.inode), descriptor)
        except OSError as error:  # it is held, but its descriptor cannot be sent
            self._keeper.tell(facts.ListenFailed(order.address, f"{order.address}: {shortage.explain(error)}"))

    def _close(self, order: orders.Close) -> None:
        held = self._holdings.at(order.address)
        if held is not None and held.given is None:  # activated sockets stay open until the service ends
            self._ports.close(held)
