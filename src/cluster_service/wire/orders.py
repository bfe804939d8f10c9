"""Orders: messages from the master to the guardian.

Every order may safely be repeated. The core chooses increasing worker numbers, so a second ``Spawn`` with the same
number is refused; a ``Signal`` carries an order name, and the same name for the same worker is refused; the others set
a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from .framing import Family, Record

VERSION = 1
"""The version of the guardian's protocol. The master states its version, and the guardian refuses another."""


@dataclass(frozen=True, eq=False, repr=False)
class Hello(Record):
    """The first order of every master. Answered by a ``Snapshot`` fact."""

    version: int = VERSION
    pid: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Note(Record):
    """Replace the master's checkpoint. Sent before the orders that it records, on the same stream."""

    text: str


@dataclass(frozen=True, eq=False, repr=False)
class Spawn(Record):
    """Fork and exec one worker. Answered by ``Spawned`` or ``SpawnFailed``; ``Refused`` if *worker* is not new."""

    worker: int
    """The number of the worker, greater than all previous ones."""
    argv: List[str] = field(repr=False)
    env: Dict[str, str] = field(repr=False)
    """The complete environment. The guardian adds NOTIFY_SOCKET and the numbers of the descriptors below."""
    cwd: str
    label: str
    """The name of the worker in log lines: ``web.1``."""
    meta: Dict[str, Any] = field(default_factory=dict)
    """Opaque to the guardian, returned in the snapshot: group, slot, generation, reason."""
    share: str = "none"
    """How it gets its ports: seccomp, python, inherit or none."""
    inherit: List[str] = field(default_factory=list)
    """Addresses (as named in ``Listen``) passed as LISTEN_FDS, in this order."""
    tenant: str = ""
    """The group of the worker: shared sockets belong to a group."""
    share_with: List[str] = field(default_factory=list)
    """Groups of the same user that share sockets with its group, in both directions."""
    binds: List[str] = field(default_factory=list)
    """Addresses configured for its group, even if its user could not bind them."""
    channel: bool = False
    """Create a channel for it (CSERVICE_CHANNEL), which only programs with our runtime use."""
    user: Optional[str] = None
    """Name or number of the user to run as (needs root)."""
    group: Optional[str] = None
    """Name or number of the group; by default that of the user."""
    umask: Optional[int] = None
    rlimits: Dict[str, List[int]] = field(default_factory=dict)
    """``{"NOFILE": [soft, hard]}``; -1: unlimited."""
    nice: Optional[int] = None
    cpus: List[int] = field(default_factory=list)
    """CPUs that it may run on; empty: those of the guardian."""
    oom_score_adj: Optional[int] = None
    keep_stdin: bool = False
    """Keep its standard input open; otherwise it is at its end."""
    check: bool = False
    """Create a socket for its health checks (CSERVICE_CHECK), if it has a channel."""
    stop_signal: int = 15
    """Number of the signal with which the guardian asks it, and what it leaves, to end."""
    listen: str = "shared"
    """``shared``: its group has one socket for each address; ``per-slot``: each worker has one, where possible."""
    drain: float = 0.0
    """Seconds that its stop signal may wait for its connections where the guardian ends the service by itself."""
    private: bool = False
    """A preview worker: each address that it binds is replaced by a private one that no client knows (an ephemeral port
    on loopback, an abstract Unix socket), in every share mode except none.
    """


@dataclass(frozen=True, eq=False, repr=False)
class Signal(Record):
    """Send *signal* (a number) to the process of the worker, or to its whole process group."""

    worker: int
    signal: int
    order: str
    """``stop``, ``kill`` ...: the same name is delivered to the same worker only once."""
    whole_group: bool = False
    after: float = 0.0
    """Of ``sweep``: what the worker has left is sent its stop signal, and *signal* so many seconds later."""
    drain: float = 0.0
    """Of ``stop``: seconds for which the guardian may wait until the worker's connections are finished, before it sends
    the signal. Only for workers with sockets of their own (``Spawn.listen``)."""


@dataclass(frozen=True, eq=False, repr=False)
class Tell(Record):
    """Send *message* on the worker's channel. ``Refused``, and dropped, if it has no channel or does not read."""

    worker: int
    message: Dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Forget(Record):
    """Forget *worker*: its exit is recorded in the checkpoint."""

    worker: int


@dataclass(frozen=True, eq=False, repr=False)
class Listen(Record):
    """Open and hold a listening socket. Answered by ``Listening`` (worker None) or ``ListenFailed``. Repeatable."""

    address: str
    """``127.0.0.1:8000``, ``[::1]:8000``, ``unix:/path``, ``udp:127.0.0.1:53``."""
    door: bool = False
    """An endpoint of the service itself: the ``Listening`` fact carries its descriptor."""
    backlog: int = 2048
    mode: int = 0o666
    """Permissions of a Unix socket, which is bound under the matching umask."""
    tenant: str = ""
    """The group of workers that it is for; empty: the first group that binds it."""


@dataclass(frozen=True, eq=False, repr=False)
class Close(Record):
    """Close the held socket of *address*. Does nothing if there is none."""

    address: str


@dataclass(frozen=True, eq=False, repr=False)
class Log(Record):
    """Write one line to the log of the service."""

    line: str


@dataclass(frozen=True, eq=False, repr=False)
class InspectOutput(Record):
    """Check if *worker* may block on its output. Answered by ``OutputInspected``."""

    worker: int


@dataclass(frozen=True, eq=False, repr=False)
class Pong(Record):
    """The answer to a ``Ping`` fact: the master's loop is running."""


@dataclass(frozen=True, eq=False, repr=False)
class Status(Record):
    """The state of the service for its service manager. Sent by each new master, and at every change."""

    phase: str
    """``starting``; ``stalled``: the start has failed, and at least one group serves no requests; ``serving``: every
    slot serves, or the start is over and every group serves; ``reloading``; ``stopping``.
    """
    text: str = ""
    """A short line: "3 of 4 serving; upgrade 3: canary"."""
    hangups: int = 0
    """Number of ``Signalled("HUP")`` received by this master, to distinguish an answer from an earlier status."""


@dataclass(frozen=True, eq=False, repr=False)
class Stopping(Record):
    """The master has taken over the shutdown requested by a signal: the guardian need not drain the workers itself."""

    deadline: float = 0.0
    """Seconds from now after which the guardian ends the remaining workers itself; 0 means never."""


@dataclass(frozen=True, eq=False, repr=False)
class Bye(Record):
    """The service has ended: kill the remaining workers, close everything, exit with *code*."""

    code: int = 0


ORDERS: Family[Any] = Family(
    Hello, Note, Spawn, Signal, Tell, Forget, Listen, Close, Log, InspectOutput, Pong, Status, Stopping, Bye
)
