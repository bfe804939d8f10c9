"""Asking an interpreter what it knows of a target: ``probe.py`` is run by it.

It runs under ``worker/job.py``, as every program does that is run for us and is no worker: whatever becomes of it and
of us, nothing of it is left.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from cluster_service.control.errors import CommandError
from cluster_service.wire.signals import signal_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
PROBE = os.path.join(HERE, "probe.py")
JOB = os.path.join(os.path.dirname(HERE), "worker", "job.py")

CANNOT_RUN = 126
"""The exit code of ``job.py`` for a program that cannot be executed."""

SECONDS = 20.0
"""How long an interpreter may take to answer, where nothing else was said."""


def job(argv: Sequence[str], identity: Mapping[str, Any]) -> list[str]:
    """Return the command line that runs *argv* under ``job.py``. *identity*: as whom; see ``check.identity``."""
    who = ["-", "-", "-"]
    if identity:
        groups = ",".join(str(group) for group in identity["extra_groups"]) or "-"
        who = [str(identity["user"]), str(identity["group"]), groups]
    return [sys.executable, "-I", "-S", JOB, *who, *argv]


def asked(
    python: str,
    kind: str,
    target: str,
    *,
    cwd: str,
    environ: Mapping[str, str],
    timeout: float = SECONDS,
    identity: Mapping[str, Any] | None = None,
) -> Mapping[str, object]:
    """Return what *python* knows of *target*: see ``probe``. Blocking.

    *timeout*: seconds; *identity*: as whom it is run. Raises CommandError bad_request unless it starts, answers and is
    3.9 or newer.
    """
    module, _, attribute = target.partition(":")
    arguments = [kind, module, attribute] if kind == "app" else [kind, target]
    out, err = _output([python, "-B", PROBE, *arguments], cwd, environ, timeout, identity or {})
    lines = out.splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
        major, minor = (int(part) for part in found["version"])
    except (IndexError, KeyError, TypeError, ValueError):
        said = (err.splitlines() or ["nothing"])[-1]
        if "future feature annotations" in said:
            raise CommandError("bad_request", f"{python} is an old Python: workers need 3.9 or newer") from None
        raise CommandError(
            "bad_request", f"{python} does not answer as a Python interpreter would: it said {said!r}"
        ) from None
    if (major, minor) < (3, 9):
        raise CommandError("bad_request", f"{python} is Python {major}.{minor}: workers need 3.9 or newer")
    return found


def _output(
    argv: list[str], cwd: str, environ: Mapping[str, str], timeout: float, identity: Mapping[str, Any]
) -> tuple[str, str]:
    """Run an interpreter and return what it wrote. One that takes too long is killed with all that it started."""
    import subprocess  # noqa: PLC0415 - only here, and slow to import

    if not os.path.exists(argv[0]):  # a virtual environment may be left whose Python has gone
        raise CommandError("bad_request", f"the interpreter {argv[0]} does not start: No such file or directory")
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as held, open(writing, "wb", buffering=0) as lifeline:
        try:
            process = subprocess.Popen(
                job(argv, identity),
                cwd=cwd,
                env=dict(environ),
                stdin=held,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise CommandError("bad_request", f"the interpreter {argv[0]} does not start: {error.strerror}") from None
        with process:
            held.close()
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                late = f"the interpreter {argv[0]} did not answer in {timeout:g} s"
                raise CommandError("bad_request", late) from None
            finally:
                lifeline.close()  # which ends it, where it has not ended
    said = err.decode("utf-8", "replace")
    _, cannot, why = said.rstrip().rpartition(" cannot be run: ")
    if process.returncode == CANNOT_RUN and cannot:
        raise CommandError("bad_request", f"the interpreter {argv[0]} does not start: {why}")
    if process.returncode < 0:
        killed = f"the interpreter {argv[0]} was killed by {signal_name(-process.returncode)} before it answered"
        raise CommandError("bad_request", killed)
    return out.decode("utf-8", "replace"), said
