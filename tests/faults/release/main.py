"""The app of the fault machine."""

import asyncio

import levers


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if levers.NATURE in levers.LATER:
            asyncio.get_running_loop().call_later(levers.AFTER, levers.LATER[levers.NATURE])
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-length", b"%d" % len(levers.BODY))]
    await send({"type": "http.response.start", "status": levers.STATUS, "headers": headers})
    await send({"type": "http.response.body", "body": levers.BODY})
    deed = levers.DEEDS.get(scope["path"])
    if deed is not None:
        asyncio.get_running_loop().call_later(0.05, deed)  # the answer goes first
