"""An app that writes more to its log, when it is asked to, than a pipe holds."""

import os


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/talk":
        for number in range(10_000):
            print("a line of a worker that has much to say:", number)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
