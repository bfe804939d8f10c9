"""A web server that reports when it is ready and cleans up before it exits. It also runs without the service."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cluster_service as cservice


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"hello from {os.getpid()}\n".encode())


def cleanup():
    print(f"{os.getpid()} is cleaning up", flush=True)


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Hello)
print(f"{os.getpid()} listens on http://localhost:{server.server_port}/", flush=True)
cservice.worker_ready(on_worker_stop=cleanup)
server.serve_forever()
