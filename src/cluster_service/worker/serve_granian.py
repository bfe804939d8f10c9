"""Serves an app on granian: its small supervisor in the worker's process, its server in one child (``granian_child``).

At a stop the supervisor makes the child drain its connections first. Granian's own stop, which closes connections
without a request in progress, follows.
"""

from __future__ import annotations

import socket
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import granian

from cluster_service.wire import addresses

from .granian_child import Child, load_in_child
from .listeners import open_listeners
from .run import CANNOT_SERVE, refuse

if TYPE_CHECKING:
    from .runtime import Runtime

BACKLOG = 1024


def serve(target: str, binds: List[str], runtime: Runtime) -> None:
    """Serve *target* until the worker stops. Ends with SystemExit."""
    if len(binds) != 1:
        refuse(f"granian serves one address, not {len(binds)}: give one --bind, or --server uvicorn", CANNOT_SERVE)
    try:
        address = addresses.parse(binds[0])
    except addresses.AddressError as error:
        refuse(str(error), CANNOT_SERVE)
    place: Dict[str, Any] = {"address": address.host, "port": address.port}
    if address.path is not None:
        place = {"uds": Path(address.path)}
    server = _Granian(target, interface="asgi", backlog=BACKLOG, **place)
    server.worker = runtime
    if runtime.share in ("python", "inherit"):
        (server.listener,) = open_listeners(binds, runtime.share)
    server.serve(server.prepare(target), load_in_child, wrap_loader=False)
    raise SystemExit(0)


class _Granian(granian.Granian):  # type: ignore[misc,valid-type]
    """Granian with one worker."""

    worker: Runtime
    listener: Optional[socket.socket] = None
    """Our own socket, if granian's would not be the shared one."""
    _child: Any
    _childs_end: Any
    _code = 0

    def prepare(self, target: str) -> Child:
        """Return the callable for the child."""
        self._child, self._childs_end = Pipe()
        pulse, bus, relay = self.worker.pulse, self.worker.bus, None
        if bus is not None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            bus.relay(ours.detach())
            relay = theirs.detach()
        pulse.leave()  # the child writes to the board from now on
        return Child(target, self._childs_end, self.worker.channel_fd, relay, pulse.descriptor)

    def serve(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().serve(*args, **kwargs)
        except SystemExit:
            if self._code:
                raise SystemExit(self._code) from None  # the child's exit code
            raise

    def _stop_workers(self) -> None:
        self._childs_end.close()
        try:
            self._child.send(self.worker.remaining())
            self._child.poll(self.worker.remaining())
        except OSError:
            pass  # the child has exited
        processes = [worker.inner for worker in self.wrks]
        super()._stop_workers()
        self._code = max((process.exitcode or 0 for process in processes), default=0)

    def _init_shared_socket(self) -> None:
        """Use our own socket, if there is one. Relies on internals of granian, unchanged since version 2.0."""
        if self.listener is None:
            super()._init_shared_socket()
            return
        from granian._granian import SocketHolder  # noqa: PLC0415 - only in these modes

        self.listener.listen(BACKLOG)
        self.listener.set_inheritable(True)
        self._ssp = None
        self._sso = self.listener
        self._sfd = self.listener.fileno()
        self._shd = SocketHolder(self._sfd, self.listener.family == socket.AF_UNIX, BACKLOG)  # type: ignore[call-arg,unused-ignore]
