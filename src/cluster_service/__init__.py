"""cluster-service: a single-process program becomes a fault-resilient, multi-process service.

Documented as ``import cluster_service as cservice``. The names below are imported when they are first used, so that the
guardian, the command line and the workers (under any interpreter from 3.9 on) pay only for what they touch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._version import __version__
    from .client.async_client import AsyncClient, aconnect
    from .client.client import Client, connect
    from .client.results import Event, Health, Info, Operation, Worker
    from .errors import CommandError
    from .master.command_context import Context
    from .master.python_api import broadcast, command, disable, on, start, trigger
    from .worker.program_api import extend_deadline, is_master, is_worker, on_message, worker_ready

_ANYWHERE = {
    "__version__": "cluster_service._version",
    **dict.fromkeys(("Client", "connect"), "cluster_service.client.client"),
    **dict.fromkeys(("AsyncClient", "aconnect"), "cluster_service.client.async_client"),
    **dict.fromkeys(("Event", "Health", "Info", "Operation", "Worker"), "cluster_service.client.results"),
    "extend_deadline": "cluster_service.worker.program_api",
    "is_master": "cluster_service.worker.program_api",
    "is_worker": "cluster_service.worker.program_api",
    "start": "cluster_service.master.python_api",
    "worker_ready": "cluster_service.worker.program_api",
}
_OUTSIDE = {
    "command": "cluster_service.master.python_api",
    "disable": "cluster_service.master.python_api",
    "on": "cluster_service.master.python_api",
    "CommandError": "cluster_service.errors",
    "Context": "cluster_service.master.command_context",
    "trigger": "cluster_service.worker.program_api",
    "broadcast": "cluster_service.worker.program_api",
    "on_message": "cluster_service.worker.program_api",
}
_IN_A_MASTER = {**_OUTSIDE, **dict.fromkeys(("trigger", "broadcast"), "cluster_service.master.python_api")}
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
    import importlib

    return getattr(importlib.import_module(place), name)


def _here() -> dict[str, str]:
    """Where the other names are: not the same in the master, in a worker, and outside of a service."""
    from .worker.program_api import is_master, is_worker

    return _IN_A_MASTER if is_master() else _IN_A_WORKER if is_worker() else _OUTSIDE


def __dir__() -> list[str]:
    return __all__
