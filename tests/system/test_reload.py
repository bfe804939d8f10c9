"""Taking up a changed configuration while the service runs: who restarts, who does not, and what is refused."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.tools import releases
from tests.tools.ports import free_port
from tests.tools.service import Service, cservice, run_directory

if TYPE_CHECKING:
    from pathlib import Path

KEY, OTHER = "one key of more than sixteen letters", "another key of more than sixteen letters"


class Configured:
    """A directory with a file of settings, and two groups of programs that only wait."""

    def __init__(self, folder: Path, **whole: Any) -> None:
        self.folder = folder
        self.whole: dict[str, Any] = {"monitor": "200ms", "workers": 1, **whole}
        self.groups: dict[str, dict[str, Any]] = {"web": {}, "jobs": {"depends_on": ["web"]}}
        (folder / "wait.py").write_text(
            "import sys, signal, cluster_service\nprint('waits', sys.argv[1:], flush=True)\n"
            "cluster_service.worker_ready()\nsignal.pause()\n"
        )
        self.write()

    def write(self) -> None:
        lines = ['target = "wait.py"', *(f"{name} = {json.dumps(value)}" for name, value in self.whole.items())]
        for name, group in self.groups.items():
            lines += [f"[groups.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in group.items())]
        (self.folder / "cluster-service.toml").write_text("\n".join(lines) + "\n")

    def service(self, *options: str, **more: Any) -> Service:
        return Service(*options, cwd=self.folder, **more)


def pids(service: Service) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in service.workers():
        found.setdefault(row["group"], []).append(row["pid"])
    return found


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    return Configured(tmp_path)


def test_what_needs_no_restart_causes_none(configured: Configured) -> None:
    with configured.service() as service:
        service.serving(2)
        before = pids(service)
        configured.whole |= {
            "stop_timeout": "5s", "hang_timeout": "7s", "monitor": "100ms", "restart_delay": "200ms",
            "restarts_per_minute": 3, "auto_restart": False, "shutdown_delay": "10ms", "trusted_hosts": ["web.example"],
        }  # fmt: skip
        configured.groups["web"]["workers"] = 2
        configured.write()
        plan = service.json("reload", "--plan")
        assert {change["effect"] for change in plan["changes"]} == {"settings", "scale"}
        shown = service.cli("reload", "--plan").out
        assert "no group would restart" in shown
        assert pids(service) == before
        done = service.cli("reload")
        assert done.code == 0, done
        service.serving(3)
        after = pids(service)
        assert set(before["web"]) < set(after["web"])
        assert before["jobs"] == after["jobs"]
        assert service.json("reload", "--plan")["changes"] == []
        (event,) = service.until_event("config_reload")
        assert "web: workers: 1 → 2" in event["changes"]


def test_there_and_back_changes_nothing(configured: Configured) -> None:
    with configured.service() as service:
        service.serving(2)
        before = pids(service)
        for timeout in ("5s", "60s"):
            configured.whole["stop_timeout"] = timeout
            configured.write()
        assert service.json("reload", "--plan")["changes"] == []
        assert "nothing would change" in service.cli("reload", "--plan").out
        assert service.cli("reload").code == 0
        assert pids(service) == before


def test_only_the_group_whose_program_changes_is_replaced(configured: Configured) -> None:
    with configured.service() as service:
        service.serving(2)
        before = pids(service)
        configured.groups["web"] |= {"args": ["again"], "env": ["PASSWORD=hunter2"]}
        configured.write()
        shown = service.cli("reload", "--plan")
        assert "restarting: web\n" in shown.out
        assert "hunter2" not in shown.out
        done = service.cli("reload")
        assert done.code == 0, done
        assert "hunter2" not in done.out
        after = pids(service)
        assert after["jobs"] == before["jobs"]
        assert set(after["web"]).isdisjoint(before["web"])
        service.until_logged("waits ['again']")
        rows = {row["name"]: row for row in service.json("config", "show", "--running")["groups"]["web"]}
        assert rows["args"]["value"] == ["again"]
        assert rows["env"]["value"] == {"PASSWORD": "(secret)"}


def test_groups_come_and_go(configured: Configured) -> None:
    with configured.service() as service:
        service.serving(2)
        before = pids(service)
        del configured.groups["jobs"]
        configured.groups["mail"] = {"singleton": True, "depends_on": ["web:started"]}
        configured.write()
        done = service.cli("reload")
        assert done.code == 0, done
        after = pids(service)
        assert (set(after), after["web"]) == ({"web", "mail"}, before["web"])


@pytest.mark.parametrize("line", ["wrokers = 2", "workers = ", '[groups.web]\ntarget = "nosuch.py"'])
def test_a_mistake_changes_nothing(configured: Configured, line: str) -> None:
    with configured.service() as service:
        service.serving(2)
        before, master = pids(service), service.json("info")["master_pid"]
        configured.groups = {}
        configured.whole["stop_timeout"] = "1s"
        configured.write()
        with (configured.folder / "cluster-service.toml").open("a") as file:
            file.write(line + "\n")
        for words in (("reload",), ("reload", "--plan"), ("config", "check", "--running")):
            done = service.cli(*words)
            assert done.code == 2, done
            assert "cluster-service.toml" in done.err
        checked = cservice("config", "check", cwd=configured.folder)
        assert checked.err.splitlines()[0] == service.cli("reload").err.splitlines()[0]
        os.kill(service.pid, signal.SIGHUP)
        service.until_logged("SIGHUP: nothing was changed: ")
        assert (pids(service), service.json("info")["master_pid"]) == (before, master)


def test_a_bad_release_is_undone_and_said(configured: Configured) -> None:
    with configured.service() as service:
        service.serving(2)
        (configured.folder / "bad.py").write_text("raise SystemExit('no such luck')\n")
        share = service.json("info")["groups"]["web"]["share"]
        configured.groups["web"] |= {"target": "bad.py", "share": "none"}
        configured.write()
        done = service.cli("reload")
        assert done.code == 1
        assert "no such luck" in done.err
        assert service.json("info")["groups"]["web"]["share"] == share != "none", "it was a part of the release"
        assert {row["target"] for row in service.workers()} == {str(configured.folder / "wait.py")}


def test_flags_and_the_environment_of_the_start_stay_given(configured: Configured) -> None:
    with configured.service("--stop-timeout", "9s", env={"CSERVICE_HANG_TIMEOUT": "8s"}) as service:
        service.serving(2)
        configured.whole |= {"stop_timeout": "1s", "hang_timeout": "1s"}
        configured.write()
        assert service.json("reload", "--plan")["changes"] == []
        rows = {row["name"]: row for row in service.json("config", "show", "--running")["groups"]["web"]}
        assert rows["stop_timeout"]["where"] == "--stop-timeout"
        assert rows["hang_timeout"]["where"] == "CSERVICE_HANG_TIMEOUT"


def test_what_needs_a_new_service_is_said_each_time(configured: Configured) -> None:
    with configured.service() as service:
        service.serving(2)
        configured.whole |= {"run_dir": str(configured.folder), "master_hang_timeout": "9s", "state": "state.json"}
        configured.write()
        for _ in range(2):
            done = service.cli("reload")
            assert done.code == 0, done
            assert "master_hang_timeout: 30s → 9s (after the service is restarted)" in done.out
        changes = service.json("reload", "--plan")["changes"]
        assert [change["effect"] for change in changes] == ["service"] * 3


def test_sighup_takes_up_the_configuration_and_rolls_everybody(configured: Configured) -> None:
    with configured.service() as service:
        service.serving(2)
        before = pids(service)
        configured.groups["web"]["args"] = ["again"]
        configured.write()
        os.kill(service.pid, signal.SIGHUP)
        (started,) = service.until_event("operation_start", command="restart jobs")
        service.until_event("operation_end", operation=started["operation"])
        after = pids(service)
        assert all(set(after[name]).isdisjoint(before[name]) for name in before)
        os.kill(service.pid, signal.SIGHUP)
        (started,) = service.until_event("operation_start", command="restart all")
        service.until_event("operation_end", operation=started["operation"])
        again = pids(service)
        assert all(set(again[name]).isdisjoint(after[name]) for name in before)


def test_a_master_that_dies_in_the_middle_of_that_leaves_the_rest_to_the_next(configured: Configured) -> None:
    with configured.service() as service:
        service.serving(2)
        before = pids(service)
        configured.groups["web"]["args"] = ["again"]
        configured.write()
        os.kill(service.pid, signal.SIGHUP)
        service.until_event("operation_step", command="upgrade web " + str(configured.folder / "wait.py"))
        os.kill(service.json("info")["master_pid"], signal.SIGKILL)
        (rest,) = service.until_event("operation_start", command="restart jobs")
        assert service.until_event("operation_end", operation=rest["operation"])[0]["state"] == "done"
        after = pids(service)
        assert all(set(after[name]).isdisjoint(before[name]) for name in before)


def test_sighup_is_heard_by_the_next_master(configured: Configured) -> None:
    with configured.service() as service:
        service.serving(2)
        configured.groups["web"]["args"] = ["again"]
        configured.write()
        master = service.json("info")["master_pid"]
        os.kill(service.pid, signal.SIGSTOP)  # so that both are seen at once
        pidfd = os.pidfd_open(master)
        os.kill(master, signal.SIGKILL)
        assert select.select([pidfd], [], [], 20)[0], "it is dead"
        os.close(pidfd)
        os.kill(service.pid, signal.SIGHUP)
        os.kill(service.pid, signal.SIGCONT)
        service.until_event("config_reload")
        (started,) = service.until_event("operation_start", command="restart jobs")
        service.until_event("operation_end", operation=started["operation"])


def ask(port: int, key: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/api/v1/health", headers={"X-Access-Key": key})
        return connection.getresponse().status
    finally:
        connection.close()


def test_keys_change_at_once_and_outlive_the_master(tmp_path: Path) -> None:
    port = free_port()
    configured = Configured(tmp_path, port=port, access_key=KEY, trust_loopback=True)
    with configured.service() as service:
        service.serving(2)
        before = pids(service)
        assert (ask(port, KEY), ask(port, OTHER)) == (200, 401)
        configured.whole["access_key"] = OTHER
        configured.write()
        plan = service.cli("reload", "--plan")
        assert "access_key: changed" in plan.out
        assert KEY not in plan.out
        assert OTHER not in plan.out
        assert (ask(port, KEY), ask(port, OTHER)) == (200, 401)
        assert service.cli("reload").code == 0
        assert (ask(port, KEY), ask(port, OTHER)) == (401, 200)
        master = service.json("info")["master_pid"]
        os.kill(master, signal.SIGKILL)
        service.until_event("master_start", starts=2)
        service.until(lambda: service.cli("health").code == 0, "the next master")
        assert (ask(port, KEY), ask(port, OTHER)) == (401, 200)
        assert service.json("reload", "--plan")["changes"] == []
        assert pids(service) == before
        assert KEY not in service.log + json.dumps(service.events)
        assert OTHER not in service.log + json.dumps(service.events)


def test_through_the_http_door(tmp_path: Path) -> None:
    port = free_port()
    configured = Configured(tmp_path, port=port, access_key=KEY, trust_loopback=True)
    with configured.service() as service:
        service.serving(2)
        configured.whole["workers"] = 2
        configured.write()
        at = ("--url", f"http://127.0.0.1:{port}", "--access-key", KEY)
        plan = json.loads(cservice(*at, "--json", "reload", "--plan").out)
        assert {change["text"] for change in plan["changes"]} == {"workers: 1 → 2"}
        done = cservice(*at, "reload")
        assert done.code == 0, done
        service.serving(4)
        assert json.loads(cservice(*at, "--json", "config", "show").out)["file"].endswith("cluster-service.toml")
        assert [row["name"] for row in json.loads(cservice(*at, "--json", "ls").out)["services"]] == ["test"]


def test_a_program_of_the_user_s_reloads_its_keywords_and_files(tmp_path: Path) -> None:
    configured = Configured(tmp_path)
    (tmp_path / "server.py").write_text(
        "import cluster_service as cservice\ncservice.start(name='test', stop_timeout='3s')\n"
    )
    with Service(command=(sys.executable, str(tmp_path / "server.py")), cwd=tmp_path) as service:
        service.serving(2)
        configured.whole |= {"workers": 2, "stop_timeout": "1s"}
        configured.write()
        assert service.cli("reload").code == 0
        service.serving(4)
        assert service.json("reload", "--plan")["changes"] == []


def test_ls_lists_what_runs_here(tmp_path: Path, run_dir: Path) -> None:
    assert json.loads(cservice("--json", "ls").out) == {"services": []}
    assert cservice("ls").code == 0
    port = free_port()
    folder = releases.write(tmp_path / "v1", "v1", "script")
    with Service("-w", "2", "worker.py", str(port), cwd=folder, name="one") as one:
        one.serving(2)
        with Service("-w", "1", "--ready-after", "50ms", "--", "sleep", "1000", cwd=folder, name="two") as two:
            two.serving(1)
            (run_directory() / "dead.lock").write_text('{"pid": 1, "since": "", "name": "dead"}')
            listed = json.loads(cservice("--json", "ls").out)["services"]
            (run_directory() / "dead.lock").unlink()
            assert [(row["name"], row["pid"]) for row in listed] == [("one", one.pid), ("two", two.pid)]
            assert [(row["serving"], row["wanted"]) for row in listed] == [(2, 2), (1, 1)]
            assert (listed[0]["ports"], listed[1]["ports"]) == ([f"127.0.0.1:{port}"], [])
            assert listed[0]["targets"] == [str(folder / "worker.py")]
            shown = cservice("ls").out
            assert f"127.0.0.1:{port}" in shown
            master = two.json("info")["master_pid"]
            os.kill(master, signal.SIGSTOP)
            stopped = json.loads(cservice("--json", "ls").out)["services"][1]
            assert (stopped["pid"], stopped["serving"]) == (two.pid, None)
            assert stopped["error"]
            os.kill(master, signal.SIGCONT)
