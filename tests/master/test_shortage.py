"""A master that has too little of something: it goes on where it can, and where it cannot be trusted it makes way."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from cluster_service.commands.registry import Registry
from cluster_service.config import Settings
from cluster_service.core.model.spec import Release, Spec
from cluster_service.machine.shortage import NO_THREAD, SENTENCES
from cluster_service.master.background_jobs import Jobs
from cluster_service.master.custom_command_registry import Extensions
from cluster_service.master.guardian_client import Kernel
from cluster_service.master.heartbeats import Pulses
from cluster_service.master.hooks import Hooks
from cluster_service.master.loop import FAILED, Master
from cluster_service.wire import facts, framing, orders
from cluster_service.wire.framing import to_json

if TYPE_CHECKING:
    from cluster_service.core.protocol.reports import Checked

RELEASE = Release("script", "/nosuch/worker.py", cwd="/nosuch")


def snapshot(notebook: str = "") -> facts.Snapshot:
    return facts.Snapshot(
        version=orders.VERSION, guardian_pid=1, started_at=0.0, workers=[], listeners=[], notebook=notebook,
        last_worker=0, master_starts=2, safe=False, stopping=False, share={"none": ""},
    )  # fmt: skip


def told(stream: socket.socket) -> list[str]:
    """The types of the orders that came."""
    stream.setblocking(False)
    decoder = framing.Decoder()
    found: list[str] = []
    while True:
        try:
            data = stream.recv(1 << 16)
        except BlockingIOError:
            return found
        if not data:
            return found
        found += [str(message["type"]) for message in decoder.feed(data)]


def a_master(stream: socket.socket) -> Master:
    return Master(Settings(Spec("test", ())), stream, Hooks(Extensions(Registry())))


def test_a_service_that_runs_is_not_ended_for_a_notebook_that_cannot_be_read() -> None:
    async def run(ours: socket.socket, theirs: socket.socket) -> None:
        ours.sendall(framing.encode(to_json(snapshot("no notebook"))))
        with pytest.raises(ValueError, match="Expecting value"):
            await a_master(theirs).run()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        asyncio.run(run(ours, theirs))
        assert told(ours) == ["hello"]


def test_a_master_with_a_callback_without_memory_makes_way() -> None:
    async def run(ours: socket.socket, theirs: socket.socket) -> int:
        master = a_master(theirs)

        def short() -> None:
            raise MemoryError

        loop = asyncio.get_running_loop()
        running = loop.create_task(master.run())
        await asyncio.sleep(0)
        loop.call_soon(short)
        ours.sendall(framing.encode(to_json(snapshot())))
        return await running

    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert asyncio.run(run(ours, theirs)) == FAILED
        assert "bye" not in told(ours)


def test_a_fact_that_could_not_be_taken_in_is_not_passed_over() -> None:
    async def run(ours: socket.socket, theirs: socket.socket) -> list[str]:
        def take(_fact: Any, _descriptor: int | None) -> None:
            raise MemoryError

        faults: list[str] = []
        kernel = Kernel(theirs, asyncio.get_running_loop(), take, lambda: None, lambda: faults.append("fault"))
        ours.sendall(framing.encode(to_json(facts.Ping())))
        with pytest.raises(MemoryError):
            kernel.pump()
        kernel.close()
        return faults

    ours, theirs = socket.socketpair()
    with ours:
        assert asyncio.run(run(ours, theirs)) == ["fault"]


def test_a_check_that_cannot_be_made_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> Checked:
        reports: asyncio.Queue[Any] = asyncio.Queue()
        checking = Jobs("test", reports.put_nowait)
        checking.check("7", RELEASE)
        return cast("Checked", await reports.get())

    monkeypatch.setattr(asyncio, "to_thread", no_thread)
    assert asyncio.run(run()).error == f"the code could not be looked at: {NO_THREAD}"


def test_a_look_that_fails_is_not_the_last() -> None:
    async def run() -> int:
        looks, enough = 0, asyncio.Event()

        def tell(_sample: object) -> None:
            nonlocal looks
            looks += 1
            if looks == 3:
                enough.set()
                cluster.pace = lambda: None
            raise MemoryError

        cluster = SimpleNamespace(workers={}, groups={}, sample_interval=lambda: 0.001)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        pulses = Pulses(loop, tell, lambda _order: None, cast("Any", lambda: cluster), print)
        pulses.watch(0.0)
        await asyncio.wait_for(enough.wait(), 20)
        pulses.watch(None)
        return looks

    assert asyncio.run(run()) == 3


def test_there_is_a_sentence_that_says_what_to_do() -> None:
    assert all("(" in sentence for sentence in SENTENCES.values())
