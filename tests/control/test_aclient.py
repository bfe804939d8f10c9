"""The client for asyncio, and the streams of events of both, against real doors."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import cluster_service as cservice
from cluster_service import rundir
from cluster_service.client.client import OperationFailed
from tests.control.machine import KEY, Running

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@pytest.fixture(params=["unix", "tcp", "socket url"])
def how(request: pytest.FixtureRequest, service: Running) -> dict[str, Any]:
    """How the service is reached."""
    urls = {"tcp": f"http://127.0.0.1:{service.port}", "socket url": f"unix:{service.unix}"}
    return {} if request.param == "unix" else {"url": urls[request.param], "access_key": KEY}


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; only a failure reaches the deadline."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


def test_reading(how: dict[str, Any]) -> None:
    async def main() -> None:
        client = await cservice.aconnect(**how)
        workers, health, info, operations, commands = await asyncio.gather(
            client.workers(), client.health(), client.info(), client.operations(), client.commands()
        )
        assert [worker["pid"] for worker in workers] == [101, 102]
        assert health["status"] == "ok"
        assert info["name"] == "default"
        assert operations == []
        assert commands[0]["name"] == "start"
        assert KEY not in repr(client)

    run(main)


def test_both_clients_tell_the_same(how: dict[str, Any]) -> None:
    async def main() -> None:
        one, other = cservice.connect(**how), await cservice.aconnect(**how)
        assert await other.workers() == await asyncio.to_thread(one.workers)
        assert await other.commands() == await asyncio.to_thread(one.commands)

    run(main)


def test_a_command_waits_for_its_operation(how: dict[str, Any]) -> None:
    async def main() -> None:
        client = await cservice.aconnect(**how)
        steps: list[str] = []
        ended = await client.command("restart", "all", timeout="5s", on_step=lambda step: steps.append(step["text"]))
        assert (ended["state"], ended["replaced"]) == ("done", 2)
        assert steps == ["restart all begins", "web.1 replaced", "web.2 replaced"]
        assert await client.operation(ended["id"]) == ended
        assert await client.follow(ended["id"]) == ended
        assert (await client.command("version"))["service"] == "default"

    run(main)


def test_a_failed_operation_and_one_that_is_not_waited_for(held: Running) -> None:
    async def main() -> None:
        client = await cservice.aconnect()
        assert (await client.command("restart", "all", wait=False))["state"] == "running"
        with pytest.raises(cservice.CommandError) as refused:
            await client.command("restart", "all")
        assert refused.value.code == "busy"
        held.machine.call(held.machine.finish, held.machine.done[0], "undone", "worker web.1 died")
        assert (await client.follow("1"))["state"] == "undone"
        held.machine.call(held.machine.finish, held.machine.done[0], "done", None)

        def fail(_step: object) -> None:
            held.machine.call(held.machine.finish, held.machine.done[1], "undone", "worker web.2 died")

        with pytest.raises(OperationFailed, match=r"web\.2 died"):
            await client.command("restart", "all", on_step=fail)

    run(main)


@pytest.mark.parametrize(
    ("name", "args", "code"),
    [("restart", ("nosuch",), "not_found"), ("restart", (), "bad_request"), ("restrt", ("all",), "no_such_command")],
)
def test_bad_commands(how: dict[str, Any], name: str, args: tuple[str, ...], code: str) -> None:
    async def main() -> None:
        with pytest.raises(cservice.CommandError) as caught:
            await (await cservice.aconnect(**how)).command(name, *args)
        assert caught.value.code == code

    run(main)


@pytest.mark.parametrize("words", [("shutdown", "all"), ("exit", "now")])
def test_the_end_of_the_service_is_waited_for(service: Running, words: tuple[str, ...]) -> None:
    async def main() -> None:
        await (await cservice.aconnect()).command(*words)
        assert rundir.find("default") is None
        with pytest.raises(cservice.CommandError, match="no service 'default' runs here"):
            await cservice.aconnect()

    run(main)


def test_a_wrong_key_and_nobody_at_all(service: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]

    async def main() -> None:
        for port, code in ((service.port, "unauthorised"), (nobody, "unavailable")):
            with pytest.raises(cservice.CommandError) as caught:
                await (await cservice.aconnect(url=f"http://127.0.0.1:{port}", access_key="wrong")).workers()
            assert caught.value.code == code

    run(main)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([b"", b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'], "ok"),
        ([b"HTTP/1.1 200 OK\r\nContent-Len", b'HTTP/1.0 200 OK\r\n\r\n{"status":"ok"}'], "ok"),
        ([b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"sta', b'HTTP/1.0 200 OK\r\n\r\n{"status":"ok"}'], "ok"),
        ([b"HTTP/1.0 200 OK\r\n\r\n<html>"], "no cluster-service"),
    ],
)
def test_answers_that_break_off(answers: list[bytes], expected: str) -> None:
    def answer() -> None:
        for data in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)

    async def main() -> None:
        client = await cservice.aconnect(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        if expected == "ok":
            assert (await client.health())["status"] == "ok"
            return
        with pytest.raises(cservice.CommandError, match=expected):
            await client.health()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        run(main)
        thread.join()


def test_what_changes_something_is_never_sent_twice() -> None:
    knocks: list[bytes] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            knocks.append(connection.recv(65536))

    async def main() -> None:
        client = await cservice.aconnect(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(cservice.CommandError, match="may have begun"):
            await client.command("restart", "all")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        run(main)
        thread.join()
    assert len(knocks) == 1


# -- events ------------------------------------------------------------------------------------------------------------


def publish(service: Running, *pids: int) -> None:
    for pid in pids:
        service.machine.call(lambda pid=pid: service.machine.publish("worker_start", pid=pid))


def test_events(how: dict[str, Any], service: Running) -> None:
    publish(service, 1, 2, 3)
    taken: list[Any] = list(itertools.islice(cservice.connect(**how).events(after=0), 3))
    assert [event["pid"] for event in taken] == [1, 2, 3]
    assert [event["id"] for event in taken] == [1, 2, 3]

    async def main() -> None:
        events: Any = (await cservice.aconnect(**how)).events(after=1)
        assert [(await anext(events))["pid"], (await anext(events))["pid"]] == [2, 3]
        coming = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        publish(service, 4)
        assert (await coming)["pid"] == 4
        await events.aclose()

    run(main)


def test_events_go_on_where_they_were_when_the_connection_breaks() -> None:
    asked: list[bytes] = []
    head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: events\n\n"

    def answer() -> None:
        for number in range(4):
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(head + b'id: %d\nevent: port_open\ndata: {"id": %d}\n\nid: 9' % (number, number))

    async def main() -> None:
        events = (await cservice.aconnect(url=url)).events()
        assert [(await anext(events))["id"], (await anext(events))["id"]] == [0, 1]
        await events.aclose()  # type: ignore[attr-defined] # it is a generator

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=answer)
        thread.start()
        run(main)
        events = cservice.connect(url=url).events()
        assert [next(events)["id"], next(events)["id"]] == [2, 3]
        events.close()  # type: ignore[attr-defined] # it is a generator
        thread.join()
    ids = [knock.partition(b"Last-Event-ID: ")[2].partition(b"\r\n")[0] for knock in asked]
    assert ids == [b"", b"0", b"", b"2"]


def test_events_end_with_the_service(service: Running) -> None:
    async def main() -> None:
        publish(service, 7)
        seen = []
        async for event in (await cservice.aconnect()).events(after=0):
            seen.append(event["event"])
            service.machine.call(service.machine.ended.set)
        assert seen == ["worker_start"]

    run(main)


def test_events_end_with_the_service_for_the_other_client_too(service: Running) -> None:
    publish(service, 7)
    seen = []
    for event in cservice.connect().events(after=0):
        seen.append(event["event"])
        service.machine.call(service.machine.ended.set)
    assert seen == ["worker_start"]


def test_a_task_that_is_cancelled_leaves_no_connection(service: Running) -> None:
    async def main() -> None:
        client = await cservice.aconnect()

        async def follow() -> None:
            async for _ in client.events():
                pass

        before = len(os.listdir("/proc/self/fd"))
        task = asyncio.ensure_future(follow())
        await asyncio.to_thread(service.machine.following.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(os.listdir("/proc/self/fd")) <= before + 1  # the service's own end may be closing yet

    run(main)


def test_what_the_clients_import() -> None:
    program = (
        "import sys, cluster_service as c; c.connect; a = 'asyncio' in sys.modules; c.aconnect; c.Worker; "
        "print(a, sorted({'click', 'rich', 'starlette', 'uvicorn', 'httpx', 'prompt_toolkit'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False []\n"
