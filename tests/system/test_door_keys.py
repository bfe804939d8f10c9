"""Keys that are replaced while a real service runs: two at a time, the old one refused at once, and nobody restarts."""

from __future__ import annotations

import http.client
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_service.client.client import connect
from cluster_service.errors import CommandError
from tests.tools.doors import KEY, OTHER, keys, knock, open_door
from tests.tools.ports import free_port
from tests.tools.service import DEADLINE, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent.parent / "programs"
THIRD = "a third key, much longer"


def opens(port: int, key: str, path: str = "/api/v1/health") -> int:
    return knock(port, "GET", path, X_Access_Key=key).status


class Stream:
    """The events, as somebody with the key *key* hears them over TCP."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        self._connection.request("GET", "/api/v1/events", headers={"X-Access-Key": key})
        self._response = self._connection.getresponse()
        assert self._response.readline() == b": events\n"

    def names(self) -> Iterator[str]:
        """The events' names, until the stream ends."""
        for line in self._response:
            if line.startswith(b"event: "):
                yield line[7:].decode().strip()

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def test_a_reload_takes_up_the_keys_and_nothing_else(tmp_path: Path) -> None:
    file = keys(tmp_path / "key", f"{KEY}\n{OTHER}")
    with open_door("--access-key-file", str(file)) as (service, port):
        assert (opens(port, KEY), opens(port, OTHER), opens(port, THIRD)) == (200, 200, 401)
        before, master = service.workers(), service.json("info")["master_pid"]
        old, new = Stream(port, KEY), Stream(port, OTHER)
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        kept.request("GET", "/api/v1/health", headers={"X-Access-Key": KEY})
        assert kept.getresponse().read()
        keys(file, f"{OTHER}\n{THIRD}")
        plan = service.cli("reload", "--plan")
        assert "access_key: changed" in plan.out
        assert "no group would restart" in plan.out
        assert (opens(port, KEY), opens(port, THIRD)) == (200, 401)  # a plan changes nothing
        done = service.cli("reload")
        assert (done.code, "access_key: changed" in done.out) == (0, True), done
        assert (opens(port, KEY), opens(port, OTHER), opens(port, THIRD)) == (401, 200, 200)
        kept.request("GET", "/api/v1/health", headers={"X-Access-Key": KEY})
        assert kept.getresponse().status == 401
        kept.close()
        assert list(old.names()) == ["command"]  # the plan's: who listens with a withdrawn key hears nothing more
        assert "config_reload" in new.names()
        old.close()
        new.close()
        assert [row["pid"] for row in service.workers()] == [row["pid"] for row in before]
        assert service.json("info")["master_pid"] == master
        assert not [secret for secret in (KEY, OTHER, THIRD) if secret in service.log + plan.out + done.out]


def test_allow_lists_change_with_the_keys(tmp_path: Path) -> None:
    table = "[keys.ci]\nkey = '{}'\nallow = {}"
    file = keys(tmp_path / "keys", table.format(KEY, '["health"]'))
    with open_door("--access-key-file", str(file)) as (service, port):
        assert (opens(port, KEY), opens(port, KEY, "/api/v1/workers")) == (200, 403)
        keys(file, table.format(KEY, '["workers"]'))
        assert service.cli("reload").code == 0
        assert (opens(port, KEY), opens(port, KEY, "/api/v1/workers")) == (403, 200)
        file.chmod(0o644)
        refused = service.cli("reload")
        assert (refused.code, "chmod 600" in refused.err) == (2, True)
        assert opens(port, KEY, "/api/v1/workers") == 200  # a mistake changes nothing


def test_a_key_that_was_made_is_replaced_in_its_file() -> None:
    with open_door("--access-key", "auto") as (service, port):
        file = service.door.parent / "test.key"
        assert file.stat().st_mode & 0o777 == 0o600
        made = file.read_text().strip()
        assert (len(made) >= 43, opens(port, made)) == (True, 200)  # 256 bits
        file.write_text(f"{made}\n{OTHER}\n")
        assert service.cli("reload").code == 0
        assert (opens(port, made), opens(port, OTHER)) == (200, 200)
        file.write_text(f"{OTHER}\n")
        assert service.cli("reload").code == 0
        assert (opens(port, made), opens(port, OTHER)) == (401, 200)
        file.unlink()


GATED = """
import os, signal, sys
import cluster_service as cservice
if os.environ["CSERVICE_GENERATION"] != "1":
    open(sys.argv[1]).close()
cservice.worker_ready()
signal.pause()
"""


def test_sighup_takes_up_the_keys_first_and_does_not_wait_for_the_workers(tmp_path: Path) -> None:
    """Nor does a second one, that comes while the first is carried out."""
    (tmp_path / "gated.py").write_text(GATED)
    os.mkfifo(tmp_path / "gate")
    file, config = keys(tmp_path / "key", KEY), tmp_path / "cluster-service.toml"
    door = free_port()
    settings = f"""
target = "gated.py"
workers = 1
port = {door}
access_key_file = "key"
ready_after = "1h"
monitor = "50ms"
"""
    config.write_text(settings + 'args = ["gate"]')
    with Service(cwd=tmp_path) as service:
        pids = service.serving(1)
        keys(file, OTHER)
        config.write_text(settings + 'args = ["gate", "again"]')
        os.kill(service.pid, signal.SIGHUP)
        service.until_event("config_reload")
        assert (opens(door, KEY), opens(door, OTHER)) == (401, 200)
        assert [row["pid"] for row in service.workers() if row["state"] == "serving"] == pids
        keys(file, THIRD)
        os.kill(service.pid, signal.SIGHUP)
        service.until_logged("only the file of access keys is read again")
        assert (opens(door, OTHER), opens(door, THIRD)) == (401, 200)
        with (tmp_path / "gate").open("w"):
            pass
        service.until_event("operation_end", command="reload", state="done")


def test_the_next_master_reads_the_keys_anew(tmp_path: Path) -> None:
    file = keys(tmp_path / "key", f"{KEY}\n{OTHER}")
    with open_door("--access-key-file", str(file)) as (service, port):
        url = f"http://127.0.0.1:{port}"
        keys(file, f"{OTHER}\n{THIRD}")
        os.kill(service.json("info")["master_pid"], signal.SIGKILL)
        for key in (OTHER, THIRD):
            connect(url=url, access_key=key).health()
        with pytest.raises(CommandError, match="wrong"):
            connect(url=url, access_key=KEY).health()
        assert json.dumps(service.json("reload", "--plan")["changes"]) == "[]"
