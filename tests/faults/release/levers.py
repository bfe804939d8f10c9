"""What a worker of the fault machine can be made to do, and its confession before it does it.

The ledger is a file to which every worker adds one line before a deed that costs requests: which clients' connections
it held. It is written by the thread that accepts, so that nothing can be accepted between the line and the deed.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time

FOLDER = os.path.dirname(os.path.abspath(__file__))
VERSION = os.path.basename(FOLDER)
BODY = f"{os.getpid()} {VERSION}".encode()
with open(os.path.join(FOLDER, "nature"), encoding="ascii") as file:
    NATURE = file.read()
STATUS = 500 if NATURE == "answers 500" else 200
HOARD = []
PRECIOUS = "precious"


def held():
    """The ports of the clients whose connections this process holds."""
    ports = []
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as connection:
                ports.append(connection.getpeername()[1])
        except (OSError, IndexError, TypeError):
            continue
    return [port for port in ports if isinstance(port, int)]


def confess(deed):
    line = {"at": time.monotonic(), "pid": os.getpid(), "deed": deed, "ports": held()}
    descriptor = os.open(os.environ["FAULTS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, json.dumps(line).encode() + b"\n")
    os.close(descriptor)


def hang():
    """Other threads run on."""
    confess("hangs")
    time.sleep(3600)


def freeze():
    """No thread runs on: the interpreter's lock is kept. No signal ends it."""
    confess("freezes")
    mutex = ctypes.create_string_buffer(64)  # pthread_mutex_t, as PTHREAD_MUTEX_INITIALIZER has it
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)


def leave():
    confess("exits")
    os._exit(7)


def crash():
    confess("crashes")
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


def leak():
    """A hundred megabytes that are really used."""
    HOARD.append(bytearray(b"x") * (100 << 20))


def talk():
    """More than a pipe holds, twice."""
    for number in range(2000):
        print(f"line {number} " + "x" * 60, flush=True)


def close():
    """What this program did not open, so to speak: of the script's own, only its sockets of TCP are spared. Files that
    get the numbers must stay as they are written.
    """
    for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        if number > 2 and not is_tcp(number):
            with contextlib.suppress(OSError):
                os.close(number)
                path = os.path.join(os.environ["FAULTS_LEVERS"], f"{PRECIOUS}-{os.getpid()}-{number}")
                HOARD.append(open(f"{path}.new", "w+", encoding="ascii"))  # noqa: SIM115 - it stays open
                HOARD[-1].write(PRECIOUS)
                HOARD[-1].flush()
                os.rename(f"{path}.new", path)


def is_tcp(number):
    try:
        with socket.socket(fileno=os.dup(number)) as sock:
            return sock.family == socket.AF_INET
    except OSError:
        return False


def background(forks=1):
    """Start a process in a session of its own that ignores SIGTERM and has no environment."""
    middle = os.fork()
    if middle:
        if forks > 1:
            os.waitpid(middle, 0)
        return
    os.setsid()
    if forks > 1 and os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.execve("/bin/sleep", [f"background child of {OWNER}", "86400"], {})


OWNER = os.getpid()


def nurse():
    """The child goes on for as long as the worker."""
    background(forks=2)


def orphan():
    background()
    leave()


def daemonize():
    """As a program does that puts itself into the background."""
    background(forks=2)
    confess("puts itself into the background")
    os._exit(0)


DEEDS = {
    f"/{deed.__name__}": deed
    for deed in (hang, freeze, leave, crash, leak, talk, close, nurse, orphan, daemonize)
}
LATER = {"exits": leave, "hangs": hang}
"""What a release of this nature does a second after it has begun to serve."""
MOVED = os.path.exists(os.path.join(os.environ["FAULTS_LEVERS"], f"move-{os.environ['CSERVICE_GROUP']}"))
"""It is to listen on another port than it was told."""
AFTER = 1.0

if os.path.exists(os.path.join(os.environ["FAULTS_LEVERS"], f"crash-{os.environ['CSERVICE_GROUP']}")):
    sys.exit(f"the crash loop of group {os.environ['CSERVICE_GROUP']}")
if NATURE == "raises":
    raise RuntimeError("a release that raises at import")
if NATURE == "slow":
    time.sleep(2)
if NATURE == "never ready":
    time.sleep(3600)
