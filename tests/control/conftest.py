"""A running service for each test that asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.control.machine import Running, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def service(run_dir: Path) -> Iterator[Running]:
    """The service ``default``; its operations end by themselves."""
    with running(run_dir) as opened:
        yield opened


@pytest.fixture
def held(run_dir: Path) -> Iterator[Running]:
    """The service ``default``; its operations wait to be finished."""
    with running(run_dir, held=True) as opened:
        yield opened
