"""The ``ls`` command: list every service of this user on this machine, including unresponsive ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service import rundir
from cluster_service.errors import CommandError

from .registry import Command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .service_interface import Service

PATIENCE = 2.0
"""Timeout for the answer of one service, in seconds."""
AT_A_TIME = 16
"""Maximum number of services queried in parallel."""


async def run(_service: Service) -> dict[str, Any]:
    """List the services on the machine of the running service, which is queried like the others."""
    import asyncio  # not needed by the command line

    return await asyncio.to_thread(here, {})


def here(session: Mapping[str, Any]) -> dict[str, Any]:
    """Query every service in the run directory."""
    run_dir = session.get("run_dir")
    holders = rundir.running(run_dir)
    if len(holders) < 2:
        return {"services": [_row(holder, run_dir) for holder in holders]}
    from concurrent.futures import ThreadPoolExecutor  # rarely needed

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return {"services": list(pool.map(lambda holder: _row(holder, run_dir), holders))}


def _row(holder: rundir.Holder, run_dir: str | None) -> dict[str, Any]:
    from cluster_service.client.client import connect  # only needed if there is a service

    row: dict[str, Any] = {"name": holder.name, "pid": holder.pid or None, "since": holder.since or None}
    unknown: dict[str, Any] = {"serving": None, "wanted": None, "ports": [], "doors": [], "targets": []}
    try:
        info = connect(holder.name, run_dir=run_dir).glance("/api/v1/info", PATIENCE)
        groups = info["groups"].values()
        return {
            **row,
            "serving": sum(group["serving"] for group in groups),
            "wanted": sum(group["wanted"] for group in groups),
            "ports": list(info.get("ports", ())),
            "doors": list(info.get("doors", ())),
            "targets": list(dict.fromkeys(group["target"] for group in groups if "target" in group)),
        }
    except CommandError as error:
        return {**row, **unknown, "error": error.message}
    except (KeyError, TypeError, AttributeError):
        return {**row, **unknown, "error": "it answers as no service does"}


COMMAND = Command(
    name="ls",
    doc="""List every service of this user on this machine: pid, since when, workers, ports, what it runs.

    A service that just starts, or does not answer, is listed with what its lock says. With --run-dir, those of another
    run directory.
    """,
    run=run,
    changes=False,
    render="ls",
    here=here,
)
