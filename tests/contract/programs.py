"""The small programs that the contract tests run, for a real guardian. Standard library only.

Each meets the test at a fact: none is signalled before it has said where it stands.
"""

from __future__ import annotations

import sys

_NOTIFY = """
import os, socket
def notify(text):
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect("\\0" + address[1:] if address.startswith("@") else address)
        s.send(text.encode())
"""

_CHANNEL = """
import json, os, socket
channel = socket.socket(fileno=int(os.environ["CSERVICE_CHANNEL"]))
def tell(**message):
    channel.send(json.dumps(message).encode())
def hear():
    return json.loads(channel.recv(65536) or b"{}")
"""

PROGRAMS: dict[str, str] = {
    # sleeps for ever and dies of SIGTERM
    "sleeper": "import signal\nwhile True: signal.pause()",
    # exits at once with code 3
    "exit3": "raise SystemExit(3)",
    # ignores SIGTERM; says READY=1 once it does
    "stubborn": _NOTIFY
    + "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nnotify('READY=1')\nwhile True: signal.pause()",
    # prints three lines, one of them on the error stream, then exits with code 1
    "writer": "import sys\n"
    "print('one')\nprint('two', flush=True)\nprint('three', file=sys.stderr, flush=True)\nsys.exit(1)",
    # says READY=1 and STATUS=fine, then sleeps
    "notifier": _NOTIFY + "import signal\nnotify('READY=1\\nSTATUS=fine')\nwhile True: signal.pause()",
    # says "not yet" on its channel, then that it is ready, then says hello; repeats one it is told; sleeps
    "teller": _CHANNEL
    + "tell(type='ready', ready=False)\ntell(type='ready', ready=True)\ntell(type='hello', text='there')\n"
    + "heard = hear()\ntell(type='heard', what=heard)\nimport signal\nwhile True: signal.pause()",
    # listens on the TCP address that is its argument, then sleeps
    "listener": "import signal, socket, sys\nhost, _, port = sys.argv[1].rpartition(':')\n"
    "s = socket.socket()\ns.bind((host, int(port)))\ns.listen()\nwhile True: signal.pause()",
}


def argv(name: str, *args: str) -> list[str]:
    """Return the command line of one of ``PROGRAMS``."""
    return [sys.executable, "-I", "-S", "-c", PROGRAMS[name], *args]
