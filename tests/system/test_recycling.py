"""Recycling, for real, under load: no request is lost, and no worker is missing meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tools.load import Load
from tests.tools.ports import free_port
from tests.tools.service import Service

if TYPE_CHECKING:
    from tests.tools.load import Mode

PROGRAMS = Path(__file__).parent.parent / "programs"

LIMITS = {
    "memory": (("--max-memory", "64m"), "leaking:app", "more than 64 MiB"),
    "growth": (("--max-growth", "24m", "--memory", "pss"), "leaking:app", "since it began to serve, more than 24 MiB"),
    "requests": (("--max-requests", "200"), "asgi_pid:app", "requests of at most 200"),
    "uptime": (("--max-uptime", "4s"), "asgi_pid:app", "it has served for nearly 4 s"),
}


@pytest.mark.parametrize("mode", ["new", "keepalive"])
@pytest.mark.parametrize("limit", LIMITS)
def test_under_load_no_request_is_lost(limit: str, mode: Mode) -> None:
    options, target, why = LIMITS[limit]
    port = free_port()
    with Service("-w", "2", "--bind", f"127.0.0.1:{port}", *options, target, cwd=PROGRAMS) as service:
        first = set(service.serving(2))
        with Load(f"http://127.0.0.1:{port}/", rate=100, mode=mode) as load:
            for pid in first:  # kept connections may all be one worker's at first, which is recycled twice
                service.until_event("worker_exit", pid=pid, reason="recycle")
            result = load.finish()
        assert result.failed == 0, result
        assert why in service.until_event("worker_recycle")[0]["detail"]
        assert not first & set(service.serving(2))
        assert {row["reason"] for row in service.workers()} == {"recycle"}

