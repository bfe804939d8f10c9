"""aiohttp's own runner."""

import os
import sys

from aiohttp import web


async def pid(request):
    return web.Response(text=str(os.getpid()))


app = web.Application()
app.router.add_get("/", pid)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
