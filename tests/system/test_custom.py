"""Custom commands, events and the bus, in whole services: at every door, from every kind of worker, through a master's
death.
"""

from __future__ import annotations

import json
import os
import signal
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import cluster_service
from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.service import PYTHON, Service, UnixConnection, cservice

if TYPE_CHECKING:
    from pathlib import Path

SERVER = """
import enum, os, sys, threading, time
import cluster_service as cservice

class Mood(enum.Enum):
    GLAD = "glad"
    SAD = "sad"

@cservice.command("greet")
def greet(context, name: str = "you", *, times: int = 1, mood: Mood = Mood.GLAD):
    '''Greet somebody.'''
    return " ".join([f"hello {name}, {mood.value}"] * times)

@cservice.command("whoAsks", access="remote")
async def who_asks(context):
    return {"door": context.caller.door, "key": context.caller.key, "service": context.service}

@cservice.command("boom")
def boom():
    raise ValueError("the password is swordfish")

@cservice.command("block", timeout=0.2)
def block():
    threading.Event().wait()

@cservice.command("sleepy", timeout=0.2)
async def sleepy():
    import asyncio
    await asyncio.Event().wait()

@cservice.command("quit")
def quit_all():
    sys.exit(3)

@cservice.command("recycle")
async def recycle(context, group: str):
    '''Restart a group, and wait for it.'''
    operation = await context.command("restart", group)
    return await context.follow(operation)

@cservice.command("health")
def health(context):
    return {"database": "fine"}

@cservice.command("restart")
def restart(context, selector: str, timeout: float = None):
    context.log(f"restarting {selector}")
    return context.builtin()

@cservice.command("tell")
def tell(context, text: str, group: str | None = None):
    return context.broadcast({"text": text}, group)

@cservice.command("inside", access="inproc")
def inside():
    return "inside"

@cservice.command("linger")
def linger(context, path: str):
    with open(path, "w") as started:
        started.write(str(os.getpid()))
    threading.Event().wait()

@cservice.on("order_paid")
def paid(event):
    print(f"PAID {event.amount} {event.args} {event.source.split()[0]}", flush=True)

@cservice.on("worker_exit")
def exited(event):
    raise RuntimeError("the handler is broken")

def up(event):
    if event.state == "done":
        print("FROM INSIDE", cservice.trigger("inside"), cservice.trigger("health")["database"], flush=True)

cservice.on("operationEnd", up)
cservice.disable("exit")
print("IN THE MASTER" if cservice.is_master() else "OUTSIDE", cservice.is_worker(), flush=True)
cservice.start(TARGET, **OPTIONS)
"""

SCRIPT = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import cluster_service as cservice

@cservice.on_message
def heard(message):
    print("HEARD", message, flush=True)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, *args = self.path.strip("/").split("/")
        try:
            if name == "order_paid":
                answer = cservice.trigger(name, *args, amount=3)
            else:
                answer = cservice.trigger(name, *args)
        except cservice.CommandError as error:
            answer = f"{error.code}: {error}"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(repr(answer).encode())
    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
