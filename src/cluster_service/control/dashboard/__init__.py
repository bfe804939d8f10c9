"""The dashboard: a page that the door serves, which asks the REST API for everything it shows.

    read("") -> (bytes, media type)          FILES: what there is

The page holds no data, so it needs no key: what it knows it is told for the key that the user types, by the same rules
as anybody else. It is plain files, sent as they are: nothing is built, and nothing comes from elsewhere. ``HEADERS``
keep it that way in the browser: no script or style but these files, no request but to this door, in nobody's frame, and
no text that a script could turn into HTML.
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
"""The files -> their media types. Nothing else in this directory is ever sent."""

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
    "Cache-Control": "no-store",  # the page is of the same version as the door that it speaks to
    "Content-Security-Policy": "; ".join(POLICY),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def read(name: str) -> bytes:
    """Return what the file *name* of ``FILES`` holds."""
    with open(os.path.join(os.path.dirname(__file__), name), "rb") as file:
        return file.read()
