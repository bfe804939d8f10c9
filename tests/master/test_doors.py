"""Keys that are replaced while the doors are open: what the file says now counts, and a file that is wrong changes
nothing.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from cluster_service.config import Settings
from cluster_service.config.credentials import load
from cluster_service.core.model.spec import Spec
from cluster_service.errors import CommandError
from cluster_service.master.endpoints import Doors
from cluster_service.server.access import Access, Knock

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "correct-horse-battery-staple", "another-horse-another-staple"


def opens(access: Access, key: str) -> bool:
    try:
        access.admit(Knock("tcp", "127.0.0.1", headers=(("host", "localhost"), ("x-access-key", key))), 0.0)
    except CommandError:
        return False
    return True


def test_rekey_reads_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(OLD)
    found = load(str(file), "access_key_file")
    settings = Settings(Spec("test", ()), access_key=OLD, keys=found, key_file=str(file))
    lines: list[str] = []
    doors = Doors(cast("Any", SimpleNamespace(settings=settings, use_settings=lambda _: None, log=lines.append)))
    doors._access = access = Access(found)
    file.write_text(f"{OLD}\n{NEW}\n")
    doors.rekey(settings)
    assert (opens(access, OLD), opens(access, NEW)) == (True, True)
    file.write_text(f"{NEW}\n")
    doors.rekey(settings)
    assert (opens(access, OLD), opens(access, NEW), lines) == (False, True, [])


def test_a_file_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(OLD)
    found = load(str(file), "access_key_file")
    settings = Settings(Spec("test", ()), access_key=OLD, keys=found, key_file=str(file))
    lines: list[str] = []
    doors = Doors(cast("Any", SimpleNamespace(settings=settings, use_settings=lambda _: None, log=lines.append)))
    doors._access = access = Access(found)
    access.rekey([NEW])  # as an earlier reload has found it
    file.chmod(0o644)
    doors.rekey(settings)
    assert (opens(access, OLD), opens(access, NEW)) == (False, True)
    assert "not read again" in lines[0]
    assert OLD not in lines[0]


def test_keys_that_were_given_themselves() -> None:
    doors = Doors(cast("Any", SimpleNamespace(settings=None)))
    doors._access = access = Access([OLD])
    doors.rekey(Settings(Spec("test", ()), access_key=NEW))
    assert (opens(access, OLD), opens(access, NEW)) == (False, True)
