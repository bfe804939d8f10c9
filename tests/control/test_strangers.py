"""What a client costs, and what it learns, before and after it shows a key."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest

from cluster_service.commands import arguments
from cluster_service.commands.registry import COMMANDS, Command, Parameter
from cluster_service.config.credentials import Key
from cluster_service.errors import CommandError
from cluster_service.server import http_messages
from cluster_service.server.key_redaction import WINDOW
from tests.control.machine import KEY, Running, running
from tests.control.test_http import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEALTH = f"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nX-Access-Key: {KEY}\r\n\r\n".encode()
BODY = b"POST /cli HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx"

UNFINISHED: dict[str, bytes] = {
    "nothing is sent": b"",
    "the head is unfinished": b"GET /live HTTP/1.1\r\nHost: local",
    "the body is unfinished": BODY,
    "the body has not begun": BODY[:-1],
    "the body waits for a hundred": BODY[:-1].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
    "the key is wrong": HEALTH.replace(KEY.encode(), b"wrong"),
    "events without a key": b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" * 9,
    "pipelined": b"GET /dashboard/index.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 99,
}


@pytest.mark.parametrize("unfinished", UNFINISHED)
def test_whatever_strangers_leave_unfinished_the_key_gets_its_answers(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, unfinished: str
) -> None:
    monkeypatch.setattr("cluster_service.server.endpoint_connections.CONNECTIONS", 8)
    with running(run_dir) as service, contextlib.ExitStack() as stack:
        kept = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 20))
        answers = kept.makefile("rb")
        for _ in range(40):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 20))
            stranger.sendall(UNFINISHED[unfinished])
            kept.sendall(HEALTH)
            assert status(answers) == 200, "a connection that has authenticated was closed"
            assert ask(service, "GET", "/api/v1/health", tcp=True, X_Access_Key=KEY).status == 200
        answers.close()


def status(answers: Any) -> int:
    """Read one answer."""
    first = answers.readline()
    length = 0
    while (line := answers.readline().strip()) != b"":
        name, _, value = line.partition(b": ")
        length = int(value) if name.lower() == b"content-length" else length
    answers.read(length)
    return int(first.split()[1])


def test_a_key_in_the_head_keeps_the_connection_while_its_body_comes(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster_service.server.endpoint_connections.CONNECTIONS", 4)
    with running(run_dir) as service, contextlib.ExitStack() as stack:
        slow = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 20))
        head = f"POST /cli HTTP/1.1\r\nHost: localhost\r\nX-Access-Key: {KEY}\r\nContent-Length: 7\r\n\r\nwork"
        slow.sendall(head.encode())
        assert ask(service, "GET", "/live", tcp=True).status == 200  # and so the head has been read
        for _ in range(20):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 20))
            stranger.sendall(BODY)
        slow.sendall(b"ers")
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"POST /cli HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nX-Access-Key: wrong\r\n\r\n", 401),
        (b"POST /cli?cmd=x&accessKey=wrong HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", 401),
        (b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", 401),
    ],
)
def test_a_body_that_cannot_hold_the_key_is_not_waited_for(service: Running, request_: bytes, answer: int) -> None:
    with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
        connection.sendall(request_)
        assert connection.recv(65536).startswith(f"HTTP/1.1 {answer} ".encode())


def test_a_body_is_as_long_as_its_sender_and_its_command_may_make_it(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(service: object, text: str) -> dict[str, Any]:
        return {"length": len(text)}

    parameters = (Parameter("text", "string", "x", positional=True, remote="plain"),)
    greet = Command("greet", "Greets.", run, parameters, custom=True)
    monkeypatch.setattr(COMMANDS, "_added", {"greet": greet})

    def code(path: str, text: str, **headers: str) -> int:
        return ask(service, "POST", path, text, tcp=True, **headers).status

    keyed = {"X_Access_Key": KEY}
    for name, limit in (("help", http_messages.READ_LIMIT), ("restart", http_messages.CHANGE_LIMIT)):
        longer = "x" * limit
        assert code("/cli", f"{name} {longer}", **keyed) == 413
        assert code(f"/api/v1/commands/{name}", json.dumps({"x": longer}), **keyed) == 413
        assert code("/cli", json.dumps({"cmd": f"{name} all", "timeout": longer}), **keyed) == 413
    long = "x" * (http_messages.BODY_LIMIT - 100)
    assert ask(service, "POST", "/cli", f"greet {long}", tcp=True, X_Access_Key=KEY).data == {"length": len(long)}
    assert code("/cli", f"greet {'x' * http_messages.BODY_LIMIT}", **keyed) == 413
    large = {"cmd": "workers", "access_key": KEY, "x": "x" * http_messages.STRANGER_LIMIT}
    assert code("/cli", json.dumps(large)) == 413


def test_the_right_is_checked_before_the_arguments_are_read(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> object:
        raise AssertionError("the arguments were read")

    for name in ("split", "from_words", "from_json"):
        monkeypatch.setattr(f"cluster_service.commands.arguments.{name}", never)
    with running(run_dir, keys=(Key("monitor", KEY, ("health",)),)) as service:
        for path, body in (
            ("/cli", "restart all {{{"),
            ("/cli?cmd=restart+all", ""),
            ("/api/v1/commands/restart", "{{{"),
            ("/cli", json.dumps({"cmd": "restart"})),
        ):
            answer = ask(service, "POST", path, body, tcp=True, X_Access_Key=KEY)
            assert (answer.status, answer.data["error"]["code"]) == (403, "forbidden"), answer
        assert ask(service, "POST", "/cli", "x " + "{" * 200_000 + " }", tcp=True, X_Access_Key=KEY).status == 404


LONG = 256_000
COSTLY: dict[str, Callable[[], str]] = {
    "braces": lambda: "help x" + " {" * (LONG // 2) + " }",
    "objects": lambda: "help x" + ' {"a":' * (LONG // 6) + " }",
    "one word": lambda: "help " + "x" * LONG,
    "words": lambda: "help" + " x" * (LONG // 2),
    "quotes": lambda: "help " + "'" * LONG,
    "double quotes": lambda: 'help "' + "\\x" * (LONG // 2),
    "pieces": lambda: "help " + "x''" * (LONG // 3),
    "flags": lambda: "help" + " --x" * (LONG // 4),
    "a long flag": lambda: "help --" + "x" * LONG,
    "blanks": lambda: "help" + " " * LONG + "x",
    "no name": lambda: "'" * LONG,
    "a long name": lambda: "x" * LONG,
}


@pytest.mark.parametrize("costly", COSTLY)
def test_a_command_line_takes_time_that_is_linear_in_its_length(costly: str) -> None:
    """A quadratic parser takes many seconds for these: the deadline is generous."""
    line = COSTLY[costly]()
    began = time.process_time()
    with contextlib.suppress(CommandError):
        COMMANDS.get(arguments.name_of(line))
    with contextlib.suppress(CommandError):
        arguments.from_words(COMMANDS.get("help"), arguments.split(line)[1:])
    with contextlib.suppress(CommandError):
        arguments.from_words(COMMANDS.get("start"), arguments.split(line)[1:])
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    "value",
    ["9" * LONG, "1" * LONG + "s", " " * LONG, "1" + " " * LONG + "s", "9" * 400, -(10**30), 10**30, 1e308, "x" * LONG],
)
def test_values_that_are_too_long_are_refused_at_once(value: Any) -> None:
    began = time.process_time()
    for kind, take in arguments.KINDS.items():
        message = ""
        try:
            take(Parameter("x", kind, "x", choices=("a", "b")), value)
        except CommandError as error:
            message = error.message
        assert len(message) < 400, kind
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/api/v1/commands/restart", {}, "[" * 100_000),
        ("/api/v1/commands/restart", {}, '{"selector":' * 5_000),
        ("/api/v1/commands/restart", {}, '{"selector": ' + "[" * 30_000 + "]" * 30_000 + "}"),
        ("/api/v1/commands/scale", {}, '{"change": ' + "9" * 5_000 + "}"),
        ("/api/v1/commands/scale", {}, '{"change": 1e999}'),
        ("/api/v1/commands/restart", {}, '{"selector": "all", "timeout": ' + "9" * 5_000 + "}"),
        ("/cli", {}, "restart all timeout:" + "9" * 50_000),
        ("/cli", {}, "restart all " + '{"timeout":' * 5_000 + "}" * 5_000),
        ("/cli", {}, "&".join(f"a{number}=1" for number in range(9_000))),
        ("/cli", {}, "cmd=restart&" + "&".join(f"a{number}=1" for number in range(9_000))),
    ],
)
def test_what_is_nested_or_counted_too_deep_is_a_bad_request(
    service: Running, path: str, headers: dict[str, str], body: str
) -> None:
    answer = ask(service, "POST", path, body, tcp=True, X_Access_Key=KEY, **headers)
    assert answer.status in (400, 404, 413), answer
    assert len(json.dumps(answer.data)) < 2000
    assert service.machine.told == []
    for number in ("9" * 5_000, "-1", "1e5", "x"):
        assert ask(service, "GET", "/api/v1/events", Last_Event_ID=number).status == 400
        assert ask(service, "GET", f"/api/v1/operations/1?seen={number}").status in (400, 404)
        assert ask(service, "GET", f"/api/v1/operations/1?wait={number}").status in (400, 404)


@pytest.mark.parametrize(("error", "status"), [(RecursionError, 400), (MemoryError, 413)])
def test_no_request_ends_the_service(
    service: Running, monkeypatch: pytest.MonkeyPatch, error: type[Exception], status: int
) -> None:
    def run(service: object) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(COMMANDS, "_added", {"greet": Command("greet", "Greets.", run)})
    assert ask(service, "POST", "/cli?cmd=greet").status == status
    assert ask(service, "GET", "/live").status == 200


WRONG_PLACES: dict[str, tuple[str, str, dict[str, str], str]] = {
    "a path": ("POST", f"/api/v1/commands/restart&accessKey={quote(KEY)}", {}, ""),
    "a path, with the key": ("POST", f"/api/v1/commands/{quote(KEY)}", {"X-Access-Key": KEY}, ""),
    "a path that is not there": ("GET", f"/{quote(KEY, safe='')}", {}, ""),
    "an argument": ("POST", "/cli", {"X-Access-Key": KEY}, f"restart '{KEY}'"),
    "an option": ("POST", "/cli", {"X-Access-Key": KEY}, f"restart all --timeout '{KEY}'"),
    "another argument": ("POST", "/cli", {"X-Access-Key": KEY}, f"scale +1 '{KEY}'"),
    "a variable": ("POST", "/cli", {"X-Access-Key": KEY}, f"start x.py --env 'A={KEY}'"),
    "the command's name": ("POST", "/cli?" + urlencode({"cmd": f"'{KEY}'"}), {"X-Access-Key": KEY}, ""),
    "a field's name": ("POST", "/api/v1/commands/restart", {"X-Access-Key": KEY}, json.dumps({KEY: "all"})),
    "a field": ("POST", "/api/v1/commands/scale", {"X-Access-Key": KEY}, json.dumps({"change": 1, "group": KEY})),
    "a field, encoded": (
        "POST", "/api/v1/commands/scale", {"X-Access-Key": KEY}, json.dumps({"change": 1, "group": quote(KEY)}),
    ),
    "a field, in Base64": (
        "POST", "/api/v1/commands/scale", {"X-Access-Key": KEY},
        json.dumps({"change": 1, "group": base64.b64encode(KEY.encode()).decode()}),
    ),
    "an operation": ("GET", f"/api/v1/operations/{quote(KEY)}", {"X-Access-Key": KEY}, ""),
    "a number": ("GET", f"/api/v1/operations/1?seen={quote(KEY)}", {"X-Access-Key": KEY}, ""),
    "the Host": ("GET", "/live", {"Host": KEY}, ""),
    "another header": ("GET", "/api/v1/health", {"X-Key": KEY}, ""),
    "the last event": ("GET", "/api/v1/events", {"X-Access-Key": KEY, "Last-Event-ID": KEY}, ""),
    "Basic": ("GET", "/api/v1/health", {"Authorization": "Basic " + base64.b64encode(KEY.encode()).decode()}, ""),
}  # fmt: skip


@pytest.mark.parametrize("place", WRONG_PLACES)
def test_a_key_in_the_wrong_place_is_never_told(service: Running, caplog: pytest.LogCaptureFixture, place: str) -> None:
    method, path, headers, body = WRONG_PLACES[place]
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    told = answer.read().decode() + json.dumps(answer.getheaders()) + json.dumps(service.machine.kept) + caplog.text
    connection.close()
    assert answer.status in (400, 401, 404, 421)
    for spelled in (KEY, quote(KEY), base64.b64encode(KEY.encode()).decode()):
        assert spelled[: WINDOW + 2] not in told
    assert service.machine.told == [], "it was passed on"


def test_a_key_in_a_head_that_cannot_be_read_is_not_repeated(service: Running) -> None:
    for line in (f"X-Access-Key : {KEY}", f"{KEY}", f"X-Access-Key: {KEY}\x00"):
        with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
            connection.sendall(f"GET /live HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert KEY.encode() not in answer


def test_what_json_cannot_hold_leaves_no_endpoint(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(service: object) -> dict[str, Any]:
        return {"a": float("nan"), "b": "\ud800\x1b[2J\x9b", "c": [float("-inf")]}

    monkeypatch.setattr(COMMANDS, "_added", {"greet": Command("greet", "Greets.", run)})
    answer = ask(service, "POST", "/cli?cmd=greet")
    assert answer.data == {"a": None, "b": "\ufffd\x1b[2J\x9b", "c": [None]}
    service.machine.call(lambda: service.machine.publish("a\nb", text="\ud800", value=float("inf")))
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(service.unix)
    connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n")
    stream = connection.makefile("rb")
    line = b""
    while not line.startswith(b"data: "):
        line = stream.readline()
        assert line.strip(b"\r\n").decode("ascii").isprintable()
    event = json.loads(line[6:], parse_constant=pytest.fail)
    assert (event["text"], event["value"]) == ("\ufffd", None)
    stream.close()
    connection.close()
