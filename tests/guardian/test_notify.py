"""What the guardian tells a service manager, on a real socket of ours."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from cluster_service.guardian.sd_notify import address_of
from cluster_service.wire import facts, orders
from tests.tools.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.real import RealKernel

    from .conftest import Start


@pytest.fixture(params=["abstract", "path"])
def manager(request: pytest.FixtureRequest, run_dir: Path) -> Iterator[Manager]:
    with Manager(None if request.param == "abstract" else run_dir / "notify") as heard:
        yield heard


@pytest.fixture
def one() -> Iterator[Manager]:
    with Manager() as heard:
        yield heard


def started(start: Start, manager: Manager, watchdog: float = 0.0, **boot: object) -> RealKernel:
    return start({"manager": {"notify": manager.name, "watchdog": watchdog}, **boot})


def hello(kernel: RealKernel) -> None:
    kernel.send(orders.Hello())
    kernel.fact(facts.Snapshot)


@pytest.mark.parametrize(
    ("name", "address"),
    [("@a", b"\0a"), ("/run/n", b"/run/n"), ("@", b""), ("", b""), ("vsock:2:1", b""), ("relative", b"")],
)
def test_addresses(name: str, address: bytes) -> None:
    assert address_of(name) == address


def test_the_life_of_a_service(start: Start, manager: Manager) -> None:
    kernel = started(start, manager)
    assert int(manager.told("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) >= 10_000_000
    kernel.send(orders.Status("starting", "1 of 2 serving"))
    assert "READY" not in manager.told("STATUS", "1 of 2 serving")
    kernel.send(orders.Status("serving", "2 of 2 serving"))
    ready = manager.told("READY", "1")
    assert (ready["STATUS"], ready["MAINPID"]) == ("2 of 2 serving", str(kernel.process.pid))
    kernel.send(orders.Status("serving", "2 of 2 serving;\nupgrade 3: canary"))
    assert manager.next() == {"STATUS": "2 of 2 serving; upgrade 3: canary"}
    kernel.send(orders.Status("stopping", "2 workers left"))
    stopping = manager.told("STOPPING", "1")
    assert stopping["STATUS"] == "2 workers left"
    assert "EXTEND_TIMEOUT_USEC" in stopping
    kernel.close()
    assert len(manager.said("READY")) == len(manager.said("STOPPING")) == 1


def test_once_ready_always_ready(start: Start, one: Manager) -> None:
    """A worker that is replaced, or is broken, is a matter of STATUS."""
    kernel = started(start, one)
    kernel.send(orders.Status("serving", "all"))
    one.told("READY")
    for phase in ("starting", "stalled", "serving"):
        kernel.send(orders.Status(phase, phase))
        assert one.next() == {"STATUS": phase}


def test_a_reload_is_told_with_its_time_and_ends_ready(start: Start, one: Manager) -> None:
    kernel = started(start, one)
    kernel.send(orders.Status("serving", "all"))
    one.told("READY")
    before = time.monotonic_ns() // 1000
    kernel.signal(signal.SIGHUP)
    reloading = one.told("RELOADING", "1")
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    kernel.fact(facts.Signalled, signal="HUP")
    kernel.send(orders.Status("serving", "said before it heard of it"))
    assert one.next() == {"STATUS": "said before it heard of it"}
    kernel.send(orders.Status("reloading", "reload 4", hangups=1))
    assert one.next() == {"STATUS": "reload 4"}
    kernel.send(orders.Status("serving", "all", hangups=1))
    assert one.told("READY")["STATUS"] == "all"


def test_a_reload_that_a_command_asked_for_is_told_too(start: Start, one: Manager) -> None:
    kernel = started(start, one)
    kernel.send(orders.Status("reloading", "reload 1"))  # the first that is heard: it is up, and being reloaded
    one.told("READY")
    one.told("RELOADING")
    kernel.send(orders.Status("serving", "all"))
    one.told("READY")


def test_a_reload_whose_master_dies_ends(start: Start, one: Manager) -> None:
    kernel = started(start, one)
    kernel.send(orders.Status("serving", "all"))
    one.told("READY")
    kernel.signal(signal.SIGHUP)
    one.told("RELOADING")
    kernel.restart_master()
    hello(kernel)
    one.told("READY")


def test_what_a_master_said_outlives_it(start: Start, one: Manager) -> None:
    kernel = started(start, one)
    kernel.send(orders.Status("serving", "all"))
    one.told("READY")
    os.kill(kernel.master_pid, signal.SIGKILL)
    kernel.restart_master()
    hello(kernel)
    kernel.send(orders.Status("serving", "all"))
    kernel.send(orders.Status("serving", "all of them"))
    assert one.next() == {"STATUS": "all of them"}


def test_a_start_that_has_failed_asks_for_no_more_time(start: Start, one: Manager) -> None:
    kernel = started(start, one, watchdog=0.2)
    one.told("EXTEND_TIMEOUT_USEC")
    kernel.send(orders.Status("stalled", "0 of 2 serving; web.1 is broken"))
    assert one.told("STATUS", "0 of 2 serving; web.1 is broken").keys() <= {"STATUS", "WATCHDOG"}
    kernel.send(orders.Status("serving", "2 of 2 serving"))  # after all
    one.told("READY")


def test_the_watchdog_hears_of_the_loop_twice_in_its_time(start: Start, one: Manager) -> None:
    begun = time.monotonic()
    started(start, one, watchdog=0.4)
    for _ in range(10):
        one.told("WATCHDOG", "1")
    assert time.monotonic() - begun >= 9 * 0.2


def test_the_watchdog_hears_nothing_when_no_master_answers(start: Start, one: Manager) -> None:
    """One that hangs is replaced; when the next one says nothing either, that was no cure."""
    kernel = started(start, one, watchdog=0.1, master_hang_timeout=0.3)
    one.told("WATCHDOG")
    assert kernel.wrote("no master answers, whatever was tried")
    kernel.connect_next()
    hello(kernel)
    assert kernel.wrote("a master answers again")
    one.told("WATCHDOG")


def test_without_a_master_the_guardian_tells_of_the_end(start: Start, one: Manager) -> None:
    kernel = started(start, one)
    kernel.send(orders.Spawn(1, ["/bin/sleep", "1000"], {}, "/", "web.1"))
    kernel.fact(facts.Spawned)
    kernel.send(orders.Status("serving", "1 of 1 serving"))
    one.told("READY")
    kernel.signal(signal.SIGTERM)
    assert "EXTEND_TIMEOUT_USEC" in one.told("STOPPING")
    one.until(lambda message: message.get("STATUS", "").startswith("stopping without a master"))
    kernel.hang_up()
    assert kernel.wait() == 0


def test_a_bye_is_a_stop_too(start: Start, one: Manager) -> None:
    kernel = started(start, one)
    kernel.send(orders.Status("serving", "all"))
    one.told("READY")
    kernel.close()
    assert "EXTEND_TIMEOUT_USEC" in one.told("STOPPING")


def test_a_full_queue_loses_nothing(start: Start, one: Manager) -> None:
    """What could not be sent is told as soon as somebody reads."""
    kernel = started(start, one)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as stranger,
        contextlib.suppress(BlockingIOError),
    ):
        while True:
            stranger.sendto(b"NOISE=1", f"\0{one.name[1:]}")
    kernel.send(orders.Status("serving", "all"))
    kernel.nothing_of(facts.Refused, order="status")
    one.told("READY")


def test_a_manager_that_is_gone_costs_nothing(start: Start) -> None:
    kernel = start({"manager": {"notify": "@nobody-is-there", "watchdog": 0.1}})
    kernel.send(orders.Status("serving", "all"))
    kernel.send(orders.Spawn(1, ["/bin/true"], {}, "/", "web.1"))
    kernel.fact(facts.Exited)


def test_an_address_that_is_none_is_told(start: Start) -> None:
    kernel = start({"manager": {"notify": "vsock:2:9999"}})
    assert kernel.wrote("NOTIFY_SOCKET=vsock:2:9999 is no Unix socket")
