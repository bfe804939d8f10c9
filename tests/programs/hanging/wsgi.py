"""A WSGI app whose threads stand still when they are asked to: for ever, or until somebody opens the pipe GATE."""

import os
import threading


def block_the_thread():
    threading.Event().wait()


def wait_at_the_gate():
    with open(os.environ["GATE"]):
        pass


def app(environ, start_response):
    if environ["PATH_INFO"] == "/thread":
        block_the_thread()
    if environ["PATH_INFO"] == "/gate":
        wait_at_the_gate()
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
