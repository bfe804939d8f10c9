"""The master's end of the bus: what workers ask is answered once, and every queue has an end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.commands.registry import Registry
from cluster_service.errors import CommandError
from cluster_service.master import worker_messages
from cluster_service.master.custom_command_registry import Extensions
from cluster_service.master.hooks import Hooks
from cluster_service.master.worker_messages import Bus
from cluster_service.server.audit import AuditFile, Auditor
from cluster_service.wire import facts, orders

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@dataclass
class Worker:
    group: str
    slot: int
    pid: int
    state: str = "serving"
    generation: int = 1


class Told(list[orders.Tell]):
    """What workers were told."""

    def to(self, worker: int) -> list[dict[str, Any]]:
        return [tell.message for tell in self if tell.worker == worker]


@dataclass
class FakeMaster:
    """As much of a master as the bus needs: three workers, of which one is no Python."""

    starts: int = 1
    behind: int = 0
    hooks: Hooks = field(default_factory=lambda: Hooks(Extensions(Registry())))
    told: Told = field(default_factory=Told)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        release, command = SimpleNamespace(kind="script"), SimpleNamespace(kind="command")
        self.cluster = SimpleNamespace(
            groups={
                "web": SimpleNamespace(releases={1: release}),
                "jobs": SimpleNamespace(releases={1: release}),
                "node": SimpleNamespace(releases={1: command}),
            },
            workers={
                1: Worker("web", 1, 101),
                2: Worker("web", 2, 102, "stopping"),
                3: Worker("web", 3, 103, "starting"),
                4: Worker("jobs", 1, 104),
                5: Worker("node", 1, 105),
            },
        )
        self.settings = SimpleNamespace(spec=SimpleNamespace(name="test"), commands=None, audit_file=None)
        self.auditor = Auditor(AuditFile(None, self.log), self.log)
        self.hello = SimpleNamespace(master_starts=self.starts, safe=False)

    def say(self, order: orders.Tell) -> None:
        self.told.append(order)

    def tell(self, name: str, fields: dict[str, Any], line: str) -> None:
        self.events.append((name, fields))
        self.lines.append(line)

    def log(self, line: str) -> None:
        self.lines.append(line)


def during(story: Callable[[FakeMaster, Bus], Coroutine[Any, Any, None]], **options: Any) -> FakeMaster:
    master = FakeMaster(**options)

    async def play() -> None:
        made = Bus(master)  # type: ignore[arg-type]
        made.open()
        await asyncio.wait_for(story(master, made), 20.0)
        made.close()

    asyncio.run(play())
    return master


def trigger(name: str, *args: Any, identity: str = "101.1", worker: int = 1, **options: Any) -> facts.Message:
    message = {"type": "trigger", "id": identity, "name": name, "args": list(args), "options": options}
    return facts.Message(worker, message)


async def settle(made: Bus) -> None:
    """Wait for everything under way."""
    while made._tasks:
        await asyncio.wait(made._tasks)


def test_a_command_is_taken_begun_once_and_answered() -> None:
    async def story(master: FakeMaster, made: Bus) -> None:
        calls: list[str] = []

        def greet(context: Any, name: str) -> str:
            calls.append(context.caller.peer)
            return f"hello {name}"

        master.hooks.extensions.command("greet", greet)
        for _ in range(2):  # the second is the same question, sent again to a new master
            assert made.takes(trigger("greet", "Ann"))
        await settle(made)
        made.takes(trigger("greet", "Ann"))
        await settle(made)
        assert calls == ["web.1 (pid 101)"]
        assert master.told.to(1) == [
            {"type": "taken", "id": "101.1"},
            {"type": "answer", "id": "101.1", "result": "hello Ann"},
        ]

    during(story)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (trigger("greet"), "bad_request"),
        (trigger("greet", "Ann", "Bob"), "bad_request"),
        (trigger("greet", colour="red"), "bad_request"),
        (trigger("fails"), "failed"),
        (trigger("big"), "too_large"),
        (trigger("shutdown", "all"), "forbidden"),
        (trigger("os.system", "id", id="x"), "bad_request"),
        (trigger("no name"), "bad_request"),
        (trigger("worker_exit"), "bad_request"),
        (facts.Message(1, {"type": "trigger", "id": "101.1", "name": 7, "args": [], "options": {}}), "bad_request"),
        (facts.Message(1, {"type": "trigger", "id": "101.1", "name": "greet", "args": "x"}), "bad_request"),
        (facts.Message(1, {"type": "broadcast", "id": "101.1", "message": 1, "group": "nosuch"}), "not_found"),
        (facts.Message(1, {"type": "broadcast", "id": "101.1", "message": 1, "group": ["web"]}), "not_found"),
    ],
)
def test_what_is_refused(message: facts.Message, code: str) -> None:
    async def story(master: FakeMaster, made: Bus) -> None:
        def fails() -> None:
            raise ValueError

        def greet(name: str) -> str:
            return name

        master.hooks.extensions.command("greet", greet)
        master.hooks.extensions.command("fails", fails)
        master.hooks.extensions.command("big", lambda: "x" * 70000)
        made.dispatch.service = SimpleNamespace(name="test", audit=lambda _entry, **_: None)  # type: ignore[assignment]
        made.takes(message)
        await settle(made)
        answer = master.told.to(1)[-1]
        assert (answer["type"], answer["error"]["code"]) == ("answer", code)

    during(story)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "trigger", "name": "x", "args": [], "options": {}},
        {"type": "trigger", "id": 7, "name": "x", "args": [], "options": {}},
        {"type": "trigger", "id": "y" * 81, "name": "x", "args": [], "options": {}},
        {"type": "got", "id": "b9", "taken": True},
        {"type": "of a newer worker", "id": "1.1"},
        {},
    ],
)
def test_what_is_no_message_is_passed_over(message: dict[str, Any]) -> None:
    async def story(master: FakeMaster, made: Bus) -> None:
        assert made.takes(facts.Message(1, message))
        assert made.takes(facts.Message(99, {"type": "trigger", "id": "1.1", "name": "x", "args": [], "options": {}}))
        assert not made.takes(facts.Exited(1, 0))
        assert not master.told
        assert not master.events

    during(story)


def test_an_event_is_told_and_answered_and_a_flood_of_them_is_not() -> None:
    async def story(master: FakeMaster, made: Bus) -> None:
        made.takes(trigger("orderPaid", 17, amount=3, identity="1.0"))
        assert master.events == [("order_paid", {"source": "web.1 (pid 101)", "args": [17], "amount": 3})]
        assert master.lines == ["event order_paid (web.1 (pid 101)): 17, amount=3"]
        for number in range(1, 1000):
            made.takes(trigger("tick", identity=f"1.{number}"))
        assert worker_messages.BURST <= len(master.events) < worker_messages.BURST + 20 * worker_messages.REFILL
        refused = [message for message in master.told.to(1) if "error" in message]
        assert len(refused) + len(master.events) == 1000
        assert {message["error"]["code"] for message in refused} == {"too_many_requests"}
        made.takes(trigger("tick", identity="4.1", worker=4))
        assert master.told.to(4) == [{"type": "answer", "id": "4.1", "result": None}], "another has its own measure"

    during(story)


def test_a_log_line_of_an_event_is_one_line() -> None:
    async def story(master: FakeMaster, made: Bus) -> None:
        made.takes(trigger("x", "a\nb\x1b[2J" + "y" * 1000))
        assert "\n" not in master.lines[0]
        assert "\x1b" not in master.lines[0]
        assert len(master.lines[0]) < 300

    during(story)


def test_so_many_commands_of_a_worker_at_a_time() -> None:
    async def story(master: FakeMaster, made: Bus) -> None:
        release = asyncio.Event()

        async def wait() -> None:
            await release.wait()

        master.hooks.extensions.command("wait", wait)
        for number in range(worker_messages.OPEN + 5):
            made.takes(trigger("wait", identity=f"1.{number}"))
        codes = [message["error"]["code"] for message in master.told.to(1) if "error" in message]
        assert codes == ["too_many_requests"] * 5
        release.set()
        await settle(made)

    during(story)


def test_a_broadcast_counts_who_took_it() -> None:
    async def story(master: FakeMaster, made: Bus) -> None:
        to_all = asyncio.ensure_future(made.broadcast({"x": 1}, None))
        to_web = asyncio.ensure_future(made.broadcast({"x": 2}, "web"))
        await asyncio.sleep(0)
        assert [tell.worker for tell in master.told if tell.message["message"] == {"x": 1}] == [1, 3, 4]
        assert [tell.worker for tell in master.told if tell.message["message"] == {"x": 2}] == [1, 3]
        first, second = (message["id"] for message in master.told.to(1))
        made.takes(facts.Message(1, {"type": "got", "id": first, "taken": True}))
        made.takes(facts.Message(1, {"type": "got", "id": first, "taken": True}))  # said twice it counts once
        made.takes(facts.Message(4, {"type": "got", "id": first, "taken": False}))
        made.takes(facts.Message(1, {"type": "got", "id": second, "taken": True}))
        made.takes(facts.Message(4, {"type": "got", "id": second, "taken": True}))  # it was not asked
        assert not made.takes(facts.Refused("tell", "it does not read its channel", 3))
        assert (await to_all, await to_web) == (1, 1)
        nobody = asyncio.ensure_future(made.broadcast(1, "jobs"))
        await asyncio.sleep(0)
        made.takes(facts.Exited(4, signal=9))
        assert await nobody == 0
        assert await made.broadcast(1, "node") == 0
        with pytest.raises(CommandError, match="the message is longer than 61440 bytes"):
            await made.broadcast("x" * 61440, None)

    during(story)


def test_who_does_not_say_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_messages, "REACH", 0.01)

    async def story(master: FakeMaster, made: Bus) -> None:
        assert await made.broadcast(1, None) == 0
        assert not made._waits

    during(story)


def test_a_guardian_that_does_not_read_is_told_nothing_more() -> None:
    async def story(master: FakeMaster, made: Bus) -> None:
        assert await made.broadcast(1, None) == 0
        assert not master.told

    during(story, behind=worker_messages.BEHIND + 1)


def test_a_new_master_says_so_and_hears_what_was_said_before() -> None:
    async def play() -> None:
        master = FakeMaster(starts=2)
        made = Bus(master)  # type: ignore[arg-type]
        for number in range(worker_messages.EARLY + 5):
            assert made.takes(trigger("x", number, identity=f"1.{number}"))
        assert not master.events
        made.open()
        assert [tell.worker for tell in master.told if tell.message == {"type": "master"}] == [1, 3, 4]
        assert [fields["args"] for _, fields in master.events[:2]] == [[5], [6]], "the oldest were dropped"
        made.close()
        assert master.hooks.extensions.dispatch is None

    asyncio.run(play())
