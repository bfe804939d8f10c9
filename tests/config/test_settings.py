"""From what was asked for to what is started; each error is a sentence that says where, what, and what to do."""

from __future__ import annotations

import json
import os
import pwd
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service import config
from cluster_service.config import groups
from tests.config.asking import KEY, make, sentence

if TYPE_CHECKING:
    from pathlib import Path


def test_the_defaults(here: Path) -> None:
    settings = make()
    (group,) = settings.spec.groups
    assert (settings.name, group.name, group.count) == ("default", "web", groups.usable())
    assert (group.release.kind, group.release.target) == ("script", str(here / "worker.py"))
    assert (group.release.cwd, group.release.python) == (str(here), sys.executable)
    assert (group.ready_timeout, group.stop_timeout, group.ready_after) == (60.0, 60.0, None)
    assert (group.restart.auto_restart, group.restart.delay, group.restart.per_minute) == (True, 0.1, 10)
    assert (settings.access_key, settings.doors, settings.host, settings.port) == ("", (), "localhost", 11987)
    assert (settings.run_dir, settings.spec.give_up, group.release.share) == (str(here / "run"), "never", "auto")
    assert (group.monitor, group.health_check, group.hang_timeout) == (10.0, None, 60.0)
    assert (settings.spec.shutdown_delay, settings.state) == (0.0, None)


def test_it_travels_as_json_and_hides_its_key() -> None:
    settings = make(workers=3, access_key=KEY, trusted_hosts=["web.example"], env={"A": "1"}, bind=[], args=["x"])
    assert config.Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert KEY in json.dumps(settings.to_json())
    assert KEY not in repr(settings)
    assert settings.doors == ("127.0.0.1:11987", "[::1]:11987")


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"worker_count": 4}, "count", 4),
        ({"workerCount": "4"}, "count", 4),
        ({"workers": 0}, "count", 0),
        ({"group": "jobs"}, "name", "jobs"),
        ({"ready-timeout": "5m"}, "ready_timeout", 300.0),
        ({"stopTimeout": "1500ms"}, "stop_timeout", 1.5),
        ({"timeout": 5}, "stop_timeout", 5.0),
        ({"timeout": 5, "ready_timeout": 7}, "ready_timeout", 7.0),
        ({"monitor": "0"}, "monitor", 0.0),
        ({"hangTimeout": "1m"}, "hang_timeout", 60.0),
        ({"drain-timeout": "1m"}, "drain_timeout", 60.0),
        ({"listen": "shared"}, "listen", "shared"),
        ({"health-check": "/health?deep=1"}, "health_check", "/health?deep=1"),
    ],
)
def test_names_and_kinds(options: dict[str, Any], field: str, value: object) -> None:
    assert getattr(make(**options).spec.groups[0], field) == value


def test_how_ports_are_shared_is_the_release_s() -> None:
    assert make(share="python").spec.groups[0].release.share == "python"


