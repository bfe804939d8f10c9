"""The doors of a real service: who may knock, and what a knock can do.

Which test proves which point of the security rules (``c/`` is tests/control):

    1  two doors                    test_the_owner_s_door_is_private, test_without_a_key_there_is_no_tcp_door,
                                    test_a_stale_socket_is_replaced, test_a_door_that_stays_shut_is_one_warning,
                                    test_a_door_that_must_open; c/test_http: test_whoever_is_neither_root_nor_the_owner…
    2  before authentication        test_limits_then_host_then_origin_then_method_then_key; c/test_access: hosts, pages
    3  the key                      c/test_access: test_the_key; c/test_http: test_the_tcp_door
    4  kept                         test_secrets; config/test_settings: the key; config/test_keys
    5  compared                     c/test_access: test_every_key_is_compared, test_wrong_keys_are_limited…
    6  rights                       c/test_access: test_who_is_local, test_rights, test_allow_lists;
                                    test_a_key_with_an_allow_list,
                                    test_code_from_other_machines_lies_in_the_upgrade_roots
    7  dispatch                     c/test_http: test_refusals_are_the_error_object, test_an_error_of_the_service…
    8  audit                        test_every_command_leaves_one_line
    9  workers                      test_a_worker_may_not_command_its_service, test_secrets
    10 rotation, TLS                test_door_keys; test_door_tls: test_tls_with_verification, test_mutual_tls

    a rebinding Host · Host missing, twice              c/test_access: test_the_host_must_be_ours; c/test_http
    Origin: null                                        c/test_access: test_web_pages_of_others_are_refused
    IPv6 loopback                                       test_ipv6_loopback_is_local
    key in query and header that differ                 c/test_http: test_the_tcp_door
    a non-ASCII key                                     test_a_key_of_other_letters
    dotted command names                                c/test_http: test_refusals_are_the_error_object
    a 10 MB body                                        test_a_body_of_ten_megabytes
    a slow header                                       c/test_http: test_a_connection_that_sends_no_head_is_closed
    GET with a side effect                              test_get_gives_commands_only_if_allowed; c/test_http
    a symlinked socket or pid file of another uid       test_a_link_in_the_socket_s_place,
                                                        test_a_link_in_the_pid_file_s_place
    a command from inside a worker                      test_a_worker_may_not_command_its_service
    X-Forwarded-For on loopback                         test_behind_a_proxy_nobody_is_local
    a proxy that adds no header                         test_over_tcp_nobody_is_local_unless_that_was_chosen
    unfinished requests, the key in a wrong place       c/test_strangers
    arguments of a remote key                           c/test_remote_arguments
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from cluster_service.client.client import connect
from cluster_service.commands.registry import COMMANDS
from cluster_service.errors import CommandError
from tests.tools import ask
from tests.tools.conform import conform, places
from tests.tools.doors import KEY, OTHER, Answer, audit_file, audited, keys, knock, open_door
from tests.tools.ports import free_port
from tests.tools.service import CSERVICE, Service, run_directory

PROGRAMS = Path(__file__).parent.parent / "programs"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with the key."""
    return keys(tmp_path / "key", KEY)


# 1. two doors


def test_the_owner_s_door_is_private(key_file: Path) -> None:
    with open_door("--access-key-file", str(key_file)) as (service, port):
        found = service.door.lstat()
        assert (found.st_mode & 0o777, found.st_uid) == (0o600, os.geteuid())
        assert run_directory().stat().st_mode & 0o777 == 0o700
        doors = service.json("info")["doors"]
        assert doors[0] == f"unix:{service.door}"
        assert set(doors[1:]) <= {f"127.0.0.1:{port}", f"[::1]:{port}"}


def test_without_a_key_there_is_no_tcp_door() -> None:
    with open_door() as (service, port):
        assert service.json("info")["doors"] == [f"unix:{service.door}"]
        with pytest.raises(ConnectionRefusedError):
            knock(port, "GET", "/live")


