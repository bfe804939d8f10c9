"""The ``workers`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registry import Command

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service) -> dict[str, Any]:
    """Return every slot and its worker."""
    return {"service": service.name, "workers": service.workers()}


COMMAND = Command(
    name="workers",
    doc="""Show the workers: state, pid, uptime, restarts, memory, CPU, where they listen.

    States: starting, serving, draining, stopping; a slot with no process is waiting (it will be tried again) or broken
    (it failed too often and is tried at a slow pace).
    """,
    run=run,
    access="remote",
    changes=False,
    remote=True,
    render="workers",
)