cservice.worker_ready()
server.serve_forever()
"""


def started(tmp_path: Path, worker: str = SCRIPT, **options: Any) -> Service:
    """A service whose program is a ``server.py`` with the commands above."""
    (tmp_path / "worker.py").write_text(textwrap.dedent(worker))
    port = free_port()
    options = {"name": "test", "worker_count": 2, **options}
    target = options.pop("target", "./worker.py")
    (tmp_path / "server.py").write_text(SERVER.replace("TARGET", repr(target)).replace("OPTIONS", repr(options)))
    service = Service(cwd=tmp_path, env={"PORT": str(port)}, command=(PYTHON, "server.py"))
    service.env["TEST_ADDRESS"] = str(port)
    return service


def worker_says(service: Service, path: str) -> str:
    """What a worker says of what it triggered."""
    return ask.http(("127.0.0.1", int(service.env["TEST_ADDRESS"])), path)


def post(service: Service, name: str, /, **arguments: object) -> tuple[int, Any]:
    """POST a command to the owner's door."""
    connection = UnixConnection(service.door)
    try:
        connection.request("POST", f"/api/v1/commands/{name}", json.dumps(arguments))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_custom_command_at_every_door(tmp_path: Path) -> None:
    with started(tmp_path) as service:
        service.serving(2)
        assert "IN THE MASTER False" in service.log

        done = service.cli("greet", "Ann", "--times", "2", "--mood", "sad")
        assert (done.code, done.out) == (0, "hello Ann, sad hello Ann, sad\n")
        assert service.cli("greet --name Ann").out == "hello Ann, glad\n", "--name is the command's own after it"
        assert service.json("greet", "Ann") == {"result": "hello Ann, glad"}
        assert cservice("greet", "Ann", "--name", "nosuch").code == 3, "it is not greet's before it is known"
        assert service.cli(stdin="greet Ann\nwhoAsks\n").out.splitlines()[0] == "hello Ann, glad", "at the console"
        bad = service.cli("greet", "Ann", "--times", "many")
        assert (bad.code, bad.err.splitlines()[0]) == (2, "cservice: greet: times: 'many' is not a whole number")
        assert "did you mean 'greet'?" in service.cli("gret").err
        assert "Greet somebody." in service.cli("greet", "--help").out
        assert "greet [NAME]" in service.cli("help").out
        assert "one of: glad, sad" in service.cli("help", "greet").out

        assert post(service, "greet", name="Bob", times=1) == (200, {"result": "hello Bob, glad"})
        assert post(service, "greet", name="Bob", times="x")[0] == 400
        assert post(service, "who_asks") == (200, {"door": "unix", "key": "owner", "service": "test"})
        assert worker_says(service, "/greet/Cid") == "'hello Cid, glad'"
        assert json.loads(worker_says(service, "/whoAsks").replace("'", '"').replace("None", "null")) == {
            "door": "worker",
            "key": None,
            "service": "test",
        }

        client = cluster_service.connect("test")
        assert client.command("greet", "Dan", times=1) == {"result": "hello Dan, glad"}
        with pytest.raises(cluster_service.CommandError, match="one argument too many"):
            client.command("greet", "Dan", "Eve")

        document = client.read("/openapi.json")
        schema = document["paths"]["/api/v1/commands/greet"]["post"]["requestBody"]["content"]["application/json"]
        assert schema["schema"]["properties"]["mood"]["enum"] == ["glad", "sad", None]
        assert "/api/v1/commands/inside" not in document["paths"]
        service.until_logged("FROM INSIDE inside fine")
        assert post(service, "inside")[0] == 403
        assert service.cli("exit", "now").code == 4, "it is disabled"
        offered = {line.split()[0] for line in service.cli("help").out.splitlines() if line.startswith("  ")}
        assert {"greet", "whoAsks", "restart"} <= offered
        assert not {"inside", "exit"} & offered, "nobody may give them"


def test_a_handler_that_raises_blocks_or_exits_harms_nothing(tmp_path: Path) -> None:
    with started(tmp_path) as service:
        workers = service.serving(2)
        status, answer = post(service, "boom")
        assert (status, answer["error"]["code"]) == (400, "failed")
        assert "swordfish" not in json.dumps(answer)
        identity = answer["error"]["message"].split()[-1]
        service.until_logged(f"error {identity} in boom: ValueError: the password is swordfish")
        assert 'server.py", line' in service.log
        assert "extensions.py" not in service.log
        for name in ("block", "sleepy"):
            assert post(service, name)[1]["error"]["code"] == "timeout"
        assert post(service, "quit")[1]["error"]["code"] == "failed"
        os.kill(workers[0], signal.SIGKILL)
        service.until_logged("RuntimeError: the handler is broken")
        service.serving(2)
        assert service.json("info")["master_starts"] == 1


def test_overriding_and_combining_commands(tmp_path: Path) -> None:
    with started(tmp_path) as service:
        workers = service.serving(2)
        health = service.json("health")
        assert (health["status"], health["serving"], health["database"]) == ("ok", 2, "fine")
        assert "database  fine" in service.cli("health").out
        assert service.cli("restart", "web", "--timeout", "20").code == 0
        service.until_logged("restart: restarting web")
        again = service.serving(2)
        assert not set(again) & set(workers)
        done = service.cli("recycle", "web")
        assert done.code == 0, done
        assert not set(service.serving(2)) & set(again)
        assert service.cli("recycle", "nosuch").code == 1
        assert worker_says(service, "/restart/all") == "'forbidden: a worker may not give restart'"
        assert worker_says(service, "/shutdown/all") == "'forbidden: a worker may not give shutdown'"
        assert "'serving': 2" in worker_says(service, "/health")


