"""The file that outlives the service: always whole, and never a reason for a service not to run."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.core.engine.cluster import Cluster
from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.master.state_file import Memory, State

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = 20.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def test_what_was_saved_is_loaded(file: Path) -> None:
    said: list[str] = []
    State(str(file), said.append).save({"a": [1, None, "é"]})
    assert State(str(file), said.append).load() == {"a": [1, None, "é"]}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["state.json"]
    assert said == []


def test_there_is_nothing_at_first(file: Path) -> None:
    assert State(str(file)).load() is None


def test_the_master_does_not_wait_for_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, go_on, syncs = threading.Event(), threading.Event(), []
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        syncs.append(descriptor)
        waits.set()
        assert go_on.wait(DEADLINE)
        fsync(descriptor)

    async def remember() -> None:
        memory = Memory(str(file), pytest.fail)
        memory.save(cluster)
        await asyncio.to_thread(waits.wait, DEADLINE)
        assert len(syncs) == 1
        for number in range(3):
            cluster.operation_count = number
            memory.save(cluster)
        go_on.set()
        await memory.settle()

    monkeypatch.setattr(os, "fsync", slow)
    cluster = Cluster(Spec("default", (GroupSpec("web", 1, Release("command", "/bin/x")),)))
    asyncio.run(remember())
    assert json.loads(file.read_text())["operation_count"] == 2
    assert len(syncs) == 4  # the first and the last, each the file and its directory


def test_what_has_not_changed_is_not_written_again(file: Path) -> None:
    state = State(str(file))
    state.save({"a": 1})
    written = file.stat()
    state.save({"a": 1})
    again = State(str(file))
    again.load()
    again.save({"a": 1})
    assert file.stat().st_ino == written.st_ino
    again.save({"a": 2})
    assert file.stat().st_ino != written.st_ino
    assert json.loads(file.read_text()) == {"a": 2}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is not JSON"),
        (b'{"a": 1', "it is not JSON"),
        (b"[1]", "it holds no JSON object"),
        (b"\xff\xfe", "it is not text"),
        (b"[" * 200_000, "it is not JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_put_aside(file: Path, content: bytes, why: str) -> None:
    file.write_bytes(content)
    file.chmod(0o600)
    said: list[str] = []
    state = State(str(file), said.append)
    assert state.load() is None
    (sentence,) = said
    assert sentence.startswith(f"the state in {file} is not used: {why}")
    assert sentence.endswith(f"; it is kept as {file}.bad")
    assert (file.parent / "state.json.bad").read_bytes() == content
    state.save({"a": 1})
    assert State(str(file)).load() == {"a": 1}


def test_a_file_that_others_could_have_written_is_not_believed(file: Path) -> None:
    file.write_text("{}")
    file.chmod(0o666)
    said: list[str] = []
    assert State(str(file), said.append).load() is None
    assert "others can write it" in said[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_not_believed(file: Path) -> None:
    file.write_text("{}")
    os.chown(file, 65534, 65534)
    said: list[str] = []
    assert State(str(file), said.append).load() is None
    assert "belongs to user 65534" in said[0]


def test_a_directory_is_no_file(file: Path) -> None:
    file.mkdir()
    said: list[str] = []
    state = State(str(file), said.append)
    assert state.load() is None
    assert "it is a directory" in said[0]


def test_it_is_written_where_a_link_points(file: Path) -> None:
    (file.parent / "link").symlink_to(file)
    State(str(file.parent / "link")).save({})
    assert file.read_text() == "{}\n"
    assert (file.parent / "link").is_symlink()


def test_what_a_killed_service_left_half_written_is_no_hindrance(file: Path) -> None:
    (file.parent / "state.json.new").write_text("{")
    State(str(file)).save({"a": 1})
    assert [path.name for path in file.parent.iterdir()] == ["state.json"]


def test_a_file_that_cannot_be_written_is_told_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    state = State(str(file), said.append)
    state.save({"a": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        state.save({"a": 2})
        state.save({"a": 3})
    assert said == [f"the state cannot be written to {file}: the disk is full (make room on it); it is tried again"]
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in file.parent.iterdir()] == ["state.json"]
    state.save({"a": 3})
    assert said[1:] == [f"the state is written to {file} again"]
    assert json.loads(file.read_text()) == {"a": 3}
