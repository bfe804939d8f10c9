"""The log file is turned over when it has grown: no line is lost or cut, and no more files are kept than wanted."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from cluster_service.guardian.log_output import Sink
from cluster_service.machine import files
from cluster_service.wire import facts, orders

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
    assert text.count("cannot rotate") == 1
    assert text.count("of twenty") == 20
    log.unlink()
    (run_dir / "service.log.1" / "full").unlink()
    (run_dir / "service.log.1").rmdir()


def rotate(log: Path, content: str, keep: int) -> None:
    log.write_text(content)
    with log.open("rb") as file:
        files.rotate(str(log), keep, file.fileno())


def test_how_files_move(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for number in range(4):
        rotate(log, f"{number}", 2)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"log.1": "3", "log.2": "2"}
    rotate(log, "4", 0)
    assert not log.exists()


def test_what_has_grown(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 10)
    sink = Sink(os.open(tmp_path / "log", os.O_RDONLY))
    assert [sink.has_grown(most) for most in (0, 10, 11)] == [False, True, False]
    sink.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_link_that_another_user_plants_is_not_followed(start: Start, run_dir: Path) -> None:
    folder, victim = run_dir / "log", run_dir / "victim"
    folder.mkdir()
    victim.write_text("precious")
    log = folder / "app.log"
    kernel = start({"log_file": str(log)})
    shell(kernel, 1, "echo before")
    tail(kernel, 1)
    os.chown(folder, 65534, 65534)
    log.rename(folder / "moved")
    log.symlink_to(victim)
    os.lchown(log, 65534, 65534)
    kernel.signal(signal.SIGUSR1)
    kernel.nothing_of(facts.Signalled)
    kernel.send(orders.Log("after"))
    kernel.close()
    assert victim.read_text() == "precious"
    text = (folder / "moved").read_text()
    assert f"cannot open {log}: app.log is a symbolic link that user 65534 can have made; remove it; retrying" in text
    assert "[cservice] after\n" in text
    for path in (log, folder / "moved", victim):
        path.unlink()
    folder.rmdir()
