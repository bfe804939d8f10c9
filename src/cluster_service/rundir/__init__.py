"""The private directory where a user's running services are found, and who runs a name.

    directory(explicit=None, environ=os.environ) -> str       made, 0700, checked: to start a service
    existing(explicit=None, environ=os.environ) -> str | None checked, not made: to find one
    refused(explicit=None, environ=os.environ) -> CommandError | None     why the usual place cannot be used
    lock_path(directory, name) · socket_path(directory, name) · key_path(directory, name) -> str
    take_lock(directory, name) -> int                        the locked descriptor; raises Held
    clean_up(directory, name)                                what a killed service has left
    write_lock(fd, name, pid)                                who holds it, for others to read
    holder(directory, name) -> Holder | None                 who runs *name*
    find(name, explicit=None, environ=os.environ) -> tuple[str, Holder] | None
    check_name(name) -> str

Invariants: a service runs exactly as long as somebody holds its lock, and what the lock file or the socket say without
a held lock is a dead service's. The directory is ours, 0700 and no symlink, so nothing in it needs checking twice.
Every function raises CommandError with a sentence when the machine's state is not as it should be.
"""

from __future__ import annotations

from .locks import (
    NAME,
    SOCKET_LIMIT,
    Held,
    Holder,
    check_name,
    clean_up,
    find,
    holder,
    key_path,
    lock_path,
    running,
    socket_path,
    take_lock,
    wait_free,
    write_lock,
)
from .places import Nowhere, audit_path, candidates, directory, existing, place, refused, state_home

__all__ = [
    "NAME", "SOCKET_LIMIT", "Held", "Holder", "Nowhere", "audit_path", "candidates", "check_name", "clean_up",
    "directory", "existing", "find", "holder", "key_path", "lock_path", "place", "refused", "running", "socket_path",
    "state_home", "take_lock", "wait_free", "write_lock",
]  # fmt: skip
