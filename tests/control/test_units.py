"""Units for systemd: what stands in them, and what is refused. That they work is test_systemd's to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.cli.start_service import read
from cluster_service.commands.systemd import here
from cluster_service.config.resolve import resolve
from cluster_service.config.service_config import Origin
from cluster_service.errors import CommandError
from cluster_service.systemd.units import arguments, units
from tests.tools.ports import free_port
from tests.tools.service import Service, cservice

if TYPE_CHECKING:
    from collections.abc import Iterable

PROGRAMS = Path(__file__).parent.parent / "programs"


def printed(*words: str, **given: Any) -> dict[str, Any]:
    done = here({"read_start": read}, args=words, **given)
    assert done is not None
    return done


def values(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


@pytest.fixture(autouse=True)
def _at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROGRAMS)


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["-w", "3", "asgi_pid:app"], "--workers 3 asgi_pid:app"),
        (["--no-auto-restart", "asgi_pid:app"], "--no-auto-restart asgi_pid:app"),
        (["--auto-restart", "http_server.py", "80", "--x"], "--auto-restart http_server.py 80 --x"),
        (["--env", "A=1", "--env", "B=a b", "asgi_pid:app"], '--env A=1 --env "B=a b" asgi_pid:app'),
        (["--detach", "--no-console", "asgi_pid:app"], "asgi_pid:app"),
        (["--", "sh", "-c", 'echo "$HOME" 100%'], '-- /bin/sh -c "echo \\"$$HOME\\" 100%%"'),
        (["--access-key", "auto", "asgi_pid:app"], "--access-key auto asgi_pid:app"),
    ],
)
def test_the_command_line_is_kept(words: list[str], start: str) -> None:
    (line,) = values(printed(*words)["unit"], "ExecStart")
    assert line.partition(" start ")[2].replace("/usr/bin/sh", "/bin/sh") == start


def _settings(options: dict[str, Any], environment: dict[str, str] | None = None) -> Any:
    origin = Origin(str(PROGRAMS), options, "flags", "asgi_pid:app", environment=environment or {})
    return resolve(origin, origin.environ({}), make=False, by_us=False)


@pytest.mark.parametrize(
    ("words", "given", "key", "expected"),
    [
        (["asgi_pid:app"], {}, "Type", ["notify"]),
        (["--stop-timeout", "2m", "--shutdown-delay", "10s", "asgi_pid:app"], {}, "TimeoutStopSec", ["160"]),
        (["--name", "web", "asgi_pid:app"], {}, "RuntimeDirectory", ["cluster-service/web"]),
        (["--run-dir", "/srv/run", "asgi_pid:app"], {}, "RuntimeDirectory", []),
        (["--run-dir", "/srv/run", "asgi_pid:app"], {}, "ReadWritePaths", ["/srv/run"]),
        (["--state", "/var/lib/web/state", "asgi_pid:app"], {}, "StateDirectory", ["web"]),
        (["--state", "/srv/web/state", "asgi_pid:app"], {}, "ReadWritePaths", ["/srv/web"]),
        (["--log-file", "/var/log/web/log", "asgi_pid:app"], {}, "LogsDirectory", ["web"]),
        (["--bind", "unix:/run/web/sock", "asgi_pid:app"], {}, "RuntimeDirectory", ["cluster-service/default web"]),
        (["--bind", "unix:/run/web/sock", "asgi_pid:app"], {}, "RuntimeDirectoryMode", ["0755"]),
        (["asgi_pid:app"], {}, "RuntimeDirectoryMode", ["0700"]),
        (["asgi_pid:app"], {"writable": ["/srv/a b", "/var/cache/web"]}, "ReadWritePaths", ['"/srv/a b"']),
        (["asgi_pid:app"], {"writable": ["/srv/a b", "/var/cache/web"]}, "CacheDirectory", ["web"]),
        (["asgi_pid:app"], {"user": "app"}, "User", ["app"]),
        (["asgi_pid:app"], {"user": "app"}, "CapabilityBoundingSet", [""]),
        (["--bind", ":80", "asgi_pid:app"], {"user": "app"}, "AmbientCapabilities", ["CAP_NET_BIND_SERVICE"]),
        (["--bind", ":80", "asgi_pid:app"], {"user": "app", "socket": True}, "AmbientCapabilities", []),
        (["asgi_pid:app"], {"socket": True}, "Requires", ["default.socket"]),
    ],
)
def test_what_stands_in_the_service(words: list[str], given: dict[str, Any], key: str, expected: list[str]) -> None:
    assert values(printed(*words, **given)["unit"], key) == expected


@pytest.mark.parametrize(
    ("listen", "lines"),
    [
        (["127.0.0.1:8000"], ["ListenStream=127.0.0.1:8000"]),
        ([":8000"], ["ListenStream=0.0.0.0:8000"]),
        (["[::]:8000"], ["ListenStream=[::]:8000", "BindIPv6Only=ipv6-only"]),
        (["[::]:8000+v4"], ["ListenStream=[::]:8000", "BindIPv6Only=both"]),
        (["udp:127.0.0.1:53"], ["ListenDatagram=127.0.0.1:53"]),
        (["unix:/run/web.sock"], ["ListenStream=/run/web.sock", "SocketMode=0666"]),
        (["unix:@web"], ["ListenStream=@web"]),
    ],
)
def test_what_stands_in_the_socket(listen: list[str], lines: Iterable[str]) -> None:
    text = printed("asgi_pid:app", listen=listen)["socket"]
    section = text.partition("[Socket]\n")[2].partition("\nFileDescriptorName")[0].splitlines()
    assert [line for line in section if not line.startswith("SocketUser")] == list(lines)


@pytest.mark.parametrize(
    ("words", "given", "sentence"),
    [
        ([], {}, "there is nothing to be started"),
        (["--wrokers", "2", "asgi_pid:app"], {}, "did you mean '--workers'"),
        (["--access-key", "s3cr3t", "asgi_pid:app"], {}, "would stand in the unit"),
        (["http_server.py", "80"], {"socket": True}, "not known where this program listens"),
        (["asgi_pid:app"], {"listen": ["[::]:80", "[::]:81+v4"]}, "cannot hold both"),
        (["--help"], {}, "cservice start --help"),
    ],
)
def test_what_is_refused(words: list[str], given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CommandError) as raised:
        printed(*words, **given)
    assert sentence in raised.value.message
    assert "s3cr3t" not in raised.value.message


def test_a_key_of_the_environment_is_refused_and_other_variables_are_kept() -> None:
    settings = _settings({}, {"CSERVICE_WORKERS": "3", "CSERVICE_SLOT": "1"})
    text = units(settings, ["cservice"])["unit"]
    assert values(text, "Environment") == ["CSERVICE_WORKERS=3"]
    settings = _settings({}, {"CSERVICE_ACCESS_KEY": "a key of sixteen letters and more"})
    assert settings.origin is not None
    with pytest.raises(CommandError):
        arguments(settings.origin, settings)


def test_the_unit_of_the_running_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with Service("-w", "1", "http_server.py", str(free_port()), cwd=PROGRAMS) as service:
        service.serving(1)
        running = json.loads(cservice("--name", "test", "--json", "systemd", "--running").out)
        assert values(running["unit"], "WorkingDirectory") == [str(PROGRAMS)]
        assert " start --name test --workers 1 http_server.py " in values(running["unit"], "ExecStart")[0]
        shown = service.cli("systemd", "--running", "--listen", "127.0.0.1:80").out
        assert shown.startswith("# /etc/systemd/system/test.service\n[Unit]\n")
        assert "# /etc/systemd/system/test.socket\n[Unit]\n" in shown
        assert service.cli("systemd", "--running", "--", "x.py").code == 2


def test_a_running_service_does_not_tell_its_variables() -> None:
    start = ("-w", "1", "--env", "TOKEN=s3cr3t", "http_server.py", str(free_port()))
    with Service(*start, cwd=PROGRAMS) as service:
        service.serving(1)
        done = service.cli("--json", "systemd", "--running")
        assert done.code == 2
        assert "s3cr3t" not in done.out + done.err
        assert "variables" in done.err


def test_where_variables_are_printed_it_is_said_who_can_read_them() -> None:
    text = printed("--env", "TOKEN=s3cr3t", "asgi_pid:app")["unit"]
    assert "EnvironmentFile=" in text
    assert "EnvironmentFile=" not in printed("asgi_pid:app")["unit"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["http_server.py", "80", "-x"], ["http_server.py", "80", "-x"]),
        (["http_server.py", "--", "80"], ["http_server.py", "80"]),
        (["http_server.py", "--", "--", "-x"], ["http_server.py", "--", "--", "-x"]),
        (["-m", "http.server", "--bind", "::"], ["-m", "http.server", "--", "--bind", "::"]),
        (["asgi_pid:app", "--", "--workers", "7"], ["asgi_pid:app", "--", "--workers", "7"]),
    ],
)
def test_the_command_line_gives_the_program_the_same_arguments(words: list[str], line: list[str]) -> None:
    start = values(printed(*words)["unit"], "ExecStart")[0]
    assert start.split()[-len(line) :] == line
