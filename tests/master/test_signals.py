"""What the master makes of the signals that the guardian was sent, and of its death."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service import config
from cluster_service.wire import orders
from tests.master.harness import DEADLINE, Guardian

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path, run_dir: Path) -> config.Settings:
    (tmp_path / "worker.py").write_text("")
    found = config.settings({"workers": 1}, target="worker.py", directory=str(tmp_path))
    nobody = replace(found.spec.groups[0], count=0)  # so its start is done at once
    return replace(found, run_dir=str(run_dir), spec=replace(found.spec, groups=(nobody,)))


def kinds(taken: list[Any]) -> set[type[Any]]:
    return {type(order) for order in taken}


@pytest.mark.parametrize("configured", [True, False])
def test_a_shutdown_is_taken_over_and_a_reload_is_none(settings: config.Settings, *, configured: bool) -> None:
    settings = settings if configured else replace(settings, origin=None)
    with Guardian(settings) as guardian:
        assert orders.Stopping not in kinds(guardian.told("HUP"))
        assert orders.Stopping not in kinds(guardian.told("HUP"))
        assert orders.Stopping in kinds(guardian.told("TERM"))


def test_a_reload_that_a_master_was_told_of_is_begun_by_the_next(settings: config.Settings) -> None:
    with Guardian(settings) as guardian:
        guardian.told("HUP")
        assert json.loads(guardian.notebook)["signalled"] is True
        guardian.kill()
        guardian.start()
        while not any(each["kind"] == "reload" for each in json.loads(guardian.notebook)["cluster"]["operations"]):
            guardian.until(orders.Note)
        assert "signalled" not in json.loads(guardian.notebook)


def test_it_does_not_outlive_a_guardian_that_has_never_greeted_it(settings: config.Settings) -> None:
    with Guardian(settings) as guardian:
        guardian.kill()
        guardian.start_master()
        guardian.stream.close()
        assert guardian.master.wait(DEADLINE) == 1


def test_it_does_not_outlive_a_guardian_that_owes_it_a_door(settings: config.Settings) -> None:
    with Guardian(settings) as guardian:
        guardian.kill()
        guardian.start_master()
        guardian.answers = False
        guardian.greet()
        guardian.until(orders.Listen)
        guardian.stream.close()
        assert guardian.master.wait(DEADLINE) == 1
