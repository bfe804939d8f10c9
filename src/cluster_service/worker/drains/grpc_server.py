"""gRPC servers, ``grpc.server`` and ``grpc.aio.server``: stopped by their own method, with the full timeout.

They send GOAWAY, so that clients use other servers for their next call, and finish their current calls.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from ..unpatched import time
from . import RunningServer

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime

_MARGIN = 1.0
"""Seconds for a server to end after calls were cut off."""


class GrpcServer(RunningServer):
    """One started server."""

    def __init__(self, server: Any) -> None:
        self.server = server

    def drain(self, deadline: float) -> None:
        """Stop the server and wait until it has stopped."""
        grace = max(0.0, deadline - time.monotonic())
        stopping = self.server.stop(grace)
        if asyncio.iscoroutine(stopping):
            asyncio.run_coroutine_threadsafe(stopping, self.server._loop).result(grace + _MARGIN)
        else:
            stopping.wait(grace + _MARGIN)


def drain_servers(module: ModuleType, runtime: Runtime) -> None:
    """Drain the servers of ``grpc._server`` or ``grpc.aio._server``."""
    server_class: Any = getattr(module, "_Server", None) or module.Server
    start = server_class.start

    @functools.wraps(start)
    def start_and_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        runtime.add_server(GrpcServer(self))
        return start(self, *args, **kwargs)

    server_class.start = start_and_tell
