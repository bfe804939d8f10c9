"""In a mount namespace of ours: let every user reach what the tests run, wherever it is installed."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import cluster_service

OTHERS_ENTER = 0o001

ROOT = Path(__file__).parent.parent.parent
NEEDED = (Path(sys.base_prefix), Path(sys.prefix), Path(cluster_service.__file__).parent, ROOT)
"""The interpreter, its virtualenv, our package, and the programs of the tests."""


def script() -> str:
    """Lines of a shell script: directories that only their owner may enter (/root) are covered by ones that everybody
    may, in which there is nothing but what is needed.
    """
    behind: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted({each.resolve() for each in NEEDED}):
        closed = [each for each in reversed(path.parents) if not each.stat().st_mode & OTHERS_ENTER]
        if closed:
            behind[closed[0]].append(path)
    lines = []
    for closed_one, paths in behind.items():
        for number, path in enumerate(paths):
            lines.append(f"mkdir -p /run/opened/{number}; mount --bind '{path}' /run/opened/{number}")
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs '{closed_one}'")
        lines += [f"mkdir -p '{path}'; mount --move /run/opened/{number} '{path}'" for number, path in enumerate(paths)]
    return "\n".join(lines)
