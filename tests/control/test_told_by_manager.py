"""What counts of what a service manager has told by the environment."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_service.launcher import told_by_manager

PID = 4711
NOTHING = {"notify": "", "watchdog": 0.0, "sockets": []}


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, {}),
        ({"NOTIFY_SOCKET": "@x"}, {"notify": "@x"}),
        ({"WATCHDOG_USEC": "30000000"}, {"watchdog": 30.0}),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "4711"}, {"watchdog": 30.0}),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {}),
        ({"WATCHDOG_USEC": "soon"}, {}),
        ({"LISTEN_FDS": "1"}, {}),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {}),
        ({"LISTEN_FDS": "-1", "LISTEN_PID": "4711"}, {}),
        ({"LISTEN_FDS": "1000000", "LISTEN_PID": "4711"}, {}),  # they are not there
    ],
)
def test_what_is_not_ours_or_no_number_was_not_said(environ: dict[str, str], told: dict[str, Any]) -> None:
    assert told_by_manager(environ, PID) == {**NOTHING, **told}


@pytest.mark.parametrize(
    ("names", "sockets"),
    [(None, ["unknown", "unknown"]), ("web", ["web", "unknown"]), (":dns", ["unknown", "dns"]), ("a:b:c", ["a", "b"])],
)
def test_names(names: str | None, sockets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_service.launcher._is_open", lambda _descriptor: True)
    environ = {"LISTEN_FDS": "2", "LISTEN_PID": str(PID), **({} if names is None else {"LISTEN_FDNAMES": names})}
    assert told_by_manager(environ, PID)["sockets"] == sockets
