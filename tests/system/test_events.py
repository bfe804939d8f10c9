"""What has happened, and what happens: the commands ``events`` and ``logs``, and the page for monitoring."""

from __future__ import annotations

import json
import subprocess
from http.client import HTTPConnection
from pathlib import Path

from tests.tools.ports import free_port
from tests.tools.service import CSERVICE, Service

PROGRAMS = Path(__file__).parent.parent / "programs"


def service(*options: str) -> Service:
    return Service("-w", "1", "--ready-after", "60s", *options, "http_server.py", str(free_port()), cwd=PROGRAMS)


def test_events_are_followed_over_the_death_of_the_master_to_the_end_of_the_service() -> None:
    with service() as running:
        running.serving(1)
        command = [CSERVICE, "--name", running.name, "--json", "events", "2", "--follow"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stderr is not None
            first = [json.loads(reader.stdout.readline()) for _ in range(2)]
            assert [event["event"] for event in first] == ["operation_step", "operation_end"]
            assert running.cli("restart", "all").code == 0
            seen = [json.loads(reader.stdout.readline())]
            while seen[-1]["event"] != "operation_end":
                seen.append(json.loads(reader.stdout.readline()))
            assert {"name": "restart", "door": "unix", "outcome": "accepted"}.items() <= next(
                event for event in seen if event["event"] == "command"
            ).items()
            assert [event["id"] for event in seen] == list(range(first[-1]["id"] + 1, seen[-1]["id"] + 1))
            subprocess.run(["kill", "-9", str(running.json("info")["master_pid"])], check=True)
            while seen[-1]["event"] != "master_start":
                seen.append(json.loads(reader.stdout.readline()))
            running.stop()
            assert reader.wait(30) == 3
            assert "has ended" in reader.stderr.read()


def test_probes_are_answered_to_everybody_and_nothing_else_is() -> None:
    open_one, with_metrics = free_port(), free_port()
    elsewhere = {"Host": "pod.example:8081", "Origin": "https://elsewhere.example"}

    def status(port: int, path: str, method: str = "GET") -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path, headers=elsewhere)
        answer = connection.getresponse().status
        connection.close()
        return answer

    with service("--probes", f"127.0.0.1:{open_one}") as running:
        running.serving(1)
        assert [status(open_one, path) for path in ("/live", "/ready")] == [200, 200]
        assert [status(open_one, path) for path in ("/", "/metrics", "/api/v1/info", "/cli?cmd=workers")] == [404] * 4
        assert status(open_one, "/live", "POST") == 405
        assert running.json("info")["probes"] == [f"127.0.0.1:{open_one}"]
    with service("--probes", f"127.0.0.1:{with_metrics}", "--probe-metrics") as running:
        running.serving(1)
        assert status(with_metrics, "/metrics") == 200


def test_the_log_file_is_shown(tmp_path: Path) -> None:
    with service("--log-file", str(tmp_path / "service.log")) as running:
        running.serving(1)
        shown = running.json("logs", "5")
        assert shown["file"] == str(tmp_path / "service.log")
        assert len(shown["lines"]) == 5
        assert any("is serving" in line for line in running.json("logs")["lines"])
    with service() as running:
        running.serving(1)
        done = running.cli("logs")
        assert done.code == 1
        assert "writes no log file" in done.err