def test_what_the_service_as_a_whole_does(here: Path) -> None:
    settings = make(state="state.json", shutdown_delay="5s", name="web")
    assert (settings.state, settings.spec.shutdown_delay) == (str(here / "state.json"), 5.0)
    assert config.Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_the_original_s_names() -> None:
    restart = make(autoRestart="false", restartDelayMs=250, restartsPerMinute=5).spec.groups[0].restart
    assert (restart.auto_restart, restart.delay, restart.per_minute) == (False, 0.25, 5)
    assert make(restart_delay_ms="2s").spec.groups[0].restart.delay == 2.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wrokers": 2}, ("'wrokers'", "did you mean 'workers'?")),
        ({"workers": "many"}, ("workers", "'many'", "auto")),
        ({"workers": -1}, ("-1", "0 to 1024")),
        ({"workers": 2, "worker_count": 3}, ("given twice",)),
        ({"name": "no name"}, ("'no name'", "letter")),
        ({"name": "1st"}, ("'1st'", "letter")),
        ({"group": "all"}, ("every group",)),
        ({"stop_timeout": "10 parsecs"}, ("stop_timeout", "10 parsecs", "10s")),
        ({"ready_timeout": "0"}, ("ready_timeout", "no time")),
        ({"port": 70000}, ("port", "1 to 65535")),
        ({"share": "telepathy"}, ("telepathy", "seccomp")),
        ({"server": "gunicorn"}, ("gunicorn", "uvicorn, granian")),
        ({"give_up": "all"}, ("never, all-broken",)),
        ({"cwd": "nowhere"}, ("cwd", "nowhere", "does not exist")),
        ({"cwd": "worker.py"}, ("worker.py", "not a directory")),
        ({"env": ["A"]}, ("'A'", "NAME=VALUE")),
        ({"env": ["=1"]}, ("NAME=VALUE",)),
        ({"python": "nosuch-python"}, ("nosuch-python", "--python")),
        ({"python": "./nosuch"}, ("./nosuch",)),
        ({"python": "worker.py"}, ("worker.py",)),
        ({"python": "./worker.py"}, ("worker.py", "not executable")),
        ({"python": "/bin/true"}, ("/bin/true", "Python")),
        ({"bind": [":8000"], "share": "none"}, ("--bind", "--share none")),
        ({"share_with": ["web"]}, ("share_with", "no other group 'web'")),
        ({"share": "inherit"}, ("--bind",)),
        ({"user": "nosuchuser"}, ("nosuchuser",)),
        ({"user_group": "nosuchgroup"}, ("nosuchgroup",)),
        ({"access_key": KEY, "access_key_file": "key"}, ("one of them is enough",)),
        ({"access_key_file": "nokey"}, ("nokey", "No such file")),
        ({"access_key": "with\nnewline"}, ("one line",)),
        ({"host": "0.0.0.0", "access_key": KEY}, ("0.0.0.0", "--allow-insecure-remote")),
        ({"host": "0.0.0.0", "access_key": "short", "allow_insecure_remote": True}, ("5 characters", "16")),
        ({"host": "nosuch.invalid"}, ("nosuch.invalid",)),
        ({"probes": ["unix:/run/probe"]}, ("probes", "unix:/run/probe", "0.0.0.0:8081")),
        ({"probes": ["8081x"]}, ("probes", "'8081x'")),
        ({"log_file": "nowhere/log"}, ("nowhere", "does not exist")),
        ({"pid_file": "releases"}, ("releases", "is a directory")),
        ({"state": "nowhere/state"}, ("state", "nowhere", "does not exist")),
        ({"state": "releases"}, ("releases", "is a directory")),
        ({"health_check": "health"}, ("'health'", "/health")),
        ({"health_check": "/a b"}, ("'/a b'", "/health")),
        ({"monitor": "always"}, ("monitor", "10s")),
        ({"config": "nosuch.toml"}, ("nosuch.toml", "No such file")),
        ({"restarts_per_minute": 0}, ("restarts_per_minute", "at least 1")),
        ({"auto_restart": "maybe"}, ("auto_restart", "true or false")),
        ({"run_dir": "/" + "x" * 120}, ("107 bytes", "--run-dir")),
    ],
)
def test_each_mistake_has_its_sentence(options: dict[str, Any], words: tuple[str, ...]) -> None:
    told = sentence(lambda: make(**options))
    for word in words:
        assert word in told


def test_the_error_names_the_option_when_it_was_one() -> None:
    told = sentence(lambda: make(source="flags", stop_timeout="10 parsecs"))
    assert told.startswith("--stop-timeout: '10 parsecs'")


# where values come from


def test_flags_win_over_the_environment_and_that_over_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "pyproject.toml").write_text('[tool.cluster-service]\nworkers = 2\nname = "project"\nport = 1001\n')
    assert make().name == "project"
    (here / "cluster-service.toml").write_text('worker-count = 3\nname = "file"\nport = 1002\nready-timeout = "5s"\n')
    monkeypatch.setenv("CSERVICE_NAME", "environment")
    monkeypatch.setenv("CSERVICE_PORT", "1003")
    monkeypatch.setenv("CSERVICE_HOST", "")
    settings = make(port=1004)
    assert (settings.port, settings.name, settings.host) == (1004, "environment", "localhost")
    assert (settings.spec.groups[0].count, settings.spec.groups[0].ready_timeout) == (3, 5.0)


def test_paths_in_a_file_start_from_the_file(here: Path) -> None:
    conf = here / "releases" / "service.toml"
    conf.write_text('target = "v2.py"\ncwd = "."\nlog-file = "log"\nargs = ["--fast"]\n[env]\nDEBUG = true\nN = 1\n')
    settings = make(None, config="releases/service.toml")
    found = settings.spec.groups[0].release
    assert (found.target, found.cwd, found.args) == (
        str(here / "releases" / "v2.py"),
        str(here / "releases"),
        ("--fast",),
    )
    assert found.env == (("DEBUG", "true"), ("N", "1"))
    assert settings.log_file == str(here / "releases" / "log")


