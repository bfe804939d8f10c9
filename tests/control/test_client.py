"""The Python client, against real doors."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

import cluster_service as cservice
from cluster_service import rundir
from cluster_service.client import transport
from cluster_service.client.client import OperationFailed, connect
from cluster_service.errors import CommandError
from tests.control.machine import KEY, Running, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def code(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(CommandError) as caught:
        call()
    return caught.value.code, f"{caught.value.message} {caught.value.hint}"


@pytest.fixture(params=["unix", "tcp", "socket url"])
def client(request: pytest.FixtureRequest, service: Running) -> Any:
    urls = {"tcp": f"http://127.0.0.1:{service.port}", "socket url": f"unix:{service.unix}"}
    if request.param == "unix":
        return cservice.connect()
    return cservice.connect(url=urls[request.param], access_key=KEY)


def test_reading(client: Any) -> None:
    assert [worker["pid"] for worker in client.workers()] == [101, 102]
    assert client.health()["status"] == "ok"
    assert client.info()["name"] == "default"
    assert client.operations() == []
    assert client.commands()[0]["name"] == "start"
    assert KEY not in repr(client)


def test_a_command_waits_for_its_operation(client: Any) -> None:
    steps: list[str] = []
    ended = client.command("restart", "all", timeout="5s", on_step=lambda step: steps.append(step["text"]))
    assert (ended["state"], ended["replaced"]) == ("done", 2)
    assert steps == ["restart all begins", "web.1 replaced", "web.2 replaced"]
    assert client.operation(ended["id"]) == ended
    assert client.follow(ended["id"]) == ended


def test_a_command_that_is_none(client: Any) -> None:
    assert client.command("version")["service"] == "default"
    assert client.command("health")["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "options", "expected", "words"),
    [
        (("restart", "nosuch"), {}, "not_found", "nosuch"),
        (("restart",), {}, "bad_request", "missing"),
        (("restart", "all", 5, 6), {}, "bad_request", "6"),
        (("restart", "all"), {"tiemout": 5}, "bad_request", "timeout"),
        (("restrt", "all"), {}, "no_such_command", "restart"),
        (("exit", "later"), {}, "bad_request", "now"),
    ],
)
def test_bad_commands(
    client: Any, arguments: tuple[str, ...], options: dict[str, object], expected: str, words: str
) -> None:
    found, sentence = code(lambda: client.command(*arguments, **options))
    assert found == expected
    assert words in sentence


def test_a_failed_operation_is_raised_with_its_reason(held: Running) -> None:
    def fail() -> None:
        assert held.machine.following.wait(20)
        held.machine.call(held.machine.finish, held.machine.done[0], "undone", "worker web.1 died")

    held.machine.following.clear()
    thread = threading.Thread(target=fail)
    thread.start()
    with pytest.raises(OperationFailed, match=r"worker web\.1 died") as caught:
        connect().command("restart", "all")
    thread.join()
    assert caught.value.exit_code == 1
    assert caught.value.operation["state"] == "undone"
    assert connect().follow("1")["state"] == "undone"


def test_without_waiting(held: Running) -> None:
    assert connect().command("restart", "all", wait=False)["state"] == "running"
    assert code(lambda: connect().command("restart", "all"))[0] == "busy"


def test_the_end_of_the_service_is_waited_for(service: Running) -> None:
    assert connect().command("shutdown", "all")["state"] == "done"
    assert rundir.find("default") is None
    assert code(connect)[0] == "unavailable"


def test_exit_now(service: Running) -> None:
    assert connect().command("exit", "now") == {"exiting": True}
    assert rundir.find("default") is None


def test_a_wrong_key(service: Running) -> None:
    url = f"http://localhost:{service.port}"
    for key in ("wrong", None):
        found, sentence = code(connect(url=url, access_key=key).workers)
        assert found == "unauthorised"
        assert "key" in sentence


def test_no_service_of_the_name(service: Running) -> None:
    found, sentence = code(lambda: connect("other"))
    assert found == "unavailable"
    assert "'other'" in sentence
    assert "default" in sentence


def test_a_dead_service_s_socket_is_told_apart(run_dir: Path) -> None:
    directory = rundir.directory()
    os.close(rundir.take_lock(directory, "default"))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(rundir.socket_path(directory, "default"))
    found, sentence = code(connect)
    assert found == "unavailable"
    assert "dead" in sentence
    os.unlink(rundir.socket_path(directory, "default"))
    os.unlink(rundir.lock_path(directory, "default"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "ftp://localhost",
        "http://localhost:port",
        "http://localhost/path",
        "http://u@localhost",
        "http://localhost?a=b",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    found, sentence = code(lambda: connect(url=url))
    assert found == "bad_request"
    assert "http://localhost:11987" in sentence


def test_nothing_answers_at_the_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found, sentence = code(connect(url=f"http://127.0.0.1:{port}").workers)
    assert found == "unavailable"
    assert str(port) in sentence


def test_something_else_answers_at_the_url() -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n<html>")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        found, sentence = code(connect(url=url).workers)
        thread.join()
    assert found == "unavailable"
    assert "no cluster-service" in sentence


def test_reading_survives_a_connection_that_breaks() -> None:
    """As when a master is replaced: the door stays open, who was being answered asks again."""
    answers = [b"", b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}']

    def answer() -> None:
        for data in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert connect(url=url).health()["status"] == "ok"
        thread.join()


def test_what_changes_something_is_never_sent_twice() -> None:
    knocks: list[bytes] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            knocks.append(connection.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        found, sentence = code(lambda: connect(url=url).command("restart", "all"))
        thread.join()
    assert found == "failed"
    assert "may have begun" in sentence
    assert len(knocks) == 1


def test_several_services(run_dir: Path, service: Running) -> None:
    with running(run_dir, "second", keys=()):
        assert [held.name for held in rundir.running()] == ["default", "second"]
        assert connect("second").info()["name"] == "second"


def test_a_service_that_is_just_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = rundir.directory(None)
    lock = rundir.take_lock(directory, "default")
    path = rundir.socket_path(directory, "default")
    found: list[bool] = []

    def connects() -> None:
        with contextlib.suppress(CommandError):  # where the lock was free before it was looked at
            cservice.connect()
        found.append(os.path.exists(path))

    waiter = threading.Thread(target=connects)
    waiter.start()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        waiter.join()
    assert found == [True]
    os.unlink(path)
    waits, really = threading.Event(), transport._await_door

    def await_door(where: transport.Place) -> None:
        waits.set()
        really(where)

    monkeypatch.setattr(transport, "_await_door", await_door)
    waiter = threading.Thread(target=connects)
    waiter.start()
    assert waits.wait(20)  # it has found that the name is taken
    os.close(lock)
    waiter.join()
    assert found == [True, False], "one that has ended is not"
    os.unlink(rundir.lock_path(directory, "default"))
