"""A WSGI app whose answers take their time: /slow, /upload."""

import os
import time

SECONDS = float(os.environ.get("SECONDS", "1.5"))


def app(environ, start_response):
    size = 0
    if environ["PATH_INFO"] == "/upload":
        size = len(environ["wsgi.input"].read())
    elif environ["PATH_INFO"] == "/slow":
        time.sleep(SECONDS)
    body = str(size).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
