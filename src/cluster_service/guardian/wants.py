"""A worker's request to bind, whatever way it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.wire.addresses import Address

from . import asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .opening import Binder


class LeaveAlone(Exception):
    """The call does not concern the service: the kernel may execute it."""


class Want(NamedTuple):
    """A worker's request to bind."""

    address: Address
    kind: int
    """SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET."""
    nonblocking: bool
    binder: Binder
    """The identity with which the socket is bound."""
    options: Sequence[Any] = ()
    """The options that the worker has set on its own socket (``opening.options_of``)."""
    capable: bool = False
    """Whether the worker has CAP_NET_BIND_SERVICE."""
    key: str = ""
    """Identifies the path: two paths with the same key are the same file."""
    written: str = ""
    """The path as the worker wrote it, which ``getsockname`` will return."""
    directory: int = -1
    """The directory of the path, opened as the binder."""
    creates: bool = True
    """Whether the binder may create files in it."""
    connects: bool = True
    """Whether it may write to the file, if it exists."""
    path_error: int = 0
    """The errno with which the binder fails to reach the directory; 0 if it does not."""

    @property
    def uid(self) -> int:
        """The user id of the binder."""
        return self.binder.uid


def want_from(found: dict[str, Any], directory: int) -> Want:
    """Return the request that the helper has *found* (``asked.read_bind``)."""
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
