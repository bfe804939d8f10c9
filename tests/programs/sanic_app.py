"""Sanic in one process. It ends with shutdown(2) of its listening socket."""

import os
import sys

from sanic import Sanic, text

app = Sanic("pid")


@app.get("/")
async def pid(request):
    return text(str(os.getpid()))


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, access_log=False, motd=False)
