"""The examples of the original, in Python, as they read."""

from __future__ import annotations

import http.client
import json
import shutil
from pathlib import Path
from urllib.parse import urlencode

from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.service import PYTHON, Service

SEED = Path(__file__).parent.parent.parent / "examples" / "seed"
KEY = "lksjdf982734"


def post(port: int, **query: str) -> tuple[int, object]:
    """What ``curl -d "" "http://localhost:PORT/cli?…"`` does."""
    connection = http.client.HTTPConnection("localhost", port, timeout=30)
    try:
        connection.request("POST", f"/cli?{urlencode(query)}", body=b"", headers={"User-Agent": "curl/8"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_server_py_and_worker_py(tmp_path: Path) -> None:
    door, port = free_port(), free_port()
    shutil.copytree(SEED, tmp_path / "seed")
    settings = {"CSERVICE_PORT": str(door), "CSERVICE_NAME": "test", "PORT": str(port)}
    with Service(cwd=tmp_path / "seed", env=settings, command=(PYTHON, "server.py")) as service:
        workers = service.serving(2)
        assert ask.workers_that_answer(lambda: ask.http_pid(("127.0.0.1", port)), workers) == set(workers)

        status, answer = post(door, cmd="workers", accessKey=KEY)
        assert status == 200
        assert isinstance(answer, dict)
        assert sorted(worker["pid"] for worker in answer["workers"]) == workers
        assert post(door, cmd="workers", accessKey="wrong")[0] == 401
        assert post(door, cmd="workers")[0] == 401
        assert post(door, cmd="nosuch", accessKey=KEY)[0] == 404
        assert post(door, cmd="restart nosuch", accessKey=KEY)[0] == 400

        status, answer = post(door, cmd="restart all", accessKey=KEY)
        assert status == 200, answer
        assert not set(workers) & set(service.serving(2))
        for pid in workers:
            service.until_logged(f"worker {pid} ")
            service.until_logged(f"{pid} is cleaning up")
        assert service.cli("restart all").code == 0, "the quoted form"
        assert service.stop() == 0
