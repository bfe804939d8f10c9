"""A stop is not lost that finds the program in an import, or where exceptions are ignored, or where it catches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tools.ports import free_port
from tests.worker.harness import Worker, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("cleanup", [[], ["cleanup"]])
def test_an_import_is_ended_at_once(python: str, tmp_path: Path, cleanup: list[str]) -> None:
    """Whatever the program has put around it: what it raises there it may never see."""
    write(tmp_path / "optional.py", "print('importing')\nwait()\n")
    script = write(
        tmp_path / "worker.py",
        f"""
        import cluster_service as cservice
        if {cleanup}:
            cservice.worker_ready(False, on_worker_stop=lambda: print("cleanup", end=""))
        try:
            import optional
        except:
            pass
        print("went on")
        wait()
        """,
    )
    with Worker("script", script, python=python, cwd=tmp_path) as worker:
        worker.line("importing")
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["importing", *cleanup]


def test_asyncio_may_be_half_imported(python: str, tmp_path: Path) -> None:
    write(tmp_path / "ssl.py", "print('importing')\nwait()\n")  # which asyncio imports
    script = write(tmp_path / "worker.py", "import asyncio\nprint('went on')\n")
    with Worker("script", script, python=python, cwd=tmp_path) as worker:
        worker.line("importing")
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["importing"]


def test_a_program_that_serves_is_unwound_in_an_import_too(python: str, tmp_path: Path) -> None:
    write(tmp_path / "late.py", "import cluster_service\ncluster_service.worker_ready()\nwait()\n")
    script = write(
        tmp_path / "worker.py",
        """
        try:
            import late
        finally:
            print("finally")
        """,
    )
    with Worker("script", script, python=python, cwd=tmp_path) as worker:
        worker.ready()
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["finally"]


def test_it_comes_again_where_exceptions_are_ignored(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import cluster_service
        class Last:
            def __del__(self):
                cluster_service.worker_ready(on_worker_stop=lambda: print("cleanup"))
                wait()
                raise ValueError("after it")
        Last()
        try:
            print("went on")
            wait()
        finally:
            print("finally")
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["cleanup", "went on", "finally"]


def test_a_server_that_starts_after_all_ends_at_once(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        f"""
        import http.server
        try:
            print("before")
            wait()
        except BaseException as error:
            print("caught", type(error).__name__)
        http.server.HTTPServer(("127.0.0.1", {free_port()}), http.server.BaseHTTPRequestHandler).serve_forever()
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.line("before")
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["before", "caught SystemExit"]
