"""Listens wherever it is told, and answers with its pid: listeners.py [thread] ADDRESS...

tcp4:PORT  tcp6:PORT  dual:PORT  any4:PORT  unix:PATH  udp4:PORT  udp6:PORT  zero (port 0; the port is written out)
With ``thread`` each socket is bound by a thread of its own that is not the main thread.
"""

import os
import selectors
import socket
import sys
import threading

HOSTS = {"tcp4": "127.0.0.1", "any4": "0.0.0.0", "tcp6": "::1", "dual": "::", "udp4": "127.0.0.1", "udp6": "::1"}

ready = selectors.DefaultSelector()


def listen(address):
    kind, _, where = address.partition(":")
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        if os.path.exists(where):
            os.unlink(where)
        sock.bind(where)
    elif kind == "zero":
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
    else:
        family = socket.AF_INET if kind.endswith("4") else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM if kind.startswith("udp") else socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, kind != "dual")
        sock.bind((HOSTS[kind], int(where)))
    sock.setblocking(False)
    if not kind.startswith("udp"):
        sock.listen(100)
    if kind == "zero":
        print(f"zero {os.getpid()} {sock.getsockname()[1]}", flush=True)
    ready.register(sock, selectors.EVENT_READ, kind)


arguments = sys.argv[1:]
if arguments[0] == "thread":
    threads = [threading.Thread(target=listen, args=(address,)) for address in arguments[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
else:
    for argument in arguments:
        listen(argument)

body = str(os.getpid()).encode()
while True:
    for key, _ in ready.select():
        try:
            if key.data.startswith("udp"):
                _, client = key.fileobj.recvfrom(1000)
                key.fileobj.sendto(body, client)
            else:
                connection, _ = key.fileobj.accept()
                with connection:
                    connection.sendall(body)
        except BlockingIOError:  # another worker was quicker
            continue
