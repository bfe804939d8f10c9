"""A WSGI app without dependencies.

    python wsgi_app.py                             alone, on the server of the standard library
    cservice start -w 2 wsgi_app:app               two workers on uvicorn, through a2wsgi
"""

import os
from wsgiref.simple_server import make_server


def app(environ, start_response):
    body = f"hello from {os.getpid()}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    server = make_server("127.0.0.1", int(os.environ.get("PORT", "8000")), app)
    print(f"{os.getpid()} listens on http://localhost:{server.server_port}/", flush=True)
    server.serve_forever()