def test_a_stale_socket_is_replaced() -> None:
    run_directory().mkdir(mode=0o700)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(run_directory() / "test.sock"))
    left.close()
    with open_door() as (service, _):
        assert service.json("version")["service"] == "test"


def test_a_link_in_the_socket_s_place(tmp_path: Path) -> None:
    """It is not followed, and not removed; the door stays shut, which is one warning."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    run_directory().mkdir(mode=0o700)
    link = run_directory() / "test.sock"
    link.symlink_to(victim)
    command = (CSERVICE, "start", "--name", "{name}")
    with Service("-w", "1", "--ready-after", "50ms", "--", "sleep", "1000", command=command) as service:
        service.until_logged("a door stays shut")
        assert victim.read_text() == "untouched"
        assert link.is_symlink()
        link.unlink()
        assert service.stop() == 0


def test_a_link_in_the_pid_file_s_place(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    pid_file = tmp_path / "pid"
    pid_file.symlink_to(victim)
    with open_door("--pid-file", str(pid_file)) as (service, _):
        assert not pid_file.is_symlink()
        assert int(pid_file.read_text()) == service.pid
    assert victim.read_text() == "untouched"


def test_a_door_that_stays_shut_is_one_warning(key_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Service(
            "-w",
            "1",
            "--port",
            port,
            "--access-key-file",
            str(key_file),
            "--ready-after",
            "50ms",
            "--",
            "sleep",
            "1000",
        ) as service:
            service.serving(1)
            service.until_logged("a door stays shut")
            assert service.json("health")["status"] == "ok"
            service.stop()
        assert service.log.count("a door stays shut") == 1


def test_a_door_that_was_shut_opens_when_it_can(key_file: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        port = taken.getsockname()[1]
        options = ("--port", str(port), "--access-key-file", str(key_file), "--ready-after", "50ms")
        with Service("-w", "1", *options, "--", "sleep", "1000") as service:
            service.until_logged("a door stays shut")
            taken.close()
            service.until_logged(f"a door that was shut is open: 127.0.0.1:{port}")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/live")
            assert connection.getresponse().status == 200
            connection.close()
            assert f"127.0.0.1:{port}" in service.json("info")["doors"]
            assert service.stop() == 0


def test_a_door_that_must_open(key_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--port", port, "--access-key-file", str(key_file), "--require-control")
        with Service("-w", "1", *options, "--", "sleep", "1000") as service:
            assert service.ended() == 1
        assert "a door cannot be opened, and the service requires it" in service.log


# 2. before authentication


def test_limits_then_host_then_origin_then_method_then_key(key_file: Path) -> None:
    """Each request is wrong in several ways: the first in the order is told."""
    wrong: dict[str, str] = {"Content-Length": "10000000", "Host": "evil", "Origin": "http://evil", "X-Access-Key": "x"}
    with open_door("--access-key-file", str(key_file)) as (_, port):
        for status, fixed in ((413, "Content-Length"), (421, "Host"), (403, "Origin"), (401, "X-Access-Key")):
            assert knock(port, "POST", "/cli?cmd=nosuch", **wrong).status == status
            del wrong[fixed]
        assert knock(port, "POST", "/cli?cmd=nosuch", X_Access_Key=KEY).status == 404
        assert knock(port, "GET", "/cli?cmd=nosuch", Host="evil").status == 421
        assert knock(port, "GET", "/cli?cmd=nosuch").status == 405
        assert knock(port, "GET", "/live?" + "x" * 9000).status == 414
        assert knock(port, "GET", "/live", X="x" * 17000).status == 431
        assert knock(port, "GET", "/live", **{f"X-{number}": "x" for number in range(120)}).status == 431


def test_a_body_of_ten_megabytes(key_file: Path) -> None:
    with open_door("--access-key-file", str(key_file)) as (_, port):
        with contextlib.suppress(ConnectionError):  # it need not be read to its end
            assert knock(port, "POST", "/cli", "x" * 10_000_000, X_Access_Key=KEY).status == 413
        assert knock(port, "GET", "/live").status == 200


def test_get_gives_commands_only_if_allowed(key_file: Path) -> None:
    with open_door("--access-key-file", str(key_file), "--allow-http-get", "--trust-loopback") as (service, port):
        assert knock(port, "GET", "/cli?cmd=restart+all", Origin="http://evil", X_Access_Key=KEY).status == 403
        assert knock(port, "GET", "/cli?cmd=restart+all").status == 401
        done = knock(port, "GET", f"/cli?cmd=restart+all&accessKey={KEY}")
        assert (done.status, done.headers["deprecation"], done.headers["cache-control"]) == (200, "true", "no-store")
        assert KEY not in service.log


# 3. the key


def test_a_key_of_other_letters(tmp_path: Path) -> None:
    key = "schlüssel-ключ-鍵-0123456789"
    with open_door("--access-key-file", str(keys(tmp_path / "key", key))) as (_, port):
        assert len(connect(url=f"http://127.0.0.1:{port}", access_key=key).workers()) == 1
        with pytest.raises(CommandError, match="wrong"):
            connect(url=f"http://127.0.0.1:{port}", access_key="schlussel").workers()


# 9. workers (4, secrets: test_secrets)


ASKER = """
import http.server, subprocess, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/direct":
            done = subprocess.run([sys.argv[2], "--name", "test", "restart", "all"], capture_output=True, text=True)
        else:  # from a process that has left its group, its session and its parent
            inner = f"{sys.argv[2]} --name test restart all"
            script = f"import os; os.setsid(); os.fork() and os._exit(0); os.setsid(); os.system({inner!r})"
            read, write = os.pipe()
            done = subprocess.Popen([sys.executable, "-c", script], stderr=write, stdout=write)
            os.close(write)
            done.wait()
            text = b""
            while part := os.read(read, 65536):
                text += part
            os.close(read)
            done = subprocess.CompletedProcess([], 4, "", text.decode())
        body = f"{done.returncode} {done.stderr}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_worker_may_not_command_its_service(tmp_path: Path) -> None:
    """But the owner may, and so may what the owner's shell has started."""
    (tmp_path / "asker.py").write_text(ASKER)
    port = free_port()
    with Service("-w", "1", "asker.py", str(port), CSERVICE, cwd=tmp_path) as service:
        (pid,) = service.serving(1)
        for path in ("/direct", "/detached"):
            told = ask.http(("127.0.0.1", port), path)
            assert told.startswith("4 "), told
            assert "a worker may not command its service" in told
        assert service.cli("workers").code == 0
        assert [worker["pid"] for worker in service.workers()] == [pid]


