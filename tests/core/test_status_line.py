"""What a service manager is told of the whole: one word and one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster_service.core.model.spec import Release
from cluster_service.core.protocol.requests import Restart, Shutdown, Upgrade
from cluster_service.core.readout.serializers import status_line
from cluster_service.testing import NEVER, Program

from .stories import BROKEN, started, world

if TYPE_CHECKING:
    from cluster_service.testing import World


def stands(made: World) -> tuple[str, str]:
    assert made.cluster is not None
    return status_line(made.cluster)


def test_a_start() -> None:
    made = world(2, Program(boot=5.0))
    made.run(1.0)
    assert stands(made) == ("starting", "0 of 2 serving")
    made.run(10.0)
    assert stands(made) == ("serving", "2 of 2 serving")


@pytest.mark.parametrize("seconds", [30.0, 300.0])
def test_a_start_that_has_failed(seconds: float) -> None:
    made = world(2, BROKEN)
    made.run(seconds)
    phase, text = stands(made)
    assert phase == "stalled"
    assert text.startswith("0 of 2 serving")
    if seconds > 100:
        assert text == "0 of 2 serving; web.1 is broken"


def test_where_some_serve_the_service_serves() -> None:
    made = started(2)
    made.programs["app"] = BROKEN
    made.kernel.crash(made.serving()[0].state.worker)
    made.run(300.0)
    assert stands(made) == ("serving", "1 of 2 serving; web.1 is broken")


def test_what_is_under_way_is_named() -> None:
    made = started(2)
    made.programs["app"] = Program(boot=5.0)
    made.request(Restart("all"))
    made.run(1.0)
    assert stands(made) == ("serving", "2 of 2 serving; restart 2: 0/2")
    made.run(60.0)
    made.programs["next"] = Program(boot=NEVER, not_yet=True)
    made.request(Upgrade("all", Release("script", "next"), monitor=10.0))
    made.run(1.0)
    assert stands(made) == ("serving", "2 of 2 serving; upgrade 3: canary")


def test_an_end() -> None:
    made = started(2, Program(boot=0.5, stop_takes=5.0), shutdown_delay=10.0)
    made.request(Shutdown("all"))
    made.run(1.0)
    assert stands(made) == ("stopping", "readiness fails; 2 workers left")
    made.run(10.0)
    assert stands(made) == ("stopping", "2 workers left")