def test_json_in_the_original_s_shape(here: Path) -> None:
    conf = {
        "cluster": {
            "host": "127.0.0.1",
            "port": 2000,
            "accessKey": KEY,
            "workerCount": 5,
            "workers": "./worker.py",
            "restartDelayMs": 50,
        }
    }
    (here / "service.json").write_text(json.dumps(conf))
    settings = make(None, config="service.json")
    (group,) = settings.spec.groups
    assert (settings.doors, settings.access_key) == (("127.0.0.1:2000",), KEY)
    assert (group.count, group.release.target, group.restart.delay) == (5, str(here / "worker.py"), 0.05)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cluster-service.toml", "wrokers = 2", ("'wrokers'", "cluster-service.toml", "did you mean 'workers'?")),
        ("cluster-service.toml", "workers = ]", ("cluster-service.toml", "not valid TOML", "line 1")),
        ("cluster-service.toml", 'workers = "many"', ("workers in", "cluster-service.toml", "'many'", "auto")),
        ("cluster-service.toml", "workers = [1]", ("workers in", "[1]", "auto")),
        ("cluster-service.toml", "stop-timeout = true", ("stop-timeout in", "True", "10s")),
        ("cluster-service.toml", 'config = "other.toml"', ("'config'",)),
        ("pyproject.toml", "[tool.cluster-service]\nprot = 1", ("'prot'", "[tool.cluster-service]", "'port'")),
        ("pyproject.toml", "[tool]\ncluster-service = 1", ("no table",)),
        ("service.json", "{", ("service.json", "not valid JSON")),
        ("service.json", '{"cluster": 1}', ("no table",)),
        ("service.json", "[1]", ("no object",)),
        ("service.json", '{"cluster": {"allowHttpPost": true}}', ("'allowHttpPost'",)),
    ],
)
def test_mistakes_in_files(here: Path, name: str, text: str, words: tuple[str, ...]) -> None:
    (here / name).write_text(text)
    options: dict[str, Any] = {"config": name} if name == "service.json" else {}
    told = sentence(lambda: make(**options))
    for word in words:
        assert word in told


def test_variables_that_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSERVICE_WROKERS", "2")
    told = sentence(make)
    assert "CSERVICE_WROKERS" in told
    assert "did you mean 'CSERVICE_WORKERS'?" in told


def test_inside_a_worker_its_identity_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = {"NAME": "outer", "GROUP": "jobs", "SLOT": "1", "GENERATION": "3", "REASON": "start", "SHARE": "seccomp"}
    inside |= {"BOARD": "3:1", "TEST_URL": "http://127.0.0.1:1", "TEST_PORT": "1"}
    for name, value in inside.items():
        monkeypatch.setenv(f"CSERVICE_{name}", value)
    settings = make()
    (group,) = settings.spec.groups
    assert (settings.name, group.name, group.release.share) == ("default", "web", "auto")


# the key


def test_the_key_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSERVICE_ACCESS_KEY", KEY)
    assert make().access_key == KEY
    assert "CSERVICE_ACCESS_KEY" not in os.environ
    assert make().warnings == ()


def test_warnings_about_a_key() -> None:
    assert make(access_key=KEY).warnings == ()
    (listed,) = make(source="flags", access_key=KEY).warnings
    assert "process list" in listed
    (short,) = make(access_key="lksjdf982734").warnings
    assert "12 characters" in short
    assert "lksjdf982734" not in short


def test_a_port_that_may_be_meant_for_the_app() -> None:
    (told,) = make(source="flags", port=8000).warnings
    assert "stays shut" in told
    assert "--bind" in told
    assert make(port=8000).warnings == (), "in a file it is no slip"
    assert make(source="flags", port=8000, access_key="auto").warnings == ()


def test_a_key_in_a_file(here: Path) -> None:
    (here / "key").write_text(f"  {KEY}\n")
    (here / "key").chmod(0o640)
    told = sentence(lambda: make(access_key_file="key"))
    assert "read by others" in told
    assert f"chmod 600 {here}/key" in told
    (here / "key").chmod(0o600)
    assert make(access_key_file="key").access_key == KEY
    (here / "key").write_text("\n")
    assert "no access key" in sentence(lambda: make(access_key_file="key"))
    assert "not a file" in sentence(lambda: make(access_key_file="releases"))


def test_a_key_that_is_made(here: Path) -> None:
    key = make(access_key="auto").access_key
    file = here / "run" / "default.key"
    assert (len(key) >= 43, file.read_text(), file.stat().st_mode & 0o777) == (True, key + "\n", 0o600)
    assert make(access_key="auto").access_key == key
    assert make(access_key="auto", name="other").access_key != key


