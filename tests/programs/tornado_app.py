"""tornado on one process."""

import asyncio
import os
import sys

import tornado.web


class Pid(tornado.web.RequestHandler):
    def get(self):
        self.write(str(os.getpid()))


async def main():
    tornado.web.Application([("/", Pid)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