def test_events_of_workers_and_broadcasts(tmp_path: Path) -> None:
    with started(tmp_path) as service:
        service.serving(2)
        assert worker_says(service, "/order_paid/17") == "None"
        (event,) = service.until_event("order_paid")
        assert (event["args"], event["amount"], event["service"]) == (["17"], 3, "test")
        service.until_logged("PAID 3 ['17'] web.")
        service.until_logged("event order_paid (web.")
        assert worker_says(service, "/worker_exit") == "'bad_request: worker_exit is an event of the service itself'"
        for group, count in (("web", 2), (None, 2)):
            assert post(service, "tell", text="new prices", group=group) == (200, {"result": count})
        service.until(lambda: service.log.count("HEARD {'text': 'new prices'}") == 4, "two broadcasts at two workers")
        assert post(service, "tell", text="x", group="nosuch")[0] == 404
        assert worker_says(service, "/tell/hello") == "2"


def test_the_masters_death(tmp_path: Path) -> None:
    with started(tmp_path) as service:
        service.serving(2)
        begun = tmp_path / "begun"
        os.mkfifo(begun)
        with ThreadPoolExecutor() as pool:
            from_worker = pool.submit(worker_says, service, "/linger/begun")
            master = int(begun.read_text())
            from_cli = pool.submit(service.cli, "linger", "begun")
            assert int(begun.read_text()) == master
            os.kill(master, signal.SIGKILL)
            assert "unavailable: the service's master was replaced while it carried out linger" in from_worker.result()
            assert from_cli.result().code == 1
            assert "linger may have begun" in from_cli.result().err
        service.until_event("master_start", starts=2)
        assert worker_says(service, "/greet/Ann") == "'hello Ann, glad'"
        assert post(service, "tell", text="still here") == (200, {"result": 2})


APP = """
import os
import cluster_service as cservice

@cservice.on_message
async def heard(message):
    print("HEARD", message, await cservice.trigger("greet", "app"), flush=True)

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    name, *args = scope["path"].strip("/").split("/")
    answer = await cservice.trigger(name, *args)
    body = repr(answer).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

LOOP = """
import asyncio, os
import cluster_service as cservice

async def heard(message):
    print("HEARD", message, await cservice.trigger("greet", "app"), flush=True)

async def answer(reader, writer):
    path = (await reader.readline()).decode().split()[1]
    name, *args = path.strip("/").split("/")
    body = repr(await cservice.trigger(name, *args)).encode()
    writer.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n" + body)
    await writer.drain()
    writer.close()

async def main():
    cservice.on_message(heard)
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["PORT"]))
    cservice.worker_ready()
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["uvicorn", "granian", "asyncio"])
def test_every_kind_of_worker_is_on_the_bus(kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    worker = LOOP
    service = started(tmp_path, worker)
    if kind != "asyncio":
        port = free_port()
        options = {"target": "worker:app", "server": kind, "bind": f"127.0.0.1:{port}"}
        service = started(tmp_path, APP, **options)
        service.env["TEST_ADDRESS"] = str(port)
    with service:
        service.serving(2)
        assert worker_says(service, "/greet/Ann") == "'hello Ann, glad'"
        assert post(service, "tell", text="x") == (200, {"result": 2})
        service.until(lambda: service.log.count("HEARD {'text': 'x'} hello app, glad") == 2, "both have heard")


def test_a_directory_of_commands(tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "_shared.py").write_text("WORD = 'hello'\n")
    (commands / "a.py").write_text(
        "import cluster_service as cservice\nfrom _shared import WORD\n"
        "@cservice.command\ndef hi(name: str):\n    return f'{WORD} {name}'\n"
    )
    (commands / "b.py").write_text("import cluster_service as cservice\n@cservice.command\ndef lost(): pass\n1 / 0\n")
    (commands / "c.py").write_text("import sys\nsys.exit(1)\n")
    (tmp_path / "worker.py").write_text(
        "import signal, cluster_service\ncluster_service.worker_ready()\nsignal.pause()\n"
    )
    with Service("--commands", "commands", "-w", "1", "worker.py", cwd=tmp_path) as service:
        service.serving(1)
        assert service.cli("hi", "Ann").out == "hello Ann\n"
        assert service.cli("lost").code == 2
        service.until_logged(f"{commands}/b.py is left out, and its commands with it:")
        service.until_logged("ZeroDivisionError: division by zero")
        service.until_logged(f"{commands}/c.py is left out")
    done = cservice("start", "--commands", "nosuch", "worker.py", cwd=tmp_path)
    assert (done.code, done.err.splitlines()[0]) == (
        2,
        f"cservice: --commands: there is no directory {tmp_path}/nosuch",
    )
