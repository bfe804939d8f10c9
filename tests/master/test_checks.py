"""Where a worker is checked: on the socket that the guardian made for it, whatever it says."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from cluster_service.core.model.spec import Check, GroupSpec, Release
from cluster_service.core.model.worker import Worker
from cluster_service.master import release_tests
from cluster_service.master.health_checks import Checks
from cluster_service.wire import facts
from cluster_service.wire.worker_protocol import CHECK_ADDRESS

if TYPE_CHECKING:
    from cluster_service.core.protocol.reports import Examined

OWN = "unix:@cservice-0123456789abcdef"
FOREIGN = [
    "unix:/run/root-only.sock",
    "unix:@another",
    "127.0.0.1:22",
    "localhost:80",
    "udp:127.0.0.1:53",
    OWN + "/../x",
    OWN.upper(),
    "\x1b[2Jevil\ud800",
    "x" * 60_000,
]


class Case:
    def __init__(self) -> None:
        self.logged: list[str] = []
        self.worker = Worker(1, "web", 1, 1, "start", 0.0, pid=4711)
        self.checks = Checks(cast("Any", None), lambda _report: None, "test", self.logged.append)

    def says(self, address: str) -> None:
        self.checks.learn(facts.Notified(1, {CHECK_ADDRESS: address}))

    def ask(self) -> str:
        check = SimpleNamespace(path="/health", timeout=1.0, statuses=(200, 299), status=(200, 299), command=())
        group = cast("Any", SimpleNamespace(check=check))
        return asyncio.run(self.checks._ask(self.worker, group, cast("Any", None)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    addresses: list[str] = []

    async def http_check(address: str, *_: Any, **__: Any) -> str:
        addresses.append(address)
        return ""

    monkeypatch.setattr(release_tests, "http_check", http_check)
    return addresses


def test_a_worker_is_asked_on_its_own_address_once_it_serves_it(asked: list[str]) -> None:
    case = Case()
    case.checks.learn(facts.Monitoring(1, 0, check=OWN))
    case.ask()
    assert asked == []
    case.says(OWN)
    case.ask()
    assert asked == [OWN]


@pytest.mark.parametrize("given", [OWN, ""])
@pytest.mark.parametrize("address", FOREIGN)
def test_another_address_is_not_connected_to_and_logged_once(address: str, given: str, asked: list[str]) -> None:
    case = Case()
    case.checks.learn(facts.Monitoring(1, 0, check=given))
    case.says(address)
    for _ in range(3):
        assert case.ask() == ""
    assert asked == []
    (line,) = case.logged
    assert line.isprintable()
    assert len(line) < 400
    assert line.startswith("web.1 (pid 4711) reported ")


def test_after_a_new_master_it_is_the_same(asked: list[str]) -> None:
    case = Case()
    state = {"worker": 1, "exited": False, "notified": {CHECK_ADDRESS: "unix:/run/root-only.sock"}}
    case.checks.learn(facts.Snapshot(1, 1, 0.0, [state], [], "", 1, 2))
    case.ask()
    case.checks.learn(facts.Monitoring(1, 0, check=OWN))
    case.ask()
    assert asked == []
    case.says(OWN)
    case.ask()
    assert asked == [OWN]


def test_a_check_that_cannot_be_made_is_no_fault_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    refusal = RuntimeError("can't start new thread")
    answers: list[Exception] = [MemoryError(), refusal, refusal]

    async def http_check(*_: Any, **__: Any) -> str:
        answer = answers.pop(0) if answers else None
        if answer is not None:
            raise answer
        return "the worker is ill"

    async def first_report() -> str:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[str] = loop.create_future()

        def tell(report: Examined) -> None:
            if not told.done():
                told.set_result(report.error)

        checks = Checks(loop, tell, "test", logged.append)
        checks.learn(facts.Monitoring(1, 0, check=OWN))
        checks.learn(facts.Notified(1, {CHECK_ADDRESS: OWN}))
        spec = GroupSpec("web", 1, Release("command", "true"), check=Check(interval=0.0, path="/health"))
        worker = Worker(1, "web", 1, 1, "start", 0.0, state="serving", pid=4711)
        group = SimpleNamespace(spec=spec, release=spec.release, releases={}, name="web")
        cluster = SimpleNamespace(groups={"web": group}, ending=False, workers_of=lambda _name: [worker])
        checks.follow(cast("Any", cluster))
        try:
            return await asyncio.wait_for(told, 30)
        finally:
            await checks.close()

    monkeypatch.setattr(release_tests, "http_check", http_check)
    assert asyncio.run(first_report()) == "the worker is ill"
    assert [line.partition(":")[0] for line in logged] == ["web.1 could not be checked"] * 2, "not twice the same"
