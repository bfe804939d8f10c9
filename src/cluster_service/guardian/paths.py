"""Unix sockets as files: they stay where clients look for them, although servers unlink them.

Servers unlink the path before they bind it, and the old workers of a rolling restart unlink it when they stop. The
rule here: *a file that is removed while its socket is in use comes back at once.* A second, hidden name in the same
directory keeps the inode; inotify tells of the removal; linking brings the first name back.

In use means that a living process has the socket open, or that its last user died without having closed it (the next
one unlinks before it binds, and what is queued must not be lost). Otherwise somebody has closed the socket and then
removed its file, as ``multiprocessing`` does with its private ones: it is let go, and the directory can be removed.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from . import posix

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire.addresses import Address

    from .holdings import Held

_SUFFIX = b".cservice"


class Kept:
    """The file of one held socket: its directory (as a descriptor: names may change above it), names and inode."""

    def __init__(self, directory: int, name: bytes, *, given: bool = False) -> None:
        self.directory = directory
        self.given = given
        """It was there before us, and stays."""
        self.name = name
        self.hidden = b"." + name + _SUFFIX
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        self.identity = (status.st_dev, status.st_ino)
        self.watch: int | None = None
        self.orphaned = False
        """Whether its last user has died with the socket open."""

    def __repr__(self) -> str:
        return f"<Kept {self.name!r}: {self.state()}>"

    def state(self) -> str:
        """Return where the path leads: ours, absent or other."""
        return self._look(self.name)

    def _look(self, name: bytes) -> str:
        try:
            status = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        except OSError:
            return "absent"
        return "ours" if (status.st_dev, status.st_ino) == self.identity else "other"

    def hide(self) -> None:
        """Make the hidden name. One that a guardian left behind when it was killed is replaced. Raises OSError."""
        state = self._look(self.hidden)
        if state == "ours":
            return
        if state == "other":
            status = os.stat(self.hidden, dir_fd=self.directory, follow_symlinks=False)
            if not stat.S_ISSOCK(status.st_mode):
                raise OSError(errno.EEXIST, f"{os.fsdecode(self.hidden)} is in the way")
            os.unlink(self.hidden, dir_fd=self.directory)
        self._link(self.name, self.hidden)

    def restore(self) -> bool:
        """Bring the path back. False when it cannot be, or is another's by now."""
        if self.state() == "absent" and self._look(self.hidden) == "ours":
            try:
                self._link(self.hidden, self.name)
            except OSError:
                return False
        return self.state() == "ours"

    def _link(self, source: bytes, target: bytes) -> None:
        os.link(source, target, src_dir_fd=self.directory, dst_dir_fd=self.directory, follow_symlinks=False)

    def remove(self) -> None:
        """Remove what is ours of both names, and let the directory go."""
        if self.given:
            self.restore()
        for name in (self.hidden,) if self.given else (self.name, self.hidden):
            if self._look(name) == "ours":
                try:
                    os.unlink(name, dir_fd=self.directory)
                except OSError:  # the directory was made read-only, say: it is not ours to insist
                    continue
        os.close(self.directory)


class Paths:
    """The files of all held sockets, and the watch over their directories."""

    def __init__(self, in_use: Callable[[Held], bool], let_go: Callable[[Held], None]) -> None:
        self._in_use = in_use
        self._let_go = let_go
        self._held: list[Held] = []
        self.inotify: int | None = None

    def open(self) -> int | None:
        """Return the descriptor that is readable when a directory has changed; None when there are none to be had."""
        if self.inotify is None:
            try:
                self.inotify = posix.inotify_open()
            except OSError:
                return None
        return self.inotify

    def keep(self, held: Held, kept: Kept) -> str:
        """Watch over the file of *held*. Returns why that cannot be done, or an empty string."""
        held.kept = kept
        self._held.append(held)
        try:
            kept.hide()
            if self.open() is None:
                return f"{held.address}: this user has no inotify instance left"
            if self.inotify is not None:
                kept.watch = posix.inotify_watch(self.inotify, os.fsencode(f"/proc/self/fd/{kept.directory}"))
        except OSError as error:
            return f"{held.address}: its file cannot be kept when a worker removes it ({error.strerror})"
        return ""

    def release(self, held: Held) -> None:
        """Remove the file of *held*, and the watch when it was the last one there."""
        kept, held.kept = held.kept, None
        if kept is None:
            return
        self._held.remove(held)
        if self.inotify is not None and kept.watch is not None:
            others = (other.kept for other in self._held if other.kept is not None)
            if not any(other.watch == kept.watch for other in others):
                posix.inotify_unwatch(self.inotify, kept.watch)
        kept.remove()

    def changed(self) -> None:
        """Look at every file that inotify spoke of."""
        if self.inotify is None:
            return
        for change in posix.inotify_read(self.inotify):
            for held in list(self._held):
                kept = held.kept
                if kept is None:
                    continue
                if change.mask & posix.IN_Q_OVERFLOW or (change.watch == kept.watch and change.name == kept.name):
                    self._removed(held, kept)

    def _removed(self, held: Held, kept: Kept) -> None:
        if kept.state() != "absent":
            return
        if kept.given or kept.orphaned or self._in_use(held):
            kept.restore()
        else:
            self._let_go(held)

    def users_gone(self, held: Held) -> None:
        """The last living worker that was given *held* has exited."""
        kept = held.kept
        if kept is None:
            return
        if kept.state() == "absent" and not kept.given and not self._in_use(held):
            self._let_go(held)  # it was removed, and the news of it stands in the queue behind this exit
        else:
            kept.orphaned = True


def key_of(address: Address) -> str:
    """Return what makes two addresses the same: the text, for a file with the symlinks of its directory resolved."""
    if address.path is None:
        return str(address)
    directory, name = os.path.split(address.path)
    return f"unix:{os.path.join(os.path.realpath(directory), name)}"
