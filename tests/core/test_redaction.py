"""What is not said aloud: the tables."""

from __future__ import annotations

import pytest

from cluster_service.core.engine.spec_reload import format_setting
from cluster_service.core.model.spec import Check, GroupSpec, Release, Spec
from cluster_service.core.protocol.requests import Reload, StartGroup, Upgrade
from cluster_service.core.rules import redaction
from cluster_service.wire import orders


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in ("PASSWORD", "API_KEY", "db-password", "authToken", "PGPASSWORD", "access_keys")),
        *((name, True) for name in ("SECRET_KEY_BASE", "SENTRY_DSN", "--token", "key1", "x-cookie")),
        *((name, False) for name in ("LEVEL", "keyboard", "author", "tokenizer", "passenger", "PORT", "")),
    ],
)
def test_a_name_tells_whether_its_value_is_secret(name: str, secret: bool) -> None:
    assert redaction.is_secret(name) is secret


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("again -v 3", "again -v 3"),
        ("--password hunter2 on", "--password (secret) on"),
        ("--password=hunter2", "--password=(secret)"),
        ("--password=hunter2 on", "--password=(secret) on"),
        ("PASSWORD=hunter2", "PASSWORD=(secret)"),
        ("--key --loud", "--key --loud"),
        ("password hunter2", "password hunter2"),
        ("https://a:hunter2@c/?token=hunter2&x=2", "https://a:(secret)@c/?token=(secret)&x=2"),
        ("/health?x=1&api_key=hunter2#top", "/health?x=1&api_key=(secret)#top"),
        ("--store=redis://:hunter2@db", "--store=redis://:(secret)@db"),
    ],
)
def test_arguments(words: str, shown: str) -> None:
    assert redaction.redact_arguments(words.split()) == shown.split()


def test_what_stands_in_logs_tells_neither_arguments_nor_variables_nor_queries() -> None:
    """The log shows an event that the core failed at: all of it."""
    secret = "hunter2"
    release = Release("script", "app.py", args=(secret,), env=(("PASSWORD", secret),))
    check = Check(f"/health?token={secret}", command=("ask", "--token", secret))
    group = GroupSpec("web", 1, release, health_check=f"/health?token={secret}", check=check)
    upgrade = Upgrade("web", release, 1.0, health_check=f"/health?token={secret}")
    events = (StartGroup(group), Reload(Spec("shop", (group,)), None, None), upgrade)
    told = repr((*events, orders.Spawn(1, ["app.py", secret], {"PASSWORD": secret}, "/", "web.1"))) + format_setting(
        check
    )
    assert "app.py" in told
    assert "GET /health?token=(secret)" in told
    assert secret not in told
