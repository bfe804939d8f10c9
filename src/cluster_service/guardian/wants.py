"""What a worker asks for when it binds, however it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.wire.addresses import Address

from . import asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .opening import Binder


class LeaveAlone(Exception):
    """The call is none of ours: the kernel may go on with it."""


class Want(NamedTuple):
    """A worker's wish to bind."""

    address: Address
    kind: int
    """SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET."""
    nonblocking: bool
    binder: Binder
    """As whom."""
    options: Sequence[Any] = ()
    """What the worker has set on its own socket (``opening.options_of``)."""
    capable: bool = False
    """Whether it has CAP_NET_BIND_SERVICE."""
    key: str = ""
    """What makes two paths the same."""
    written: str = ""
    """The path as the worker wrote it: what ``getsockname`` will give."""
    directory: int = -1
    """Of the path, opened as the binder."""
    creates: bool = True
    """Whether the binder may create files in it."""
    connects: bool = True
    """Whether it may write to the file, if there is one."""
    path_error: int = 0
    """The errno with which the binder does not even come to the directory."""

    @property
    def uid(self) -> int:
        """The user."""
        return self.binder.uid


def want_from(found: dict[str, Any], directory: int) -> Want:
    """Return the wish that the helper has *found* (``asked.read_bind``)."""
    kind, host, port, dual = found["address"]
    address = Address(kind, found.get("absolute", host), port, dual)
    return Want(
        address,
        found["type"],
        found["nonblocking"],
        asked.binder_from(found["binder"]),
        options=found["options"],
        capable=found["capable"],
        key=found.get("key", ""),
        written=found.get("written", ""),
        directory=directory,
        creates=found.get("creates", True),
        connects=found.get("connects", True),
        path_error=found.get("path_error", 0),
    )
