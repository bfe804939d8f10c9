"""What a page of somebody else's can do with the service, in the browser of a person who commands it: nothing."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.watching import address, entered, idle, until_workers
from tests.tools.doors import KEY, audited
from tests.tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.tools.browser import Browser

PAGE = b"<!doctype html><title>somebody else</title><body>hello</body>"


class Other(BaseHTTPRequestHandler):
    """Another site, without any policy of its own."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def other() -> Iterator[int]:
    """Its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


# what it tries, although it knows the key: each is a promise of what it could read
ATTEMPTS = {
    "a request with the key": "fetch('{door}cli?cmd=restart+all',"
    " {{ method: 'POST', headers: {{ Authorization: 'Bearer {key}' }} }}).then((answer) => answer.text())",
    "a simple request": "fetch('{door}cli?cmd=restart+all&accessKey={key}', {{ method: 'POST' }})"
    ".then((answer) => answer.text())",
    "a blind request": "fetch('{door}cli', {{ method: 'POST', mode: 'no-cors',"
    " body: 'cmd=restart+all&accessKey={key}' }}).then((answer) => answer.text())",
    "a read": "fetch('{door}api/v1/workers?accessKey={key}', {{ mode: 'no-cors' }}).then((answer) => answer.text())",
    "the page's script": "import('{door}dashboard/main.js').then(String)",
}


def test_it_cannot_command(browser: Browser, other: int, key_file: Path) -> None:
    door = free_port()
    with idle(door, key_file) as service:
        pids = service.serving(2)
        ours = entered(browser, door)
        until_workers(ours, pids)
        for host in ("127.0.0.1", "localhost"):  # of the same site and of another
            theirs = browser.open(f"http://{host}:{other}/")
            for what, attempt in ATTEMPTS.items():
                text = attempt.format(door=address(door), key=KEY)
                got = theirs.run(f"{text}.catch(() => '')")
                assert got == "", (what, got)
        theirs.run(
            "new Promise((resolve) => { const frame = document.createElement('iframe');"
            f" frame.src = '{address(door)}'; frame.onload = resolve; document.body.append(frame); }})"
        )
        assert theirs.run("document.querySelector('iframe').contentDocument") is None
        form = (
            "const form = document.createElement('form'); form.method = 'POST'; form.enctype = 'text/plain';"
            f" form.action = '{address(door)}cli?cmd=restart+all&accessKey={KEY}'; document.body.append(form);"
            " form.submit()"
        )
        theirs.leave(form)
        assert "requests from web pages of other" in theirs.text("body")
        assert ours.complaints() == []
        until_workers(ours, pids)
        assert service.serving(2) == pids
        assert audited(service) == []
        assert not [event for event in service.events if event["type"] == "command"]
