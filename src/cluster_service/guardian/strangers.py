"""Identification of the process that holds a port we cannot bind: a sentence for the operator, from /proc.

The search runs only after a bind has failed, in the helper if a worker's bind failed. It takes a few milliseconds, or
at most ``SECONDS`` if there are thousands of processes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from cluster_service.wire.addresses import Address

SECONDS = 0.5
"""Maximum seconds for a search of the machine's processes."""
_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_LISTEN, _UNCONNECTED = "0A", "07"  # TCP_LISTEN, TCP_CLOSE of net/tcp_states.h
_UNIX_PATH_COLUMN = 7


def describe(address: Address) -> str:
    """Return "127.0.0.1:8000 is taken: pid 71 (nginx) listens there", as far as known."""
    inodes = _unix_inodes(address) if address.kind == "unix" else _inet_inodes(address)
    holders = [f"pid {pid} ({name_of(pid)})" for pid in holders_of(inodes)] if inodes else []
    if holders:
        others = f" (and {len(holders) - 1} more)" if len(holders) > 1 else ""
        return f"{address} is taken: {holders[0]} listens there{others}"
    if inodes:
        return f"{address} is taken by a process that this user may not see; root can find it with: ss -lntup"
    if address.path is not None:
        return f"{address} is taken: the file is there already, and nobody listens on it; remove it if it is stale"
    return taken(address)


def taken(address: Address) -> str:
    """Return that *address* is taken, without searching for the process."""
    return f"{address} is taken by another process"


def holders_of(inodes: set[int], but: int = 0) -> Iterator[int]:
    """Yield the pids that hold one of the sockets, except ours and *but*, within ``SECONDS``."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    end = time.monotonic() + SECONDS
    for entry in os.listdir("/proc"):
        if time.monotonic() > end:
            return
        if entry.isdigit() and int(entry) not in (os.getpid(), but) and holds(int(entry), wanted):
            yield int(entry)


def holds(pid: int, wanted: set[str]) -> bool:
    """Return whether *pid* has a descriptor in *wanted* (``socket:[4711]``); False without permission."""
    return any(link in wanted for link in links_of(pid))


def is_visible(pid: int) -> bool:
    """Return whether we may list the descriptors of process *pid*; True if it has ended."""
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def links_of(pid: int) -> Iterator[str]:
    """Yield the link targets of *pid*'s descriptors (``socket:[4711]``); nothing without permission."""
    with contextlib.suppress(PermissionError):
        yield from links_seen(pid)


def links_seen(pid: int) -> Iterator[str]:
    """Yield the link targets of *pid*'s descriptors (``socket:[4711]``). Raises PermissionError."""
    directory = f"/proc/{pid}/fd"
    try:
        entries = os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return
    for entry in entries:
        try:
            yield os.readlink(f"{directory}/{entry}")
        except (FileNotFoundError, ProcessLookupError):  # closed in the meantime
            continue


def below(root: int, without: Container[int] = ()) -> set[int]:
    """Return *root* and its descendants, except those in *without* and their descendants."""
    found, left = {root}, [root]
    while left:
        left = [pid for parent in left for pid in _children_of(parent) if pid not in without and pid not in found]
        found.update(left)
    return found


def _children_of(pid: int) -> list[int]:
    """Return the children of every thread of *pid*; nothing on a kernel without CONFIG_PROC_CHILDREN."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:  # it has ended
        pass
    return found


def name_of(pid: int) -> str:
    """Return the name of the program that *pid* runs."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "gone"


def _inet_inodes(address: Address) -> set[int]:
    inodes = set()
    for table in _TABLES[address.kind]:
        for line in _lines(table):
            columns = line.split()
            host, _, port = columns[1].partition(":")
            state = columns[3]
            if int(port, 16) == address.port and state in (_LISTEN, _UNCONNECTED) and _overlap(address, host):
                inodes.add(int(columns[9]))
    inodes.discard(0)
    return inodes


def _overlap(address: Address, text: str) -> bool:
    """Return whether *text*, an address of the kernel's table (hex words in native byte order), conflicts."""
    raw = b"".join(int(text[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(text), 8))
    v6 = len(text) == 32
    host = socket.inet_ntop(socket.AF_INET6 if v6 else socket.AF_INET, raw)
    if host == "::" or (address.dual and address.host == "::"):
        return True
    if v6 != (address.family == socket.AF_INET6):
        return host.removeprefix("::ffff:") == address.host.removeprefix("::ffff:")
    return address.wildcard or host in ("0.0.0.0", address.host.partition("%")[0])


def _unix_inodes(address: Address) -> set[int]:
    name = address.host
    inodes = set()
    for line in _lines("unix"):
        columns = line.split(None, _UNIX_PATH_COLUMN)
        if len(columns) > _UNIX_PATH_COLUMN and columns[_UNIX_PATH_COLUMN].rstrip("\n") == name:
            inodes.add(int(columns[6]))
    return inodes


def _lines(table: str) -> list[str]:
    try:
        with open(f"/proc/net/{table}", encoding="utf-8", errors="surrogateescape") as file:
            return file.readlines()[1:]
    except OSError:
        return []
