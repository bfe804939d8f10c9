"""What is not said aloud: the tables."""

from __future__ import annotations

import pytest

from cluster_service.core import masks
from cluster_service.core.spec import Release


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in ("PASSWORD", "API_KEY", "db-password", "authToken", "PGPASSWORD", "access_keys")),
        *((name, True) for name in ("SECRET_KEY_BASE", "SENTRY_DSN", "--token", "key1", "x-cookie")),
        *((name, False) for name in ("LEVEL", "keyboard", "author", "tokenizer", "passenger", "PORT", "")),
    ],
)
def test_a_name_tells_whether_its_value_is_secret(name: str, secret: bool) -> None:
    assert masks.is_secret(name) is secret


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
    assert masks.arguments(words.split()) == shown.split()


def test_a_release_tells_neither_arguments_nor_variables() -> None:
    told = repr(Release("script", "app.py", args=("hunter2",), env=(("PASSWORD", "hunter2"),)))
    assert "app.py" in told
    assert "hunter2" not in told
