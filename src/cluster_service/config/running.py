"""Runs programs named by a configuration or a release, with an identity and limits.

Every such program except a worker runs under ``worker/job.py``: as the user of its group, in its own session, without
our descriptors, and so that no process of it outlives it. Workers are started by the guardian.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from cluster_service.machine.identity import OWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cluster_service.machine.identity import Identity

JOB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker", "job.py")
CANNOT_RUN = 126
"""The exit code of ``job.py`` if the program cannot be executed."""
MAX_OUTPUT_BYTES = 1 << 20


class TooMuch(Exception):
    """The program wrote more than ``MAX_OUTPUT_BYTES`` and was killed."""


class Late(Exception):
    """The program did not exit in time and was killed."""


class Ended(NamedTuple):
    """The result of a program. *code*: if negative, the signal that killed it."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def job(
    identity: Identity, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], no_new_privs: bool = False
) -> Iterator[tuple[list[str], int]]:
    """Yield the command that runs *argv*, and the descriptor that it must inherit. *argv* begins with a path."""
    plan = {
        "argv": list(argv),
        "env": dict(env),
        "cwd": cwd,
        "uid": identity.uid,
        "gid": identity.gid,
        "groups": identity.groups() if identity != OWN else [],
        "no_new_privs": no_new_privs and identity != OWN,
    }
    descriptor = os.memfd_create("cservice-job")
    try:
        data = json.dumps(plan).encode()
        while data:
            data = data[os.write(descriptor, data) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield [sys.executable, "-I", "-S", JOB, str(descriptor)], descriptor
    finally:
        os.close(descriptor)


def run_as(identity: Identity, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], seconds: float) -> Ended:
    """Run *argv* as *identity* and return its output. Blocking; no process of it remains when this returns or raises.

    For another identity it cannot gain privileges. Raises Late, TooMuch, and OSError if no process can be started.
    """
    import subprocess  # noqa: PLC0415 - only here, and slow to import

    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as held, open(writing, "wb", buffering=0) as lifeline:
        with job(identity, argv, cwd=cwd, env=env, no_new_privs=True) as (command, descriptor):
            process = subprocess.Popen(
                command,
                cwd="/",
                pass_fds=(descriptor,),
                stdin=held,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        held.close()
        with process:
            try:
                out, err = _read(process, seconds)
            finally:
                lifeline.close()  # makes job.py kill the program if it is still running
    return Ended(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def _read(process: object, seconds: float) -> tuple[bytes, bytes]:
    """Read the standard output and error of *process* to their ends. Raises Late and TooMuch."""
    streams = (process.stdout, process.stderr)  # type: ignore[attr-defined]
    said: dict[int, bytearray] = {stream.fileno(): bytearray() for stream in streams}
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for descriptor in said:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise Late
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                said[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
                if len(said[key.fd]) > MAX_OUTPUT_BYTES:
                    raise TooMuch
    out, err = said.values()
    return bytes(out), bytes(err)
