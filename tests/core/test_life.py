"""From a fork to an exit: when a worker counts as ready, what becomes of one that does not, and how workers end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Rejected, Restart, Shutdown
from cluster_service.core.rules.exit_causes import EARLY_EXIT_HINT
from cluster_service.testing import NEVER, Program, World
from cluster_service.wire import orders

from .stories import BROKEN, GOOD, HANGS, operation, policy, running, slots, started, told, world


@pytest.mark.parametrize(
    ("kind", "program", "by", "after"),
    [
        ("script", Program(boot=0.5), "listen", 0.5),
        ("script", Program(boot=0.5, ready="told"), "listen", 0.5),  # it listens first, and then it tells
        ("script", Program(boot=0.5, ready="told", addresses=()), "told", 0.5),
        ("script", Program(boot=0.5, ready="told", not_yet=True), "told", 0.5),
        ("script", Program(boot=0.5, ready="notify", addresses=()), "notify", 0.5),
        ("script", Program(ready="alive"), "alive", 5.0),
        ("script", Program(boot=30.0, ready="told", not_yet=True), "told", 30.0),  # "not yet" outlives ready_after
        ("app", Program(boot=7.0, ready="told"), "told", 7.0),
        ("command", Program(boot=0.5), "listen", 0.5),
        ("command", Program(ready="alive", not_yet=True), "alive", 5.0),  # it has no channel to say it on
    ],
)
def test_how_a_worker_becomes_ready(kind: str, program: Program, by: str, after: float) -> None:
    made = world(1, program, kind=kind)
    made.run(40.0)
    (ready,) = told(made, event_records.WorkerReady)
    assert ready.by == by
    assert ready.after_s == pytest.approx(after)
    assert operation(made).state == "done"


def test_a_server_that_takes_its_port_as_it_finds_it_is_ready_when_it_lives() -> None:
    made = started(2, Program(boot=0.5, listens_again=False))
    made.request(Restart("all"))
    made.run(30.0)
    assert operation(made).state == "done"
    assert {event.by for event in told(made, event_records.WorkerReady)} == {"alive"}


@pytest.mark.parametrize(
    ("kind", "program"),
    [
        ("app", Program(boot=0.5)),  # an app's port is no sign: its runtime tells
        ("app", Program(ready="alive")),
        ("app", Program(ready="notify", addresses=())),
        ("script", Program(boot=NEVER, not_yet=True)),
    ],
)
def test_who_is_not_ready_in_time_is_asked_to_end(kind: str, program: Program) -> None:
    made = world(1, program, kind=kind, ready_timeout=20.0, restart=policy(auto_restart=False))
    made.run(19.9)
    assert len(made.alive()) == 1
    made.run(0.2)
    assert not made.alive()
    (stop,) = told(made, event_records.WorkerStop)
    assert (stop.reason, stop.timeout_s) == ("failure", 10.0)
    (exit_,) = told(made, event_records.WorkerExit)
    assert not exit_.was_ready
    assert exit_.detail == "was not ready within 20 s"
    assert operation(made).state == "failed"
    assert operation(made).reason == "web.1 was not ready within 20 s"


def test_a_slow_boot_within_its_time_is_left_alone() -> None:
    made = started(3, Program(boot=59.5, ready="told", not_yet=True))
    made.run(600.0)
    assert not told(made, event_records.WorkerExit)


def test_a_boot_timeout_given_with_the_request() -> None:
    made = started(1, ready_timeout=60.0)
    made.programs["app"] = HANGS
    made.request(Restart("all", timeout=7.0))
    made.run(7.1)
    assert operation(made).reason == "web.1 was not ready within 7 s"
    assert len(made.serving()) == 1


def test_once_workers_have_said_that_they_are_ready_to_be_alive_is_not_enough() -> None:
    made = started(1, Program(boot=0.5), ready_after=5.0, ready_timeout=60.0)
    made.programs["app"] = Program(boot=30.0)  # the new release starts slowly
    made.request(Restart("all"))
    made.run(20.0)
    assert [process.spawn.meta["generation"] for process in made.serving()] == [1]
    made.run(20.0)
    assert [process.spawn.meta["generation"] for process in made.serving()] == [2]


def test_a_server_that_was_taken_for_ready_too_early_teaches_its_group() -> None:
    made = world(1, Program(boot=20.0), ready_after=5.0)
    made.run(60.0)
    made.request(Restart("all"))
    for _ in range(300):
        made.run(0.1)
        assert made.serving()
    assert operation(made).state == "done"


# Deaths.


@pytest.mark.parametrize(
    ("program", "was_ready", "code", "signal", "detail"),
    [
        (BROKEN, False, 1, None, "exited with code 1 before it was ready: ImportError: no module named x"),
        (
            Program(boot=1.0, dies_at=0.2, code=0),
            False,
            0,
            None,
            f"exited with code 0 before it was ready{EARLY_EXIT_HINT}",
        ),
        (replace(BROKEN, code=None, lines=()), False, None, "SIGSEGV", "was killed by SIGSEGV before it was ready"),
        (Program(dies_at=30.0, code=3), True, 3, None, "exited with code 3 after serving for 30 s"),
        (
            Program(dies_at=30.0, code=None, signal=9),
            True,
            None,
            "SIGKILL",
            "was killed by SIGKILL after serving for 30 s",
        ),
    ],
)
def test_never_ready_and_died_later_are_told_apart(
    program: Program, was_ready: bool, code: int | None, signal: str | None, detail: str
) -> None:
    made = world(1, program, restart=policy(auto_restart=False))
    made.run(60.0)
    (exit_,) = told(made, event_records.WorkerExit)
    assert (exit_.reason, exit_.was_ready) == ("failure", was_ready)
    assert (exit_.exit_code, exit_.signal) == (code, signal)
    assert exit_.detail == detail
    assert made.cluster is not None
    last = made.cluster.groups["web"].slots[1].last_exit
    assert last is not None
    assert last["detail"] == detail
    assert last["output"] == list(program.lines)


def test_the_last_lines_are_waited_for_and_not_for_ever() -> None:
    made = started(1, replace(GOOD, lines=("bye",)))
    made.kernel.crash(made.alive()[0].worker)
    made.run(0.005)
    assert not told(made, event_records.WorkerExit)
    made.run(0.01)
    (exit_,) = told(made, event_records.WorkerExit)
    assert exit_.detail == "exited with code 1 after serving for 0.0 s: bye"


def test_the_same_cause_again_is_counted() -> None:
    made = world(1, BROKEN, restart=policy(per_minute=3))
    made.run(50.0)
    assert [event.repeated for event in told(made, event_records.WorkerExit)] == [0, 1, 2, 3]


@pytest.mark.parametrize("forks", [1, 3])
def test_a_refused_fork_is_a_failure_like_another(forks: int) -> None:
    made = world(1)
    made.kernel.refuse_forks = forks
    made.run(10.0)
    failures = told(made, event_records.WorkerExit)
    assert len(failures) == forks
    assert "could not be started: cannot fork" in failures[0].detail
    assert len(made.serving()) == 1


def test_a_taken_port_is_the_cause() -> None:
    made = world(1, GOOD, restart=policy(auto_restart=False))
    made.kernel.occupied["127.0.0.1:8000"] = "pid 71 (nginx)"
    made.run(5.0)
    (exit_,) = told(made, event_records.WorkerExit)
    assert exit_.detail.endswith("127.0.0.1:8000 is taken: pid 71 (nginx) listens there")


def test_what_a_worker_leaves_in_its_group_is_swept_before_it_is_forgotten() -> None:
    made = started(1, replace(GOOD, leaves_children=True))
    made.kernel.crash(made.alive()[0].worker)
    made.run(5.0)
    sent = [each.what for each in made.history if isinstance(each.what, (orders.Signal, orders.Forget))]
    assert [getattr(order, "order", "forget") for order in sent] == ["sweep", "forget"]
    assert not made.kernel.orphans


# Ends.


@pytest.mark.parametrize(("takes", "killed_at"), [(0.0, None), (5.0, None), (9.9, None), (10.1, 10.0), (None, 10.0)])
def test_who_does_not_end_in_the_announced_time_is_killed(takes: float | None, killed_at: float | None) -> None:
    made = started(1, replace(GOOD, stop_takes=takes), stop_timeout=10.0)
    asked = made.clock.now
    made.request(Shutdown("all"))
    (stop,) = told(made, event_records.WorkerStop)
    assert stop.timeout_s == 10.0
    made.run_until(lambda: made.ended is not None, 60.0)
    assert made.ended == 0
    kills = [each.at - asked for each in made.history if isinstance(each.what, event_records.WorkerKill)]
    assert kills == ([] if killed_at is None else [pytest.approx(killed_at)])


def test_a_stop_timeout_given_with_the_request() -> None:
    made = started(1, replace(GOOD, stop_takes=None), stop_timeout=60.0)
    made.request(Shutdown("all", timeout=3.0))
    made.run(2.9)
    assert made.alive()
    made.run(0.2)
    assert not made.alive()


def test_the_worker_is_told_before_it_is_signalled() -> None:
    made = started(1)
    made.request(Shutdown("web.1"))
    sent = [each.what for each in made.history if isinstance(each.what, (orders.Tell, orders.Signal))]
    assert sent[0] == orders.Tell(1, {"type": "stop", "timeout": 60.0, "reason": "shutdown"})
    assert sent[1] == orders.Signal(1, 15, "stop")


def test_a_program_without_our_runtime_is_only_signalled() -> None:
    made = started(1, kind="command")
    made.request(Shutdown("web.1"))
    assert not [each for each in made.history if isinstance(each.what, orders.Tell)]


def test_a_worker_that_dies_while_it_is_asked_to_end_has_not_failed() -> None:
    made = started(2, replace(GOOD, stop_takes=5.0))
    made.request(Shutdown("web.1"))
    made.kernel.kill(1, 9)
    made.run(10.0)
    assert [(event.slot, event.reason) for event in told(made, event_records.WorkerExit)] == [(1, "shutdown")]
    assert not running(made)
    assert len(made.alive()) == 1


@pytest.mark.parametrize("seconds", [0.4, 3.0, 55.0, 500.0])
@pytest.mark.parametrize("when", [0.0, 1.0, 15.0])
def test_time_for_which_the_machine_stood_still_is_nobodys(seconds: float, when: float) -> None:
    program = Program(boot=25.0, ready="told", not_yet=True, stop_takes=25.0)
    made = world(2, program, ready_timeout=30.0, stop_timeout=30.0)
    made.run(when)
    made.suspend(seconds)
    made.run(60.0)
    assert len(made.serving()) == 2
    made.request(Shutdown("web"))
    made.run(when)
    made.suspend(seconds)
    made.run(60.0)
    assert not made.alive()
    assert not told(made, event_records.WorkerKill)


@pytest.mark.parametrize("how", ["signal", "request"])
def test_a_shutdown_with_a_delay_serves_on_until_it_is_over(how: str) -> None:
    made = started(2, shutdown_delay=5.0)
    if how == "signal":
        made.signal("TERM")
    else:
        made.request(Shutdown("all"))
    made.run(2.0)
    made.kernel.kill(made.serving()[0].worker)
    made.run(2.5)
    assert slots(made) == [1, 2]
    assert operation(made).state == "running"
    with pytest.raises(Rejected, match="shutting down"):
        made.request(Restart("all"))
    made.run_until(lambda: made.ended is not None, 60.0)
    assert made.ended == 0
    assert 1e-6 > made.clock.now - operation_end(made) >= 0.0


def operation_end(made: World) -> float:
    return next(each.at for each in reversed(made.history) if isinstance(each.what, event_records.OperationEnd))


# What a worker leaves.


@pytest.mark.parametrize(("takes", "ended_at", "killed"), [(3.0, 4.0, False), (12.0, 10.0, True), (None, 10.0, True)])
def test_what_a_worker_leaves_has_the_rest_of_its_time(takes: float | None, ended_at: float, *, killed: bool) -> None:
    """It was asked to end, took a second for that, and has 10 s."""
    program = replace(GOOD, stop_takes=1.0, leaves_children=True, children_take=takes)
    made = started(1, program, stop_timeout=10.0)
    kills: list[object] = []
    made.kernel.on_children_killed = kills.append
    asked = made.clock.now
    made.request(Shutdown("all"))
    made.run_until(lambda: made.ended is not None, 60.0)
    assert made.clock.now - asked == pytest.approx(ended_at, abs=0.1)
    assert bool(kills) == killed


def test_the_successor_of_a_crashed_worker_does_not_wait_for_what_that_left() -> None:
    made = started(1, replace(GOOD, leaves_children=True, children_take=None))
    (old,) = made.alive()
    made.kernel.kill(old.worker)
    made.run(0.7)
    assert made.alive(), "after the delay of a restart"
    assert old.children_left
    made.run(2.0)
    assert not old.children_left


def test_there_are_never_two_of_a_singleton_whatever_it_leaves() -> None:
    made = started(1, replace(GOOD, leaves_children=True, children_take=5.0), singleton=True, stop_timeout=10.0)
    (old,) = made.alive()
    made.request(Restart("all"))
    made.run(4.5)
    assert old.exited
    assert not made.alive()
    made.run(2.0)
    assert made.serving()


@pytest.mark.parametrize("target", ["/usr/sbin/nginx", "/srv/own"])
def test_a_program_that_puts_itself_into_the_background_is_ended_and_told(target: str) -> None:
    program = Program(boot=0.2, dies_at=0.5, code=0, leaves_children=True, background=True, children_take=None)
    group = GroupSpec("web", 1, Release("command", target))
    made = World(Spec("default", (group,)), {target: program})
    most = 0
    for _ in range(200):
        made.run(0.1)
        left = [each for each in made.kernel.processes.values() if each.children_left or not each.exited]
        most = max(most, len(left))
    assert most == 1
    exit_, *_ = told(made, event_records.WorkerExit)
    assert exit_.detail.startswith(f"daemonized as PID {exit_.pid + 1}")
    assert "daemon off;" in exit_.detail
