"""The process of the worker: its parent (the guardian), its forks, which are not workers, and its title.

``multiprocessing`` may start processes in a new interpreter (spawn, forkserver), which import the worker's script
again, under another name. If it imports ``cluster_service``, that must be importable as in the worker. So the code with
which such a process starts is prefixed with a call of our ``entry_point.py``.

The title in the process list is ``cservice: SERVICE web.1 STATE``. If the program imports ``setproctitle``, it sets its
own title: the original arguments are restored, and ours ends.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Set

from cluster_service.machine.process_title import Title

from .unpatched import get_ident, os, select

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Protocol

    class HasTitle(Protocol):
        """The runtime, as this module uses it."""

        title: ProcessTitle


def has_died(parent: int) -> bool:
    """Return True if the process *parent*, our parent at the start, has died or dies within a second."""
    if os.getppid() != parent:
        return True
    try:
        fd = os.pidfd_open(parent)
    except (AttributeError, OSError):
        return os.getppid() != parent
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(1000))
    finally:
        os.close(fd)


def on_fork(be_child: Callable[[], None]) -> None:
    """Call *be_child* in each fork.

    SIGTERM is blocked until then, so that even an early one is handled by the child as its own.
    """
    masks: Dict[int, Set[int]] = {}  # of the threads that are forking

    def before() -> None:
        masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(get_ident()))

    def in_child() -> None:
        mask = masks.pop(get_ident())
        masks.clear()
        be_child()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


_ENTRY_POINT = os.path.join(os.path.dirname(os.path.realpath(__file__)), "entry_point.py")
_PROLOGUE = f"import runpy; runpy.run_path({_ENTRY_POINT!r}, run_name='cluster_service_entry_point'); "


def wrap_spawning(util: ModuleType, runtime: object) -> None:
    """Wrap the function through which ``multiprocessing`` executes an interpreter."""
    del runtime
    original = util.spawnv_passfds

    def spawnv_passfds(path: Any, args: Sequence[Any], passfds: Any) -> Any:
        return original(path, _with_prologue(list(args)), passfds)

    util.spawnv_passfds = spawnv_passfds  # type: ignore[attr-defined]


def _with_prologue(args: List[Any]) -> List[Any]:
    for position, text in enumerate(args):
        if position and args[position - 1] == "-c" and isinstance(text, str) and "resource_tracker" not in text:
            args[position] = _PROLOGUE + text
    return args


class ProcessTitle:
    """ProcessTitle ``cservice: default web.1 STATE``. *prefix* None: no title is set."""

    def __init__(self, prefix: Optional[str]) -> None:
        self._prefix = prefix
        self._title = Title()
        self._pid = os.getpid()
        self._state = ""
        self.show("starting")

    def show(self, state: str) -> None:
        """Show *state*. A fork of the worker keeps its title."""
        if self._prefix is not None and self._pid == os.getpid() and state != self._state:
            self._state = state
            self._title.set(f"{self._prefix} {state}")

    def show_stop(self) -> None:
        """Show that the worker was asked to stop, with the name of the state in the service."""
        if self._state not in ("draining", "stopping"):
            self.show("draining" if self._state == "serving" else "stopping")

    def show_fork_role(self, what: str) -> None:
        """Show the role *what* of this fork of the worker."""
        if self._prefix is not None:
            self._title.set(f"{self._prefix} {what}")

    def give_back(self) -> None:
        """Restore the original arguments, and set no further title."""
        self._title.give_back()
        self._prefix = None


def give_title_back(module: ModuleType, runtime: HasTitle) -> None:
    """Restore the arguments for setproctitle, which searches for them in memory at its first use."""
    del module
    runtime.title.give_back()
