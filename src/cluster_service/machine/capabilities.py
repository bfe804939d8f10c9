"""Capabilities of this process, see capabilities(7). The numbers are from linux/capability.h."""

from __future__ import annotations

CAP_NET_BIND_SERVICE = 10
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_SYS_NICE = 23
CAP_SYS_RESOURCE = 24


def has(number: int) -> bool:
    """Return True if this process has capability *number* in its effective set."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False
