"""The stop of a worker: its table, and the runtime that follows it under everything that may happen, in any order.

In the simulation the runtime, its gate and its callback are real. Signals, threads, the asyncio loop and the exit of
the process are not: Hypothesis decides when a signal arrives, which thread runs, and what the program does with an
exception that is raised in it.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster_service.worker import program_handlers, runtime, stop_callback
from cluster_service.worker.drains import RunningServer, unknown_servers
from cluster_service.worker.runtime import Runtime
from cluster_service.worker.stop_sequence import (
    CLOSED,
    DRAINING,
    HELD,
    SHUTTING_DOWN,
    TRANSITIONS,
    UNASKED,
    StopSequence,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# The table


def reachable(state: str) -> set[str]:
    found, todo = set[str](), [state]
    while todo:
        for following in TRANSITIONS[todo.pop()].values():
            if following not in found:
                found.add(following)
                todo.append(following)
    return found


def test_the_table_and_the_sets_name_the_same_states() -> None:
    assert {state for row in TRANSITIONS.values() for state in row.values()} == set(TRANSITIONS) - {"running"}
    for states in (UNASKED, HELD, DRAINING, CLOSED, SHUTTING_DOWN):
        assert states <= set(TRANSITIONS)
    assert not UNASKED & CLOSED


@pytest.mark.parametrize("state", sorted(set(TRANSITIONS) - SHUTTING_DOWN))
def test_the_program_can_end_in_every_state(state: str) -> None:
    assert TRANSITIONS[state]["exit"] in SHUTTING_DOWN


@pytest.mark.parametrize("state", sorted(set(TRANSITIONS) - UNASKED))
def test_a_stop_is_never_taken_back(state: str) -> None:
    assert not reachable(state) & UNASKED
    assert "stop" not in TRANSITIONS[state]


@pytest.mark.parametrize("state", sorted(SHUTTING_DOWN))
def test_nothing_but_the_callback_begins_at_the_shutdown_of_the_interpreter(state: str) -> None:
    assert reachable(state) <= SHUTTING_DOWN


@pytest.mark.parametrize("state", sorted(set(TRANSITIONS) - SHUTTING_DOWN - UNASKED))
def test_every_stop_can_reach_the_end(state: str) -> None:
    assert "stopped" in reachable(state)


def test_one_of_several_callers_gets_a_transition() -> None:
    sequence = StopSequence()
    assert [sequence.move("stop") for _ in range(3)] == ["announced", None, None]
    assert sequence.move("drained") is None
    assert sequence.state == "announced"


def test_the_first_announcement_counts() -> None:
    sequence = StopSequence()
    assert sequence.deadline == float("inf")
    sequence.announce(10.0)
    first = sequence.deadline
    sequence.announce(1000.0)
    assert sequence.deadline == first
    assert 0 < sequence.remaining() <= 8.0


def test_a_wait_ends_with_the_state_or_the_time() -> None:
    sequence = StopSequence()
    assert not sequence.wait_while(("running",), 0.0)
    assert sequence.wait_while(("announced",), 0.0)
    sequence.move("stop")
    assert sequence.wait_while(("running",), 0.0)


def test_a_signal_handler_may_move_within_a_move() -> None:
    """Between the check and the record of an event, as a handler that interrupts the main thread does."""

    class Interrupted(StopSequence):
        def can(self, event: str) -> bool:
            possible = super().can(event)
            if event == "hold":
                assert super().move("drain") == "draining"
            return possible

    sequence = Interrupted()
    sequence.move("stop")
    assert sequence.move("hold") == "draining_held"  # decided by the order of the events, not by what was read before
    assert sequence.state == "draining_held"


# The simulation


class Gone(BaseException):
    """The process has exited."""


class Server(RunningServer):
    """A server that answers its open requests in ``drain`` and ``settle``."""

    def __init__(self, *, busy: bool) -> None:
        self.busy = busy
        self.begun = False

    def begin(self) -> None:
        self.begun = True

    def drain(self, deadline: float) -> None:
        del deadline
        self.busy = False

    def has_open_requests(self) -> bool:
        return self.busy

    def settle(self, deadline: float) -> None:
        del deadline
        self.busy = False


class Loop:
    """The asyncio loop of the main thread: callbacks that wait until it runs them."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], Any]] = []

    def call_soon_threadsafe(self, function: Callable[..., Any], *args: Any) -> None:
        self.callbacks.append(functools.partial(function, *args))

    def call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> None:
        del delay
        self.callbacks.append(functools.partial(function, *args))

    def create_task(self, coroutine: Any) -> Any:
        with suppress(StopIteration):
            coroutine.send(None)
            raise AssertionError("the callback is a plain function: nothing to wait for")
        return SimpleNamespace(add_done_callback=lambda done: self.callbacks.append(functools.partial(done, None)))


