"""Programs that trace another process with ptrace(2) and never wait for it."""

from __future__ import annotations

import subprocess
import sys

TRACER = """
import ctypes, os, signal

def trace(thread, options):
    '''Seize *thread* from a child in a session of its own that ignores SIGTERM; return the child's pid.'''
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER, for Yama
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        failed = libc.ptrace(0x4206, thread, None, ctypes.c_void_p(options))  # PTRACE_SEIZE
        os.write(writing, b"%d" % (ctypes.get_errno() if failed else 0))
        while True:
            signal.pause()
    number = int(os.read(reading, 9))
    if number:
        raise OSError(number, "ptrace: " + os.strerror(number))
    return pid
"""

STOP_AT_EXIT = 0x40
"""PTRACE_O_TRACEEXIT: the traced thread stops before it ends."""

_PROBE = TRACER + "\nos.kill(trace(os.getpid(), 0), signal.SIGKILL)"


def why_forbidden() -> str:
    """Return why no process may trace another one here (Yama, a container); empty if it may."""
    found = subprocess.run([sys.executable, "-I", "-S", "-c", _PROBE], capture_output=True, text=True, check=False)
    return "" if found.returncode == 0 else found.stderr.strip().rpartition("\n")[2]
