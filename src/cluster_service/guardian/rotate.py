"""Turning over a log file that has grown: FILE becomes FILE.1, FILE.1 becomes FILE.2, and the oldest is no more."""

from __future__ import annotations

import contextlib
import os


def has_grown(descriptor: int, most: int) -> bool:
    """Whether the open file holds *most* bytes or more; 0: it may hold any number."""
    return most > 0 and os.fstat(descriptor).st_size >= most


def turn_over(path: str, keep: int) -> None:
    """Put *path* aside, *keep* files of the past being kept. Raises OSError; then *path* is where it was."""
    if keep == 0:
        os.unlink(path)
        return
    for number in range(keep, 1, -1):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}.{number - 1}", f"{path}.{number}")
    os.replace(path, f"{path}.1")
