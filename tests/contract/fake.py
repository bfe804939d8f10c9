"""The simulated guardian behind the interface of the contract tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from cluster_service.testing import NEVER, Clock, FakeKernel, Program

from .interface import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire.orders import Spawn

F = TypeVar("F")


def listener(order: Spawn) -> Program:
    return Program(boot=0.02, addresses=(order.argv[1],), stop_code=None)


PROGRAMS: dict[str, Program | Callable[[Spawn], Program]] = {
    "sleeper": Program(ready="alive", stop_code=None),
    "exit3": Program(ready="alive", dies_at=0.02, code=3),
    "stubborn": Program(boot=0.02, ready="notify", addresses=(), stop_takes=None),
    "writer": Program(boot=NEVER, dies_at=0.02, lines=("one", "two", "three")),
    "notifier": Program(
        boot=0.02, ready="notify", addresses=(), notify={"READY": "1", "STATUS": "fine"}, stop_code=None
    ),
    "teller": Program(
        boot=0.02, ready="told", not_yet=True, addresses=(), echoes=True, stop_code=None,
        messages=({"type": "hello", "text": "there"},),
    ),
    "listener": listener,
}


class FakeContract:
    """A FakeKernel whose time passes while a fact is waited for."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.kernel = FakeKernel(self.clock, PROGRAMS)
        self.kernel.connect()

    def send(self, order: Any) -> None:
        self.kernel.receive(order)

    def fact(self, kind: type[F], **match: Any) -> F:
        until = self.clock.now + DEADLINE
        more = True
        while True:
            for fact in self.kernel.facts:
                if isinstance(fact, kind) and all(getattr(fact, name) == value for name, value in match.items()):
                    self.kernel.facts.remove(fact)
                    return fact
            if not more:
                raise AssertionError(f"no {kind.__name__} with {match} came, only {list(self.kernel.facts)}")
            more = self.clock.step(until)

    def restart_master(self) -> None:
        self.kernel.connect()

    def program(self, name: str, *args: str) -> list[str]:
        return [name, *args]

    def close(self) -> None:
        self.kernel.disconnect()

    def take(self, address: str) -> None:
        """Let a stranger hold *address*."""
        self.kernel.occupied[address] = "pid 71 (nginx)"
