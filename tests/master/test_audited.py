"""The audit file: every line, bounded, private, and never a reason for a command to fail."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from cluster_service.server.audit import WAITING, AuditFile, Auditor

if TYPE_CHECKING:
    from pathlib import Path


def test_its_directory_and_it_are_made_private(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "state" / "web.audit"
    audit = AuditFile(str(file), said.append)
    assert (audit.write("one"), audit.write("two"), said) == (True, True, [])
    assert file.read_text() == "one\ntwo\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_full_one_makes_room(tmp_path: Path) -> None:
    file, before = tmp_path / "web.audit", tmp_path / "web.audit.1"
    audit = AuditFile(str(file), print, full=10)
    for line in ("one", "two", "three", "four", "five"):
        audit.write(line)
    assert (before.read_text(), file.read_text()) == ("three\n", "four\nfive\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["web.audit", "web.audit.1"]


def test_one_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "web.audit"
    audit = AuditFile(str(file), print)
    audit.write("one")
    file.rename(tmp_path / "elsewhere")
    audit.write("two")
    assert file.read_text() == "two\n"


@pytest.mark.parametrize("place", ["file/web.audit", "directory", "full"])
def test_one_that_cannot_be_written_is_told_once_and_tried_again(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "full").symlink_to("/dev/full")
    said: list[str] = []
    audit = AuditFile(str(tmp_path / place), said.append)
    assert (audit.write("one"), audit.write("two")) == (False, False)
    assert len(said) == 1
    assert "cannot be written" in said[0]
    (tmp_path / place.partition("/")[0]).rename(tmp_path / "away")
    assert audit.write("three") is True


def test_a_pipe_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert AuditFile(str(tmp_path / "pipe"), lambda _text: None).write("one") is False


def test_without_a_place_there_is_none() -> None:
    assert AuditFile(None, print).write("one") is False


class Disk(AuditFile):
    """One that stands until it is let go."""

    def __init__(self) -> None:
        super().__init__("/disk", print)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.lines: list[str] = []

    def write(self, line: str) -> bool:
        self.begun.set()
        assert self.go_on.wait(20)
        self.lines.append(line)
        return line != "lost"


def test_a_disk_that_stands_holds_nothing_up_and_its_lines_stand_in_the_log() -> None:
    disk, log = Disk(), list[str]()
    auditor = Auditor(disk, log.append)
    auditor.add("first", aloud=True)
    assert disk.begun.wait(20)
    for number in range(WAITING):
        auditor.add(f"{number}", aloud=False)
    auditor.add("too many", aloud=False)
    auditor.add("too many, but in the log anyway", aloud=True)
    disk.go_on.set()
    auditor.close()
    auditor.add("lost", aloud=False)
    auditor.close()
    assert disk.lines == ["first", *map(str, range(WAITING)), "lost"]
    assert log == ["audit first", "audit too many", "audit too many, but in the log anyway", "audit lost"]
