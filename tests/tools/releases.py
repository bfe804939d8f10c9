"""Releases on disk: a directory each, with an app and a plain script that answer with their version."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

APP = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {startup}
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    await send({{"type": "http.response.start", "status": {status}, "headers": [(b"content-length", b"2")]}})
    await send({{"type": "http.response.body", "body": b"{version}"}})
"""

SCRIPT = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response({status})
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{version}")

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
{startup}
server.serve_forever()
"""

FILES = {"app": ("main.py", APP), "script": ("worker.py", SCRIPT)}


def write(folder: Path, version: str, kind: str, *, head: str = "", startup: str = "pass", status: int = 200) -> Path:
    """Write the release *version* of *kind* into *folder*; return the folder.

    *head*: lines at the top of the file; *startup*: a statement that is run just before it serves (in an app: as the
    lifespan's startup, within a coroutine).
    """
    folder.mkdir(exist_ok=True)
    name, text = FILES[kind]
    (folder / name).write_text(f"{head}\n{text.format(version=version, startup=startup, status=status)}")
    return folder


def target(folder: Path, kind: str) -> list[str]:
    """How ``upgrade`` is told of it."""
    return [str(folder / "worker.py")] if kind == "script" else ["main:app"]


def virtualenv(folder: Path) -> Path:
    """Make an empty virtual environment, ``.venv``, in *folder*; return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    return folder / ".venv" / "bin" / "python"
