"""Runs programs named by a configuration or a release, with an identity and limits, and reads their output."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from cluster_service.machine.identity import OWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cluster_service.machine.identity import Identity

CHUNK_BYTES = 65536
JOB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker", "job.py")
CANNOT_RUN = 126
"""The exit code of ``job.py`` if the program cannot be executed."""
MAX_OUTPUT_BYTES = 1 << 20
_MAX_CHUNKS = 2 * MAX_OUTPUT_BYTES // CHUNK_BYTES + 2
"""Reads that wait to be looked at; beyond that nothing more is read."""


def follow(pipe: int, take: Callable[[bytes], bool]) -> None:
    """Call *take* with what comes from *pipe*, and with nothing at its end or when it returns False.

    It is called in a thread. *pipe* is closed afterwards. Raises RuntimeError if no thread can be started; then it is
    still open.
    """
    threading.Thread(target=_follow, args=(pipe, take), name="output of a program", daemon=True).start()


def _follow(pipe: int, take: Callable[[bytes], bool]) -> None:
    try:
        while (data := os.read(pipe, CHUNK_BYTES)) and take(data):
            pass
    finally:
        os.close(pipe)
        take(b"")


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
    import subprocess  # only here, and slow to import

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
    chunks: queue.SimpleQueue[tuple[bytearray, bytes]] = queue.SimpleQueue()
    out, err = bytearray(), bytearray()
    for stream, said in ((process.stdout, out), (process.stderr, err)):  # type: ignore[attr-defined]
        follow(os.dup(stream.fileno()), functools.partial(_put, chunks, said))
    deadline = time.monotonic() + seconds
    for _ in (out, err):
        while True:
            try:
                said, data = chunks.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Late from None
            if not data:
                break
            said += data
            if len(said) > MAX_OUTPUT_BYTES:
                raise TooMuch
    return bytes(out), bytes(err)


def _put(chunks: queue.SimpleQueue[tuple[bytearray, bytes]], said: bytearray, data: bytes) -> bool:
    chunks.put((said, data))
    return chunks.qsize() < _MAX_CHUNKS