# 6. rights


def test_a_key_with_an_allow_list(tmp_path: Path) -> None:
    file = keys(
        tmp_path / "keys",
        f"""
[keys.monitor]
key = "{KEY}"
allow = ["health", "events"]
[keys.deploy]
file = "deploy.key"
allow = ["restart"]
from = "loopback"
[keys.idle]
key = "a key that may do nothing"
""",
    )
    keys(tmp_path / "deploy.key", OTHER)
    with open_door("--access-key-file", str(file), "--remote-command", "restart") as (service, port):
        assert "the access key idle may do nothing" in service.log
        url = f"http://127.0.0.1:{port}"
        assert connect(url=url, access_key=KEY).health()["status"] == "ok"
        for key, refused in (
            (KEY, "workers"),
            (KEY, "restart"),
            (OTHER, "health"),
            ("a key that may do nothing", "version"),
        ):
            with pytest.raises(CommandError, match="may not give") as caught:
                connect(url=url, access_key=key).give(refused, {"selector": "all"} if refused == "restart" else {})
            assert caught.value.code == "forbidden"
        assert connect(url=url, access_key=OTHER).command("restart", "all")["state"] == "done"  # and it can be followed
        proxied = knock(port, "POST", "/cli?cmd=restart+all", X_Access_Key=OTHER, X_Forwarded_For="10.0.0.9")
        assert (proxied.status, "only for this machine" in proxied.data["error"]["message"]) == (403, True)
        told = {entry["key"] for entry in audited(service)}
        assert {"monitor", "deploy", "idle"} <= told


