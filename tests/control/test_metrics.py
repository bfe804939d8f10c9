"""What monitoring reads, read by Prometheus' own parser."""

from __future__ import annotations

from http.client import HTTPConnection
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from cluster_service.server.monitoring import exposition
from tests.control.machine import KEY, running

if TYPE_CHECKING:
    from pathlib import Path

ROW = {"group": "web", "slot": 1, "state": "serving", "restarts": 2, "memory_bytes": 1 << 20, "uptime_s": 1.5}
INFO = {"version": "1", "uptime_s": 7.5, "master_starts": 1, "operation": None, "groups": {"web": {}, 'a "b\\': {}}}


def samples(page: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_the_page_says_what_the_rows_say() -> None:
    rows = [ROW, {**ROW, "slot": 2, "state": "waiting", "memory_bytes": None, "uptime_s": None}]
    found = samples(exposition(rows, {"wanted": 2, "serving": 1}, INFO))
    assert found["cservice_workers", "web", "serving"] == 1
    assert found["cservice_workers", "web", "waiting"] == 1
    assert found["cservice_workers", 'a "b\\', "serving"] == 0
    assert found["cservice_worker_restarts_total", "web", "1"] == 2
    assert found["cservice_worker_memory_bytes", "web", "1"] == 1 << 20
    assert ("cservice_worker_memory_bytes", "web", "2") not in found
    assert found["cservice_slots_wanted",] == 2
    assert found["cservice_info", "1"] == 1


def test_it_is_asked_for_with_a_key(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {KEY}"}, 200)):
            connection = HTTPConnection("127.0.0.1", service.port, timeout=20)
            connection.request("GET", "/metrics", headers=headers)
            answer = connection.getresponse()
            page = answer.read().decode()
            connection.close()
            assert answer.status == status
        assert answer.getheader("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        assert samples(page)["cservice_workers", "web", "serving"] > 0
