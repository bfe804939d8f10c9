"""Addresses of which each worker has a listening socket of its own, so that one worker can stop accepting.

Programs that cannot be asked to stop accepting have the setting ``listen = "per-slot"``: each of their workers gets a
socket of its own for the same address, and the guardian steers new connections among them (``steering``). Rules:

- The first socket of an address is bound alone, so that a port which is taken is reported as always.
- A socket is drawn from its worker's ``listen`` until the worker is asked to stop. If no socket would be drawn, those
  of workers that still run are; if no worker runs, all of them: their queues wait for the next worker.
- A worker whose queue does not get shorter gets no new connections, where another worker does, until its queue is
  empty: it hangs, or is busy with a long request. Queues are looked at while connections come, ten times a second.
- When a worker has stopped, its socket ends. When it has crashed, the socket and its queue wait for the next worker.
- ``Slots.order`` mirrors the kernel's array. The guardian changes it: it lets sockets listen, and ends them by
  shutdown(2), whichever processes still have them. A worker can call shutdown(2) too, which epoll(7) reports as
  EPOLLHUP: that worker gets no new connections until it calls ``listen`` again. (A process of the same user that sets
  SO_REUSEPORT can bind the address as well. It is never drawn, but if it ends, sockets that joined after it move.)
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .steps import ask

if TYPE_CHECKING:
    import socket

    from .steps import Steps

MEMBERS_LIMIT = 1000
"""Sockets of one address; a program has 2 instructions for each, and the kernel allows 4096 (BPF_MAXINSNS)."""


@dataclass(eq=False, repr=False)
class Member:
    """One socket of an address."""

    socket: socket.socket
    inode: int
    worker: int | None = None
    """The number of the worker that has it; None: it waits for the next one."""
    drawn: bool = False
    """Whether its worker is to get new connections."""
    watched: bool = False
    queue: int = 0
    """Connections that waited in its queue at the last look."""
    stuck: bool = False
    """Its queue did not get shorter from one look to the next: its worker takes none."""


class Slots:
    """The sockets of one address."""

    def __init__(self, first: Member, *, listening: bool) -> None:
        self.members = [first]
        self.order = [first] if listening else []
        """Those that listen, in the order of the kernel's array."""
        self.attached: tuple[int, ...] = ()
        """The weights in force, by index; empty: the kernel chooses by hash."""
        self.look_at: float | None = None
        """When the queues are to be looked at, in monotonic seconds; None: connections do not come."""

    def __repr__(self) -> str:
        return f"<Slots: {len(self.members)} sockets, weights {self.weights()}>"

    def of(self, worker: int) -> Member | None:
        """Return the socket of worker number *worker*."""
        return next((member for member in self.members if member.worker == worker), None)

    def waiting(self) -> Member | None:
        """Return a socket that waits for a worker."""
        return next((member for member in self.members if member.worker is None), None)

    def others_take(self, worker: int) -> bool:
        """Whether a socket of another worker than number *worker* gets new connections."""
        return any(member.drawn and member.worker != worker for member in self.order)

    def weights(self) -> tuple[int, ...]:
        """Return the weight that each socket of the array should have."""
        drawn = [member for member in self.order if member.drawn and not member.stuck]
        drawn = drawn or [member for member in self.order if member.drawn]
        drawn = drawn or [member for member in self.order if member.worker is not None] or self.order
        return tuple(int(member in drawn) for member in self.order)

    def without(self, member: Member) -> tuple[int, ...]:
        """Return the weights for the moment in which *member* leaves the array and the last one takes its place."""
        moving = (member, self.order[-1])
        weights = tuple(
            0 if each in moving else weight for each, weight in zip(self.order, self.weights(), strict=True)
        )
        return weights if any(weights) else ()

    def note(self, queues: list[int]) -> bool:
        """Note how many connections wait at each socket of the array. Return whether any does."""
        for member, size in zip(self.order, queues, strict=True):
            member.stuck = size > 0 and (member.stuck or size >= member.queue > 0)
            member.queue = size
        return any(queues)

    def left(self, member: Member) -> None:
        """*member* listens no more: the last socket of the array takes its place."""
        index = self.order.index(member)
        last = self.order.pop()
        if last is not member:
            self.order[index] = last
        self.attached = ()

    def steer(self) -> Steps[None]:
        """Put the weights in force. Raises OSError."""
        weights = self.weights()
        if len(weights) > 1 and weights != self.attached:
            yield from self._attach(weights)

    def withdraw(self, member: Member) -> Steps[None]:
        """End the listening of *member*. Raises OSError."""
        if member not in self.order:
            return
        held_back = self.without(member)
        if held_back:
            yield from self._attach(held_back)
        try:
            yield from ask("withdraw", {}, [member.socket.fileno()])
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # a worker has just done it
                raise
        self.left(member)
        yield from self.steer()

    def _attach(self, weights: tuple[int, ...]) -> Steps[None]:
        """Any socket of the group will do: the next is tried where a worker keeps the lock of one."""
        sockets = [member.socket.fileno() for member in self.order[:3]]
        for number, descriptor in enumerate(sockets, 1):
            try:
                yield from ask("steer", {"weights": list(weights)}, [descriptor])
            except TimeoutError:
                if number == len(sockets):
                    raise
            else:
                self.attached = weights
                return
