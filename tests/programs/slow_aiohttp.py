"""aiohttp's own runner, which handles SIGTERM itself. Its answers take their time: /slow, /upload."""

import asyncio
import os
import sys

from aiohttp import web


async def slow(request):
    if request.path == "/slow":
        await asyncio.sleep(float(os.environ.get("SECONDS", "1.5")))
    return web.Response(text=str(len(await request.read())))


app = web.Application()
app.router.add_route("*", "/{path:.*}", slow)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
