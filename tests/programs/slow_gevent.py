"""gevent's WSGI server in a program that is patched as its documentation says: slow answers to /slow.

With a second argument it has a handler of SIGTERM, which ends the server.
"""

from gevent import monkey

monkey.patch_all()

import os
import signal
import sys
import time

import gevent
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


server = WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None)
if sys.argv[2:]:
    gevent.signal_handler(signal.SIGTERM, server.stop)
server.serve_forever()
