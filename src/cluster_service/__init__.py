"""cluster-service: a single-process program becomes a fault-resilient, multi-process service.

Documented as ``import cluster_service as cservice``. The names below are imported when they are first used, so that the
guardian, the command line and the workers (under any interpreter from 3.9 on) pay only for what they touch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .control.aclient import AsyncClient, aconnect
    from .control.client import Client, connect
    from .control.errors import CommandError
    from .control.results import Event, Health, Info, Operation, Worker
    from .master.api import broadcast, command, disable, on, start, trigger
    from .master.context import Context
    from .worker.program_api import extend_deadline, is_master, is_worker, on_message, worker_ready

__version__ = "0.1.0"

_ANYWHERE = {
    **dict.fromkeys(("Client", "connect"), "cluster_service.control.client"),
    **dict.fromkeys(("AsyncClient", "aconnect"), "cluster_service.control.aclient"),
    **dict.fromkeys(("Event", "Health", "Info", "Operation", "Worker"), "cluster_service.control.results"),
    "extend_deadline": "cluster_service.worker.program_api",
    "is_master": "cluster_service.worker.program_api",
    "is_worker": "cluster_service.worker.program_api",
    "start": "cluster_service.master.api",
    "worker_ready": "cluster_service.worker.program_api",
}
_OUTSIDE = {
    "command": "cluster_service.master.api",
    "disable": "cluster_service.master.api",
    "on": "cluster_service.master.api",
    "CommandError": "cluster_service.control.errors",
    "Context": "cluster_service.master.context",
    "trigger": "cluster_service.worker.program_api",
    "broadcast": "cluster_service.worker.program_api",
    "on_message": "cluster_service.worker.program_api",
}
_IN_A_MASTER = {**_OUTSIDE, "trigger": "cluster_service.master.api", "broadcast": "cluster_service.master.api"}
_IN_A_WORKER = {
    **dict.fromkeys(_OUTSIDE, "cluster_service.worker.program_api"),
    "CommandError": "cluster_service.worker.message_bus",
}

__all__ = [
    "AsyncClient", "Client", "CommandError", "Context", "Event", "Health", "Info", "Operation", "Worker", "__version__",
    "aconnect", "broadcast", "command", "connect", "disable", "extend_deadline", "is_master", "is_worker", "on",
    "on_message", "start", "trigger", "worker_ready",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    place = _ANYWHERE.get(name) or _here().get(name)
    if place is None:
        raise AttributeError(f"module 'cluster_service' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - part of being lazy

    return getattr(importlib.import_module(place), name)


def _here() -> dict[str, str]:
    """Where the other names are: not the same in the master, in a worker, and outside of a service."""
    from .worker.program_api import is_master, is_worker  # noqa: PLC0415

    return _IN_A_MASTER if is_master() else _IN_A_WORKER if is_worker() else _OUTSIDE


def __dir__() -> list[str]:
    return __all__
