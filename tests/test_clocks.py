"""No step of the wall clock decides anything: whoever reads it stands here, with the reason.

A clock that is set, by hand or by NTP, is one of the faults that are tried (``tests/faults``). Why it does not matter
is seen here, by looking who reads it. Deadlines, back-offs, hangs and timeouts are of ``time.monotonic()``.
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "cluster_service"

WALL = {
    "time.time", "time.time_ns", "time.gmtime", "time.localtime", "time.ctime",
    "datetime.now", "datetime.utcnow", "datetime.today",
}  # fmt: skip
"""Calls that read the wall clock; ``gmtime``, ``localtime`` and ``ctime`` only without an argument."""

READERS = {
    "guardian/log_writer.py": "the time that stands before a line of the log",
    "master/event_log.py": "the time in an event",
    "master/service_api.py": "the times that are shown of an operation",
    "master/state_file.py": "times kept in the state file, for the next service on another monotonic clock",
    "master/recycle_schedule.py": "recycling at a time of day, as the setting says; it looks for a clock set back",
    "rundir/locks.py": "since when a service runs, to be read by people",
    "client/transport.py": "when a shutdown ended whose last report did not arrive, to be read by people",
    "server/audit.py": "the time in a line of the audit log",
}


def reads(tree: ast.AST) -> bool:
    """Whether the module calls one of ``WALL``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = ast.unparse(node.func)
        if name in WALL and not (node.args and name in {"time.gmtime", "time.localtime", "time.ctime"}):
            return True
        if name == "time.clock_gettime" and "REALTIME" in ast.unparse(node):
            return True
    return False


def test_who_reads_the_wall_clock() -> None:
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if reads(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set(READERS)


def test_who_has_hidden_it_is_found() -> None:
    assert reads(ast.parse("deadline = time.time() + 5"))
    assert reads(ast.parse("datetime.now(UTC)"))
    assert reads(ast.parse("time.clock_gettime(time.CLOCK_REALTIME)"))
    assert not reads(ast.parse("time.monotonic(); time.gmtime(stamp)"))
    assert not [path for path in SOURCE.rglob("*.py") if "from time import" in path.read_text(encoding="utf-8")]
