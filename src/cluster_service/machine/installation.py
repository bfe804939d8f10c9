"""The location of our own installation, and checks that it still exists.

A deployment that deletes old releases also deletes our installation if it is inside one of them. Running processes
continue, but nothing can be started any more. These functions warn beforehand, and name the cause afterwards.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOME = os.path.dirname(PACKAGE)
"""The directory that contains our package."""
REMEDY = "install cluster-service outside of the releases, for example in a virtual environment of its own"


def explain_missing(argv: Sequence[str]) -> str:
    """Return why *argv* cannot run if one of its words is a missing file of ours; else an empty string.

    Accesses the disk, and may block on it.
    """
    for word in argv:
        if (word == sys.executable or word.startswith(PACKAGE + os.sep)) and not os.path.lexists(word):
            return (
                f"{word} does not exist: the installation of cluster-service that this service was started from "
                f"({HOME}) was deleted or moved. Put it back at the same place, or start the service again from "
                "another one"
            )
    return ""


def stands_in(directory: str) -> bool:
    """Return True if our package, or the interpreter that runs it, is inside *directory*."""
    below = os.path.join(os.path.realpath(directory), "")
    named = os.path.join(os.path.realpath(os.path.dirname(sys.executable)), "")
    return any(place.startswith(below) for place in (os.path.realpath(HOME), named))


def warn_of_release(directory: str) -> str:
    """Return a warning if *directory* contains our installation and looks like one of several releases; else "".

    It does if a symbolic link beside it, or one level up, leads to it, like ``current`` in most deployments.
    """
    if not stands_in(directory) or not any(_leads_to(directory, place) for place in _above(directory)):
        return ""
    return (
        f"cluster-service itself is installed in the release {directory}: once a deployment deletes that directory no "
        f"worker can be started. {REMEDY[0].upper()}{REMEDY[1:]}"
    )


def warn_of_leaving(old: Sequence[str], new: str) -> str:
    """Return a warning if an upgrade to *new* leaves a directory in *old* with our installation; else ""."""
    left = next((each for each in old if stands_in(each)), None)
    if left is None or stands_in(new):
        return ""
    return (
        f"cluster-service itself is installed in {left}, which this upgrade leaves: if it is deleted no worker can be "
        f"started. Keep it, and {REMEDY}"
    )


def _above(directory: str) -> list[str]:
    parent = os.path.dirname(os.path.realpath(directory))
    return [parent, os.path.dirname(parent)]


def _leads_to(directory: str, place: str) -> bool:
    try:
        with os.scandir(place) as entries:
            return any(each.is_symlink() and os.path.realpath(each.path) == directory for each in entries)
    except OSError:
        return False
