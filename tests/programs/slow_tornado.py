"""tornado, whose answers take their time: /slow, /upload, /events (for ever)."""

import asyncio
import os
import sys

import tornado.web

SECONDS = float(os.environ.get("SECONDS", "1.5"))


class Slow(tornado.web.RequestHandler):
    async def get(self):
        if self.request.path == "/slow":
            await asyncio.sleep(SECONDS)
        self.write("0")

    def post(self):
        self.write(str(len(self.request.body)))


class Events(tornado.web.RequestHandler):
    async def get(self):
        self.set_header("Content-Type", "text/event-stream")
        self.write("data: 10\n\n")
        await self.flush()
        self.closed = asyncio.Event()
        await self.closed.wait()

    def on_connection_close(self):
        self.closed.set()


async def main():
    tornado.web.Application([("/events", Events), ("/.*", Slow)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
