"""``config show``: where each value came from, and nothing secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.config.asking import KEY, make
from tests.tools.service import cservice

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FILE = f"""workers = 2
port = 1001
access_key = "{KEY}"

[env]
DATABASE_PASSWORD = "hunter2"
STORE = "postgres://ann:hunter2@db/shop"
LEVEL = "info"

[groups.web]
target = "worker.py"
stop_timeout = "5s"

[groups.jobs]
target = "releases/v2.py"
args = ["--token", "hunter2", "postgres://ann:hunter2@db/shop", "loud"]
depends_on = ["web"]
"""


def row(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in rows if entry["name"] == name)


def test_each_value_and_where_it_came_from(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = here / "cluster-service.toml"
    file.write_text(FILE)
    monkeypatch.setenv("CSERVICE_PORT", "1002")
    done = cservice("--json", "--name", "shop", "config", "show", cwd=here)
    assert done.code == 0, done
    shown = json.loads(done.out)
    assert (shown["service"], shown["file"], list(shown["groups"])) == ("shop", str(file), ["web", "jobs"])
    whole, web, jobs = shown["settings"], shown["groups"]["web"], shown["groups"]["jobs"]
    assert row(whole, "name") == {"name": "name", "value": "shop", "from": "option", "where": "--name"}
    assert row(whole, "port") == {"name": "port", "value": 1002, "from": "environment", "where": "CSERVICE_PORT"}
    assert row(whole, "access_key")["value"] == "(secret)"
    assert (row(whole, "host")["value"], row(whole, "host")["from"]) == ("localhost", "default")
    assert row(web, "stop_timeout")["where"] == f"groups.web.stop_timeout in {file}:12"
    assert row(web, "workers")["where"] == f"workers in {file}:1"
    assert row(jobs, "depends_on")["value"] == ["web:ready"]
    assert row(web, "env")["value"] == dict.fromkeys(("DATABASE_PASSWORD", "STORE", "LEVEL"), "(secret)")
    assert row(jobs, "args")["value"] == ["--token", "(secret)", "postgres://ann:(secret)@db/shop", "loud"]
    text = cservice("config", "show", cwd=here).out
    for secret in (KEY, "hunter2"):
        assert secret not in done.out + text
    assert "CSERVICE_PORT" in text
    assert "stop_timeout         5s " in text


def test_nothing_secret_is_kept_to_be_shown(here: Path) -> None:
    (here / "cluster-service.toml").write_text(FILE)
    kept = json.dumps(make(None).shown)
    assert "(secret)" in kept
    assert KEY not in kept
    assert "hunter2" not in kept
    assert KEY not in repr(make(None))
