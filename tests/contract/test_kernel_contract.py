"""What a guardian promises its masters. Each test runs on the simulated guardian and on the real one."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.wire import facts, orders

if TYPE_CHECKING:
    from .interface import Kernel


def hello(kernel: Kernel) -> facts.Snapshot:
    kernel.send(orders.Hello())
    return kernel.fact(facts.Snapshot)


def next_master(kernel: Kernel) -> facts.Snapshot:
    kernel.restart_master()
    return hello(kernel)


def spawn(kernel: Kernel, worker: int, program: str, *args: str, **more: Any) -> orders.Spawn:
    fields: dict[str, Any] = {"env": {}, "cwd": "/", "label": f"web.{worker}", **more}
    order = orders.Spawn(worker, kernel.program(program, *args), **fields)
    kernel.send(order)
    return order


def stop(worker: int, order: str = "stop", number: int = signal.SIGTERM) -> orders.Signal:
    return orders.Signal(worker, int(number), order)


def kill(worker: int, order: str = "kill") -> orders.Signal:
    return orders.Signal(worker, int(signal.SIGKILL), order, whole_group=True)


def state_of(snapshot: facts.Snapshot, worker: int) -> dict[str, Any]:
    return next(state for state in snapshot.workers if state["worker"] == worker)


# Masters: the first, and those after it.


def test_the_first_master_finds_nothing(kernel: Kernel) -> None:
    snapshot = hello(kernel)
    assert snapshot.version == orders.VERSION
    assert snapshot.guardian_pid > 0
    assert snapshot.workers == []
    assert snapshot.listeners == []
    assert snapshot.notebook == ""
    assert snapshot.last_worker == 0
    assert snapshot.master_starts == 1
    assert not snapshot.safe
    assert not snapshot.stopping
    assert set(snapshot.share) == {"seccomp", "python", "inherit", "none"}


def test_hello_may_be_said_again(kernel: Kernel) -> None:
    assert hello(kernel) == hello(kernel)


def test_masters_are_counted(kernel: Kernel) -> None:
    hello(kernel)
    assert next_master(kernel).master_starts == 2
    assert next_master(kernel).master_starts == 3


def test_an_unknown_version_is_refused(kernel: Kernel) -> None:
    kernel.send(orders.Hello(version=orders.VERSION + 1000))
    refused = kernel.fact(facts.Refused, order="hello")
    assert str(orders.VERSION) in refused.why


def test_the_notebook_is_given_to_the_next_master(kernel: Kernel) -> None:
    hello(kernel)
    kernel.send(orders.Note("first"))
    kernel.send(orders.Note("second \N{SNOWMAN} " + "x" * 200_000))
    hello(kernel)  # both notes have been read
    assert next_master(kernel).notebook == "second \N{SNOWMAN} " + "x" * 200_000


def test_workers_outlive_their_master(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "sleeper", meta={"group": "web", "slot": 1, "deep": [1, {"a": None}]})
    spawned = kernel.fact(facts.Spawned, worker=1)
    snapshot = next_master(kernel)
    assert [state["worker"] for state in snapshot.workers] == [1]
    state = state_of(snapshot, 1)
    assert state["pid"] == spawned.pid
    assert state["meta"] == {"group": "web", "slot": 1, "deep": [1, {"a": None}]}
    assert state["started_at"] == pytest.approx(spawned.at, abs=1.0)
    assert not state["exited"]
    assert snapshot.last_worker == 1


def test_the_snapshot_is_the_first_fact_of_a_connection(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "sleeper")
    spawn(kernel, 2, "sleeper")
    kernel.fact(facts.Spawned, worker=2)
    kernel.send(stop(1))
    kernel.restart_master()
    kernel.send(orders.Hello())
    state = state_of(kernel.fact(facts.Snapshot), 1)
    if not state["exited"]:  # then its end is told on this connection
        assert kernel.fact(facts.Exited, worker=1).signal == signal.SIGTERM


# Spawning.


def test_spawned_then_exited_with_its_code(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "exit3")
    spawned = kernel.fact(facts.Spawned, worker=1)
    assert spawned.pid > 0
    assert spawned.at > 0
    exited = kernel.fact(facts.Exited, worker=1)
    assert (exited.code, exited.signal) == (3, None)


def test_workers_are_told_apart(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "sleeper")
    spawn(kernel, 2, "exit3")
    spawn(kernel, 3, "sleeper")
    pids = {kernel.fact(facts.Spawned, worker=number).pid for number in (1, 2, 3)}
    assert len(pids) == 3
    kernel.fact(facts.Exited, worker=2)
    snapshot = next_master(kernel)
    assert [state["worker"] for state in snapshot.workers] == [1, 2, 3]
    assert [state["exited"] for state in snapshot.workers] == [False, True, False]


def test_a_number_is_spawned_once(kernel: Kernel) -> None:
    hello(kernel)
    order = spawn(kernel, 1, "sleeper")
    kernel.fact(facts.Spawned, worker=1)
    kernel.send(order)
    assert kernel.fact(facts.Refused, order="spawn", worker=1).why
    assert len(next_master(kernel).workers) == 1


def test_a_number_is_spawned_once_over_masters_and_after_it_was_forgotten(kernel: Kernel) -> None:
    hello(kernel)
    order = spawn(kernel, 1, "exit3")
    kernel.fact(facts.Exited, worker=1)
    kernel.send(orders.Forget(1))
    assert next_master(kernel).workers == []
    kernel.send(order)
    assert kernel.fact(facts.Refused, order="spawn", worker=1).why


def test_numbers_only_grow(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 5, "sleeper")
    kernel.fact(facts.Spawned, worker=5)
    spawn(kernel, 4, "sleeper")
    kernel.fact(facts.Refused, order="spawn", worker=4)
    spawn(kernel, 9, "sleeper")
    kernel.fact(facts.Spawned, worker=9)
    assert next_master(kernel).last_worker == 9


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"argv": ["/nonexistent/program"]}, "/nonexistent/program"),
        ({"cwd": "/nonexistent/directory"}, "/nonexistent/directory"),
        ({"user": "no-such-user-at-all"}, "no-such-user-at-all"),
    ],
)
def test_a_start_that_cannot_be_made_is_told(kernel: Kernel, fields: dict[str, Any], named: str) -> None:
    hello(kernel)
    usual: dict[str, Any] = {"argv": kernel.program("sleeper"), "env": {}, "cwd": "/", "label": "web.1"}
    kernel.send(orders.Spawn(1, **{**usual, **fields}))
    assert named in kernel.fact(facts.SpawnFailed, worker=1).error
    snapshot = next_master(kernel)
    assert snapshot.workers == []
    assert snapshot.last_worker == 1


def test_a_number_whose_start_failed_is_used_up(kernel: Kernel) -> None:
    hello(kernel)
    kernel.send(orders.Spawn(1, ["/nonexistent/program"], {}, "/", "web.1"))
    kernel.fact(facts.SpawnFailed, worker=1)
    spawn(kernel, 1, "sleeper")
    kernel.fact(facts.Refused, order="spawn", worker=1)


def test_the_last_lines_of_a_worker_are_told_after_its_exit(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "writer")
    assert kernel.fact(facts.Exited, worker=1).code == 1
    lines = kernel.fact(facts.Output, worker=1).lines
    assert set(lines) == {"one", "two", "three"}
    assert lines.index("one") < lines.index("two")
    assert state_of(next_master(kernel), 1)["output"] == lines


# Signals.


def test_a_signal_reaches_the_worker(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "sleeper")
    kernel.fact(facts.Spawned, worker=1)
    kernel.send(stop(1))
    exited = kernel.fact(facts.Exited, worker=1)
    assert (exited.code, exited.signal) == (None, signal.SIGTERM)


def test_the_same_signal_order_is_delivered_once(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "stubborn")
    kernel.fact(facts.Notified, worker=1)
    kernel.send(stop(1))
    kernel.send(stop(1))
    kernel.fact(facts.Refused, order="signal", worker=1)
    state = state_of(next_master(kernel), 1)
    assert state["signals"] == ["stop"]
    assert not state["exited"]
    kernel.send(stop(1, number=signal.SIGKILL))  # the name decides, and the next master's counts too
    kernel.fact(facts.Refused, order="signal", worker=1)
    kernel.send(kill(1))
    exited = kernel.fact(facts.Exited, worker=1)
    assert (exited.code, exited.signal) == (None, signal.SIGKILL)


def test_a_signal_to_nobody_is_refused(kernel: Kernel) -> None:
    hello(kernel)
    kernel.send(stop(7))
    assert kernel.fact(facts.Refused, order="signal", worker=7).why


def test_a_stop_after_the_exit_is_refused_and_a_sweep_is_not(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "exit3")
    kernel.fact(facts.Exited, worker=1)
    kernel.send(kill(1, "sweep"))
    kernel.send(stop(1))
    assert "sweep" not in kernel.fact(facts.Refused, order="signal", worker=1).why
    kernel.send(kill(1, "sweep"))
    kernel.fact(facts.Refused, order="signal", worker=1)
    assert "sweep" in state_of(next_master(kernel), 1)["signals"]


# Exits are remembered until they are forgotten.


def test_an_exit_stands_in_the_snapshots_until_it_is_forgotten(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "exit3")
    kernel.fact(facts.Exited, worker=1)
    for _ in range(2):
        state = state_of(next_master(kernel), 1)
        assert (state["exited"], state["code"], state["signal"]) == (True, 3, None)
    kernel.send(orders.Forget(1))
    snapshot = next_master(kernel)
    assert snapshot.workers == []
    assert snapshot.last_worker == 1


def test_forget_may_be_repeated(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "exit3")
    kernel.fact(facts.Exited, worker=1)
    kernel.send(orders.Forget(1))
    kernel.send(orders.Forget(1))
    kernel.send(orders.Forget(99))
    assert hello(kernel).workers == []


def test_a_living_worker_is_not_forgotten(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "sleeper")
    kernel.fact(facts.Spawned, worker=1)
    kernel.send(orders.Forget(1))
    assert [state["worker"] for state in hello(kernel).workers] == [1]
    kernel.send(stop(1))
    kernel.fact(facts.Exited, worker=1)


# What workers say.


def test_what_a_worker_tells_on_its_channel(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "teller", channel=True)
    assert kernel.fact(facts.Ready, worker=1).ready is False
    assert kernel.fact(facts.Ready, worker=1).ready is True
    assert kernel.fact(facts.Message, worker=1).message == {"type": "hello", "text": "there"}
    assert state_of(next_master(kernel), 1)["ready"] is True
    kernel.send(orders.Tell(1, {"type": "news", "number": 5}))
    heard = kernel.fact(facts.Message, worker=1).message
    assert heard == {"type": "heard", "what": {"type": "news", "number": 5}}


def test_tell_without_a_channel_is_refused(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "sleeper")
    kernel.fact(facts.Spawned, worker=1)
    kernel.send(orders.Tell(1, {"type": "news"}))
    assert kernel.fact(facts.Refused, order="tell", worker=1).why


def test_tell_to_nobody_is_refused(kernel: Kernel) -> None:
    hello(kernel)
    kernel.send(orders.Tell(7, {"type": "news"}))
    assert kernel.fact(facts.Refused, order="tell", worker=7).why


def test_what_a_worker_notifies(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "notifier")
    assert kernel.fact(facts.Notified, worker=1).fields == {"READY": "1", "STATUS": "fine"}
    state = state_of(next_master(kernel), 1)
    assert state["notified"] == {"READY": "1", "STATUS": "fine"}
    assert state["ready"] is None


# Sockets.


def test_a_socket_is_held_until_it_is_closed(kernel: Kernel, address: str) -> None:
    hello(kernel)
    kernel.send(orders.Listen(address))
    assert kernel.fact(facts.Listening, address=address).worker is None
    kernel.send(orders.Listen(address))
    kernel.fact(facts.Listening, address=address)
    assert [(held["address"], held["door"], held["listening"]) for held in next_master(kernel).listeners] == [
        (address, False, True)
    ]
    kernel.send(orders.Close(address))
    kernel.send(orders.Close(address))
    assert hello(kernel).listeners == []


def test_a_door_comes_with_its_descriptor(kernel: Kernel, address: str) -> None:
    hello(kernel)
    kernel.send(orders.Listen(address, door=True))
    assert kernel.fact(facts.Listening, address=address).descriptor
    (held,) = next_master(kernel).listeners
    assert held["door"]
    kernel.send(orders.Listen(address, door=True))  # how the next master gets it
    assert kernel.fact(facts.Listening, address=address).descriptor


def test_a_taken_address_is_told(kernel: Kernel, taken: str) -> None:
    hello(kernel)
    kernel.send(orders.Listen(taken))
    failed = kernel.fact(facts.ListenFailed, address=taken)
    assert failed.worker is None
    assert taken in failed.error
    assert hello(kernel).listeners == []


def test_sockets_that_are_passed_must_be_held(kernel: Kernel, address: str) -> None:
    hello(kernel)
    kernel.send(orders.Listen(address))
    kernel.fact(facts.Listening, address=address)
    spawn(kernel, 1, "sleeper", share="inherit", inherit=[address])
    kernel.fact(facts.Spawned, worker=1)
    spawn(kernel, 2, "sleeper", share="inherit", inherit=["127.0.0.1:9"])
    assert "127.0.0.1:9" in kernel.fact(facts.SpawnFailed, worker=2).error


def need_seccomp(snapshot: facts.Snapshot) -> None:
    if snapshot.share["seccomp"]:
        pytest.skip(snapshot.share["seccomp"])


def test_workers_share_the_address_that_they_listen_on(kernel: Kernel, address: str) -> None:
    need_seccomp(hello(kernel))
    spawn(kernel, 1, "listener", address, share="seccomp")
    kernel.fact(facts.Listening, address=address, worker=1, bound=False)
    spawn(kernel, 2, "listener", address, share="seccomp")
    kernel.fact(facts.Listening, address=address, worker=2, bound=True)  # it listened already
    kernel.fact(facts.Listening, address=address, worker=2, bound=False)
    snapshot = next_master(kernel)
    assert [state["listening"] for state in snapshot.workers] == [[address], [address]]
    assert [state["bound"] for state in snapshot.workers] == [[], [address]]
    assert [held["address"] for held in snapshot.listeners] == [address]
    for worker in (1, 2):
        kernel.send(kill(worker))
        kernel.fact(facts.Exited, worker=worker)
    assert [held["address"] for held in hello(kernel).listeners] == [address]  # the port outlives its workers


def test_a_worker_that_finds_its_address_taken_is_told_of(kernel: Kernel, taken: str) -> None:
    need_seccomp(hello(kernel))
    spawn(kernel, 1, "listener", taken, share="seccomp")
    assert taken in kernel.fact(facts.ListenFailed, worker=1).error
    assert kernel.fact(facts.Exited, worker=1).code == 1
    assert taken in state_of(next_master(kernel), 1)["bind_error"]


def test_a_private_worker_listens_where_nobody_else_does(kernel: Kernel, address: str) -> None:
    need_seccomp(hello(kernel))
    spawn(kernel, 1, "listener", address, share="seccomp")
    kernel.fact(facts.Listening, address=address, worker=1, bound=False)
    own = []
    for worker in (2, 3):
        spawn(kernel, worker, "listener", address, share="seccomp", private=True)
        told = kernel.fact(facts.Listening, worker=worker)
        assert (told.asked, told.bound) == (address, False)
        assert told.address.startswith("127.0.0.1:")
        own.append(told.address)
    assert len({address, *own}) == 3
    snapshot = next_master(kernel)
    assert [state["private"] for state in snapshot.workers] == [{}, {address: own[0]}, {address: own[1]}]
    assert [state["listening"] for state in snapshot.workers] == [[address], [], []]
    assert [state["bound"] for state in snapshot.workers] == [[], [], []]
    assert [held["address"] for held in snapshot.listeners] == [address]
    kernel.send(kill(2))
    kernel.fact(facts.Exited, worker=2)
    assert [held["address"] for held in hello(kernel).listeners] == [address]


def test_a_private_worker_does_not_care_who_has_its_address(kernel: Kernel, taken: str) -> None:
    need_seccomp(hello(kernel))
    spawn(kernel, 1, "listener", taken, share="seccomp", private=True)
    assert kernel.fact(facts.Listening, worker=1).asked == taken
    assert state_of(next_master(kernel), 1)["bind_error"] == ""
    assert hello(kernel).listeners == []


def test_nobody_is_private_who_opens_its_own_ports(kernel: Kernel) -> None:
    hello(kernel)
    spawn(kernel, 1, "sleeper", share="none", private=True)
    assert "ports of its own" in kernel.fact(facts.SpawnFailed, worker=1).error
    assert next_master(kernel).workers == []
