"""The dashboard: static files served by the endpoint; the page gets its data from the REST API.

    read(name) -> bytes                      FILES: the names and media types

The files contain no data and need no key: the page sends the key that the user enters with each request to the REST
API. There is no build step, and no file comes from elsewhere. ``HEADERS`` enforce this in the browser: scripts and
styles only from these files, requests only to this endpoint, no framing, and no conversion of text to HTML by scripts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HTML, JAVASCRIPT, CSS = "text/html; charset=utf-8", "text/javascript; charset=utf-8", "text/css; charset=utf-8"

FILES: Mapping[str, str] = {
    "index.html": HTML,
    "style.css": CSS,
    "main.js": JAVASCRIPT,
    "session.js": JAVASCRIPT,
    "door.js": JAVASCRIPT,
    "dom.js": JAVASCRIPT,
    "view.js": JAVASCRIPT,
    "dialogs.js": JAVASCRIPT,
    "words.js": JAVASCRIPT,
}
"""The files -> their media types. No other file of this directory is served."""

POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'self'",
    "require-trusted-types-for 'script'",
)

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",  # the page must have the same version as the endpoint
    "Content-Security-Policy": "; ".join(POLICY),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def read(name: str) -> bytes:
    """Return the content of *name*, one of ``FILES``."""
    with open(os.path.join(os.path.dirname(__file__), name), "rb") as file:
        return file.read()
