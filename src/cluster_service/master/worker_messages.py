"""The master's end of the channel to its workers (``wire.worker_protocol``): answers requests and sends messages.

Everything is bounded: the open commands and the event rate of a worker, the duration of a broadcast, the bytes queued
for the guardian, and the messages kept until this master has taken over. A command of a worker is acknowledged as
``taken`` before it begins, and is never begun twice for the same id.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from cluster_service.commands.service_interface import Caller
from cluster_service.errors import CommandError
from cluster_service.wire import facts, orders, validation, worker_protocol

from .internal_commands import Dispatch
from .service_api import RunningService

if TYPE_CHECKING:
    from .interfaces import Master

OPEN = 32
"""Maximum commands of one worker that run at the same time."""
REMEMBERED = 1000
"""Number of recent command ids remembered for each worker."""
BURST, REFILL = 200.0, 50.0
"""Rate limit for the events of one worker: burst, and events per second."""
REACH = 3.0
"""Seconds for workers to acknowledge a broadcast."""
BEHIND = 4 * 1024 * 1024
"""Bytes queued for the guardian above which messages to workers are dropped."""
EARLY = 1000
"""Maximum messages kept until this master has taken over."""
LEAVING = ("stopping", "killing", "gone")


class Bus:
    """The bus of a master."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._loop = asyncio.get_running_loop()
        self._peers: dict[int, _Peer] = {}
        self._waits: dict[str, _Reach] = {}
        self._early: deque[facts.Message] | None = deque(maxlen=EARLY)
        self._broadcasts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.dispatch = Dispatch(master, RunningService(master), master.hooks.extensions, self)

    def open(self) -> None:
        """Start handling messages; the core must know the workers."""
        extensions = self._master.hooks.extensions
        extensions.dispatch = self.dispatch
        if self._master.settings.commands is not None and not self._master.hello.safe:
            extensions.load(self._master.settings.commands, self._master.log)
        early, self._early = self._early or deque(), None
        for fact in early:
            self._hear(fact)
        if self._master.hello.master_starts > 1:
            for number in self._workers(None):
                self._say(number, {"type": "master"})

    def close(self) -> None:
        """Refuse new commands and cancel those that run: the master is exiting."""
        self._master.hooks.extensions.dispatch = None
        for task in self._tasks:
            task.cancel()

    def takes(self, fact: Any) -> bool:
        """Handle *fact* if it concerns the bus. Return True if no other part of the master needs it."""
        if isinstance(fact, facts.Message):
            if self._early is not None:
                self._early.append(fact)
            else:
                self._hear(fact)
            return True
        if isinstance(fact, facts.Refused) and fact.order == "tell" and fact.worker is not None:
            for wait in list(self._waits.values()):
                wait.heard(fact.worker, taken=False)
        elif isinstance(fact, facts.Exited):
            self._peers.pop(fact.worker, None)
            for wait in list(self._waits.values()):
                wait.heard(fact.worker, taken=False)
        return False

    # -- messages from workers -----------------------------------------------------------------------------------------

    def _hear(self, fact: facts.Message) -> None:
        number, message = fact.worker, fact.message
        identity = message.get("id")
        if number not in self._master.cluster.workers or not isinstance(identity, str):
            return
        if len(identity) > validation.MAX_ID:
            return
        kind = message.get("type")
        if kind == "got":
            wait = self._waits.get(identity)
            if wait is not None:
                wait.heard(number, taken=message.get("taken") is True)
        elif kind in ("trigger", "broadcast"):
            try:
                self._ask(number, identity, message)
            except CommandError as error:
                self._answer(number, identity, None, error)
            except Exception as failure:  # a worker's message must not end the master
                self._answer(number, identity, None, self._internal(failure))

    def _ask(self, number: int, identity: str, message: dict[str, Any]) -> None:
        peer = self._peers.setdefault(number, _Peer())
        if identity in peer.begun:
            return  # a repetition of a message that was received before
        if kind_of(message) == "broadcast":
            peer.begin(identity)
            work = self.broadcast(message.get("message"), message.get("group"))
            self._spawn(self._carry_out(number, identity, peer, work))
            return
        name, args, options = message.get("name"), message.get("args"), message.get("options")
        if not isinstance(name, str) or not isinstance(args, list) or not isinstance(options, dict):
            raise CommandError("bad_request", "that is no command and no event: a name, a list and an object")
        caller = self._caller(number)
        if self.dispatch.find(name) is None:
            if not peer.may_tell(self._loop.time()):
                raise CommandError(
                    "too_many_requests", f"{name} is dropped: a worker may tell {REFILL:g} events a second"
                )
            peer.remember(identity)
            self.dispatch.tell(name, args, options, caller)
            self._answer(number, identity, None, None)
            return
        peer.begin(identity)
        self._say(number, {"type": "taken", "id": identity})
        self._spawn(self._carry_out(number, identity, peer, self.dispatch.give(name, args, options, caller)))

    async def _carry_out(self, number: int, identity: str, peer: _Peer, work: Any) -> None:
        try:
            result, error = await work, None
        except CommandError as failure:
            result, error = None, failure
        except Exception as failure:  # an error of the service itself
            result, error = None, self._internal(failure)
        finally:
            peer.open -= 1
        self._answer(number, identity, result, error)

    def _internal(self, failure: Exception) -> CommandError:
        self._master.log(f"the bus failed: {failure!r}")
        return CommandError("internal", "an error in the service itself; its log tells more")

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answer(self, number: int, identity: str, result: Any, error: CommandError | None) -> None:
        message: dict[str, Any] = {"type": "answer", "id": identity, "result": result}
        if error is not None:
            message = {"type": "answer", "id": identity, **error.to_json()}
        if not _fits(message):
            limit = worker_protocol.BUS_LIMIT
            error = CommandError("too_large", f"the answer is longer than {limit} bytes, or is not JSON")
            message = {"type": "answer", "id": identity, **error.to_json()}
        self._say(number, message)

    def _caller(self, number: int) -> Caller:
        worker = self._master.cluster.workers[number]
        return Caller("worker", f"{worker.group}.{worker.slot} (pid {worker.pid})")

    # -- messages to workers -------------------------------------------------------------------------------------------

    async def broadcast(self, message: Any, group: Any) -> int:
        """Send *message* to the workers of *group* (None: all); return how many received it. Raises CommandError."""
        groups = self._master.cluster.groups
        if group is not None and (not isinstance(group, str) or group not in groups):
            raise CommandError(
                "not_found", f"there is no group {str(group)[:80]!r}, only {', '.join(groups)}", "See: workers."
            )
        self._broadcasts += 1
        identity = f"b{self._broadcasts}"
        told = {"type": "message", "id": identity, "message": message}
        if not _fits(told):
            limit = worker_protocol.BUS_LIMIT
            raise CommandError("too_large", f"the message is longer than {limit} bytes, or is not JSON")
        wait = self._waits[identity] = _Reach(self._workers(group))
        try:
            for number in list(wait.open):
                if not self._say(number, told):
                    wait.heard(number, taken=False)
            await wait.end(REACH)
        finally:
            del self._waits[identity]
        return wait.taken

    def _workers(self, group: str | None) -> list[int]:
        """Return the workers that have a channel and are not stopping."""
        found = []
        for number, worker in self._master.cluster.workers.items():
            home = self._master.cluster.groups.get(worker.group)
            release = home.releases.get(worker.generation) if home else None
            if worker.pid is None or worker.state in LEAVING or release is None or release.kind == "command":
                continue
            if group is None or worker.group == group:
                found.append(number)
        return found

    def _say(self, number: int, message: dict[str, Any]) -> bool:
        if self._master.behind > BEHIND:
            return False
        self._master.say(orders.Tell(number, message))
        return True


