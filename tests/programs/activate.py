"""What a service manager does for a service: open sockets, pass them as descriptors 3 and up, and exec.

activate.py [NAME=ADDRESS ...] -- PROGRAM [ARGS ...]      ADDRESS: host:port, [host]:port, udp:…, or a path; "pipe"
"""

import os
import re
import socket
import sys

split = sys.argv.index("--")
names, opened = [], []
for word in sys.argv[1:split]:
    name, _, address = word.partition("=")
    names.append(name)
    if address == "pipe":
        opened.append(os.pipe()[0])
        continue
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address)
    else:
        host, port = re.fullmatch(r"(?:udp:)?\[?(.*?)\]?:(\d+)", address).groups()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM if address.startswith("udp:") else socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, int(port)))
    if sock.type == socket.SOCK_STREAM:
        sock.listen(7)
    opened.append(sock.detach())
above = [os.dup2(descriptor, 100 + place) for place, descriptor in enumerate(opened)]
for place, descriptor in enumerate(above):
    os.dup2(descriptor, 3 + place, inheritable=True)
os.closerange(3 + len(above), 200)
pid = str(os.getpid())
os.environ |= {"LISTEN_FDS": str(len(above)), "LISTEN_PID": pid, "LISTEN_FDNAMES": ":".join(names), "WATCHDOG_PID": pid}
os.execvp(sys.argv[split + 1], sys.argv[split + 1 :])
