"""cluster-service: a single-process program becomes a fault-resilient, multi-process service.

Documented as ``import cluster_service as cservice``. The names below are imported when they are first used, so that the
guardian, the command line and the workers (under any interpreter from 3.9 on) pay only for what they touch.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "start": "cluster_service.master.api",
    "on": "cluster_service.master.api",
    "is_master": "cluster_service.worker.api",
    "is_worker": "cluster_service.worker.api",
    "worker_ready": "cluster_service.worker.api",
    "connect": "cluster_service.control.client",
}

__all__ = ["__version__", "connect", "is_master", "is_worker", "on", "start", "worker_ready"]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'cluster_service' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - part of being lazy

    return getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return __all__
