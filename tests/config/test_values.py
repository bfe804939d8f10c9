"""The kinds of value: good ones, and the sentence for each bad one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.config import groups, setting_values
from cluster_service.config.settings_table import ALIASES, BY_NAME, SETTINGS, canonical
from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(CommandError) as caught:
        call()
    assert caught.value.code == "bad_request"
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60.0), ("60s", 60.0), ("1500ms", 1.5), ("10s", 10.0), ("5m", 300.0), ("2h", 7200.0), ("0.5", 0.5),
        (".5s", 0.5), ("0", 0.0), (" 10 s ", 10.0), (60, 60.0), (1.5, 1.5), ("0ms", 0.0),
    ],
)  # fmt: skip
def test_durations(text: object, seconds: float) -> None:
    assert setting_values.duration(text) == seconds


def test_a_plain_number_may_count_in_another_unit() -> None:
    assert setting_values.duration(100, "ms") == 0.1
    assert setting_values.duration("2s", "ms") == 2.0


@pytest.mark.parametrize(
    "text",
    ["", "soon", "10 parsecs", "-5", "5d", "1e3", "٣", "ten", "5 m s", "nan", "inf", True, None, [], {}, "99999999h"],
)
def test_bad_durations(text: object) -> None:
    told = sentence(lambda: setting_values.duration(text))
    assert told.startswith(repr(text))
    assert "write 60 (seconds), 1500ms, 10s, 5m or 2h" in told


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1048576", 1 << 20),
        ("64k", 1 << 16),
        ("512m", 512 << 20),
        ("2g", 2 << 30),
        ("1.5G", 3 << 29),
        ("2MB", 2 << 20),
        ("2 MiB", 2 << 20),
        (7, 7),
    ],
)
def test_sizes(text: object, count: int) -> None:
    assert setting_values.size(text) == count


@pytest.mark.parametrize("text", ["", "big", "-1", "5p", "m", True, None])
def test_bad_sizes(text: object) -> None:
    assert "write 1048576 (bytes), 64k, 512m or 2g" in sentence(lambda: setting_values.size(text))


@pytest.mark.parametrize(("value", "number"), [("5", 5), (5, 5), (5.0, 5), ("-1", -1)])
def test_integers(value: object, number: int) -> None:
    assert setting_values.integer(value) == number


@pytest.mark.parametrize(
    ("value", "limits", "words"),
    [
        ("five", (), "a whole number"),
        (1.5, (), "a whole number"),
        (True, (), "a whole number"),
        (None, (), "a whole number"),
        ("0", (1,), "at least 1"),
        ("70000", (1, 65535), "from 1 to 65535"),
    ],
)
def test_bad_integers(value: object, limits: tuple[int, ...], words: str) -> None:
    assert words in sentence(lambda: setting_values.integer(value, *limits))


@pytest.mark.parametrize(
    ("value", "truth"), [("true", True), ("on", True), ("1", True), ("No", False), ("off", False), (False, False)]
)
def test_flags(value: object, truth: bool) -> None:
    assert setting_values.flag(value) is truth


def test_other_kinds_when_they_are_wrong() -> None:
    assert "true or false" in sentence(lambda: setting_values.flag("maybe"))
    assert "did you mean 'seccomp'?" in sentence(lambda: setting_values.choice("secomp", ["seccomp", "none"]))
    assert "seccomp, none" in sentence(lambda: setting_values.choice("telepathy", ["seccomp", "none"]))
    assert "empty" in sentence(lambda: setting_values.text(""))
    assert "NUL" in sentence(lambda: setting_values.text("a\0b"))
    assert "not text" in sentence(lambda: setting_values.text({}))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("localhost:8000", "127.0.0.1:8000"),
        ("8000", "127.0.0.1:8000"),
        (":8000", "0.0.0.0:8000"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:8000", "[::1]:8000"),
        ("[0:0:0:0:0:0:0:1]:8000", "[::1]:8000"),
        ("[::]:8000", "[::]:8000"),
        ("[::]:8000+v4", "[::]:8000+v4"),
        ("tcp:127.0.0.1:8000", "127.0.0.1:8000"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:a.sock", "unix:/base/a.sock"),
        ("unix:../a.sock", "unix:/a.sock"),
        ("unix:///run/a.sock", "unix:/run/a.sock"),
        ("unix:@name", "unix:@name"),
        ("udp:127.0.0.1:53", "udp:127.0.0.1:53"),
        ("udp:[::1]:53", "udp:[::1]:53"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert setting_values.canonical(text, "/base") == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write 127.0.0.1:8000"),
        ("localhost", "write 127.0.0.1:8000"),
        ("localhost:", "write 127.0.0.1:8000"),
        ("localhost:http", "write 127.0.0.1:8000"),
        ("::1:8000", "write 127.0.0.1:8000"),
        ("http://localhost:8000", "write 127.0.0.1:8000"),
        ("127.0.0.1:0", "another port for each worker"),
        ("127.0.0.1:70000", "1 to 65535"),
        ("127.0.0.1:80+v4", "+v4 goes with [::]"),
        ("no host:80", "write 127.0.0.1:8000"),
        ("nosuch.invalid:80", "no host 'nosuch.invalid'"),
        ("999.1.1.1:80", "999.1.1.1"),
        ("unix:", "names no socket"),
        ("unix:@", "names no socket"),
        ("unix:/" + "x" * 200, "107 bytes"),
    ],
)
def test_bad_addresses(text: str, words: str) -> None:
    assert words in sentence(lambda: setting_values.canonical(text, "/base"))


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "quotas"),
    [
        ("0::/\n", {}, []),
        ("0::/\n", {"cpu.max": "max 100000"}, []),
        ("0::/app\n", {"app/cpu.max": "150000 100000"}, [1.5]),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, [0.5]),
        ("0::/only-the-host-has-it\n", {"cpu.max": "200000 100000"}, [2.0]),
        (
            "4:cpu,cpuacct:/app\n",
            {"cpu,cpuacct/app/cpu.cfs_quota_us": "300000", "cpu,cpuacct/app/cpu.cfs_period_us": "100000"},
            [3.0],
        ),
        ("4:cpu:/app\n", {"cpu/app/cpu.cfs_quota_us": "-1", "cpu/app/cpu.cfs_period_us": "100000"}, []),
        ("5:memory:/app\n0::/app\n", {"app/cpu.max": "garbage"}, []),
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, own: str, files: dict[str, str], quotas: list[float]) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        write(tmp_path / "groups", name, text)
    assert groups.quotas(tmp_path / "groups", tmp_path / "own") == quotas
    assert groups.usable(tmp_path / "groups", tmp_path / "own") >= 1


def test_half_a_cpu_is_one_worker(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/\n")
    write(tmp_path, "cpu.max", "50000 100000")
    assert groups.usable(tmp_path, tmp_path / "own") == 1


def test_every_setting_is_whole() -> None:
    names: list[Any] = [flag for setting in SETTINGS for flag in setting.flags]
    assert len(names) == len(set(names))
    for alias in ALIASES:
        assert canonical(alias) == alias
    for setting in SETTINGS:
        assert setting.doc.endswith(".")
        assert canonical(setting.name.replace("_", "-")) == setting.name
        assert setting.kind != "choice" or setting.choices
    assert canonical("workerCount") in ALIASES
    assert ALIASES["worker_count"] == "workers"
    assert BY_NAME["access_key"].environment == "CSERVICE_ACCESS_KEY"
