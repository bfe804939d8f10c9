"""Addresses on which each worker has a listening socket of its own, so that one worker can stop accepting.

Programs that cannot be asked to stop accepting use the setting ``listen = "per-slot"``: each of their workers gets a
socket of its own for the same address, and the guardian steers new connections among them (``connection_steering``).
Rules:

- The first socket of an address is bound alone, so that a port in use is reported as usual.
- A socket is selected for new connections from its worker's ``listen`` until the worker is asked to stop. If no socket
  would be selected, those of workers that still run are; if no worker runs, all are: their queues wait for the next
  worker.
- A worker with a queue that does not shrink gets no new connections until its queue is empty, if another worker
  accepts: it hangs, or is busy with a long request. While connections arrive, queues are checked ten times a second.
- When a worker has stopped, its socket is shut down. After a crash, the socket and its queue wait for the next worker.
- ``Slots.order`` mirrors the kernel's array. The guardian changes it: it makes sockets listen, and ends that with
  shutdown(2), whichever processes still have them. A worker can call shutdown(2) too, which epoll(7) reports as
  EPOLLHUP: that worker gets no new connections until it calls ``listen`` again. (A process of the same user that sets
  SO_REUSEPORT can also bind the address. Its socket is never selected, but if it ends, sockets that joined after it
  move.)
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .helper_client import ask

if TYPE_CHECKING:
    import socket

    from .helper_client import Steps

MEMBERS_LIMIT = 1000
"""Maximum sockets per address; a program has 2 instructions for each; the kernel allows 4096 (BPF_MAXINSNS)."""


@dataclass(eq=False, repr=False)
class Member:
    """One socket of an address."""

    socket: socket.socket
    inode: int
    worker: int | None = None
    """The number of its worker; None: it waits for the next worker."""
    drawn: bool = False
    """Whether its worker should get new connections."""
    watched: bool = False
    queue: int = 0
    """Number of connections in its queue at the last check."""
    stuck: bool = False
    """Whether its queue did not shrink between two checks: its worker accepts none."""


class Slots:
    """The sockets of one address."""

    def __init__(self, first: Member, *, listening: bool) -> None:
        self.members = [first]
        self.order = [first] if listening else []
        """The listening sockets, in the order of the kernel's array."""
        self.attached: tuple[int, ...] = ()
        """The weights in effect, by index; empty: the kernel selects by hash."""
        self.look_at: float | None = None
        """When to check the queues, in monotonic seconds; None: no connections arrive."""

    def __repr__(self) -> str:
        return f"<Slots: {len(self.members)} sockets, weights {self.weights()}>"

    def of(self, worker: int) -> Member | None:
        """Return the socket of worker number *worker*."""
        return next((member for member in self.members if member.worker == worker), None)

    def waiting(self) -> Member | None:
        """Return a socket that waits for a worker."""
        return next((member for member in self.members if member.worker is None), None)

    def others_take(self, worker: int) -> bool:
        """Return whether a socket of a worker other than *worker* gets new connections."""
        return any(member.drawn and member.worker != worker for member in self.order)

    def weights(self) -> tuple[int, ...]:
        """Return the weight that each socket of the array should have."""
        drawn = [member for member in self.order if member.drawn and not member.stuck]
        drawn = drawn or [member for member in self.order if member.drawn]
        drawn = drawn or [member for member in self.order if member.worker is not None] or self.order
        return tuple(int(member in drawn) for member in self.order)

    def without(self, member: Member) -> tuple[int, ...]:
        """Return the weights to use while *member* leaves the array and the last socket takes its place."""
        moving = (member, self.order[-1])
        weights = tuple(
            0 if each in moving else weight for each, weight in zip(self.order, self.weights(), strict=True)
        )
        return weights if any(weights) else ()

    def note(self, queues: list[int]) -> bool:
        """Record the queue length of each socket of the array. Return whether any is not empty."""
        for member, size in zip(self.order, queues, strict=True):
            member.stuck = size > 0 and (member.stuck or size >= member.queue > 0)
            member.queue = size
        return any(queues)

    def left(self, member: Member) -> None:
        """Remove *member*, which no longer listens: the last socket of the array takes its place."""
        index = self.order.index(member)
        last = self.order.pop()
        if last is not member:
            self.order[index] = last
        self.attached = ()

    def steer(self) -> Steps[None]:
        """Apply the weights. Raises OSError."""
        weights = self.weights()
        if len(weights) > 1 and weights != self.attached:
            yield from self._attach(weights)

    def withdraw(self, member: Member) -> Steps[None]:
        """Stop *member* from listening. Raises OSError."""
        if member not in self.order:
            return
        held_back = self.without(member)
        if held_back:
            yield from self._attach(held_back)
        try:
            yield from ask("withdraw", {}, [member.socket.fileno()])
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # a worker has just done so
                raise
        self.left(member)
        yield from self.steer()

    def _attach(self, weights: tuple[int, ...]) -> Steps[None]:
        """Attach *weights* through any socket of the group; if a worker holds the lock of one, try the next."""
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