@pytest.mark.parametrize(
    ("host", "doors"),
    [
        ("localhost", ("127.0.0.1:11987", "[::1]:11987")),
        ("127.0.0.1", ("127.0.0.1:11987",)),
        ("::1", ("[::1]:11987",)),
        ("[::1]", ("[::1]:11987",)),
    ],
)
def test_doors(host: str, doors: tuple[str, ...]) -> None:
    assert make(host=host, access_key=KEY).doors == doors
    assert make(host=host).doors == ()


def test_a_door_to_other_machines_must_be_asked_for_twice() -> None:
    assert make(host="0.0.0.0", access_key=KEY, allow_insecure_remote=True).doors == ("0.0.0.0:11987",)
    assert make(host="*", access_key=KEY, allow_insecure_remote=True).doors == ("[::]:11987+v4",)


# groups for a running service


def test_a_group_for_a_running_service(here: Path) -> None:
    group = config.group_settings(
        "worker.py", {"workers": 2, "cwd": str(here), "args": ["a"], "timeout": 5.0}, directory="/"
    )
    assert (group.name, group.count, group.release.target, group.release.args) == (
        "worker",
        2,
        str(here / "worker.py"),
        ("a",),
    )
    assert (group.ready_timeout, group.stop_timeout) == (5.0, 5.0)
    again = config.group_settings("worker.py", {"cwd": str(here)}, directory="/", taken=("worker", "worker-2"))
    assert again.name == "worker-3"
    assert config.group_settings("sh", {"program": True}, directory=str(here)).name == "sh"
    assert config.group_settings("shop:application", {}, directory=str(here)).name == "shop"


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("nosuch.py", {}, ("no such file: nosuch.py",)),
        ("worker.py", {"group": "web"}, ("'web'", "cservice scale")),
        ("worker.py", {"wrokers": 2}, ("'wrokers'", "'workers'")),
        ("worker.py", {"name": "other"}, ("'name'",)),
        ("worker.py", {"access_key": KEY}, ("access_key",)),
        ("worker.py", {"workers": "many"}, ("many",)),
    ],
)
def test_a_group_that_cannot_be(here: Path, target: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    told = sentence(lambda: config.group_settings(target, options, directory=str(here), taken=("web",)))
    for word in words:
        assert word in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run workers as another user")
@pytest.mark.parametrize("option", ["log_file", "audit_file", "pid_file", "state"])
def test_a_directory_that_workers_can_write_to_holds_no_file_of_the_service(
    option: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir.chmod(0o755)  # workers run in a directory that they can enter
    (run_dir / "worker.py").touch()
    monkeypatch.chdir(run_dir)
    theirs = run_dir / "theirs"
    theirs.mkdir()
    os.chown(theirs, pwd.getpwnam("nobody").pw_uid, -1)
    files: dict[str, Any] = {option: str(theirs / "file")}
    told = sentence(lambda: make(user="nobody", **files))
    assert f"workers run as nobody, who can write to {theirs}" in told
    make(**files)
    theirs.chmod(0o777)
    assert "every user can write to" in sentence(lambda: make(**files))
    assert list(theirs.iterdir()) == []
    theirs.rmdir()
    (run_dir / "worker.py").unlink()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (8888, 8888), ("8888", 8888), (1, 1), ("yes", True), ("true", True), (True, True), ("no", False),
        (False, False),
    ],
)  # fmt: skip
def test_expect_port_is_a_port_or_a_flag(here: Path, written: Any, expected: bool | int) -> None:
    (group,) = make(expect_port=written).spec.groups
    assert group.expect_port == expected
    assert type(group.expect_port) is type(expected)


@pytest.mark.parametrize("written", [0, 65536, -1, "web", "", 8.5, [80]])
def test_what_is_no_port_is_refused(here: Path, written: Any) -> None:
    assert "write 8000, yes or no" in sentence(lambda: make(expect_port=written))


@pytest.mark.parametrize(("share", "bind"), [("none", []), ("inherit", ["127.0.0.1:8000"])])
def test_expect_port_needs_a_share_mode_in_which_ports_are_seen(here: Path, share: str, bind: list[str]) -> None:
    assert f"share = {share}" in sentence(lambda: make(expect_port=True, share=share, bind=bind))
    assert make(expect_port=False, share=share, bind=bind).spec.groups[0].expect_port is False


def test_scripts_have_no_socket_for_each_worker() -> None:
    assert "is for programs after --" in sentence(lambda: make(listen="per-slot"))
