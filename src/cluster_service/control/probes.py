"""The probe endpoint: liveness and readiness of the service.

    GET /live     200 from the start of the master to the end of the service, also while workers are draining
    GET /ready    200 while at least one worker serves and no shutdown was requested; else 503
    GET /metrics  for Prometheus, if enabled

Meant for containers: a kubelet or load balancer has no key, and connects to an address of its own choice. This
endpoint alone checks neither the key nor the Host header. It changes nothing and reveals nothing else.
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
    """Return the application. *metrics*: serve ``/metrics`` too, without a key."""

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
