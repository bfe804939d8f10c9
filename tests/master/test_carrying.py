"""What the core asks for is carried out whole: the failure of one thing loses no other, nor the next turn."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.commands.registry import Registry
from cluster_service.config import Settings
from cluster_service.core.engine.cluster import Cluster
from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol import actions, event_records, reports, requests
from cluster_service.errors import CommandError
from cluster_service.master import effects
from cluster_service.master.custom_command_registry import Extensions
from cluster_service.master.hooks import Hooks
from cluster_service.master.loop import FAILED, Master
from cluster_service.master.service_api import RunningService
from cluster_service.wire import facts, framing, orders

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

DEADLINE = 20.0
SPEC = Spec("test", (GroupSpec("web", 3, Release("command", "/bin/true", share="none")),))


class Seen:
    """A master that has taken over, the orders that it gives, and the lines that it logs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.setblocking(False)
        self._decoder = framing.Decoder()
        self.lines: list[str] = []
        self.master = Master(Settings(SPEC), theirs, Hooks(Extensions(Registry())))
        monkeypatch.setattr(self.master, "log", self.lines.append)
        self.master.cluster = Cluster(SPEC)
        self.master.hello = facts.Snapshot(
            version=orders.VERSION, guardian_pid=1, started_at=0.0, workers=[], listeners=[], notebook="",
            last_worker=0, master_starts=1, safe=False, stopping=False, share={"none": ""},
        )  # fmt: skip

    def orders(self, kind: str) -> list[dict[str, Any]]:
        """The orders of one kind since the last look."""
        try:
            return [each for each in self._decoder.feed(self.ours.recv(1 << 20)) if each["type"] == kind]
        except BlockingIOError:
            return []

    def close(self) -> None:
        self.master._kernel.close()
        self.ours.close()


