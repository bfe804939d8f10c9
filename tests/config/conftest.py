"""The caller's directory of these tests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caller's directory, with a worker and an app."""
    (tmp_path / "worker.py").write_text("print(1)\n")
    (tmp_path / "shop.py").write_text("application = 1\n")
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "v2.py").write_text("print(2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CSERVICE_RUN_DIR", str(tmp_path / "run"))
    return tmp_path


@pytest.fixture
def open_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The caller's directory, which every user can enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        monkeypatch.chdir(place)
        yield place
