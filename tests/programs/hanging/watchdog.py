"""A program of another sort: it speaks sd_notify, and says WATCHDOG=1 once."""

import os
import signal
import socket
import sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


say("READY=1")
say("WATCHDOG=1")
signal.pause()
