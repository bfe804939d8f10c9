"""Orders: what the master says to the guardian.

Every order is safe to repeat. A worker's number is chosen by the core and only ever grows, so a second ``Spawn`` of the
same number is refused; a ``Signal`` carries an order name, and the same name to the same worker is refused; the
others set something to a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from .records import Family

VERSION = 1
"""The version of the guardian's protocol. The master says which it speaks; the guardian refuses another."""


@dataclass(frozen=True)
class Hello:
    """The first order of every master. Answered by a ``Snapshot`` fact."""

    version: int = VERSION
    pid: int = 0


@dataclass(frozen=True)
class Note:
    """Replace the notebook. Sent before the orders that it accounts for, on the same stream."""

    text: str


@dataclass(frozen=True)
class Spawn:
    """Fork and exec one worker. Answered by ``Spawned`` or ``SpawnFailed``, or ``Refused`` when *worker* is not new."""

    worker: int
    """The worker's number: greater than every number before it."""
    argv: List[str] = field(repr=False)
    env: Dict[str, str] = field(repr=False)
    """The whole environment. The guardian adds NOTIFY_SOCKET, and the numbers of the descriptors below."""
    cwd: str
    label: str
    """How log lines name the worker: ``web.1``."""
    meta: Dict[str, Any] = field(default_factory=dict)
    """Opaque to the guardian, given back in the snapshot: group, slot, generation, reason."""
    share: str = "none"
    """How it gets its ports: seccomp, python, inherit or none."""
    inherit: List[str] = field(default_factory=list)
    """Addresses (as ``Listen`` named them) passed as LISTEN_FDS, in this order."""
    tenant: str = ""
    """The group of workers that it is of: shared sockets are those of a group."""
    share_with: List[str] = field(default_factory=list)
    """Groups of the same user that may have its group's sockets, and it theirs."""
    binds: List[str] = field(default_factory=list)
    """Addresses that the configuration gives to its group, whatever its user could bind by itself."""
    channel: bool = False
    """Give it a channel (CSERVICE_CHANNEL): only programs with our runtime know what to do with one."""
    user: Optional[str] = None
    """User name or number to run as (needs root)."""
    group: Optional[str] = None
    """Group name or number; by default the user's own."""
    umask: Optional[int] = None
    rlimits: Dict[str, List[int]] = field(default_factory=dict)
    """``{"NOFILE": [soft, hard]}``; -1: unlimited."""
    nice: Optional[int] = None
    cpus: List[int] = field(default_factory=list)
    """On which it may run; none: on those of the guardian."""
    oom_score_adj: Optional[int] = None
    keep_stdin: bool = False
    """Its standard input never ends; else it is at its end."""
    check: bool = False
    """Give it a socket of its own for health checks (CSERVICE_CHECK), if it has a channel."""
    stop_signal: int = 15
    """What asks it to end (a number), where the guardian does that by itself, and what it leaves."""
    listen: str = "shared"
    """``shared``: its group has one socket for each address; ``per-slot``: each worker has one, where possible."""
    drain: float = 0.0
    """Seconds that its stop signal may wait for its connections where the guardian ends the service by itself."""
    private: bool = False
    """A dark canary: each address that it binds becomes one of its own that no client knows (an ephemeral port on
    loopback, an abstract Unix socket), in every share mode but none."""


@dataclass(frozen=True)
class Signal:
    """Send *signal* (a number) to the worker's process, or to its whole process group."""

    worker: int
    signal: int
    order: str
    """``stop``, ``kill`` ...: the same name to the same worker is delivered once."""
    whole_group: bool = False
    after: float = 0.0
    """Of ``sweep``: what the worker has left is sent its stop signal, and *signal* so many seconds later."""
    drain: float = 0.0
    """Of ``stop``: seconds for which the guardian may wait until the worker's connections are finished, before it sends
    the signal. Only for workers with sockets of their own (``Spawn.listen``)."""


@dataclass(frozen=True)
class Tell:
    """Send *message* on the worker's channel. Dropped with a ``Refused`` when the worker has none or does not read."""

    worker: int
    message: Dict[str, Any]


@dataclass(frozen=True)
class Forget:
    """The exit of *worker* is in the notebook: the guardian need not remember it."""

    worker: int


@dataclass(frozen=True)
class Listen:
    """Open a listening socket and hold it. Answered by ``Listening`` (worker None) or ``ListenFailed``. Repeatable."""

    address: str
    """``127.0.0.1:8000``, ``[::1]:8000``, ``unix:/path``, ``udp:127.0.0.1:53``."""
    door: bool = False
    """One of the service's own doors: the ``Listening`` fact carries the descriptor."""
    backlog: int = 2048
    mode: int = 0o666
    """Permissions of a Unix socket; it is bound under the matching umask."""
    tenant: str = ""
    """The group of workers that it is for; empty: the first that binds it."""


@dataclass(frozen=True)
class Close:
    """Close the held socket of *address*. Nothing happens when there is none."""

    address: str


@dataclass(frozen=True)
class Log:
    """Write one line to the service's log."""

    line: str


@dataclass(frozen=True)
class InspectOutput:
    """Look whether *worker* may have to wait until its output is read. Answered by ``OutputInspected``."""

    worker: int


@dataclass(frozen=True)
class Pong:
    """The master's loop turns (answer to a ``Ping`` fact)."""


@dataclass(frozen=True)
class Status:
    """How the service is, as its service manager is to know it. Said by each new master, and whenever it changes."""

    phase: str
    """``starting``; ``stalled``: its start has failed, and some group serves not at all; ``serving``: every slot does,
    or its start is over and every group does; ``reloading``; ``stopping``."""
    text: str = ""
    """A short line: "3 of 4 serving; upgrade 3: canary"."""
    hangups: int = 0
    """How many ``Signalled("HUP")`` this master has heard: so an answer is told from what was said before it."""


@dataclass(frozen=True)
class Stopping:
    """The master has taken over the shutdown that a signal asked for: the guardian need not drain alone."""

    deadline: float = 0.0
    """Seconds from now after which the guardian ends what is left itself; 0 means never."""


@dataclass(frozen=True)
class Bye:
    """The service has ended: kill what is left, close everything, exit with *code*."""

    code: int = 0


ORDERS: Family[Any] = Family(
    Hello, Note, Spawn, Signal, Tell, Forget, Listen, Close, Log, InspectOutput, Pong, Status, Stopping, Bye
)
