"""The private directory of a user's running services, and the locks that show which of them run.

    directory(explicit=None, environ=os.environ) -> str       created with mode 0700 and checked: to start a service
    existing(explicit=None, environ=os.environ) -> str | None checked, not created: to find a service
    refused(explicit=None, environ=os.environ) -> CommandError | None     why the usual place cannot be used
    lock_path(directory, name) · socket_path(directory, name) · key_path(directory, name) -> str
    take_lock(directory, name) -> int                        the locked descriptor; raises Held
    clean_up(directory, name)                                removes the files of a killed service
    write_lock(fd, name, pid)                                writes the holder into the lock file
    holder(directory, name) -> Holder | None                 the running service *name*
    find(name, explicit=None, environ=os.environ) -> tuple[str, Holder] | None
    check_name(name) -> str

Invariants: a service runs exactly as long as its lock is held; without that, its lock file and socket are stale. The
directory is ours, has mode 0700 and is not a symbolic link, so files in it need no further checks. Functions raise
CommandError if the state of the machine is not as expected.
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
from .run_directory import (
    Nowhere,
    audit_path,
    candidates,
    directory,
    existing,
    place,
    refused,
    state_home,
)

__all__ = [
    "NAME", "SOCKET_LIMIT", "Held", "Holder", "Nowhere", "audit_path", "candidates", "check_name", "clean_up",
    "directory", "existing", "find", "holder", "key_path", "lock_path", "place", "refused", "running", "socket_path",
    "state_home", "take_lock", "wait_free", "write_lock",
]  # fmt: skip
