"""Every interpreter that is to be found here, from 3.9 on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.harness import interpreters

INTERPRETERS = interpreters()


@pytest.fixture(params=INTERPRETERS, ids=[Path(path).resolve().name + f"-{n}" for n, path in enumerate(INTERPRETERS)])
def python(request: pytest.FixtureRequest) -> str:
    """An interpreter of a user's."""
    return str(request.param)
