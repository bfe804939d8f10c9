"""The doors themselves: real sockets, real requests."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import pytest

from cluster_service.commands.registry import COMMANDS, Command
from cluster_service.server import http_messages
from tests.control.machine import KEY, Running, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Answer(NamedTuple):
    status: int
    data: Any
    headers: dict[str, str]


class _Unix(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.path)


def ask(
    service: Running, method: str, path: str, body: str | bytes | None = None, *, tcp: bool = False, **headers: str
) -> Answer:
    connection = HTTPConnection("127.0.0.1", service.port, timeout=20) if tcp else _Unix(service.unix)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body.encode() if isinstance(body, str) else body, named)
        response = connection.getresponse()
        text = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, json.loads(text) if text else None, found)
    finally:
        connection.close()


def raw(service: Running, data: bytes) -> bytes:
    """Send *data* as it is to the TCP door and return everything that comes back."""
    with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
        connection.sendall(data)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionResetError:  # it did not read all that was sent
            pass
        return b"".join(parts)


@pytest.mark.parametrize("name", ["workers", "health", "info", "operations", "commands"])
def test_reading(service: Running, name: str) -> None:
    answer = ask(service, "GET", f"/api/v1/{name}")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    assert "server" not in answer.headers
    assert service.machine.audited == []  # in the log
    if name != "commands":
        assert [(entry["command"], entry["outcome"]) for entry in service.machine.kept] == [(name, "done")]


def test_the_documents(service: Running) -> None:
    workers = ask(service, "GET", "/api/v1/workers").data
    assert workers["service"] == "default"
    assert [worker["pid"] for worker in workers["workers"]] == [101, 102]
    commands = ask(service, "GET", "/api/v1/commands").data["commands"]
    assert [command["name"] for command in commands] == COMMANDS.names()


def test_the_original_s_endpoint_waits_for_the_end(service: Running) -> None:
    answer = ask(service, "POST", "/cli?cmd=restart+all+timeout:5")
    assert (answer.status, answer.data["state"], answer.data["replaced"]) == (200, "done", 2)
    assert service.machine.told == [{"restart": "all", "timeout": 5.0}]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/cli?cmd=restart+web", "", {"restart": "web", "timeout": None}),
        ("/cli", "restart web", {"restart": "web", "timeout": None}),
        ("/cli", "restart web 5", {"restart": "web", "timeout": 5.0}),
        ("/cli", 'restart web {"timeout": "1500ms"}', {"restart": "web", "timeout": 1.5}),
        ("/cli", "cmd=restart+web", {"restart": "web", "timeout": None}),
        ("/cli", '{"cmd": "restart web", "timeout": 5}', {"restart": "web", "timeout": 5.0}),
        ("/cli?cmd=restart+web", '{"timeout": 5}', {"restart": "web", "timeout": 5.0}),
        ("/cli?cmd=restart+web", "cmd=restart%20web", {"restart": "web", "timeout": None}),
        ("/cli?cmd=scale+-1", "", {"scale": "-1", "group": None, "timeout": None}),
    ],
)
def test_where_the_command_may_stand(service: Running, path: str, body: str, told: dict[str, object]) -> None:
    answer = ask(service, "POST", path, body)
    assert answer.status == 200, answer
    assert service.machine.told == [told]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/cli", "", 400, "bad_request"),
        ("POST", "/cli?cmd=workers", "health", 400, "bad_request"),
        ("POST", "/cli?cmd=restart+nosuch", "", 400, "not_found"),
        ("POST", "/cli?cmd=restart", "", 400, "bad_request"),
        ("POST", "/cli?cmd=restart+all+5+6", "", 400, "bad_request"),
        ("POST", "/cli?cmd=restart+%27all", "", 400, "bad_request"),
        ("POST", "/cli?cmd=restrt+all", "", 404, "no_such_command"),
        ("POST", "/cli?cmd=__class__", "", 404, "no_such_command"),
        ("POST", "/cli?cmd=os.system", "", 404, "no_such_command"),
        ("GET", "/cli?cmd=restart+all", None, 405, "method_not_allowed"),
        ("PUT", "/cli?cmd=restart+all", "", 405, "method_not_allowed"),
        ("POST", "/cli", "{not json", 400, "bad_request"),
        ("POST", "/cli", "[" * 100000, 404, "no_such_command"),
        ("POST", "/cli", '{"a":' * 20000, 400, "bad_request"),
        ("POST", "/cli", b"\xff\xfe", 400, "bad_request"),
        ("GET", "/api/v1/commands/restart", None, 405, "method_not_allowed"),
        ("POST", "/api/v1/commands/restrt", "{}", 404, "no_such_command"),
        ("POST", "/api/v1/commands/service.registry", "{}", 404, "no_such_command"),
        ("POST", "/api/v1/commands/..%2Fhelp", "{}", 404, "not_found"),
        ("POST", "/api/v1/commands/restart", "{}", 400, "bad_request"),
        ("POST", "/api/v1/commands/restart", "[]", 400, "bad_request"),
        ("POST", "/api/v1/commands/restart", '{"selector": "nosuch"}', 404, "not_found"),
        ("POST", "/api/v1/commands/restart", '{"selector": "all", "tiemout": 5}', 400, "bad_request"),
        ("POST", "/api/v1/commands/restart", '{"selector": ["all"]}', 400, "bad_request"),
        ("POST", "/api/v1/commands/restart", '{"selector": true}', 400, "bad_request"),
        ("POST", "/api/v1/commands/restart", '{"selector": "all", "timeout": "soon"}', 400, "bad_request"),
        ("POST", "/api/v1/workers", "{}", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/workers", None, 405, "method_not_allowed"),
        ("GET", "/api/v1/operations/77", None, 404, "not_found"),
        ("GET", "/api/v1/operations/77?seen=many", None, 400, "bad_request"),
        ("GET", "/api/v2/workers", None, 404, "not_found"),
        ("GET", "/nosuch", None, 404, "not_found"),
        ("GET", "/live/", None, 404, "not_found"),
    ],
)
def test_refusals_are_the_error_object(
    service: Running, method: str, path: str, body: str | bytes | None, status: int, code: str
) -> None:
    answer = ask(service, method, path, body)
    assert (answer.status, answer.data["error"]["code"]) == (status, code), answer
    assert answer.data["error"]["message"]
    assert [told for told in service.machine.told if told.get("restart") != "nosuch"] == []
    if status == 405:
        assert answer.headers["allow"]


def test_a_body_that_is_too_long(service: Running) -> None:
    answer = ask(service, "POST", "/cli", "restart all " + "x" * http_messages.BODY_LIMIT)
    assert (answer.status, answer.data["error"]["code"]) == (413, "too_large")


def test_a_body_in_chunks_is_refused(service: Running) -> None:
    """Each chunk costs work, however short it is."""
    head = f"POST /cli HTTP/1.1\r\nHost: localhost\r\nX-Access-Key: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(service, head.encode() + b"7\r\nworkers\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "length_required"


def test_an_operation_is_accepted_and_followed(held: Running) -> None:
    accepted = ask(held, "POST", "/api/v1/commands/restart", '{"selector": "all"}')
    assert (accepted.status, accepted.data["state"]) == (202, "running")
    path = accepted.headers["location"]
    seen = len(accepted.data["steps"])
    while seen < 3:  # the beginning, and each of the two workers
        seen = len(ask(held, "GET", f"{path}?seen={seen}&wait=20").data["steps"])
    busy = ask(held, "POST", "/api/v1/commands/restart", '{"selector": "all"}')
    assert (busy.status, busy.data["error"]["code"]) == (409, "busy")
    assert ask(held, "POST", "/cli?cmd=restart+all").status == 400
    held.machine.call(held.machine.finish, held.machine.done[0], "failed", "worker web.1 died")
    ended = ask(held, "GET", f"{path}?seen=3&wait=20")
    assert (ended.status, ended.data["state"]) == (200, "failed")


def test_without_a_word_of_its_steps_the_end_of_an_operation_is_waited_for(held: Running) -> None:
    accepted = ask(held, "POST", "/api/v1/commands/restart", '{"selector": "all"}')
    assert accepted.data["steps"]
    held.machine.following.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, held, "GET", f"{accepted.headers['location']}?wait=20")
        assert held.machine.following.wait(20)
        held.machine.call(held.machine.finish, held.machine.done[0], "done", None)
        assert answer.result(20).data["state"] == "done"


@pytest.mark.parametrize("state", ["failed", "undone", "cancelled"])
def test_an_operation_that_does_not_end_well(held: Running, state: str) -> None:
    accepted = ask(held, "POST", "/cli?cmd=restart+all+--no-wait")
    assert accepted.status == 202
    held.machine.call(held.machine.finish, held.machine.done[0], state, "worker web.1 died")
    ask(held, "GET", f"{accepted.headers['location']}?seen=99&wait=20")
    held.machine.held = False
    path = accepted.headers["location"]
    assert ask(held, "GET", path).data["reason"] == "worker web.1 died"


def test_cli_answers_400_for_an_operation_that_fails(held: Running) -> None:
    def fail_when_it_is_followed() -> None:
        held.machine.finish(held.machine.done[0], "undone", "worker web.1 died")

    held.machine.following.clear()
    connection = _Unix(held.unix)
    connection.request("POST", "/cli?cmd=restart+all")
    assert held.machine.following.wait(20)
    held.machine.call(fail_when_it_is_followed)
    response = connection.getresponse()
    data = json.loads(response.read())
    connection.close()
    assert response.status == 400
    assert data["error"] == {"code": "failed", "message": "worker web.1 died"}
    assert data["operation"]["state"] == "undone"


def test_live_and_ready_need_no_key(service: Running) -> None:
    for tcp in (False, True):
        assert ask(service, "GET", "/live", tcp=tcp)[:2] == (200, {"status": "ok"})
        assert ask(service, "HEAD", "/ready", tcp=tcp).status == 200
    service.machine.is_ready = False
    assert ask(service, "GET", "/ready", tcp=True)[:2] == (503, {"status": "unavailable"})


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/cli?cmd=workers", {"X-Access-Key": KEY}, "", 200),
        ("/cli?cmd=workers", {"Authorization": f"Bearer {KEY}"}, "", 200),
        (f"/cli?{urlencode({'cmd': 'workers', 'accessKey': KEY})}", {}, "", 200),
        ("/cli?cmd=workers", {}, urlencode({"accessKey": KEY}), 200),
        ("/cli", {}, json.dumps({"cmd": "workers", "accessKey": KEY}), 200),
        ("/api/v1/commands/workers", {}, json.dumps({"access_key": KEY}), 200),
        ("/cli?cmd=workers", {}, "", 401),
        ("/cli?cmd=workers&accessKey=wrong", {}, "", 401),
        ("/cli?cmd=nosuch&accessKey=wrong", {}, "", 401),
        (f"/cli?{urlencode({'cmd': 'nosuch', 'accessKey': KEY})}", {}, "", 404),
        (f"/cli?{urlencode({'cmd': 'workers', 'accessKey': KEY})}", {"X-Access-Key": "other"}, "", 400),
        ("/cli?cmd=workers", {"X-Access-Key": KEY, "Host": "attacker.example"}, "", 421),
        ("/cli?cmd=workers", {"X-Access-Key": KEY, "Origin": "http://attacker.example"}, "", 403),
        ("/cli?cmd=workers", {"X-Access-Key": KEY, "Origin": "null"}, "", 403),
        ("/cli?cmd=workers", {"X-Access-Key": KEY, "Sec-Fetch-Site": "cross-site"}, "", 403),
        ("/cli?cmd=workers", {"X-Access-Key": KEY, "X-Forwarded-For": "10.0.0.9"}, "", 200),
        ("/cli?cmd=restart+all", {"X-Access-Key": KEY, "X-Forwarded-For": "10.0.0.9"}, "", 403),
        ("/cli?cmd=start+/explode", {"X-Access-Key": KEY, "Forwarded": "for=1"}, "", 403),
    ],
)
def test_the_tcp_door(service: Running, path: str, headers: dict[str, str], body: str, status: int) -> None:
    answer = ask(service, "POST", path, body, tcp=True, **headers)
    assert answer.status == status, answer
    assert service.machine.told == []
    assert KEY not in json.dumps([answer.data, answer.headers, service.machine.audited])
    deprecated = "accessKey=" in path
    assert (answer.headers.get("deprecation") == "true") is deprecated
    assert (answer.headers.get("referrer-policy") == "no-referrer") is deprecated


def test_every_read_needs_a_key_at_the_tcp_door(service: Running) -> None:
    for name in ("workers", "health", "info", "operations", "operations/1", "commands", "events"):
        assert ask(service, "GET", f"/api/v1/{name}", tcp=True).status == 401
        service.machine.audited.clear()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /live HTTP/1.1\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_request_is_cut_off(service: Running, request_: bytes) -> None:
    assert raw(service, request_ + b"\r\n" * 2).startswith(b"HTTP/1.1 400 ")
    assert ask(service, "GET", "/live", tcp=True).status == 200


def test_a_head_that_does_not_end_is_cut_off(service: Running) -> None:
    head = f"GET /api/v1/workers HTTP/1.1\r\nHost: localhost\r\nX-Access-Key: {KEY}\r\nX: ".encode()
    assert b" 200 " not in raw(service, head + b"x" * 600_000 + b"\r\n\r\n")
    assert ask(service, "GET", "/live", tcp=True).status == 200


def test_without_a_host_header_nothing_is_answered(service: Running) -> None:
    assert raw(service, b"GET /live HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421 ")


def test_a_wrong_key_is_audited_and_a_right_one_is_a_number(service: Running) -> None:
    ask(service, "POST", "/cli?cmd=restart+all&accessKey=wrong", tcp=True)
    ask(service, "POST", "/cli?cmd=restart+all", tcp=True, X_Access_Key=KEY)
    ask(service, "POST", "/cli?cmd=restart+nosuch")
    wrong, right, failed = service.machine.audited
    assert wrong | {"duration_s": 0, "at": ""} == {
        "at": "", "key": None, "door": "tcp", "peer": "127.0.0.1", "command": "POST /cli", "arguments": {},
        "outcome": "unauthorised", "duration_s": 0,
    }  # fmt: skip
    assert (right["key"], right["command"], right["outcome"]) == ("key1", "restart", "accepted")
    assert (failed["key"], failed["door"], failed["outcome"]) == ("owner", "unix", "not_found")
    assert failed["peer"].startswith("uid:")


def test_an_error_of_the_service_is_told_by_an_id_only(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    answer = ask(service, "POST", "/cli?cmd=start+/explode")
    assert (answer.status, answer.data["error"]["code"]) == (500, "internal")
    identity = re.findall(r"[0-9a-f]{8}", answer.data["error"]["message"])[0]
    assert "secret" not in json.dumps(answer.data)
    assert identity in caplog.text
    assert "a secret of the inside" in caplog.text


def test_a_command_for_nobody(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(service: object) -> dict[str, Any]:
        raise AssertionError

    monkeypatch.setattr(COMMANDS, "_added", {"hush": Command("hush", "Says nothing.", run, access="disabled")})
    assert ask(service, "POST", "/cli?cmd=hush").data["error"]["code"] == "forbidden"


def test_an_async_command_that_was_added(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(service: Any) -> dict[str, Any]:
        return {"hello": service.name}

    monkeypatch.setattr(COMMANDS, "_added", {"greet": Command("greet", "Greets.", run)})
    assert ask(service, "POST", "/cli?cmd=greet").data == {"hello": "default"}
    assert ask(service, "POST", "/api/v1/commands/greet").data == {"hello": "default"}


class Events:
    """A reader of the event stream."""

    def __init__(self, service: Running, **headers: str) -> None:
        self.connection = _Unix(service.unix)
        self.connection.request(
            "GET", "/api/v1/events", headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        self.response: HTTPResponse = self.connection.getresponse()

    def __iter__(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        fields: dict[str, str] = {}
        for line in self.response:
            name, colon, value = line.decode().rstrip("\n").partition(": ")
            if name and colon:
                fields[name] = value
            elif "data" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}


def test_the_event_stream_resumes_and_ends_with_the_door(service: Running) -> None:
    for pid in (1, 2, 3):
        service.machine.call(functools.partial(service.machine.publish, "worker_ready", pid=pid))
    service.machine.following.clear()
    events = Events(service, Last_Event_ID="1")
    reader = iter(events)
    assert [next(reader)[2]["pid"] for _ in range(2)] == [2, 3]
    assert service.machine.following.wait(20)
    service.machine.call(lambda: service.machine.publish("worker_exit", pid=3))
    assert next(reader) == ("4", "worker_exit", {"id": 4, "event": "worker_exit", "pid": 3})
    service.close()
    assert list(reader) == []
    events.connection.close()


def test_what_a_reader_has_missed_is_told(service: Running) -> None:
    """Because it came back too late, or because this is another service than the one that it knew."""
    for pid in (1, 2, 3):
        service.machine.call(functools.partial(service.machine.publish, "worker_ready", pid=pid))
    assert ask(service, "GET", "/live").status == 200  # and so they are published
    del service.machine.published[0]
    for last, count in (("0", 1), ("77", None)):
        events = Events(service, Last_Event_ID=last)
        told, first, second = (next(iter(events)) for _ in range(3))
        events.response.close()
        events.connection.close()
        assert (told[0], told[1], told[2]["after"], told[2]["count"]) == ("1", "missed", int(last), count)
        assert (first[0], second[0]) == ("2", "3")


def test_a_stream_that_has_nothing_to_tell_says_so(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_service.server.event_stream.HEARTBEAT", 0.05)
    events = Events(service)
    assert [events.response.readline() for _ in range(4)] == [b": events\n", b"\n", b":\n", b"\n"]
    events.response.close()
    events.connection.close()


def test_streams_are_limited_and_free_their_place(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_service.server.event_stream.MOST_STREAMS", 2)
    streams = [Events(service), Events(service)]
    full = ask(service, "GET", "/api/v1/events")
    assert (full.status, full.data["error"]["code"]) == (503, "unavailable")
    assert ask(service, "GET", "/api/v1/events", Last_Event_ID="x").status in (400, 503)
    by_key = ask(service, "HEAD", "/api/v1/events", tcp=True, Authorization=f"Bearer {KEY}")
    assert by_key.status == 200, "each key has places of its own, and so has the owner"
    for stream in streams:
        stream.response.close()
        stream.connection.close()
    while ask(service, "HEAD", "/api/v1/events").status == 503:  # until the door has noticed
        pass
    assert ask(service, "GET", "/api/v1/events", Last_Event_ID="x").status == 400


def test_whoever_idles_longest_makes_room(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_service.server.endpoint_connections.CONNECTIONS", 3)
    with running(run_dir) as service:
        idle = [socket.create_connection(("127.0.0.1", service.port), 20) for _ in range(5)]
        for cut_off in idle[:2]:
            with contextlib.suppress(ConnectionResetError):
                assert cut_off.recv(1) == b""
        assert ask(service, "GET", "/live", tcp=True).status == 200
        assert ask(service, "GET", "/live").status == 200
        for connection in idle:
            connection.close()


def test_when_nobody_idles_there_is_no_room(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_service.server.endpoint_connections.CONNECTIONS", 3)
    with running(run_dir) as service:
        streams = [Events(service), Events(service)]
        full = ask(service, "GET", "/live")
        assert (full.status, full.data["error"]["code"], full.headers["connection"]) == (503, "unavailable", "close")
        for stream in streams:
            stream.response.close()
            stream.connection.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"selector": "all", "selector": "web"}', "twice"),
        ('{"selector": "all", "timeout": NaN}', "NaN"),
        ('{"selector": "\\ud800"}', "surrogate"),
        ('{"selector": "all"} {}', "JSON"),
    ],
)
def test_a_body_that_is_nearly_json(service: Running, body: str, words: str) -> None:
    answer = ask(service, "POST", "/api/v1/commands/restart", body)
    assert (answer.status, answer.data["error"]["code"]) == (400, "bad_request")
    assert words in answer.data["error"]["message"]
    assert service.machine.told == []


def test_what_is_no_request_is_answered_with_the_error_object(service: Running) -> None:
    for request_, status, code in (
        (b"garbage\r\n\r\n", 400, "bad_request"),
        (b"GET /live HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 60_000, 431, "headers_too_large"),
    ):
        head, _, body = raw(service, request_).partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert json.loads(body)["error"]["code"] == code


def test_a_reader_that_leaves_the_stream_is_forgotten(service: Running) -> None:
    service.machine.following.clear()
    events = Events(service)
    assert service.machine.following.wait(20)
    events.response.close()
    events.connection.close()
    assert ask(service, "GET", "/live").status == 200


def test_whoever_waits_is_answered_when_the_door_closes(held: Running) -> None:
    held.machine.following.clear()
    connection = _Unix(held.unix)
    connection.request("POST", "/cli?cmd=restart+all")
    assert held.machine.following.wait(20)
    held.close()
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["state"]) == (202, "running")
    connection.close()


def test_a_connection_that_sends_no_head_is_closed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_service.server.http_server.HEAD_SECONDS", 0.05)
    with running(run_dir) as service, socket.create_connection(("127.0.0.1", service.port), 20) as slow:
        slow.sendall(b"GET /live HTTP/1.1\r\nHost: local")
        with contextlib.suppress(ConnectionResetError):  # what ends it is no matter
            assert slow.recv(65536) == b""


def test_a_body_that_does_not_come_is_not_waited_for(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_service.server.http_messages.BODY_SECONDS", 0.05)
    with running(run_dir) as service:
        head = f"POST /cli HTTP/1.1\r\nHost: localhost\r\nX-Access-Key: {KEY}\r\nContent-Length: 100\r\n\r\nrestart"
        with socket.create_connection(("127.0.0.1", service.port), 20) as slow:
            slow.sendall(head.encode())
            assert slow.recv(65536).startswith(b"HTTP/1.1 408 ")


NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

KNOCK = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
door = socket.socket(socket.AF_UNIX)
door.settimeout(20)
door.connect(sys.argv[2])
try:
    door.sendall(b"GET /api/v1/info HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    print(door.recv(65536)[:15])
except (ConnectionResetError, BrokenPipeError):
    print(b"")
"""


@NEEDS_ROOT
def test_whoever_is_neither_root_nor_the_owner_is_cut_off(service: Running) -> None:
    """The directory keeps others out; should it ever not, their credentials do."""
    public = tempfile.mkdtemp(dir="/tmp")
    try:
        os.chmod(public, 0o755)  # as if the directory did not keep others out
        os.link(service.unix, f"{public}/door")
        os.chmod(f"{public}/door", 0o666)
        for user, answer in ((0, b"HTTP/1.1 200 OK"), (65534, b"")):
            arguments = [sys.executable, "-c", KNOCK, str(user), f"{public}/door"]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True)
            assert done.stdout == f"{answer!r}\n"
    finally:
        shutil.rmtree(public)
