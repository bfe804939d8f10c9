"""Serves the first socket that it was passed the systemd way (LISTEN_FDS), and answers with its pid."""

import os
import socket

assert os.environ["LISTEN_PID"] == str(os.getpid())
assert int(os.environ["LISTEN_FDS"]) >= 1
server = socket.socket(fileno=3)
server.setblocking(True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(str(os.getpid()).encode())
