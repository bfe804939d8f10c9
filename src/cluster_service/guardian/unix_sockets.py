"""Unix sockets as files: they stay where clients look for them, although servers unlink them.

Servers unlink the path before they bind it, and the old workers of a rolling restart unlink it when they stop. The rule
here: *a file that is removed while its socket is in use is restored immediately.* A second, hidden name in the same
directory keeps the inode; inotify reports the removal; linking restores the first name.

"In use" means that a live process has the socket open, or that its last user died without closing it (the next one
unlinks before it binds, and queued connections must not be lost). Otherwise a process has closed the socket and then
removed its file, as ``multiprocessing`` does with its private sockets: the guardian releases it, so that the directory
can be removed.

The helper inspects and changes a ``Place`` as the user who bound the socket, so nothing is linked or removed that this
user could not link or remove, wherever the directory's names lead by then.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import socket_factory, syscalls
from .helper_client import ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire.addresses import Address

    from .helper_client import Steps
    from .socket_factory import Binder

    class KeepsFile(Protocol):
        """A held socket (``holdings.Held``): its key, its file, and the numbers of the workers that use it."""

        key: str
        kept: Kept | None
        users: set[int]


_SUFFIX = b".cservice"
SHARE, BURST = 0.1, 0.1
"""CPU time that handling of appearing and disappearing files may use: seconds per second, and burst in seconds.

Beyond that, inotify events wait; if the kernel's queue overflows meanwhile, it reports a single overflow event, and
every file is checked.
"""
READ_COST, LOOK_COST = 0.0005, 0.0002
"""CPU seconds of overhead charged for one read, and for the later check of one file."""


class Place(NamedTuple):
    """The file of a Unix socket: its directory (a descriptor, as parent names may change), name, device and inode."""

    directory: int
    name: bytes
    identity: tuple[int, int]
    binder: Binder | None
    """The identity used for all operations; None: the service's own user."""

    @property
    def hidden(self) -> bytes:
        """The second, hidden name."""
        return b"." + self.name + _SUFFIX

    def state(self) -> str:
        """Return what the path refers to: "ours", "absent" or "other"."""
        with self._as_binder():
            return self._look(self.name)

    def restore(self) -> str:
        """Restore the path if it is absent and can be restored; return its state afterwards."""
        with self._as_binder():
            if self._look(self.name) == "absent" and self._look(self.hidden) == "ours":
                try:
                    self._link(self.hidden, self.name)
                except OSError:
                    return "absent"
            return self._look(self.name)

    def remove(self, *, given: bool) -> None:
        """Remove those of the two names that are ours. *given*: the first name existed before us and is kept."""
        if given:
            self.restore()
        with self._as_binder():
            for name in (self.hidden,) if given else (self.name, self.hidden):
                if self._look(name) == "ours":
                    try:
                        os.unlink(name, dir_fd=self.directory)
                    except OSError:  # for example, the directory has been made read-only
                        continue

    def hide(self) -> None:
        """Create the hidden name, replacing one left behind by a killed guardian. Raises OSError."""
        with self._as_binder():
            state = self._look(self.hidden)
            if state == "ours":
                return
            if state == "other":
                status = os.stat(self.hidden, dir_fd=self.directory, follow_symlinks=False)
                if not stat.S_ISSOCK(status.st_mode):
                    raise OSError(errno.EEXIST, f"{os.fsdecode(self.hidden)} is in the way")
                os.unlink(self.hidden, dir_fd=self.directory)
            self._link(self.name, self.hidden)

    def _as_binder(self) -> socket_factory.InTheNameOf:
        return socket_factory.InTheNameOf(None if self.binder is None else self.binder._replace(cwd="/"))

    def _look(self, name: bytes) -> str:
        try:
            status = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        except OSError:
            return "absent"
        return "ours" if (status.st_dev, status.st_ino) == self.identity else "other"

    def _link(self, source: bytes, target: bytes) -> None:
        os.link(source, target, src_dir_fd=self.directory, dst_dir_fd=self.directory, follow_symlinks=False)


def begin(place: Place, inotify: int) -> dict[str, Any]:
    """Hide and watch the file just created at *place*, with its identity still unknown; return what was found.

    *inotify* is -1 if there is no inotify descriptor. Raises OSError if there is no socket.
    """
    status = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.ENOENT, "its directory has been exchanged meanwhile")
    place = place._replace(identity=(status.st_dev, status.st_ino))
    found: dict[str, Any] = {"identity": list(place.identity), "watch": None, "problem": ""}
    try:
        place.hide()
        if inotify < 0:
            found["problem"] = "this user has no inotify instance left"
        else:
            found["watch"] = syscalls.inotify_watch(inotify, os.fsencode(f"/proc/self/fd/{place.directory}"))
    except OSError as error:
        found["problem"] = f"its file cannot be kept when a worker removes it ({error.strerror})"
    return found


