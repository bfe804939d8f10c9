"""http.server with a handler of SIGTERM that ends as Twisted and Sanic do: shutdown(2) of the listening socket."""

import os
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/slow":
            time.sleep(float(os.environ.get("SECONDS", "1.5")))
        self.answer(b"0")

    def do_POST(self):
        self.answer(str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def stop(*args):
    print("the program's handler runs", flush=True)
    server.socket.shutdown(socket.SHUT_RDWR)
    server.server_close()
    os._exit(0)


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
signal.signal(signal.SIGTERM, stop)
server.serve_forever()
