"""Unix sockets as files: they stay where clients look for them, although servers unlink them.

Servers unlink the path before they bind it, and the old workers of a rolling restart unlink it when they stop. The
rule here: *a file that is removed while its socket is in use comes back at once.* A second, hidden name in the same
directory keeps the inode; inotify tells of the removal; linking brings the first name back.

In use means that a living process has the socket open, or that its last user died without having closed it (the next
one unlinks before it binds, and what is queued must not be lost). Otherwise somebody has closed the socket and then
removed its file, as ``multiprocessing`` does with its private ones: it is let go, and the directory can be removed.

A ``Place`` is looked at and changed by the helper, as the user who has bound the socket: so nothing is linked or
removed that this user could not link or remove, wherever the directory's names lead by then.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from . import opening, posix
from .steps import ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire.addresses import Address

    from .holdings import Held
    from .opening import Binder
    from .steps import Steps

_SUFFIX = b".cservice"
SHARE, BURST = 0.1, 0.1
"""Seconds of the processor a second, and at once, that files which come and go may cost us. Then what inotify sees
waits; what the kernel's queue has no room for meanwhile is told as one overflow, and every file is looked at.
"""
READ_COST, LOOK_COST = 0.0005, 0.0002
"""Seconds that one reading costs around itself, and that one look at a file costs later."""


class Place(NamedTuple):
    """A Unix socket's file: its directory (a descriptor: names may change above it), its name, device and inode."""

    directory: int
    name: bytes
    identity: tuple[int, int]
    binder: Binder | None
    """As whom everything is done; None: as the service's own user."""

    @property
    def hidden(self) -> bytes:
        """The second name."""
        return b"." + self.name + _SUFFIX

    def state(self) -> str:
        """Return where the path leads: ours, absent or other."""
        with self._as_binder():
            return self._look(self.name)

    def restore(self) -> str:
        """Bring the path back, if it is absent and can be; return its state then."""
        with self._as_binder():
            if self._look(self.name) == "absent" and self._look(self.hidden) == "ours":
                try:
                    self._link(self.hidden, self.name)
                except OSError:
                    return "absent"
            return self._look(self.name)

    def remove(self, *, given: bool) -> None:
        """Remove what is ours of both names. *given*: the first was there before us, and stays."""
        if given:
            self.restore()
        with self._as_binder():
            for name in (self.hidden,) if given else (self.name, self.hidden):
                if self._look(name) == "ours":
                    try:
                        os.unlink(name, dir_fd=self.directory)
                    except OSError:  # the directory was made read-only, say: it is not ours to insist
                        continue

    def hide(self) -> None:
        """Make the hidden name. One that a guardian left behind when it was killed is replaced. Raises OSError."""
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

    def _as_binder(self) -> opening.InTheNameOf:
        return opening.InTheNameOf(None if self.binder is None else self.binder._replace(cwd="/"))

    def _look(self, name: bytes) -> str:
        try:
            status = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        except OSError:
            return "absent"
        return "ours" if (status.st_dev, status.st_ino) == self.identity else "other"

    def _link(self, source: bytes, target: bytes) -> None:
        os.link(source, target, src_dir_fd=self.directory, dst_dir_fd=self.directory, follow_symlinks=False)


def begin(place: Place, inotify: int) -> dict[str, Any]:
    """Hide and watch the file that was just made at *place*, whose identity is not known yet; return what was found.

    *inotify*: -1: there is none. Raises OSError when there is no socket.
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
            found["watch"] = posix.inotify_watch(inotify, os.fsencode(f"/proc/self/fd/{place.directory}"))
    except OSError as error:
        found["problem"] = f"its file cannot be kept when a worker removes it ({error.strerror})"
    return found


class Kept:
    """The file of one held socket, as the guardian knows it."""

    def __init__(self, place: Place, watch: int | None, *, given: bool = False) -> None:
        self.place = place
        self.given = given
        """It was there before us, and stays."""
        self.watch = watch
        self.orphaned = False
        """Whether its last user has died with the socket open."""

    def __repr__(self) -> str:
        return f"<Kept {self.place.name!r}>"

    def ask(self, duty: str, **more: Any) -> Steps[str]:
        """Let the helper do *duty* with the place; return its state, as far as *duty* says that. Raises OSError."""
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
    """The files of all held sockets, and the watch over their directories.

    *start* runs steps that concern a socket; *in_use* says whether a living process has it open.
    """

    def __init__(
        self,
        start: Callable[[Held, Callable[[], Steps[None]]], None],
        in_use: Callable[[Held], Steps[bool]],
        let_go: Callable[[Held], None],
    ) -> None:
        self._start = start
        self._in_use = in_use
        self._let_go = let_go
        self._held: list[Held] = []
        self._looking: set[str] = set()
        """Keys of those that will be looked at already."""
        self.inotify: int | None = None
        self._left, self._read_at = BURST, 0.0
        """Seconds of the processor that are left, and when that was so."""

    def open(self) -> int | None:
        """Return the descriptor that is readable when a directory has changed; None when there are none to be had."""
        if self.inotify is None:
            try:
                self.inotify = posix.inotify_open()
            except OSError:
                return None
        return self.inotify

    def keep(self, held: Held, kept: Kept) -> None:
        """Watch over the file of *held* from now on."""
        held.kept = kept
        self._held.append(held)

    def keeps(self, directory: int) -> bool:
        """Whether *directory* is that of a file that is kept."""
        return any(held.kept is not None and held.kept.place.directory == directory for held in self._held)

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
        self._start(held, lambda: _remove(kept))

    def changed(self) -> float:
        """Look once at every file that inotify spoke of; return for how many seconds it is not to be read then."""
        if self.inotify is None:
            return 0.0
        began, looks = time.monotonic(), 0
        self._left = min(BURST, self._left + (began - self._read_at) * SHARE)
        self._read_at = began
        changes = posix.inotify_read(self.inotify)
        overflow = any(change.mask & posix.IN_Q_OVERFLOW for change in changes)
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

    def _removed(self, held: Held) -> Steps[None]:
        self._looking.discard(held.key)  # whatever happens from now on is seen by another look
        kept = held.kept
        if kept is None or (yield from kept.ask("look")) != "absent":
            return
        if kept.given or kept.orphaned or (yield from self._in_use(held)):
            yield from kept.ask("restore")
        elif held.kept is kept:
            self._let_go(held)

    def users_gone(self, held: Held) -> None:
        """The last living worker that was given *held* has exited."""
        if held.kept is not None:
            self._start(held, lambda: self._orphaned(held))

    def _orphaned(self, held: Held) -> Steps[None]:
        kept = held.kept
        if kept is None or held.users:
            return
        # The news of a removal may stand in the queue behind this exit.
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
        os.close(kept.place.directory)  # it was opened with O_PATH: nothing is written or waited for


def key_of(address: Address) -> str:
    """Return what makes two addresses the same: the text, for a file with the symlinks of its directory resolved.

    Of a worker's path this is found out by the helper.
    """
    if address.path is None:
        return str(address)
    directory, name = os.path.split(address.path)
    return f"unix:{os.path.join(os.path.realpath(directory), name)}"
