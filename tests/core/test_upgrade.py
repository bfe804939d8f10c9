"""Upgrades on a simulated machine: the stages, each way of being bad, and the way back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.core.model.spec import Release
from cluster_service.core.model.upgrade_state import STAGES
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Cancel, Rejected, Restart, Rollback, Scale, Shutdown, Upgrade
from cluster_service.testing import NEVER, Program, World

from .stories import BROKEN, GOOD, operation, running, started, told

if TYPE_CHECKING:
    from collections.abc import Iterable

V2 = Release("script", "v2", cwd="/srv/v2")


def upgraded(count: int = 4, program: Program = GOOD, *, old: Program = GOOD, **more: Any) -> World:
    """A service whose upgrade to V2, which *program* is, has just been asked for. *more*: fields of the request."""
    made = started(count, old, ready_timeout=30.0)
    made.programs["v2"] = program
    made.request(Upgrade("all", V2, **{"monitor": 10.0, **more}))
    return made


def targets(made: World) -> list[str]:
    return sorted(process.spawn.argv[0] for process in made.serving())


def stages(made: World) -> list[str]:
    """The stages that were told of, in their order."""
    texts = [text.partition(":")[0] for _, text in operation(made).steps]
    return [text for number, text in enumerate(texts) if text in STAGES and text not in texts[:number]]


def ended(made: World, state: str, within: float = 300.0) -> str:
    """Let the upgrade end, as *state*; return the reason."""
    assert made.run_until(lambda: made.answers and not running(made), within), made.story()
    assert operation(made).state == state, (operation(made).reason, made.story())
    return operation(made).reason or ""


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_it_goes_through_every_stage_and_no_slot_is_ever_without_a_worker(count: int) -> None:
    made = upgraded(count)
    while running(made):
        made.run(0.25)
        assert {process.spawn.meta["slot"] for process in made.serving()} == set(range(1, count + 1))
    ended(made, "done")
    assert stages(made) == ["check", "canary", "roll", "bake"]
    assert targets(made) == ["v2"] * count
    assert len(made.alive()) == count
    assert operation(made).replaced == count
    assert {each.reason for each in told(made, event_records.WorkerStart)} == {"upgrade"}


def test_the_canary_is_one_more_and_the_others_wait_for_it() -> None:
    made = upgraded(4)
    made.run(10.0)
    assert targets(made) == ["app"] * 4 + ["v2"]
    made.run(2.0)
    assert targets(made).count("v2") > 1


def test_it_is_watched_for_as_long_again_when_all_are_replaced() -> None:
    made = upgraded(2)
    assert made.run_until(lambda: targets(made) == ["v2"] * 2, 60.0)
    at = made.clock.now
    ended(made, "done")
    assert 10.0 <= made.clock.now - at <= 11.0


def test_new_workers_are_of_the_new_release_from_then_on() -> None:
    made = upgraded(2)
    ended(made, "done")
    made.kernel.kill(made.serving()[0].worker)
    made.request(Scale("+1"))
    made.run(5.0)
    assert targets(made) == ["v2"] * 3
    made.request(Restart("all"))
    ended(made, "done")
    assert targets(made) == ["v2"] * 3


BAD = {
    "raises at import": (BROKEN, "web.1 exited with code 1 before it was ready: ImportError: no module named x"),
    "never ready": (Program(boot=NEVER), "web.1 was not ready within 30 s"),
    "exits in the canary": (replace(GOOD, dies_at=3.0), "web.1 exited with code 1 after serving for 2.5 s"),
    "is killed": (replace(GOOD, dies_at=3.0, code=None), "web.1 was killed by SIGSEGV after serving for 2.5 s"),
    "hangs": (replace(GOOD, hangs_at=3.0), "web.1 hangs: its event loop or thread pool made no progress for 10 s"),
    "answers 500": (replace(GOOD, errors_from=2.0), "answers of the new release were server errors (5xx), of the old"),
    "another port": (replace(GOOD, addresses=("127.0.0.1:9",)), "web.1 does not listen on 127.0.0.1:8000, where the"),
    "dies in the bake": (replace(GOOD, dies_at=16.0), "exited with code 1 after serving for 16 s"),
    "dies at the end of the bake": (replace(GOOD, dies_at=20.2), "exited with code 1 after serving for 20 s"),
}


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("kind", BAD)
def test_bad_code_is_undone_and_the_reason_names_the_cause(kind: str, count: int) -> None:
    program, why = BAD[kind]
    made = upgraded(count, program)
    old = [process.worker for process in made.serving()]
    reason = ended(made, "undone")
    assert why in reason
    assert ("\n    in its loop" in reason) == (kind == "hangs")
    assert targets(made) == ["app"] * count
    assert len(made.alive()) == count
    if "bake" not in kind:
        assert [process.worker for process in made.serving()] == old
        assert sum(each.reason == "upgrade" for each in told(made, event_records.WorkerStart)) == 1
    assert not told(made, event_records.SlotBroken)
    made.run(200.0)
    assert targets(made) == ["app"] * count
    made.kernel.kill(made.serving()[0].worker)
    made.request(Scale("+1"))
    made.run(10.0)
    assert targets(made) == ["app"] * (count + 1)


def test_the_reason_holds_the_traceback() -> None:
    made = upgraded(2, BROKEN)
    assert ended(made, "undone").splitlines()[1:] == [
        "    Traceback (most recent call last):",
        "    ImportError: no module named x",
    ]


def test_code_that_cannot_run_is_never_started() -> None:
    made = started(2)
    made.flaws["v2"] = 'File "/srv/v2/worker.py", line 3\nSyntaxError: invalid syntax'
    made.request(Upgrade("all", V2))
    assert ended(made, "undone") == made.flaws["v2"]
    assert not told(made, event_records.WorkerStart)


@pytest.mark.parametrize("more", [{"test": "/smoke.py"}, {"health_check": "/health"}])
def test_a_test_is_run_on_a_worker_that_no_client_reaches(more: dict[str, Any]) -> None:
    made = upgraded(2, **more)
    made.run(0.9)
    dark = made.alive("web", 0)
    assert [process.spawn.private for process in dark] == [True]
    assert len(made.alive()) == 3
    ended(made, "done")
    assert stages(made) == ["check", "dark", "canary", "roll", "bake"]
    assert targets(made) == ["v2"] * 2
    assert made.cluster is not None
    assert made.cluster.unused.keys() == {"127.0.0.1:8000"}


def test_a_test_that_fails_lets_no_client_see_the_new_release() -> None:
    made = started(2)
    made.programs["v2"] = GOOD
    made.failures["/smoke.py"] = "smoke.py exited with code 3: AssertionError: /health says no"
    made.request(Upgrade("all", V2, test="/smoke.py"))
    assert ended(made, "undone") == made.failures["/smoke.py"]
    assert [each.slot for each in told(made, event_records.WorkerStart)] == [0]
    assert len(made.alive()) == 2


@pytest.mark.parametrize("program", [BROKEN, Program(boot=NEVER)])
def test_a_dark_canary_that_does_not_start_is_bad(program: Program) -> None:
    made = upgraded(2, program, test="/smoke.py")
    assert "web.0" in ended(made, "undone")
    assert targets(made) == ["app"] * 2


def test_one_worker_of_a_group_alone() -> None:
    made = started(3)
    made.programs["v2"] = GOOD
    pid = made.serving("web", 2)[0].state.pid
    made.request(Upgrade(f"pid:{pid}", V2, monitor=2.0))
    ended(made, "done")
    assert targets(made) == ["app", "app", "v2"]
    assert made.serving("web", 2)[0].spawn.argv[0] == "v2"
    made.kernel.kill(made.serving("web", 2)[0].worker)
    made.request(Scale("+1"))
    made.run(5.0)
    assert targets(made) == ["app", "app", "app", "v2"]
    made.request(Restart("all"))
    ended(made, "done")
    assert targets(made) == ["app", "app", "app", "v2"]


@pytest.mark.parametrize("after", [0.1, 0.5, 3.0, 11.5, 14.0, 20.0])
def test_cancel_puts_everything_back(after: float) -> None:
    made = upgraded(4, test="/smoke.py")
    made.run(after)
    made.request(Cancel())
    assert ended(made, "cancelled") == "cancelled by an operator"
    assert targets(made) == ["app"] * 4
    assert len(made.alive()) == 4


def test_what_cannot_be_cancelled() -> None:
    made = started(2)
    with pytest.raises(Rejected, match="no operation runs"):
        made.request(Cancel())
    with pytest.raises(Rejected, match="there is no operation '7'"):
        made.request(Cancel("7"))
    with pytest.raises(Rejected, match=r"operation 1 \(start\) has ended already: done"):
        made.request(Cancel("1"))
    made.request(Scale("+2"))
    with pytest.raises(Rejected, match="cannot be cancelled"):
        made.request(Cancel(operation(made).id))


def test_a_restart_can_be_cancelled() -> None:
    made = started(4, replace(GOOD, boot=5.0))
    old = [process.worker for process in made.serving()]
    made.request(Restart("all"))
    made.run(1.0)
    made.request(Cancel())
    assert operation(made).state == "cancelled"
    made.run(60.0)
    assert [process.worker for process in made.serving()] == old


@pytest.mark.parametrize("request_", [Restart("web.1"), Upgrade("all", V2), Rollback()])
def test_a_second_one_is_refused_with_the_id_of_the_first(request_: Any) -> None:
    made = upgraded(2)
    with pytest.raises(Rejected, match=rf"operation {operation(made).id} \(upgrade all v2\)") as caught:
        made.request(request_)
    assert caught.value.code == "busy"
    assert "cancel" in caught.value.hint


def test_back_and_further_back() -> None:
    made = started(2)
    for name in ("v2", "v3"):
        made.programs[name] = GOOD
        made.request(Upgrade("all", replace(V2, target=name), monitor=1.0))
        ended(made, "done")
    for name in ("v2", "app"):
        made.request(Rollback())
        ended(made, "done")
        assert targets(made) == [name] * 2
    with pytest.raises(Rejected, match="no earlier release") as refused:
        made.request(Rollback())
    assert refused.value.code == "not_found"


def test_a_rollback_to_what_does_not_work_any_more_is_undone() -> None:
    made = upgraded(2)
    ended(made, "done")
    made.programs["app"] = BROKEN
    made.request(Rollback())
    assert "ImportError" in ended(made, "undone")
    assert targets(made) == ["v2"] * 2
    made.programs["app"] = GOOD
    made.request(Rollback())
    ended(made, "done")
    assert targets(made) == ["app"] * 2


def test_the_same_release_again_is_no_step_back() -> None:
    made = upgraded(2)
    ended(made, "done")
    made.request(Upgrade("all", V2, monitor=1.0))
    ended(made, "done")
    made.request(Rollback())
    ended(made, "done")
    assert targets(made) == ["app"] * 2


@pytest.mark.parametrize("change", ["+2", "-1", "-2", "1"])
@pytest.mark.parametrize("after", [0.2, 5.0, 12.0, 15.0])
def test_the_group_may_change_its_size_meanwhile(change: str, after: float) -> None:
    made = upgraded(3)
    made.run(after)
    made.request(Scale(change))
    count = len(made.cluster.groups["web"].slots) if made.cluster else 0
    assert made.run_until(lambda: not running(made), 300.0)
    made.run(5.0)
    assert targets(made) == ["v2"] * count


@pytest.mark.parametrize("after", [0.2, 5.0, 12.0, 15.0])
def test_a_group_that_is_shut_down_meanwhile(after: float) -> None:
    made = upgraded(3)
    made.run(after)
    made.request(Shutdown("web"))
    assert made.run_until(lambda: not running(made), 300.0)
    assert not made.alive()
    assert made.cluster is not None
    assert [each.state for each in made.cluster.operations[-2:]] == ["undone", "done"]


def test_the_service_may_be_shut_down_meanwhile() -> None:
    made = upgraded(3)
    made.run(5.0)
    made.request(Shutdown("all"))
    made.run_until(lambda: made.ended is not None, 100.0)
    assert made.ended == 0


def test_an_old_worker_that_dies_is_replaced_by_an_old_one() -> None:
    made = upgraded(3)
    made.run(5.0)
    made.kernel.kill(made.serving("web", 3)[0].worker)
    made.run(1.0)
    assert targets(made) == ["app"] * 3 + ["v2"]
    ended(made, "done")


def test_errors_that_both_releases_give_blame_nobody() -> None:
    made = upgraded(3, replace(GOOD, errors_from=0.0), old=replace(GOOD, errors_from=0.0))
    ended(made, "done")


def test_a_release_without_a_beat_is_not_said_to_hang() -> None:
    ended(upgraded(2, replace(GOOD, beats=False)), "done")


def test_a_suspension_blames_nobody_and_counts_for_nothing() -> None:
    made = upgraded(2)
    made.run(5.0)
    made.suspend(3600.0)
    made.run(4.0)
    assert targets(made) == ["app", "app", "v2"]
    ended(made, "done")


def test_another_port_may_be_meant() -> None:
    made = upgraded(2, replace(GOOD, addresses=("127.0.0.1:9",)), allow_port_change=True)
    ended(made, "done")


def test_a_broken_release_can_be_left() -> None:
    made = started(2)
    made.programs["app"] = BROKEN
    for process in made.serving():
        made.kernel.kill(process.worker)
    made.run(120.0)
    assert not made.serving()
    made.programs["v2"] = GOOD
    made.request(Upgrade("all", V2))
    ended(made, "done")
    assert targets(made) == ["v2"] * 2


def test_when_the_old_release_is_not_there_any_more_that_is_said() -> None:
    made = upgraded(1, replace(GOOD, dies_at=16.0))
    made.run(14.0)
    made.programs["app"] = BROKEN
    assert "and the old release does not serve: web.1 exited" in ended(made, "failed")


def stage_of(made: World) -> str:
    assert made.cluster is not None
    rollout = made.cluster.groups["web"].rollout
    return rollout.stage if rollout is not None else ""


def moments() -> Iterable[tuple[str, Program]]:
    good = ["check", "dark", "canary", "roll", "bake"]
    return [*((stage, GOOD) for stage in good), *((stage, BROKEN) for stage in ("check", "dark")), ("undo", BROKEN)]


@pytest.mark.parametrize("after", [0, 1, 2, 4])
@pytest.mark.parametrize(("stage", "program"), moments())
def test_the_master_may_die_in_any_stage(stage: str, program: Program, after: int) -> None:
    made = upgraded(3, program, test="/smoke.py")
    assert made.run_until(lambda: stage_of(made) == stage, 60.0)
    made.kill_master(after)
    ended(made, "done" if program is GOOD else "undone")
    made.run(5.0)
    assert targets(made) == (["v2"] if program is GOOD else ["app"]) * 3
    assert len(made.alive()) == 3
