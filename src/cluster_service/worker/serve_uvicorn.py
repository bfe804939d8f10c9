"""Serves an app on uvicorn, with uvicorn's default configuration, our sockets and our readiness report."""

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
"""Number of requests that a WSGI app answers concurrently, as starlette does for synchronous endpoints."""


def serve(app: Any, interface: str, binds: List[str], runtime: Runtime) -> None:
    """Serve *app* until the worker stops. Ends with SystemExit; the code is not 0 if the startup of the app failed."""
    if interface == "wsgi":
        from a2wsgi import WSGIMiddleware  # noqa: PLC0415 - only for WSGI

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