def during(monkeypatch: pytest.MonkeyPatch, story: Callable[[Seen], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        with ExitStack() as stack:
            seen = Seen(monkeypatch)
            stack.callback(seen.close)
            await story(seen)
            if seen.master._timer is not None:
                seen.master._timer.cancel()
            seen.master.pulses.watch(None)

    asyncio.run(asyncio.wait_for(run(), DEADLINE))


def failing(kind: type, *, times: int = 1) -> Callable[[Any, Any], None]:
    """What carries out actions of *kind*, but raises the first *times*."""
    left, real = [None] * times, effects.CARRY_OUT[kind]

    def carry(master: Any, action: Any) -> None:
        if left:
            left.pop()
            raise RuntimeError("can't start new thread")
        real(master, action)

    return carry


def test_a_start_that_fails_is_counted_and_the_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(effects.CARRY_OUT, actions.Start, failing(actions.Start))

    async def story(seen: Seen) -> None:
        seen.master.handle(seen.master.hello)
        assert [order["worker"] for order in seen.orders("spawn")] == [2, 3]
        await asyncio.sleep(0)  # the failure is reported after the turn
        assert seen.master._timer is not None
        slot = seen.master.cluster.groups["web"].slots[1]
        assert slot.history.streak == 1
        assert slot.last_exit is not None
        assert "refuses another thread" in slot.last_exit["detail"]

    during(monkeypatch, story)


ACTIONS: list[tuple[actions.Action, Any]] = [
    (actions.Stop(7, 1.0, "restart"), FAILED),
    (actions.Kill(7), FAILED),
    (actions.Sweep(7), FAILED),
    (actions.Forget(7), FAILED),
    (actions.CloseListener("127.0.0.1:8000"), FAILED),
    (actions.End(), FAILED),
    (actions.Start(7, "web", 1, 1, "start"), facts.SpawnFailed),
    (actions.Check("7", "web", 1), reports.Checked),
    (actions.RunTest("7", "web", 1, (), "x", None, None), reports.Tested),
    (actions.Abandon("7"), None),
    (actions.Dump(7, "hangs"), None),
    (actions.Warn("it"), None),
    (actions.Fault("it"), None),
]


@pytest.mark.parametrize(("action", "then"), ACTIONS, ids=lambda each: type(each).__name__)
def test_whatever_fails_the_rest_is_carried_out(
    action: actions.Action, then: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(effects.CARRY_OUT, type(action), failing(type(action)))

    async def story(seen: Seen) -> None:
        told: list[Any] = []
        monkeypatch.setattr(seen.master, "report_soon", told.append)
        seen.master.hooks.on("port_open", told.append)
        todo = [action, actions.Forget(1), actions.Publish(event_records.PortOpen("127.0.0.1:1")), actions.Kill(9)]
        seen.master._carry_out([*todo, actions.Sweep(8)])
        await seen.master.hooks.idle(DEADLINE)
        assert len([each for each in told if getattr(each, "event", "") == "port_open"]) == 1
        assert [order["order"] for order in seen.orders("signal")][-1:] == ["sweep"]
        assert any("could not be carried out" in line for line in seen.lines)
        assert seen.master._over.done() == (then == FAILED)
        if then == FAILED:
            assert seen.master._over.result() == FAILED
        elif then is not None:
            assert [type(each) for each in told if isinstance(each, then)] == [then]

    during(monkeypatch, story)


def test_every_kind_of_action_is_among_those() -> None:
    assert {type(action) for action, _ in ACTIONS} == set(effects.CARRY_OUT)


@pytest.mark.parametrize("what", ["_set_timer", "_wake", "_watch", "_follow", "tell_standing"])
@pytest.mark.parametrize("error", [OSError("no"), MemoryError()], ids=["an error", "no memory"])
def test_what_follows_a_turn_is_done_whatever_fails_of_it(
    what: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(seen: Seen) -> None:
        master = seen.master
        done: list[str] = []

        def wrong() -> None:
            raise error

        names = ["_set_timer", "_wake", "_watch", "_follow", "tell_standing"]
        master._after_turn = tuple(wrong if name == what else partial(done.append, name) for name in names)
        master.handle(master.hello)
        assert done == [name for name in names if name != what]
        assert master._over.done() == isinstance(error, MemoryError)

    during(monkeypatch, story)


def test_a_mistake_of_the_core_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(seen: Seen) -> None:
        seen.master._carry_out([actions.Fault("a step did not converge")])
        assert seen.lines == ["error: a step did not converge (please report this)"]

    during(monkeypatch, story)


# Requests of a master that decides nothing any more.


def stepped_down(master: Master) -> None:
    master._over.set_result(0)


def has_ended(master: Master) -> None:
    master.say_bye(orders.Bye(0))


@pytest.mark.parametrize("gone", [stepped_down, has_ended])
def test_a_request_that_comes_too_late_is_an_error_and_no_earlier_result(
    gone: Callable[[Master], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(seen: Seen) -> None:
        service = RunningService(seen.master)
        seen.master.handle(seen.master.hello)
        assert service.scale("3", "web", None)["state"] == "done"
        gone(seen.master)
        late: list[Callable[[], Any]] = [
            partial(service.restart, "all", None), partial(service.scale, "3", "web", None),
            partial(service.shutdown, "all", None), partial(service.cancel, None), partial(service.test, "/x", None),
        ]  # fmt: skip
        for ask in late:
            with pytest.raises(CommandError) as caught:
                ask()
            assert (caught.value.code, caught.value.exit_code) == ("stopping", 1)
        assert service.exit_now() == {"exiting": True}

    during(monkeypatch, story)


def test_a_mistake_in_a_request_is_refused_and_the_master_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster_service.core.engine import cluster

    def wrong(_cluster: Cluster, _request: requests.Restart) -> Any:
        raise KeyError("web")

    monkeypatch.setitem(cluster.REQUEST_PLANS, requests.Restart, wrong)

    async def story(seen: Seen) -> None:
        seen.master.handle(seen.master.hello)
        with pytest.raises(CommandError) as caught:
            RunningService(seen.master).restart("all", None)
        assert caught.value.code == "internal"
        assert any("KeyError" in line and "Traceback" in line for line in seen.lines)
        assert not seen.master._over.done()

    during(monkeypatch, story)
