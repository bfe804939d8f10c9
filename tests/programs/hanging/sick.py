"""An app that turns and is not well from the moment that it is told so; and one that announces its long work."""

import os
import threading

import cluster_service as cservice

STATE = {"well": True}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    status = 200
    if scope["path"] == "/sicken":
        STATE["well"] = False
    if scope["path"] == "/health" and not STATE["well"]:
        status = 503
    if scope["path"] == "/work":
        cservice.extend_deadline(60)
        threading.Event().wait(4)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
