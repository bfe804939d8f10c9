"""A plain server, one request after the other: argv: port."""

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer


def block_the_server():
    threading.Event().wait()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/server":
            block_the_server()
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
