"""The boards (``wire.board``), as the guardian makes them: one for each worker, of a size that no process can change.

The guardian neither reads nor writes them. It keeps a descriptor as long as the worker lives, for the next master.
"""

from __future__ import annotations

import errno
import fcntl
import os

from cluster_service.wire.board import SIZE

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_NOT_HERE = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}
"""What memfd_create fails with where the machine or a sandbox does not allow it."""


def create() -> int:
    """Return a descriptor of a new, empty board; -1 where the machine allows none. Raises OSError in a shortage."""
    try:
        descriptor = os.memfd_create("cservice-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return -1
        raise
    try:
        os.ftruncate(descriptor, SIZE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
