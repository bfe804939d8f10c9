"""eventlet's WSGI server in a program that is patched as its documentation says: slow answers to /slow."""

import eventlet

eventlet.monkey_patch()

import os
import sys
import time

from eventlet import wsgi

SECONDS = float(os.environ.get("SECONDS", "1.5"))


def app(environ, start_response):
    size = len(environ["wsgi.input"].read())
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SECONDS)
    body = str(size).encode()
    kept = [] if environ["PATH_INFO"] == "/" else [("Connection", "close")]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *kept])
    return [body]


wsgi.server(eventlet.listen(("127.0.0.1", int(sys.argv[1]))), app, log_output=False)
