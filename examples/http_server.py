"""A web server on the standard library. It contains no code for cluster-service.

    python http_server.py                          one process
    cservice start -w 2 http_server.py             two processes on the same port
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8000"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"hello from {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
print(f"{os.getpid()} listens on http://localhost:{PORT}/", flush=True)
server.serve_forever()
