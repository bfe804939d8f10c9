"""Who makes room for whom."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cluster_service.server.endpoint_connections import Room, reserved

if TYPE_CHECKING:
    import pytest


class Wire(asyncio.Transport):
    """A transport that only remembers that it was aborted."""

    closed = False

    def abort(self) -> None:
        self.closed = True


def room(most: int, monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setattr("cluster_service.server.endpoint_connections.CONNECTIONS", most)
    return Room()


def test_the_oldest_stranger_makes_room_whatever_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    place = room(3, monkeypatch)
    wires = [Wire() for _ in range(5)]
    for number, wire in enumerate(wires):
        place.enter(number, wire)
        place.busy(number)  # its body is not there yet, or its answer is not taken
    assert [wire.closed for wire in wires] == [True, True, False, False, False]


def test_strangers_never_close_what_has_authenticated(monkeypatch: pytest.MonkeyPatch) -> None:
    place = room(8, monkeypatch)
    known = [Wire() for _ in range(5)]
    for wire in known:
        place.enter(wire, wire)
        assert place.authenticate(wire)
        place.idle(wire)
    strangers = [Wire() for _ in range(100)]
    for wire in strangers:
        place.enter(wire, wire)
    assert not any(wire.closed for wire in known)
    assert sum(not wire.closed for wire in strangers) == 3
    late = Wire()
    place.enter(late, late)
    assert place.authenticate(late), "a place for whoever shows a key"


def test_of_the_authenticated_the_longest_idle_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    place = room(4, monkeypatch)
    wires = [Wire() for _ in range(4)]
    for wire in wires[:3]:
        place.enter(wire, wire)
        assert place.authenticate(wire)
        place.busy(wire)
    place.enter(wires[3], wires[3])
    assert not place.authenticate(wires[3]), "nobody idles"
    place.idle(wires[1])
    place.idle(wires[0])
    assert place.authenticate(wires[3])
    assert place.authenticate(wires[3]), "once more changes nothing"
    assert [wire.closed for wire in wires] == [False, True, False, False]


def test_there_is_always_a_place_to_authenticate_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [reserved(most) for most in (2, 8, 256)] == [1, 1, 32]
    place = room(16, monkeypatch)
    for _ in range(50):
        wire = Wire()
        place.enter(wire, wire)
        place.authenticate(wire)
        place.busy(wire)
    stranger = Wire()
    place.enter(stranger, stranger)
    assert not stranger.closed


def test_at_the_end_those_that_wait_for_no_answer_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    place = room(8, monkeypatch)
    idle, busy, gone = Wire(), Wire(), Wire()
    for wire in (idle, busy, gone):
        place.enter(wire, wire)
    place.busy(busy)
    place.leave(gone)
    place.clear()
    assert (idle.closed, busy.closed, gone.closed) == (True, False, False)