class Signals:
    """What the program and the runtime see as the module ``signal``."""

    SIGTERM, SIG_DFL = 15, 0

    def __init__(self, world: World) -> None:
        self._world = world
        self.handler: Any = self.SIG_DFL
        self.signal = self._set
        self.getsignal = self._get

    def _set(self, number: int, handler: Any) -> Any:
        assert number == self.SIGTERM
        before, self.handler = self.handler, handler
        return before

    def _get(self, number: int) -> Any:
        assert number == self.SIGTERM
        return self.handler

    def pthread_kill(self, thread: str, number: int) -> None:
        assert (thread, number) == ("main", self.SIGTERM)
        self._world.pending = True


def _end_in_time(*_args: Any, **_more: Any) -> None:
    """Stand in for the thread that forces the exit."""


class World(RuleBasedStateMachine):
    """One worker: its main thread runs ``deliver``, ``run_loop`` and ``end``; all else is another thread or process."""

    def __init__(self) -> None:
        super().__init__()
        self.pid, self.in_main, self.exited, self.importing = 100, True, False, False
        self.guardian_died = self.was_forked = self.forces_exit = self.caught = False
        self.pending = False
        """SIGTERM has been sent and not been handled."""
        self.asked = False
        self.loop: Loop | None = None
        self.threads: list[Callable[[], Any]] = []
        self.repeated: set[str] = set()
        """States in which a thread repeats SIGTERM."""
        self.owed: list[RunningServer] = []
        """Servers with a request that the program's handler must not cut off."""
        self.own_calls = self.cleanups = self.raised = self.ignored = 0
        self.deadline = float("inf")
        self.reaction = "unwinds"
        self.signals = Signals(self)
        self.patch = pytest.MonkeyPatch()
        for module in (runtime, program_handlers):
            self.patch.setattr(module, "signal", self.signals)
            self.patch.setattr(module, "start_thread", self._start)
            self.patch.setattr(module, "get_ident", lambda: "main" if self.in_main else "thread")
        self.patch.setattr(runtime, "os", SimpleNamespace(getpid=lambda: self.pid, getppid=lambda: 1, kill=self._kill))
        self.patch.setattr(stop_callback, "threading", SimpleNamespace(Thread=self._thread))
        self.patch.setattr(runtime, "atexit", SimpleNamespace(register=lambda _function: None))
        self.patch.setattr(runtime, "on_fork", lambda _function: None)
        self.patch.setattr(runtime, "is_listening", lambda: False)
        self.patch.setattr(runtime, "running_loop", lambda: self.loop if self.in_main else None)
        self.patch.setattr(runtime, "is_importing", lambda _frame: self.importing)
        self.patch.setattr(runtime, "has_died", lambda _parent: self.guardian_died)
        self.patch.setattr(runtime, "end_now", self._end_now)
        self.patch.setattr(runtime, "end_in_time", _end_in_time)
        self.interpreter: Any = SimpleNamespace(_getframe=lambda: None, unraisablehook=None)
        self.patch.setattr(runtime, "sys", self.interpreter)
        self.patch.setattr(runtime, "DEFAULT_TIMEOUT", 0.0)  # a callback that waits for itself would wait in vain
        self.patch.setattr(unknown_servers, "UnknownServers", lambda: Server(busy=False))
        heartbeat: Any = SimpleNamespace(accepting=SimpleNamespace(end=lambda: None))
        title: Any = SimpleNamespace(show_stop=lambda: None, show=lambda _state: None)
        self.runtime = Runtime(None, "none", heartbeat, title)
        self.patch.setattr(self.runtime, "_repeat_sigterm", self.repeated.add)
        self.patch.setattr(self.runtime.sequence, "wait_while", self._wait)
        self.runtime.start()

    # What the process does

    def _start(self, function: Callable[..., Any], *args: Any) -> bool:
        if getattr(function, "func", None) is _end_in_time:
            self.forces_exit = True
        self.threads.append(functools.partial(function, *args))
        return True

    def _thread(self, target: Callable[..., Any], args: tuple[Any, ...], **_more: Any) -> Any:
        return SimpleNamespace(start=lambda: self.threads.append(functools.partial(target, *args)))

    def _kill(self, pid: int, number: int) -> None:
        assert (pid, number) == (self.pid, self.signals.SIGTERM)
        self.pending = True

    def _end_now(self) -> None:
        assert self.importing
        raise Gone

    def _wait(self, states: Any, seconds: float) -> bool:
        del seconds
        while self.runtime.sequence.state in states and self.threads:
            self._run(self.threads.pop(0))
        return self.runtime.sequence.state not in states

    def _run(self, thread: Callable[[], Any]) -> None:
        main, self.in_main = self.in_main, False
        try:
            thread()
        finally:
            self.in_main = main

    def _in_main(self, function: Callable[..., Any], *args: Any) -> None:
        """Run something in the main thread of the program, which then reacts to what is raised there."""
        shutting_down = self.runtime.sequence.state in SHUTTING_DOWN
        try:
            function(*args)
        except Gone:
            self.exited = True
        except SystemExit:
            assert not shutting_down, "the interpreter is shutting down already"
            assert not self.was_forked, "a fork was ended"
            assert self.runtime.sequence.state == "leaving"
            assert self.forces_exit, "nothing ends a program that ignores SystemExit"
            self.raised += 1
            assert self.raised == 1 + self.ignored, "a program that has caught SystemExit is interrupted again"
            if self.reaction == "ignores" and function == self._deliver:  # a loop ends with it
                self.ignored += 1
                self.interpreter.unraisablehook(SimpleNamespace(exc_type=SystemExit))
            elif self.reaction == "catches":
                self.caught = True
            else:
                self._exit()

    def _exit(self) -> None:
        self._in_main(self.runtime._at_exit)
        self.exited = True

    def _cleanup(self, *, interrupted: bool) -> None:
        assert not self.was_forked, "a fork ran on_worker_stop"
        assert self.runtime.stopping
        self.cleanups += 1
        if interrupted and self.in_main:
            self.pending = True
            self._deliver()

    def _own_handler(self, *_args: Any) -> None:
        self.own_calls += 1
        if not self.was_forked and self.runtime.sequence.state not in SHUTTING_DOWN:
            assert not any(server.has_open_requests() for server in self.owed), "a request was cut off"

    def _deliver(self) -> None:
        """Handle SIGTERM in the main thread."""
        self.pending = False
        handler = self.signals.handler
        if handler == self.signals.SIG_DFL:
            assert self.was_forked, "SIGTERM would kill the worker"
            self.exited = True
            return
        wrapped = isinstance(handler, program_handlers._HeldHandler)
        if wrapped and self.runtime.sequence.state in ("running", "announced"):
            self.owed = list(self.runtime.servers)
        handler(self.signals.SIGTERM, None)

    # What may happen

    running = precondition(lambda self: not self.exited)

    @running
    @rule()
    def announce(self) -> None:
        """The message of the service, in the thread that reads the channel."""
        if not self.was_forked:
            self.asked = True
            self._run(lambda: self.runtime._on_message({"type": "stop", "timeout": 0.0}))

    @running
    @rule(died=st.booleans())
    def end_channel(self, died: bool) -> None:
        if not self.was_forked:
            self.guardian_died |= died
            self._run(self.runtime._on_channel_end)

    @running
    @rule()
    def sigterm(self) -> None:
        self.asked = True
        self.pending = True

    @precondition(lambda self: self.pending and not self.exited)
    @rule()
    def deliver(self) -> None:
        self._in_main(self._deliver)

    @precondition(lambda self: self.threads and not self.exited)
    @rule(which=st.integers(0, 9))
    def run_thread(self, which: int) -> None:
        self._run(self.threads.pop(which % len(self.threads)))

    @precondition(lambda self: self.repeated and not self.exited)
    @rule()
    def repeat_sigterm(self) -> None:
        self.repeated &= {self.runtime.sequence.state}
        if self.repeated and self.runtime.handles_sigterm():
            self.pending = True

    @running
    @rule(busy=st.booleans())
    def serve(self, busy: bool) -> None:
        server = Server(busy=busy)
        self.runtime.add_server(server)
        assert server.begun == self.runtime.draining

    @precondition(lambda self: self.runtime.servers and not self.exited)
    @rule(which=st.integers(0, 9))
    def serve_no_more(self, which: int) -> None:
        server = self.runtime.servers[which % len(self.runtime.servers)]
        self.runtime.remove_server(server)
        if server in self.owed:
            self.owed.remove(server)

    @running
    @rule(interrupted=st.booleans())
    def set_callback(self, interrupted: bool) -> None:
        if not self.cleanups and not self.was_forked:
            self.runtime.callback.set(functools.partial(self._cleanup, interrupted=interrupted))

    @running
    @rule(own=st.booleans())
    def set_handler(self, own: bool) -> None:
        if self.signals.handler != self.signals.SIG_DFL:
            self.signals.signal(self.signals.SIGTERM, self._own_handler if own else self.runtime.on_sigterm)

    @running
    @rule(importing=st.booleans())
    def change_import(self, importing: bool) -> None:
        self.importing = importing

    @running
    @rule(runs=st.booleans())
    def change_loop(self, runs: bool) -> None:
        self.loop = (self.loop or Loop()) if runs else None

    @precondition(lambda self: self.loop is not None and self.loop.callbacks and not self.exited)
    @rule()
    def run_loop(self) -> None:
        assert self.loop is not None
        self._in_main(self.loop.callbacks.pop(0))

    @running
    @rule(reaction=st.sampled_from(["unwinds", "catches", "ignores"]))
    def change_reaction(self, reaction: str) -> None:
        """What the program does with SystemExit; *ignores*: it is raised where Python ignores exceptions."""
        self.reaction = reaction

    @running
    @rule()
    def end(self) -> None:
        """The program ends by itself."""
        self._exit()

    @precondition(lambda self: not self.exited and not self.was_forked)
    @rule()
    def fork(self) -> None:
        """The simulation goes on in the child; in the parent nothing happens. Threads and signals stay there."""
        self.pid, self.was_forked, self.pending, self.loop = 101, True, False, None
        self.threads.clear()
        self.repeated.clear()
        self.runtime._after_fork()
        assert self.runtime.sequence.state == "running"
        assert not self.runtime.servers
        assert not self.runtime.callback.is_set
        assert not self.runtime.handles_sigterm()
        self.deadline = float("inf")

    @precondition(lambda self: self.exited)
    @rule()
    def stay_exited(self) -> None:
        """Nothing more happens; a run of the simulation needs one possible rule."""

    # What holds at any time

    @invariant()
    def one_stop(self) -> None:
        assert self.cleanups <= 1
        running = sum(getattr(thread, "func", None) == self.runtime._drain for thread in self.threads)
        assert running <= 1, "two drains at the same time"

    @invariant()
    def one_deadline(self) -> None:
        assert self.deadline in (float("inf"), self.runtime.deadline)
        self.deadline = self.runtime.deadline

    @invariant()
    def a_fork_stays_out(self) -> None:
        assert not self.was_forked or (not self.threads and self.runtime.sequence.state in ("running", "exiting"))

    def teardown(self) -> None:
        """From wherever it is, a stop comes to its end: the program exits, or its own handler has been called."""
        try:
            self.asked = True
            self.pending |= not self.exited
            calls = self.own_calls
            for _ in range(200):
                if self.exited or self.own_calls > calls:
                    break
                self.one_stop()
                if self.pending:
                    self._in_main(self._deliver)
                elif self.threads:
                    self._run(self.threads.pop(0))
                elif self.loop is not None and self.loop.callbacks:
                    self._in_main(self.loop.callbacks.pop(0))
                elif self.caught:
                    assert self.forces_exit
                    break  # the program goes on until it is forced to exit
                else:
                    self.reaction = "unwinds" if self.reaction == "ignores" else self.reaction
                    self.repeat_sigterm()
            else:
                raise AssertionError(f"it never ends: {self.runtime.sequence.state}")
        finally:
            self.patch.undo()


World.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestTheStopInAnyOrder = World.TestCase
