"""The page of the dashboard as the door serves it; what it does in a browser: tests/browser."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_service.config.credentials import Key
from cluster_service.server import dashboard
from tests.control.machine import KEY, Running, running
from tests.control.test_http import ask

PLACE = Path(dashboard.__file__).parent

if TYPE_CHECKING:
    from collections.abc import Mapping


def get(service: Running, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    """Ask the TCP door, without a key."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def test_every_file_is_served_under_a_strict_policy(service: Running) -> None:
    for path, name in [("/", "index.html"), *((f"/dashboard/{name}", name) for name in dashboard.FILES)]:
        status, headers, body = get(service, path)
        assert (status, body) == (200, (PLACE / name).read_bytes())
        assert headers["content-type"] == dashboard.FILES[name]
        policy = set(headers["content-security-policy"].split("; "))
        assert policy >= {
            "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
            "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'",
        }  # fmt: skip
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert not [header for header in headers if header.lower().startswith("access-control")]


def test_nothing_else_of_the_package_is_served(service: Running) -> None:
    for name in ("__init__.py", "nosuch.js", "..%2fapp.py", "../app.py", "%2e%2e/access.py", "", "main.js/"):
        status, headers, body = get(service, f"/dashboard/{name}")
        assert status == 404, (name, body)
        assert headers["content-type"] == "application/json"
    kept = {path.name for path in PLACE.iterdir() if path.is_file() and path.suffix != ".py"}
    assert kept == set(dashboard.FILES)


def test_the_page_is_for_this_host_and_this_origin(service: Running) -> None:
    ours = f"http://127.0.0.1:{service.port}"
    for headers, expected in (
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Sec_Fetch_Site": "same-origin", "Origin": ours}, 200),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 421),
    ):
        for path in ("/", "/dashboard/main.js"):
            assert get(service, path, **headers)[0] == expected, (path, headers)


def test_it_asks_nobody_else_and_makes_no_html() -> None:
    page = (PLACE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page)
    for name in dashboard.FILES:
        text = (PLACE / name).read_text()
        assert "://" not in text, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", text), name
    linked = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert linked
    assert all(link.removeprefix("dashboard/") in dashboard.FILES for link in linked)


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"X_Access_Key": KEY}, {"restart", "shutdown", "workers", "upgrade", "version"}),
        ({"X_Access_Key": KEY, "X_Forwarded_For": "10.0.0.9"}, {"workers", "version"}),
        ({"X_Access_Key": "a key that looks only"}, {"workers"}),
    ],
)
def test_the_commands_say_which_of_them_the_key_may_give(
    run_dir: Path, asked: dict[str, str], allowed: set[str]
) -> None:
    with running(run_dir, keys=(KEY, Key("looks", "a key that looks only", ("workers",)))) as service:
        commands = ask(service, "GET", "/api/v1/commands", tcp=True, **asked).data["commands"]
        found = {one["name"] for one in commands if one["allowed"]}
        assert found & {"restart", "shutdown", "workers", "upgrade", "version"} == allowed
        for one in commands:  # and it is so
            if not one["changes"] and not one["parameters"]:
                status = ask(service, "POST", f"/api/v1/commands/{one['name']}", "{}", tcp=True, **asked).status
                assert (status == 403) is not one["allowed"], one["name"]
