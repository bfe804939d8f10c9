"""Cooperative tasks: functions that delegate slow calls to the helper and resume when it has answered.

Such a function is a generator: it yields a ``Call`` and is resumed with the ``Answer``. ``Tasks`` runs many of them,
one after the other and each to its end, so that the state is consistent between two tasks. ``run_here`` runs one
immediately in the guardian: only for paths named by the owner of the service, never for those of a worker.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cluster_service.machine import shortage

from .helper import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from .apart import Duty
    from .helper import Helper

    T = TypeVar("T")
    Steps = Generator["Call", Answer, T]


class Call(NamedTuple):
    """One request to the helper. Its *descriptors* are borrowed until it is answered."""

    duty: str
    values: dict[str, Any]
    descriptors: Sequence[int] = ()


def ask(duty: str, values: dict[str, Any], descriptors: Sequence[int] = ()) -> Steps[Answer]:
    """Let the helper run *duty*. Raises OSError if it fails, TimeoutError if it takes too long."""
    answer = yield Call(duty, values, descriptors)
    if answer.error:
        raise OSError(answer.error, answer.sentence)
    return answer


def run_here(steps: Steps[T], duties: Mapping[str, Duty]) -> T:
    """Run *steps* to their end without the helper; slow calls block here."""
    try:
        call = next(steps)
        while True:
            call = steps.send(_perform(call, duties))
    except StopIteration as stop:
        result: T = stop.value
        return result


def _perform(call: Call, duties: Mapping[str, Duty]) -> Answer:
    try:
        result = duties[call.duty](call.values, list(call.descriptors))
    except OSError as error:
        return Answer({}, [], error.errno or errno.EIO, shortage.explain(error))
    return Answer(result.values, list(result.descriptors))


class Tasks:
    """The running task and the queue of tasks. *on_fault* receives unexpected exceptions."""

    def __init__(self, helper: Helper, on_fault: Callable[[Exception], None]) -> None:
        self._helper = helper
        self._on_fault = on_fault
        self._waiting: deque[tuple[Callable[[], Steps[None] | None], Callable[[], None]]] = deque()
        self._running = False

    def __repr__(self) -> str:
        return f"<Tasks: {len(self._waiting)} wait>"

    @property
    def busy(self) -> bool:
        """Whether any task has not finished."""
        return self._running or bool(self._waiting)

    def add(self, begin: Callable[[], Steps[None] | None], done: Callable[[], None] = lambda: None) -> None:
        """Run *begin*, and the steps that it returns, after all earlier tasks; then call *done*.

        A task added again in *done* goes to the end of the queue, so that all are served in turn.
        """
        self._waiting.append((begin, done))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and not self._running:
            begin, done = self._waiting.popleft()
            self._running = True
            try:
                steps = begin()
            except Exception as error:  # noqa: BLE001 - as in Loop.turn: the guardian continues
                self._on_fault(error)
                steps = None
            if steps is None:
                self._end(done)
            else:
                self._step(steps, done, None)

    def _step(self, steps: Steps[None], done: Callable[[], None], answer: Answer | None) -> None:
        try:
            call = next(steps) if answer is None else steps.send(answer)
        except StopIteration:
            self._end(done)
        except Exception as error:  # noqa: BLE001 - as above
            self._on_fault(error)
            self._end(done)
        else:
            self._helper.ask(call.duty, call.values, call.descriptors, lambda found: self._resume(steps, done, found))

    def _resume(self, steps: Steps[None], done: Callable[[], None], answer: Answer) -> None:
        self._step(steps, done, answer)
        self._go_on()

    def _end(self, done: Callable[[], None]) -> None:
        self._running = False
        try:
            done()
        except Exception as error:  # noqa: BLE001 - as above
            self._on_fault(error)
