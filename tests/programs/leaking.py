"""An app that keeps 100 KiB of each request: 10 MB/s at 100 requests a second."""

import os

KEPT = []


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    KEPT.append(os.urandom(100 * 1024))
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
