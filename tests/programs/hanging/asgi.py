"""An app that stands still when it is asked to: its loop, or its loop and the GIL with it."""

import ctypes
import os
import threading

LIBC = ctypes.PyDLL(None)  # calls that keep the GIL


def block_the_loop():
    threading.Event().wait()


def keep_the_gil():
    LIBC.pause()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/loop":
        block_the_loop()
    if scope["path"] == "/gil":
        while True:  # a signal ends the wait
            keep_the_gil()
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
