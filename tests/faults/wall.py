"""A wall clock that the service under test has for itself, and that can be set: the machine's is everybody's."""

from __future__ import annotations

import math
import mmap
import shutil
import struct
import subprocess
import sysconfig
import time
from pathlib import Path

HERE = shutil.which("cc") is not None and bool(sysconfig.get_config_var("HAVE_SEM_CLOCKWAIT"))
"""It is made by a C compiler; and Python's own waits must be of the monotonic clock (from glibc 2.30 on)."""


class Wall:
    """*folder*: for its two files. Where it cannot be made, the service has the machine's clock."""

    def __init__(self, folder: Path) -> None:
        self.env: dict[str, str] = {}
        """What a process needs in its environment to go by it."""
        self._file = folder / "wall"
        self._steps = [(0.0, 0.0)]
        """From when on (``time.time()``) it has been how far before the machine's."""
        self._file.write_bytes(struct.pack("q", 0))
        if HERE:
            library = folder / "wall.so"
            source = Path(__file__).with_suffix(".c")
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
            self.env = {"LD_PRELOAD": str(library), "WALL_OFFSET": str(self._file)}

    def set(self, seconds: float) -> None:
        """Let it be *seconds* before (if negative, behind) the machine's from this moment on."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as place:
            place[:] = struct.pack("q", round(seconds * 1e9))
            self._steps.append((time.time(), seconds))

    def real(self, shown: float, heard: float) -> float:
        """When it was by the machine's clock that this one showed *shown*, which was *heard* of soon afterwards."""
        steps = zip(self._steps, [*self._steps[1:], (math.inf, 0.0)], strict=True)
        could_be = [shown - ahead for (since, ahead), (until, _) in steps if since <= shown - ahead <= until]
        return min(could_be, key=lambda moment: abs(heard - moment), default=heard)
