"""An app that names another process's socket, TARGET in its environment, as its address for health checks."""

import os
import socket

ADDRESS = os.environ["NOTIFY_SOCKET"].replace("@", "\0")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(f"X_CSERVICE_CHECK=unix:{os.environ['TARGET']}".encode(), ADDRESS)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
