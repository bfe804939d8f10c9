"""Apps on granian: ASGI and WSGI, ready when the child is, drained from outside."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.tools.ports import free_port
from tests.worker.harness import KeepAlive, Ports, Worker, get, write
from tests.worker.load import Load
from tests.worker.test_uvicorn import APP

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("granian")

WSGI = """
import os

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print("slow")
        open(os.environ["FIFO"]).read()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
APPS = {"asgi": APP, "wsgi": WSGI}


@pytest.mark.parametrize("interface", APPS)
def test_no_request_is_lost(tmp_path: Path, interface: str) -> None:
    write(tmp_path / "served.py", APPS[interface])
    port = free_port()
    with Ports() as ports, contextlib.ExitStack() as stack:

        def start() -> Worker:
            worker = stack.enter_context(
                Worker("app", "served:app", "granian", f"127.0.0.1:{port}", share="python", ports=ports, cwd=tmp_path)
            )
            worker.ready()
            return worker

        workers = [start(), start()]
        with Load(port) as load:
            for _ in range(4):
                load.wait(100)
                workers.append(start())
                oldest = workers.pop(0)
                oldest.stop()
                assert oldest.wait() == 0, oldest.output
            load.wait(100)
        assert not load.failures
        for worker in workers:
            worker.stop()
        assert [worker.wait() for worker in workers] == [0, 0]


@pytest.mark.parametrize("interface", APPS)
def test_what_is_held_is_answered(tmp_path: Path, interface: str) -> None:
    write(tmp_path / "served.py", APPS[interface])
    fifo, port = tmp_path / "fifo", free_port()
    os.mkfifo(fifo)
    env = {"FIFO": str(fifo)}
    with Worker("app", "served:app", "granian", f"127.0.0.1:{port}", cwd=tmp_path, env=env) as worker:
        worker.ready()
        with KeepAlive(port) as new, KeepAlive(port) as idle, KeepAlive(port) as slow:
            assert idle.ask()[2] == b"ok"
            slow.send("/slow")
            worker.line("slow")
            worker.stop()
            status, _, body = new.ask()
            assert (status, body) == (200, b"ok")
            with open(fifo, "w"):
                pass
            assert slow.receive()[2] == b"ok"
            assert idle.closed()
        assert worker.wait() == 0, worker.output


def test_the_cleanup_runs_where_the_app_is(tmp_path: Path) -> None:
    write(
        tmp_path / "served.py",
        """
        import asyncio, os, cluster_service
        async def cleanup():
            print("cleanup", os.getpid() == pid)
        pid = os.getpid()
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                cluster_service.worker_ready(on_worker_stop=cleanup)
                await send({"type": "lifespan.startup.complete"})
                await receive()
                print("lifespan over")
                await send({"type": "lifespan.shutdown.complete"})
        """,
    )
    with Worker("app", "served:app", "granian", f"127.0.0.1:{free_port()}", cwd=tmp_path) as worker:
        worker.ready()
        worker.line("Started worker")
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert [line for line in worker.lines if "[" not in line] == ["lifespan over", "cleanup True"]


def test_a_lifespan_that_fails_is_never_ready(tmp_path: Path) -> None:
    write(
        tmp_path / "served.py",
        """
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
        """,
    )
    with Worker("app", "served:app", "granian", f"127.0.0.1:{free_port()}", cwd=tmp_path) as worker:
        assert worker.wait() == 1, worker.output
        assert worker.message() is None
        assert "no database" in worker.output


def test_an_app_without_a_lifespan_is_ready(tmp_path: Path) -> None:
    write(
        tmp_path / "served.py",
        """
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
        """,
    )
    port = free_port()
    with Worker("app", "served:app", "granian", f"127.0.0.1:{port}", cwd=tmp_path) as worker:
        worker.ready()
        worker.line("Started worker")
        assert b"ok" in get(port)
        worker.stop()
        assert worker.wait() == 0, worker.output


def test_it_serves_one_address(tmp_path: Path) -> None:
    write(tmp_path / "served.py", WSGI)
    with Worker("app", "served:app", "granian", "127.0.0.1:1,127.0.0.1:2", cwd=tmp_path) as worker:
        assert worker.wait() == 3
        assert worker.output == ("cservice: granian serves one address, not 2: use one --bind, or --server uvicorn")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_that_is_no_fork_is_handed_what_it_needs(tmp_path: Path, method: str) -> None:
    """As from Python 3.14 on, where granian's child is no fork any more."""
    write(tmp_path / "served.py", APP + "\nimport cluster_service\ncluster_service.worker_ready(False)\n")
    write(tmp_path / "sitecustomize.py", f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n")
    port, env = free_port(), {"PYTHONPATH": str(tmp_path)}
    with (
        Ports() as ports,
        Worker(
            "app", "served:app", "granian", f"127.0.0.1:{port}", cwd=tmp_path, env=env, share="python", ports=ports
        ) as worker,
    ):
        assert worker.message() == {"type": "ready", "ready": False}  # said in the child, at import
        worker.line("Started worker")
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert "lifespan over" in worker.lines, worker.output
