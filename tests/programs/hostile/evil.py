"""A worker that does to the service whatever ``HOSTILE`` says, and then waits."""

import array
import os
import signal
import socket
import struct
import threading

RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
keep = []


def channel():
    """The worker's channel: a program can find it among its descriptors."""
    for number in range(3, 50):
        try:
            found = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        if (found.family, found.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            found.setblocking(True)
            return found
    raise LookupError("no channel")


def notify():
    found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    found.connect(os.environ["NOTIFY_SOCKET"])
    return found


def lingering():
    """Return a socket in whose queue another waits, which takes an hour to close."""
    server = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(server.getsockname())
    keep.append(server.accept())
    ours.setblocking(False)
    try:
        while True:
            ours.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    inner, outer = socket.socketpair()
    inner.sendmsg([b"."], [(*RIGHTS, array.array("i", [ours.fileno()]))])
    return outer


def passes(target):
    for _ in range(20):
        passed = lingering()
        keep.append(passed)  # to close it would take the hour if it was not sent
        target.sendmsg([b"STATUS=x"], [(*RIGHTS, array.array("i", [passed.fileno()]))])
        threading.Thread(target=keep.pop().close, daemon=True).start()  # where it comes last, it takes the hour here


def passes_by_notify():
    try:
        passes(notify())
    except OSError:  # the service has had enough
        pass
    print("done", flush=True)


def passes_by_channel():
    try:
        passes(channel())
    except OSError:
        pass
    print("done", flush=True)


def nests():
    found = channel()
    for data in (b"[" * 60_000, b'{"type":' * 7_000, b'{"type": "x", "y": NaN}', b"1" * 60_000):
        found.send(data)
    found.send(b'{"type": "trigger", "id": "1", "name": "x", "args": [%s], "options": {}}' % (b"9" * 400))
    print("done", flush=True)


def extends():
    notify().send(b"EXTEND_TIMEOUT_USEC=" + b"9" * 400 + b"\nSTATUS=\x1b[31m" + b"x" * 9_000)
    channel().send(b'{"type": "notify", "fields": {"WATCHDOG_USEC": "%s"}}' % (b"9" * 400))
    print("done", flush=True)


def floods():
    found, data = channel(), b'{"type":"notify","fields":{"STATUS":"%s"}}' % (b"x" * 60_000)
    for _ in range(400):
        found.send(data)
    print("done", flush=True)
    while True:
        found.send(data)


if __name__ == "__main__":
    globals()[os.environ["HOSTILE"]]()
    while True:
        signal.pause()
