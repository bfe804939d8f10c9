"""A FUSE file system that keeps its callers waiting: for everything, or for the content of its only file."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_IN = struct.Struct("=IIQQIIII")  # struct fuse_in_header of linux/fuse.h
_OUT = struct.Struct("=IiQ")
_LOOKUP, _GETATTR, _OPEN, _READ, _FLUSH, _INIT = 1, 3, 14, 15, 25, 26
_DIRECTORY, _FILE = 1, 2
_FORCE, _DETACH = 1, 2  # of sys/mount.h; the first aborts what is under way


class Silent:
    """Mounted at *place*. *mute*: it answers nothing at all; else it has a file ``page`` that cannot be read.

    Raises OSError where such a thing cannot be had.
    """

    def __init__(self, place: Path, *, mute: bool) -> None:
        self.place = place
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._thread: threading.Thread | None = None
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if self._libc.mount(b"silent", os.fsencode(place), b"fuse", 0, options.encode()) != 0:
            os.close(self._device)
            raise OSError(ctypes.get_errno(), "mount")
        if not mute:
            self._thread = threading.Thread(target=self._serve)
            self._thread.start()

    def close(self) -> None:
        """Let every process go that waits, with an error."""
        for flag in (_FORCE, _DETACH):
            self._libc.umount2(os.fsencode(self.place), flag)
        if self._thread is not None:
            self._thread.join()
        os.close(self._device)

    def _serve(self) -> None:
        try:
            while True:
                self._answer(os.read(self._device, 1 << 18))
        except OSError:  # ENODEV: it was unmounted
            return

    def _answer(self, data: bytes) -> None:
        _length, code, unique, node, *_ = _IN.unpack_from(data)
        if code in (_READ, _FLUSH):
            return
        bodies = {
            _INIT: struct.pack("=IIIIHHII", 7, 31, 1 << 17, 0, 16, 12, 1 << 17, 1).ljust(64, b"\0"),
            _LOOKUP: struct.pack("=QQQQII", _FILE, 1, 3600, 3600, 0, 0) + _attributes(_FILE),
            _GETATTR: struct.pack("=QII", 3600, 0, 0) + _attributes(node),
            _OPEN: struct.pack("=QII", 1, 0, 0),
        }
        body = bodies.get(code)
        header = (
            _OUT.pack(_OUT.size, -errno.ENOSYS, unique) if body is None else _OUT.pack(_OUT.size + len(body), 0, unique)
        )
        with contextlib.suppress(FileNotFoundError):  # a request that is not to be answered
            os.write(self._device, header + (body or b""))


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == _DIRECTORY else 0o100644
    return struct.pack("=QQQQQQIIIIIIIIII", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