class _Peer:
    """State of the bus for one worker."""

    def __init__(self) -> None:
        self.open = 0
        self.begun: OrderedDict[str, None] = OrderedDict()
        self._tokens, self._at = BURST, 0.0

    def begin(self, identity: str) -> None:
        """Count and remember a command that begins. Raises CommandError if too many run."""
        if self.open >= OPEN:
            raise CommandError("too_many_requests", f"{OPEN} commands of this worker are at work already")
        self.open += 1
        self.remember(identity)

    def remember(self, identity: str) -> None:
        """Remember that a message with this id was received."""
        self.begun[identity] = None
        while len(self.begun) > REMEMBERED:
            self.begun.popitem(last=False)

    def may_tell(self, now: float) -> bool:
        """Return True if the worker may publish an event at *now*, in seconds of a monotonic clock."""
        self._tokens = min(BURST, self._tokens + (now - self._at) * REFILL)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class _Reach:
    """Workers that have not acknowledged a broadcast yet, and the number that received it."""

    def __init__(self, numbers: list[int]) -> None:
        self.open = set(numbers)
        self.taken = 0
        self._over = asyncio.Event()
        self._look()

    def heard(self, number: int, *, taken: bool) -> None:
        """Record whether a worker received the broadcast."""
        if number in self.open:
            self.open.discard(number)
            self.taken += taken
            self._look()

    def _look(self) -> None:
        if not self.open:
            self._over.set()

    async def end(self, seconds: float) -> None:
        """Wait until every worker has answered, for at most *seconds*."""
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except TimeoutError:
            return  # a worker that is stopped or does not read counts as not reached


def kind_of(message: dict[str, Any]) -> str:
    """Return the type of a message."""
    return str(message.get("type"))


def _fits(message: dict[str, Any]) -> bool:
    try:
        return len(worker_protocol.encode(message)) <= worker_protocol.BUS_LIMIT
    except (worker_protocol.ChannelError, TypeError, ValueError):
        return False
