"""Words of other process managers lead to the setting that does the same here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster_service.config import foreign_settings
from cluster_service.config.settings_table import ALIASES, BY_NAME, canonical
from tests.tools.service import cservice

if TYPE_CHECKING:
    from pathlib import Path


def test_each_word_leads_to_a_setting_and_is_none_itself() -> None:
    plain = {alias.replace("_", "") for alias in ALIASES}
    assert set(foreign_settings.WORDS.values()) <= set(BY_NAME)
    foreign = set(foreign_settings.WORDS) | set(foreign_settings.SENTENCES)
    assert not plain & foreign, "a setting of ours needs no translation"
    assert not set(foreign_settings.WORDS) & set(foreign_settings.SENTENCES)
    words = foreign_settings.WORDS | foreign_settings.SENTENCES
    assert all(word == word.lower().replace("_", "").replace("-", "") for word in words)


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("graceful_timeout", "stop_timeout"),  # gunicorn
        ("timeout-graceful-shutdown", "stop_timeout"),  # uvicorn
        ("workers_kill_timeout", "stop_timeout"),  # granian
        ("stopwaitsecs", "stop_timeout"),  # supervisor
        ("max_restarts", "restarts_per_minute"),  # pm2
        ("max_memory_restart", "max_memory"),
        ("TimeoutStopSec", "stop_timeout"),  # systemd
        ("ExecStart", "command"),
        ("LimitNOFILE", "limits"),
        ("stop_grace_period", "stop_timeout"),  # docker
        ("harakiri", "hang_timeout"),  # uWSGI
        ("worker_boot_timeout", "ready_timeout"),  # Puma
        ("STOPSIGNAL", "stop_signal"),
        ("killsignal", "stop_signal"),
        ("kill_signal", "stop_signal"),
        ("KillSignal", "stop_signal"),
        ("wrokers", "workers"),  # a slip of the hand
    ],
)
def test_what_is_meant(word: str, setting: str) -> None:
    assert foreign_settings.meant(canonical(word), BY_NAME) == setting


def test_a_flag_leads_to_a_flag_and_one_given_many_times_to_its_singular() -> None:
    flags = ["--stop-timeout", "--limit", "--env-file"]
    assert foreign_settings.meant("--graceful-timeout", flags) == "--stop-timeout"
    assert foreign_settings.meant("--ulimits", flags) == "--limit"
    assert foreign_settings.meant("--environment-file", flags) == "--env-file"


@pytest.mark.parametrize("word", ["reload", "--reload", "--threads", "keepalive", "watch", "backlog"])
def test_what_no_setting_does_gets_a_sentence_and_no_suggestion(word: str) -> None:
    assert foreign_settings.suggestion(word, [*BY_NAME, "--recycle-at", "--share"]) == ""
    assert foreign_settings.sentence(word).endswith(".")


def test_the_sentence_stands_in_every_place_where_settings_are_given(tmp_path: Path) -> None:
    file = tmp_path / "cluster-service.toml"
    file.write_text('target = "worker.py"\ngraceful_timeout = 3\n')
    assert "graceful_timeout' in" in (said := cservice("config", "check", cwd=tmp_path).err)
    assert "did you mean 'stop_timeout'?" in said
    file.write_text('target = "worker.py"\nstopasgroup = true\n')
    assert "It is always so" in cservice("config", "check", cwd=tmp_path).err
    file.unlink()
    assert "did you mean '--stop-timeout'?" in cservice("start", "--graceful-timeout", "3", "x.py", cwd=tmp_path).err
    found = cservice("start", "x.py", cwd=tmp_path, env={"CSERVICE_GRACEFUL_TIMEOUT": "3"})
    assert "did you mean 'CSERVICE_STOP_TIMEOUT'?" in found.err