def test_over_tcp_nobody_is_local_unless_that_was_chosen(key_file: Path) -> None:
    """A proxy that adds no header (nginx: ``proxy_pass``) sends every client's request from a loopback address."""
    with open_door("--access-key-file", str(key_file)) as (service, port):
        for path, body in (("/cli?cmd=restart+all", None), ("/api/v1/commands/restart", '{"selector": "all"}')):
            refused = knock(port, "POST", path, body, X_Access_Key=KEY)
            assert (refused.status, refused.data["error"]["code"]) == (403, "forbidden")
            assert "Unix socket" in refused.data["error"]["message"]
            assert "--remote-command restart" in refused.data["error"]["hint"]
        assert knock(port, "POST", "/cli?cmd=health", X_Access_Key=KEY).status == 200
        assert service.cli("restart", "all").code == 0
    with open_door("--access-key-file", str(key_file), "--trust-loopback") as (_, port):
        assert knock(port, "POST", "/cli?cmd=restart+all", X_Access_Key=KEY).status == 200


def test_behind_a_proxy_nobody_is_local(key_file: Path) -> None:
    with open_door("--access-key-file", str(key_file), "--trust-loopback") as (_, port):
        for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Forwarded-Anything", "X-Real-IP"):
            proxied = knock(port, "POST", "/cli?cmd=restart+all", **{header: "127.0.0.1", "X-Access-Key": KEY})
            assert (proxied.status, proxied.data["error"]["code"]) == (403, "forbidden")
        assert knock(port, "POST", "/cli?cmd=health", X_Forwarded_For="10.0.0.9", X_Access_Key=KEY).status == 200


def test_ipv6_loopback_is_local(key_file: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with open_door("--access-key-file", str(key_file), "--trust-loopback") as (_, port):
        assert knock(port, "POST", "/cli?cmd=restart+all", host="::1", X_Access_Key=KEY).status == 200
        assert knock(port, "GET", "/live", host="::1", Host="[::2]").status == 421


def test_code_from_other_machines_lies_in_the_upgrade_roots(tmp_path: Path, key_file: Path) -> None:
    inside, outside = tmp_path / "releases", tmp_path / "elsewhere"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "worker.py").write_text("import time\ntime.sleep(1000)\n")
    (inside / "link.py").symlink_to(outside / "worker.py")
    (tmp_path / "current").symlink_to(inside)
    options = ("--upgrade-root", str(inside), "--remote-command", "start")
    with open_door("--access-key-file", str(key_file), *options) as (service, port):

        def start(group: str, **arguments: Any) -> Answer:
            body = json.dumps({"group": group, "workers": 1, "ready_after": 0.05, **arguments})
            headers = {"X-Forwarded-For": "10.0.0.9", "X-Access-Key": KEY}
            return knock(port, "POST", "/api/v1/commands/start", body, **headers)

        worker = str(inside / "worker.py")
        for arguments in (
            {"target": str(outside / "worker.py")},
            {"target": str(inside / ".." / "elsewhere" / "worker.py")},
            {"target": str(inside / "link.py")},
            {"target": "worker.py"},
            {"target": "worker.py", "cwd": str(outside)},
            {"target": "http.server:test", "cwd": str(inside)},
            {"target": "worker:app"},
            {"target": "sleep", "args": ["1000"], "program": True},
            {"target": "/bin/sh", "program": True},
            {"target": worker, "env": {"PYTHONPATH": str(outside)}},
            {"target": worker, "python": "/bin/sh"},
            {"target": worker, "cwd": str(outside)},
        ):
            refused = start("bad", **arguments)
            assert (refused.status, refused.data["error"]["code"]) == (403, "forbidden"), arguments
        assert knock(port, "POST", "/cli?cmd=restart+all", X_Forwarded_For="1", X_Access_Key=KEY).status == 403
        assert start("good", target=str(tmp_path / "current" / "worker.py")).status == 202
        service.until_event("worker_ready", group="good")
        assert {worker["group"]: worker["target"] for worker in service.workers()}["good"] == worker


