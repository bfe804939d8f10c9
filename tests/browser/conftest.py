"""A Chromium for each test that asks for one, and a service to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tools.browser import CHROMIUM, NAMES, Browser
from tests.tools.doors import KEY, keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A browser of its own."""
    if CHROMIUM is None:
        pytest.skip(f"there is no browser here ({', '.join(NAMES)}); on Debian: apt-get install chromium")
    with Browser() as running:
        yield running


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with ``KEY``."""
    return keys(tmp_path / "key", KEY)
