"""The caller's directory of these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


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
