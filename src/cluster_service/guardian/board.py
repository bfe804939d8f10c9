"""Creation of boards (``wire.board``): one memory file per worker, sealed so that no process can change its size.

The guardian neither reads nor writes a board. It keeps a descriptor while the worker runs, for the next master.
"""

from __future__ import annotations

import errno
import fcntl
import os

from cluster_service.wire.board import SIZE

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_NOT_HERE = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}
"""Errors of memfd_create if the kernel or a sandbox does not permit it."""


def create() -> int:
    """Return a descriptor of a new, empty board, or -1 if memfd_create is not available.

    Raises OSError for lack of memory or descriptors.
    """
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