def test_a_key_reloads_only_the_file_that_the_service_was_started_with(tmp_path: Path, key_file: Path) -> None:
    port, configured = free_port(), tmp_path / "cluster-service.toml"
    words = ("-w", "1", "--port", str(port), "--access-key-file", str(key_file), "--remote-command", "reload")
    with Service(*words, "--ready-after", "50ms", "--", "sleep", "1000", cwd=tmp_path) as service:
        service.serving(1)

        def reload() -> Answer:
            return knock(port, "POST", "/cli?cmd=reload", X_Access_Key=KEY)

        assert reload().status == 200
        configured.write_text('stop_timeout = "3s"\n')
        refused = reload()
        assert (refused.status, refused.data["error"]["code"]) == (403, "forbidden")
        assert str(configured) in refused.data["error"]["message"]
        assert service.cli("reload").code == 0  # the owner may; and from now on it is the service's file
        configured.write_text('stop_timeout = "4s"\n')
        assert reload().status == 200


# 8. audit


def test_every_command_leaves_one_line(key_file: Path) -> None:
    with open_door("--access-key-file", str(key_file), "--trust-loopback") as (service, port):
        assert knock(port, "POST", "/cli?cmd=health", X_Access_Key=KEY).status == 200
        assert knock(port, "POST", "/cli?cmd=health", X_Access_Key="wrong").status == 401
        forged = 'nosuch\n[cservice] audit {"key": "owner"}\x1b[2J\u202e'
        assert knock(port, "POST", "/cli", json.dumps({"cmd": forged}), X_Access_Key=KEY).status == 404
        assert knock(port, "POST", "/api/v1/commands/restart", '{"selector": "a\\nb"}', X_Access_Key=KEY).status == 400
        assert knock(port, "GET", "/api/v1/workers", X_Access_Key=KEY).status == 200  # a read: not told
        assert connect("test").command("restart", "all")["state"] == "done"
        service.until(lambda: len(audited(service)) >= 5, "five entries")
        told = [(entry["key"], entry["door"], entry["command"], entry["outcome"]) for entry in audited(service)]
        assert told == [
            ("key1", "tcp", "health", "done"),
            (None, "tcp", "POST /cli", "unauthorised"),
            ("key1", "tcp", "nosuch", "no_such_command"),
            ("key1", "tcp", "restart", "bad_request"),
            ("owner", "unix", "restart", "accepted"),
        ]
        for entry in audited(service):
            assert set(entry) == {"at", "key", "door", "peer", "command", "arguments", "outcome", "duration_s"}
        assert all(line.isascii() and line.isprintable() for line in service.lines if "audit" in line)
        kept = [(entry["key"], entry["door"], entry["command"], entry["outcome"]) for entry in audit_file()]
        assert [entry for entry in kept if entry in told] == told  # in the file: these, in their order ...
        assert ("key1", "tcp", "workers", "done") in kept  # ... and whatever was only read
        assert ("owner", "unix", "operations", "done") in kept
        assert all(set(entry) == set(audited(service)[0]) for entry in audit_file())


# every door's document


NOT_HERE = ("exit", "shutdown", "scale")
"""Commands that would end the service, or start hundreds of workers, when they are given at random."""


def test_a_running_service_does_what_its_document_says(tmp_path: Path) -> None:
    """tests/control/test_openapi asks more, of a service without processes."""
    allow = [name for name in COMMANDS.names() if name not in NOT_HERE]
    file = keys(tmp_path / "keys", f"[keys.tests]\nkey = '{KEY}'\nallow = {json.dumps(allow)}")
    with open_door("--access-key-file", str(file)) as (service, port):
        document = knock(port, "GET", "/openapi.json", X_Access_Key=KEY).data
        assert len(document["paths"]) > len(allow)
        for place in places(document):
            conform(document, place, port, KEY, examples=6)
        assert service.json("health")["wanted"] >= 1
        assert "Traceback" not in service.log
