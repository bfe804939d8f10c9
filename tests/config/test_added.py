"""A group that a file names, told to a running service: what it is there is what the file makes of it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service import config
from cluster_service.config.resolve import group_here
from cluster_service.errors import CommandError
from tests.config.asking import make
from tests.config.test_groups import SHOP

if TYPE_CHECKING:
    from pathlib import Path

    from cluster_service.core.model.spec import GroupSpec

FULL = """
target = "worker.py"
args = ["--fast", "a b"]
cwd = "releases"
env = { LEVEL = "debug" }
ready_timeout = "3s"
stop_timeout = "4s"
ready_after = "2s"
auto_restart = false
restart_delay = "1500ms"
restarts_per_minute = 3
hang_timeout = 0
monitor = "1m"
health_check = "/health"
max_memory = "512m"
max_uptime = "2h"
recycle_at = "04:00"
check_command = ["true", "-x"]
check_interval = "3s"
share = "inherit"
bind = ["127.0.0.1:8001", "unix:web.sock"]
"""


def added(here: Path, name: str, *running: str, **options: Any) -> GroupSpec:
    """The group that a service which runs the groups *running* makes of it."""
    target, given = group_here({"group": name, **options}, str(here), os.environ)
    return config.group_settings(target, given, directory="/", taken=running)


@pytest.mark.parametrize("name", ["db", "web", "jobs"])
def test_it_is_the_group_that_start_would_make(here: Path, name: str) -> None:
    (here / "cluster-service.toml").write_text(SHOP)
    wanted = {group.name: group for group in make(None).spec.groups}
    running = [other for other in wanted if other != name]
    assert added(here, name, *running) == wanted[name]


def test_every_setting_of_a_group_comes_through(here: Path) -> None:
    (here / "cluster-service.toml").write_text(f"[groups.jobs]{FULL}")
    (wanted,) = make(None).spec.groups
    assert added(here, "jobs") == wanted
    (here / "cluster-service.toml").write_text(FULL)
    assert added(here, "jobs") == wanted, "a file without groups says what one of any name is"


def test_an_app_that_is_checked(here: Path) -> None:
    (here / "cluster-service.toml").write_text(
        'target = "shop:application"\nbind = [":8001"]\ncheck_path = "/health"\ncheck_status = "200-299"\n'
        'timeout = "7s"\nready_timeout = "3s"\nmax_requests = 100\n'
    )
    (wanted,) = make(None).spec.groups
    assert added(here, "web") == wanted


def test_flags_count_more_than_the_file(here: Path) -> None:
    (here / "cluster-service.toml").write_text(SHOP)
    plain = added(here, "jobs", "db", "web")
    assert added(here, "jobs", "db", "web", workers="7") == replace(plain, count=7)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (SHOP, "jbos", ("--group", "no group 'jbos'", "did you mean 'jobs'?", "db, web, jobs")),
        (SHOP + "[groups.x]\nwrokers = 1\n", "jobs", ("did you mean 'workers'?",)),
        ("workers = 2\n", "jobs", ("no TARGET", "cservice start worker.py")),
        ("", "jobs", ("no TARGET",)),
    ],
)
def test_what_cannot_be_added(here: Path, text: str, name: str, words: tuple[str, ...]) -> None:
    (here / "cluster-service.toml").write_text(text)
    with pytest.raises(CommandError) as caught:
        added(here, name)
    for word in words:
        assert word in f"{caught.value.message} {caught.value.hint}"


def test_what_it_depends_on_must_be_there(here: Path) -> None:
    (here / "cluster-service.toml").write_text(SHOP)
    with pytest.raises(CommandError, match="there is no group 'db'"):
        added(here, "jobs", "web")
