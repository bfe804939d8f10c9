"""Broken files: each error names the file, the line (or at least the name) and what to do about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.tools.service import cservice

if TYPE_CHECKING:
    from pathlib import Path


class Broken(NamedTuple):
    """A file, the line of its mistake (0: it is told by name alone), and words of the error: the name, the remedy."""

    text: str
    line: int
    words: tuple[str, ...]
    name: str = "cluster-service.toml"


T = 'target = "worker.py"\n'

FILES = [
    # what is no TOML, or no JSON
    Broken(T + "workers = \n", 2, ("not valid TOML", "NAME = VALUE")),
    Broken("target = worker.py\n", 1, ("not valid TOML", "Text stands in quotes")),
    Broken(T + "workers 4\n", 2, ("not valid TOML", "NAME = VALUE")),
    Broken(T + "[groups.web\nworkers = 1\n", 2, ("not valid TOML", "in brackets")),
    Broken(T + "auto_restart = True\n", 2, ("not valid TOML", "small letters")),
    Broken(T + 'env = {\n  A = "1"\n}\n', 2, ("not valid TOML",)),
    Broken('target = "worker.py\n', 1, ("not valid TOML",)),
    Broken(T + "workers = 1\nworkers = 2\n", 3, ("not valid TOML", "keep one of them")),
    Broken(T + "[groups.web]\n[groups.web]\n", 3, ("not valid TOML", "keep one of them")),
    Broken('{"cluster": {"workerCount": 4,}}', 1, ("not valid JSON", "after the last"), "service.json"),
    Broken('{"cluster":\n {"workerCount": 4,\n  "workerCount": 5}}', 0, ("'workerCount'", "Keep one"), "service.json"),
    Broken('[{"workerCount": 4}]', 0, ("no object", '{"cluster"'), "service.json"),
    Broken('{"cluster": "worker.py"}', 1, ("no table", '{"cluster"'), "service.json"),
    # names
    Broken(T + "wrokers = 2\n", 2, ("'wrokers'", "did you mean 'workers'?")),
    Broken(T + "colour = 2\n", 2, ("'colour'", "cservice start --help")),
    Broken(T + "worker-count = 1\nworkers = 2\n", 3, ("given twice", "worker-count in", "Keep one")),
    Broken('{"cluster": {\n"worker": "worker.py",\n"acessKey": "k"}}', 3, ("'acessKey'", "access_key"), "service.json"),
    Broken("[tool.cluster-service]\n" + T + "prot = 1\n", 3, ("'prot'", "did you mean 'port'?"), "pyproject.toml"),
    Broken("[tool]\ncluster-service = 1\n", 2, ("no table", "[tool.cluster-service]"), "pyproject.toml"),
    Broken(T + 'config = "other.toml"\n', 2, ("'config'", "--config")),
    Broken(T + "[groups.web]\nname = 'x'\n", 3, ("'groups.web.name'", "above the first table")),
    # values
    Broken(T + 'workers = "many"\n', 2, ("workers in", "'many'", "auto")),
    Broken(T + "workers = -1\n", 2, ("workers in", "0 to 1024")),
    Broken(T + 'stop_timeout = "10 parsecs"\n', 2, ("stop_timeout in", "10s, 5m")),
    Broken(T + "ready_timeout = 0\n", 2, ("ready_timeout in", "no time at all", "10s")),
    Broken(T + 'port = "http"\n', 2, ("port in", "from 1 to 65535")),
    Broken(T + 'auto_restart = "maybe"\n', 2, ("auto_restart in", "write true or false")),
    Broken(T + 'share = "seccmop"\n', 2, ("share in", "did you mean 'seccomp'?")),
    Broken('target = "shop:application"\nbind = ["nowhere"]\n', 2, ("bind in", "write 127.0.0.1:8000")),
    Broken('target = "shop:application"\nbind = ["127.0.0.1:0"]\n', 2, ("bind in", "write 127.0.0.1:8000")),
    Broken(T + 'share = "none"\nbind = [":8000"]\n', 3, ("bind in", "--share none")),
    Broken(T + 'share_with = ["wbe"]\n', 2, ("share_with in", "no other group 'wbe'")),
    Broken(T + 'name = "my shop"\n', 2, ("name in", "A name is a letter")),
    Broken(T + '[env]\n"A=B" = "1"\n', 2, ("env in", "NAME=VALUE")),
    Broken(T + 'env = ["A"]\n', 2, ("env in", "NAME=VALUE")),
    Broken(T + 'health_check = "health"\n', 2, ("health_check in", "write /health")),
    Broken(T + "hang_timeout = 0.2\n", 2, ("hang_timeout in", "1s or more", "or 0")),
    Broken(T + 'max_memory = "lots"\n', 2, ("max_memory in", "512m or 2g")),
    Broken(T + "max_requests = 1000\n", 2, ("max_requests in", "only those of an app", "max_uptime")),
    Broken(T + 'check_path = "/health"\n', 2, ("check_path in", "an app on uvicorn", "check_command")),
    Broken(T + "check_status = 99\n", 2, ("check_status in", "204, or 200-299")),
    Broken(T + 'recycle_at = "25:00"\n', 2, ("recycle_at in", "bad hour", "04:00")),
    Broken(T + 'recycle_at = "0 4 31 feb *"\n', 2, ("recycle_at in", "no time of day", "04:00")),
    Broken(T + "access_key = 17\n", 2, ("access_key in", "printable text")),
    Broken(T + "env = 5\n", 2, ("env in", "NAME=VALUE")),
    Broken(T + "[env]\nA = [1]\n", 2, ("env in", "A cannot be [1]", "write text")),
    Broken(T + 'trusted_hosts = ["https://shop.example.org"]\n', 2, ("trusted_hosts in", "service.example.org")),
    Broken(T + 'trusted_hosts = ["shop.example.org:443"]\n', 2, ("trusted_hosts in", "service.example.org")),
    Broken(T + 'group = "all"\n', 2, ("group in", "Call it web")),
    # tables
    Broken("[cluster-service]\n" + T, 1, ("'cluster-service'", "outside of tables")),
    Broken("[web]\n" + T, 1, ("'web'", "[groups.web]")),
    Broken("[group.web]\n" + T, 1, ("group in", "[groups.web]")),
    Broken(T + '[bind]\nhost = ":8000"\n', 2, ("bind in", "Write bind =")),
    Broken('{"cluster": {"worker": "worker.py"},\n"port": 3}', 2, ("'port'", "Put it into"), "service.json"),
    Broken("[project]\nname = 'shop'\n", 0, ("[tool.cluster-service]", "Add it"), "pyproject.toml"),
    Broken("[tool.cluster_service]\nprot = 1\n", 2, ("'prot'", "did you mean 'port'?"), "pyproject.toml"),
    # what is not there
    Broken('workers = 2\ntarget = "wroker.py"\n', 2, ("target in", "did you mean 'worker.py'?")),
    Broken('target = "shop:aplication"\n', 1, ("target in", "did you mean 'application'?")),
    Broken(T + 'cwd = "nowhere"\n', 2, ("cwd in", "does not exist", "Name one")),
    Broken(T + 'python = "python4"\n', 2, ("python in", "python4", "--python")),
    Broken(T + 'log_file = "logs/out.log"\n', 2, ("log_file in", "mkdir")),
    Broken(T + 'access_key_file = "key"\n', 2, ("access_key_file in", "No such file")),
    Broken(T + 'tls_cert = "cert.pem"\n', 2, ("tls_cert", "No such file")),
    Broken(T + 'tls_key = "key.pem"\n', 2, ("tls_key in", "Add tls_cert")),
    Broken(T + 'host = "0.0.0.0"\n', 2, ("host in", "--tls-cert")),
    # groups
    Broken(T + '[groups.a]\ndepends_on = ["wbe"]\n[groups.web]\n', 3, ("groups.a.depends_on", "did you mean 'web'?")),
    Broken(T + '[groups.a]\ndepends_on = ["b"]\n[groups.b]\ndepends_on = ["a"]\n', 3, ("a → b → a", "remove one")),
    Broken(T + "[groups.web]\nsingleton = true\nworkers = 2\n", 4, ("singleton", "Write 1")),
    Broken("[groups.web]\nworkers = 2\n", 1, ("[groups.web]", 'target = "worker.py"')),
]  # fmt: skip


@pytest.mark.parametrize("broken", FILES, ids=range(len(FILES)))
def test_the_error_names_file_line_and_remedy(here: Path, broken: Broken) -> None:
    file = here / broken.name
    file.write_text(broken.text)
    from cluster_service.cli.command_line import run

    told = _told(run, file)
    assert str(file) in told, told
    if broken.line:
        assert f"{file}:{broken.line}" in told or f"line {broken.line}" in told, told
    for word in broken.words:
        assert word in told, told


def _told(run: object, file: Path) -> str:
    import contextlib
    import io

    assert callable(run)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["--json", "config", "check", str(file)])
    assert code == 2, out.getvalue()
    error = json.loads(out.getvalue())["error"]
    assert error["code"] == "bad_request"
    return f"{error['message']}\n{error.get('hint', '')}"


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 30


def test_a_file_without_a_mistake(here: Path) -> None:
    (here / "cluster-service.toml").write_text(T + "workers = 2\n")
    done = cservice("config", "check", cwd=here)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{here}/cluster-service.toml is fine\nweb: 2 × {here}/worker.py\n"
    assert not (here / "run").exists()
    (here / "cluster-service.toml").write_text("workers = 2\naccess_key = 'auto'\n")
    done = cservice("config", "check", "cluster-service.toml", cwd=here)
    assert done.code == 0
    assert "warning: no target is named" in done.out
    assert not (here / "run").exists()


def test_what_is_no_mistake_but_would_be_missed(here: Path) -> None:
    (here / "commands").mkdir()
    (here / "commands" / "greet.py").write_text("def greet(:\n")
    (here / "cluster-service.toml").write_text(T + 'commands = "commands"\nupgrade_roots = ["uploads"]\n')
    done = cservice("config", "check", cwd=here)
    assert done.code == 0
    assert f"warning: {here}/commands/greet.py:1 does not compile" in done.out
    assert "cluster-service.toml:3: there is no directory" in done.out
    (here / "commands" / "greet.py").write_text("def greet(): ...\n")
    (here / "uploads").mkdir()
    assert "warning" not in cservice("config", "check", cwd=here).out


def test_several_mistakes_and_the_environment_s(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "service.toml").write_text("wrokers = 2\nport = 0\n")
    monkeypatch.setenv("CSERVICE_MONITOR", "long")
    done = cservice("config", "check", "service.toml", cwd=here)
    assert done.code == 2
    assert "3 mistakes" in done.err
    for word in ("service.toml:1", "service.toml:2", "CSERVICE_MONITOR"):
        assert word in done.err


def test_no_file_at_all(here: Path) -> None:
    done = cservice("config", "check", cwd=here)
    assert done.code == 2
    assert "config check FILE" in done.err
    assert "nosuch.toml cannot be read" in cservice("config", "check", "nosuch.toml", cwd=here).err