class Kept:
    """The guardian's record of the file of one held socket."""

    def __init__(self, place: Place, watch: int | None, *, given: bool = False) -> None:
        self.place = place
        self.given = given
        """The file existed before us and is kept."""
        self.watch = watch
        self.orphaned = False
        """Whether the last user died with the socket open."""

    def __repr__(self) -> str:
        return f"<Kept {self.place.name!r}>"

    def ask(self, duty: str, **more: Any) -> Steps[str]:
        """Let the helper run *duty* on the place; return the state, if *duty* reports one. Raises OSError."""
        place = self.place
        values = {
            "name": os.fsdecode(place.name),
            "device": place.identity[0],
            "inode": place.identity[1],
            "binder": None if place.binder is None else list(place.binder),
            **more,
        }
        answer = yield from ask(duty, values, [place.directory])
        return str(answer.values.get("state", ""))


class Paths:
    """The files of all held sockets, and the inotify watches on their directories.

    *start* runs steps that concern a socket; *in_use* returns whether a live process has it open.
    """

    def __init__(
        self,
        start: Callable[[Any, Callable[[], Steps[None]]], None],
        in_use: Callable[[Any], Steps[bool]],
        let_go: Callable[[Any], None],
    ) -> None:
        self._start = start
        self._in_use = in_use
        self._let_go = let_go
        self._held: list[KeepsFile] = []
        self._looking: set[str] = set()
        """Keys of sockets for which a check is already scheduled."""
        self.inotify: int | None = None
        self._left, self._read_at = BURST, 0.0
        """Remaining CPU seconds, and when they were computed."""

    def open(self) -> int | None:
        """Return the descriptor that becomes readable when a directory changes; None if inotify is unavailable."""
        if self.inotify is None:
            try:
                self.inotify = syscalls.inotify_open()
            except OSError:
                return None
        return self.inotify

    def keep(self, held: KeepsFile, kept: Kept) -> None:
        """Watch the file of *held* from now on."""
        held.kept = kept
        self._held.append(held)

    def keeps(self, directory: int) -> bool:
        """Return whether *directory* belongs to a file that is kept."""
        return any(held.kept is not None and held.kept.place.directory == directory for held in self._held)

    def release(self, held: KeepsFile) -> None:
        """Remove the file of *held*, and the watch if no other file needs it."""
        kept, held.kept = held.kept, None
        if kept is None:
            return
        self._held.remove(held)
        if self.inotify is not None and kept.watch is not None:
            others = (other.kept for other in self._held if other.kept is not None)
            if not any(other.watch == kept.watch for other in others):
                syscalls.inotify_unwatch(self.inotify, kept.watch)
        self._start(held, lambda: _remove(kept))

    def changed(self) -> float:
        """Schedule a check of every file that inotify reported; return the seconds until the next read."""
        if self.inotify is None:
            return 0.0
        began, looks = time.monotonic(), 0
        self._left = min(BURST, self._left + (began - self._read_at) * SHARE)
        self._read_at = began
        changes = syscalls.inotify_read(self.inotify)
        overflow = any(change.mask & syscalls.IN_Q_OVERFLOW for change in changes)
        names = {(change.watch, change.name) for change in changes}
        for held in self._held:
            kept = held.kept
            if kept is None or held.key in self._looking:
                continue
            if overflow or (kept.watch, kept.place.name) in names:
                looks += 1
                self._looking.add(held.key)
                self._start(held, lambda held=held: self._removed(held))  # type: ignore[misc]
        self._left -= time.monotonic() - began + READ_COST + looks * LOOK_COST
        return max(0.0, -self._left / SHARE)

    def _removed(self, held: KeepsFile) -> Steps[None]:
        self._looking.discard(held.key)  # later changes schedule another check
        kept = held.kept
        if kept is None or (yield from kept.ask("look")) != "absent":
            return
        if kept.given or kept.orphaned or (yield from self._in_use(held)):
            yield from kept.ask("restore")
        elif held.kept is kept:
            self._let_go(held)

    def users_gone(self, held: KeepsFile) -> None:
        """Handle the exit of the last live worker that had *held*."""
        if held.kept is not None:
            self._start(held, lambda: self._orphaned(held))

    def _orphaned(self, held: KeepsFile) -> Steps[None]:
        kept = held.kept
        if kept is None or held.users:
            return
        # The event of a removal may be queued behind this exit.
        absent = (yield from kept.ask("look")) == "absent"
        used = kept.given or not absent or (yield from self._in_use(held))
        if held.kept is not kept or held.users:
            return
        if used:
            kept.orphaned = True
        else:
            self._let_go(held)


def _remove(kept: Kept) -> Steps[None]:
    try:
        yield from kept.ask("remove", given=kept.given)
    finally:
        os.close(kept.place.directory)  # opened with O_PATH: close neither writes nor blocks


def key_of(address: Address) -> str:
    """Return the key of an address: its text, for a file with the symlinks of its directory resolved.

    The helper determines the key of a worker's path.
    """
    if address.path is None:
        return str(address)
    directory, name = os.path.split(address.path)
    return f"unix:{os.path.join(os.path.realpath(directory), name)}"
