"""gevent's WSGI server in a program that is patched as its documentation says: slow answers to /slow."""

from gevent import monkey

monkey.patch_all()

import os
import sys
import time

from gevent.pywsgi import WSGIServer

SECONDS = float(os.environ.get("SECONDS", "1.5"))


def app(environ, start_response):
    size = len(environ["wsgi.input"].read())
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SECONDS)
    body = str(size).encode()
    kept = [] if environ["PATH_INFO"] == "/" else [("Connection", "close")]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *kept])
    return [body]


WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None).serve_forever()
