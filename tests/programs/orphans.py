"""Serves, and leaves an orphan behind for each request: the answer is its pid."""

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


def orphan():
    """Return the pid of a grandchild that ends as soon as its parent has."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        alive, held = os.pipe()
        grandchild = os.fork()
        if grandchild == 0:
            os.close(held)
            os.read(alive, 1)
            os._exit(0)
        os.write(tell, b"%d" % grandchild)
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(tell)
    with os.fdopen(told, "rb") as found:
        return found.read()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = orphan()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
