"""The plain script of the fault machine: http.server, whose main thread accepts and whose others answer."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import levers

todo = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        self.send_response(levers.STATUS)
        self.send_header("Content-Length", str(len(levers.BODY)))
        self.end_headers()
        self.wfile.write(levers.BODY)
        if self.path in levers.DEEDS:
            todo.append((time.monotonic() + 0.05, levers.DEEDS[self.path]))

    def log_message(self, *args):
        pass


def act():
    """Do what is due, in the thread that accepts."""
    for entry in list(todo):
        if time.monotonic() >= entry[0]:
            todo.remove(entry)
            entry[1]()


server = ThreadingHTTPServer(("127.0.0.1", 0 if levers.MOVED else int(sys.argv[1])), Handler)
server.service_actions = act
if levers.NATURE in levers.LATER:
    todo.append((time.monotonic() + levers.AFTER, levers.LATER[levers.NATURE]))
server.serve_forever(poll_interval=0.05)
