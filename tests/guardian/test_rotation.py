"""The log file is turned over when it has grown: no line is lost or cut, and no more files are kept than wanted."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from cluster_service.guardian.rotate import has_grown, turn_over
from cluster_service.wire import orders

from .test_logs import shell, tail

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Start

LINES = 20_000


@pytest.mark.parametrize("keep", [1, 3])
def test_no_line_is_lost_and_no_more_is_kept_than_wanted(start: Start, run_dir: Path, keep: int) -> None:
    log = run_dir / "service.log"
    kernel = start({"log_file": str(log), "log_max_size": 20_000, "log_keep": keep})
    shell(kernel, 1, f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i + 1)); done")
    tail(kernel, 1)
    kernel.close()
    files = [log, *(run_dir / f"service.log.{number}" for number in range(1, keep + 1))]
    assert sorted(each.name for each in run_dir.glob("service.log*")) == sorted(each.name for each in files)
    found = [int(each) for path in reversed(files) for each in re.findall(r"line (\d+)\n", path.read_text())]
    assert found == list(range(found[0], LINES)), "what is kept is whole, and in order"
    assert all(path.read_text()[-1:] in {"\n", ""} for path in files)
    for path in files:
        path.unlink()


def test_a_directory_that_cannot_be_written_to_is_told_once(start: Start, run_dir: Path) -> None:
    log = run_dir / "service.log"
    (run_dir / "service.log.1").mkdir()
    (run_dir / "service.log.1" / "full").touch()
    kernel = start({"log_file": str(log), "log_max_size": 100, "log_keep": 1})
    for number in range(20):
        kernel.send(orders.Log(f"line {number} of twenty, each longer than a few words"))
    shell(kernel, 1, "echo hello")
    tail(kernel, 1)
    kernel.close()
    text = log.read_text()
    assert text.count("has grown and cannot be put aside") == 1
    assert text.count("of twenty") == 20
    log.unlink()
    (run_dir / "service.log.1" / "full").unlink()
    (run_dir / "service.log.1").rmdir()


def test_how_files_move(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for number in range(4):
        log.write_text(f"{number}")
        turn_over(str(log), 2)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"log.1": "3", "log.2": "2"}
    log.write_text("4")
    turn_over(str(log), 0)
    assert not log.exists()


def test_what_has_grown(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 10)
    descriptor = os.open(tmp_path / "log", os.O_RDONLY)
    assert [has_grown(descriptor, most) for most in (0, 10, 11)] == [False, True, False]
    os.close(descriptor)
