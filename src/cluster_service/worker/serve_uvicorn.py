"""An app on uvicorn: its configuration is uvicorn's own default, its sockets are ours, and so is its readiness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Optional

import uvicorn

from .listeners import open_listeners, own_listener
from .pools import Pool
from .streams import ending_wsgi

if TYPE_CHECKING:
    import socket

    from .runtime import Runtime

WSGI_THREADS = 40
"""Requests that a WSGI app answers at a time: what starlette gives to synchronous endpoints."""


def serve(app: Any, interface: str, binds: List[str], runtime: Runtime) -> None:
    """Serve *app* until the worker stops. Ends with SystemExit; its code is not 0 when the app's start-up failed."""
    if interface == "wsgi":
        from a2wsgi import WSGIMiddleware  # noqa: PLC0415 - only for these

        pool = Pool(WSGI_THREADS)
        runtime.pulse.needs(pool.stuck)
        ending = ending_wsgi(pool.runs(app), lambda: runtime.stopping)
        app, interface = WSGIMiddleware(ending, workers=WSGI_THREADS), "asgi3"
    config = uvicorn.Config(app, interface=interface, workers=1)  # type: ignore[arg-type]
    listeners = open_listeners(binds, runtime.share)
    server = _Server(config, runtime, binds)
    server.run(sockets=[*listeners, *own_listener(runtime)])
    raise SystemExit(0 if server.started else 3)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, runtime: Runtime, binds: List[str]) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._binds = binds

    async def startup(self, sockets: Optional[List[socket.socket]] = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and not self.should_exit:
            uvicorn.server.logger.info("Uvicorn running on %s", ", ".join(self._binds))
            self._runtime.server_started()
