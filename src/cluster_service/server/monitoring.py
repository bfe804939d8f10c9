"""Monitoring of a service: the probe endpoint (liveness and readiness), and metrics.

Metrics are in the Prometheus text format, version 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from .http_messages import probe_reply

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from cluster_service.commands.service_interface import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Json = Mapping[str, Any]
Sample = tuple[Mapping[str, object], float]

STATES = ("starting", "serving", "draining", "stopping", "waiting", "broken")


def exposition(workers: Iterable[Json], health: Json, info: Json) -> str:
    """Return the page. *workers*, *health*, *info*: the results of the commands of those names."""
    rows = list(workers)
    groups = sorted({str(row["group"]) for row in rows} | set(info["groups"]))
    counts = {(group, state): 0 for group in groups for state in STATES}
    for row in rows:
        counts[str(row["group"]), row["state"]] += 1
    one: Mapping[str, object] = {}
    families: list[tuple[str, str, str, list[Sample]]] = [
        ("cservice_info", "gauge", "The service; its value is always 1.", [({"version": info["version"]}, 1)]),
        ("cservice_uptime_seconds", "gauge", "Seconds since its guardian started.", [(one, info["uptime_s"])]),
        (
            "cservice_master_starts_total",
            "counter",
            "How often a master was started: 1 where none has died.",
            [(one, info["master_starts"])],
        ),
        ("cservice_slots_wanted", "gauge", "Workers that there should be.", [(one, health["wanted"])]),
        ("cservice_slots_serving", "gauge", "Slots that serve.", [(one, health["serving"])]),
        (
            "cservice_operation_running",
            "gauge",
            "Whether a restart, an upgrade or the like is under way.",
            [(one, int(info["operation"] is not None))],
        ),
        (
            "cservice_workers",
            "gauge",
            "Workers and empty slots, by state.",
            [({"group": group, "state": state}, count) for (group, state), count in counts.items()],
        ),
        ("cservice_worker_restarts_total", "counter", "Restarts after failures, by slot.", _of(rows, "restarts")),
        ("cservice_worker_memory_bytes", "gauge", "Resident memory.", _of(rows, "memory_bytes")),
        ("cservice_worker_connections", "gauge", "Open connections.", _of(rows, "connections")),
        ("cservice_worker_uptime_seconds", "gauge", "Seconds since its process started.", _of(rows, "uptime_s")),
    ]
    return "".join(_family(*family) for family in families)


def _of(rows: Iterable[Json], field: str) -> list[Sample]:
    """Return one sample per slot, from its newest worker if it has two."""
    found = {(row["group"], row["slot"]): row[field] for row in rows if row.get(field) is not None}
    return [({"group": group, "slot": slot}, value) for (group, slot), value in found.items()]


def _family(name: str, kind: str, doc: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {doc}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: object) -> str:
    plain = str(text).encode("utf-8", "replace").decode()
    return plain.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def make_probes(service: Service, *, metrics: bool) -> ASGIApp:
    """Return the application. *metrics*: serve ``/metrics`` too, without a key."""

    async def live(_request: Request) -> Response:
        return probe_reply(fine=service.alive())

    async def ready(_request: Request) -> Response:
        return probe_reply(fine=service.ready())

    async def page(_request: Request) -> Response:
        text = exposition(service.workers(), service.health(), service.info())
        return Response(text, 200, {"Cache-Control": "no-store"}, CONTENT_TYPE)

    async def nothing(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return Response("", status)

    routes = [Route("/live", live), Route("/ready", ready), *([Route("/metrics", page)] if metrics else [])]
    return Starlette(routes=routes, exception_handlers={HTTPException: nothing})
