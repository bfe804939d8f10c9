"""A server that ends with shutdown(2) of its listening socket, as Twisted, .NET and many C servers do.

Its argument is a port of 127.0.0.1, or the path of a Unix socket.
"""

import os
import signal
import socket
import sys

where = sys.argv[1]
listener = socket.socket(socket.AF_INET if where.isdigit() else socket.AF_UNIX)
if not where.isdigit() and os.path.exists(where):
    os.unlink(where)
listener.bind(("127.0.0.1", int(where)) if where.isdigit() else where)
listener.listen()
BODY = str(os.getpid()).encode()


def stop(*_):
    try:
        listener.shutdown(socket.SHUT_RDWR)
    finally:
        os._exit(0)


signal.signal(signal.SIGTERM, stop)
while True:
    try:
        client, _ = listener.accept()
    except OSError:
        continue
    with client:
        if where.isdigit():
            client.recv(4096)
            client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        client.sendall(BODY)
