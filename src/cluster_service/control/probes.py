"""What probes are answered: whether the service lives, and whether it is ready; and nothing else.

    GET /live     200 from the start of the master to the end of the service, also while its workers are drained
    GET /ready    200 while at least one worker serves and the service was not asked to end; else 503
    GET /metrics  for Prometheus, only where that was asked for

For containers: whoever probes (a kubelet, a load balancer) has no key, and calls us by an address of its own. So
neither is looked at, here alone. Nothing can be changed here, and a yes or no is all there is to learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from . import metrics as pages
from .replies import probe_reply

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from .service import Service


def make_probes(service: Service, *, metrics: bool) -> ASGIApp:
    """Return the application. *metrics*: whether everybody may have those too."""

    async def live(_request: Request) -> Response:
        return probe_reply(fine=service.alive())

    async def ready(_request: Request) -> Response:
        return probe_reply(fine=service.ready())

    async def page(_request: Request) -> Response:
        text = pages.exposition(service.workers(), service.health(), service.info())
        return Response(text, 200, {"Cache-Control": "no-store"}, pages.CONTENT_TYPE)

    async def nothing(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return Response("", status)

    routes = [Route("/live", live), Route("/ready", ready), *([Route("/metrics", page)] if metrics else [])]
    return Starlette(routes=routes, exception_handlers={HTTPException: nothing})
