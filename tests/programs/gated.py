"""Serves its pid at once, but as a successor (CSERVICE_REASON is restart) only when it has read a byte from the gate.

gated.py PORT GATE, where GATE is a FIFO.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())

    def log_message(self, *_):
        pass


if os.environ["CSERVICE_REASON"] == "restart":
    with open(sys.argv[2], "rb", buffering=0) as gate:
        gate.read(1)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
