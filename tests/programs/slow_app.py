"""An ASGI app whose answers take their time: /slow, /upload, /events (for ever), and a WebSocket that echoes."""

import asyncio
import os

SECONDS = float(os.environ.get("SECONDS", "1.5"))


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        print("the lifespan has ended", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        print("the WebSocket was closed with", message.get("code"), flush=True)
    else:
        await answer(scope["path"], receive, send)


async def answer(path, receive, send):
    if path == "/events":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number in range(1_000_000):
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
            await asyncio.sleep(0.05 if number < 10 else 3600)
    size = 0
    if path == "/upload":
        more = True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
    elif path == "/slow":
        await asyncio.sleep(SECONDS)
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
