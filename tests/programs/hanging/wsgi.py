"""A WSGI app whose threads stand still when they are asked to."""

import os
import threading


def block_the_thread():
    threading.Event().wait()


def app(environ, start_response):
    if environ["PATH_INFO"] == "/thread":
        block_the_thread()
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
