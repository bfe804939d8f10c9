"""A successor that listens elsewhere than its predecessor does not take its place, whatever it was started for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.reports import Due
from cluster_service.core.protocol.requests import Cancel, Reload, Restart, Rollback, Scale, Upgrade
from cluster_service.testing import World

from .stories import GOOD, operation, slots, started, told

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.testing import Program
    from cluster_service.wire.orders import Spawn

HERE, THERE, MORE = "127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:9000"
MOVED = replace(GOOD, addresses=(THERE,))
WHY = f"web.1 listens on {THERE}; its predecessor listened on {HERE}"


def listening(made: World) -> list[str]:
    return sorted({address for process in made.serving() for address in process.program.addresses})


@pytest.mark.parametrize("count", [1, 3])
def test_a_restart_fails_and_the_old_worker_serves_on(count: int) -> None:
    made = started(count)
    pids = [process.state.pid for process in made.serving()]
    made.programs["app"] = MOVED
    made.request(Restart("all"))
    made.run(30.0)
    assert (operation(made).state, operation(made).reason) == ("failed", WHY)
    assert [process.state.pid for process in made.serving()] == pids
    assert listening(made) == [HERE]
    made.run(10.0)
    assert set(made.kernel.held) == {HERE}


def test_it_fails_at_once_where_others_have_been_replaced_already() -> None:
    made = started(3)
    made.programs["app"] = lambda spawn: MOVED if spawn.meta["slot"] == 2 else GOOD
    made.request(Restart("all"))
    made.run(30.0)
    assert operation(made).reason == WHY.replace("web.1", "web.2")
    assert (slots(made), listening(made)) == ([1, 2, 3], [HERE])


def test_a_reload_of_everybody_fails_with_the_same_words() -> None:
    made = started(1)
    made.programs["app"] = MOVED
    made.request(Reload(made.spec, everybody=True))
    made.run(60.0)
    assert (operation(made).state, operation(made).reason) == ("failed", f"restart all: failed: {WHY}")


def test_recycling_keeps_the_old_worker() -> None:
    made = started(1)
    (old,) = made.serving()
    made.programs["app"] = MOVED
    made.run(1.0)
    made.report(Due("web", "it is 04:00"))
    made.run(30.0)
    assert made.serving() == [old]
    assert told(made, event_records.WorkerExit)[0].detail == WHY.removeprefix("web.1 ")
    made.programs["app"] = GOOD
    made.run(100.0)
    assert (len(made.serving()), old.exited) == (1, True)


def test_after_a_crash_it_counts_as_a_failed_start_that_is_tried_again() -> None:
    made = started(1, ready_timeout=4.0)
    made.programs["app"] = MOVED
    made.kernel.kill(made.serving()[0].worker)
    made.run(20.0)
    assert made.cluster is not None
    slot = made.cluster.groups["web"].slots[1]
    assert slot.history.streak > 1
    assert slot.last_exit is not None
    assert slot.last_exit["detail"] == WHY.removeprefix("web.1 ")
    tries = len(told(made, event_records.WorkerStart))
    made.run(20.0)
    assert len(told(made, event_records.WorkerStart)) > tries
    made.programs["app"] = GOOD
    made.run(60.0)
    assert (slots(made), listening(made)) == ([1], [HERE])


def test_the_next_master_knows_where_the_last_worker_listened() -> None:
    made = started(1, ready_timeout=4.0)
    made.programs["app"] = MOVED
    made.kill_master(back_in=3.0)
    made.kernel.kill(made.serving()[0].worker)
    made.run(20.0)
    assert made.cluster is not None
    assert not made.cluster.operations[-1].running
    assert all(worker.ready_at is None for worker in made.cluster.workers.values())


def test_a_worker_more_must_listen_where_all_the_others_do() -> None:
    made = started(2, ready_timeout=4.0)
    made.programs["app"] = MOVED
    made.request(Scale("3"))
    made.run(30.0)
    assert operation(made).reason == f"web.3 listens on {THERE}; the other workers of web listen on {HERE}"
    assert slots(made) == [1, 2]


# What is no fault.


def per_slot(*more: str) -> Callable[[Spawn], Program]:
    return lambda spawn: replace(GOOD, addresses=(f"127.0.0.1:{8000 + spawn.meta['slot']}", *more))


def random_port(spawn: Spawn) -> Program:
    return replace(GOOD, addresses=(HERE, f"127.0.0.1:{30000 + spawn.worker}"))


def a_path_with_its_pid(spawn: Spawn) -> Program:
    return replace(GOOD, addresses=(f"unix:/run/app.{spawn.worker}",))


def every_host(spawn: Spawn) -> Program:
    return replace(GOOD, addresses=(HERE if spawn.meta["generation"] == 1 else "0.0.0.0:8000",))


def one_more(spawn: Spawn) -> Program:
    return replace(GOOD, addresses=(HERE,) if spawn.meta["generation"] == 1 else (HERE, THERE))


def nowhere_any_more(spawn: Spawn) -> Program:
    return GOOD if spawn.meta["generation"] == 1 else replace(GOOD, ready="told", addresses=())


PROGRAMS = [GOOD, per_slot(), per_slot(MORE), random_port, a_path_with_its_pid, every_host, one_more, nowhere_any_more]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: getattr(each, "__name__", "the same"))
def test_programs_that_listen_as_they_always_do_are_replaced(program: Any, count: int) -> None:
    group = GroupSpec("web", count, Release("script", "app"), ready_timeout=20.0)
    made = World(Spec("default", (group,)), {"app": program})
    made.run(10.0)
    for _ in range(2):
        made.request(Restart("all"))
        made.run(60.0)
        assert operation(made).state == "done", operation(made).reason
    made.kernel.kill(made.serving()[0].worker)
    made.request(Scale("+1"))
    made.run(60.0)
    assert operation(made).state == "done", operation(made).reason
    assert slots(made) == list(range(1, count + 2))


def test_a_port_that_is_opened_late_is_waited_for_by_none() -> None:
    late = replace(GOOD, ready="told", addresses=())
    made = started(1, late)
    worker = made.serving()[0].worker
    assert made.cluster is not None
    made.cluster.workers[worker].listening.append(HERE)  # long after it was ready
    made.request(Restart("all"))
    made.run(10.0)
    assert operation(made).state == "done"


def test_a_worker_that_listens_elsewhere_first_has_time() -> None:
    made = started(1)
    made.programs["app"] = MOVED
    made.request(Restart("all"))
    made.run(2.0)
    (new,) = [process for process in made.alive() if process.spawn.meta["generation"] == 2]
    new.on_listen(new, HERE)
    made.run(10.0)
    assert operation(made).state == "done"
    assert made.serving() == [new]


def test_an_operator_may_allow_it() -> None:
    made = started(2, allow_port_change=True)
    made.programs["app"] = MOVED
    made.request(Restart("all"))
    made.run(30.0)
    assert (operation(made).state, listening(made)) == ("done", [THERE])
    made.kernel.kill(made.serving()[0].worker)
    made.run(30.0)
    assert (slots(made), listening(made)) == ([1, 2], [THERE])


def test_an_upgrade_may_allow_it_and_what_follows_is_held_to_the_new_port() -> None:
    made = started(2)
    made.programs["new"] = MOVED
    made.request(Upgrade("web", Release("script", "new"), monitor=1.0, allow_port_change=True))
    made.run(30.0)
    assert (operation(made).state, listening(made)) == ("done", [THERE])
    made.kernel.kill(made.serving()[0].worker)
    made.request(Restart("all"))
    made.run(30.0)
    assert (operation(made).state, listening(made)) == ("done", [THERE])
    made.programs["new"] = GOOD
    made.request(Restart("all"))
    made.run(30.0)
    assert operation(made).state == "failed"


def test_a_rollback_from_it_goes_back_to_the_old_port() -> None:
    made = started(2)
    made.programs["new"] = MOVED
    made.request(Upgrade("web", Release("script", "new"), monitor=1.0, allow_port_change=True))
    made.run(30.0)
    made.kill_master()
    made.run(5.0)
    made.request(Rollback("web", monitor=1.0))
    made.run(30.0)
    assert (operation(made).state, listening(made)) == ("done", [HERE])


@pytest.mark.parametrize("singleton", [True, False])
def test_an_upgrade_that_is_undone_goes_back_to_the_old_port(*, singleton: bool) -> None:
    made = started(1, singleton=singleton)
    made.programs["new"] = replace(MOVED, dies_at=12.0)
    made.request(Upgrade("web", Release("script", "new"), monitor=8.0, allow_port_change=True))
    made.run(60.0)
    assert (operation(made).state, listening(made)) == ("undone", [HERE])


def test_an_upgrade_whose_later_workers_move_is_undone() -> None:
    made = started(3)
    made.programs["new"] = lambda spawn: MOVED if spawn.meta["slot"] == 3 else GOOD
    made.request(Upgrade("web", Release("script", "new"), monitor=1.0))
    made.run(60.0)
    assert (operation(made).state, operation(made).reason) == ("undone", WHY.replace("web.1", "web.3"))
    assert (slots(made), listening(made)) == ([1, 2, 3], [HERE])


def test_cancel_and_rollback_are_not_in_its_way() -> None:
    made = started(2)
    made.programs["new"] = GOOD
    made.request(Upgrade("web", Release("script", "new"), monitor=1.0))
    made.run(30.0)
    made.request(Rollback("web"))
    made.run(30.0)
    assert operation(made).state == "done"
    made.programs["app"] = MOVED
    made.request(Restart("all"))
    made.run(2.0)
    made.request(Cancel())
    made.run(30.0)
    assert (operation(made).state, slots(made), listening(made)) == ("cancelled", [1, 2], [HERE])
