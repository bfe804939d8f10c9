"""Tests of a release: a user's script run against it, and an HTTP health check.

A script runs under ``worker/job.py``, which ensures that none of its processes outlives it, whether it exits, times
out, is cancelled, or this master is killed. Each function returns why the test failed, or an empty string.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

from cluster_service.config import as_user, user_programs
from cluster_service.core.rules import redaction
from cluster_service.errors import CommandError
from cluster_service.wire import addresses
from cluster_service.wire.signals import signal_name

from .event_log import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cluster_service.core.model.spec import Release
    from cluster_service.machine.identity import Identity

HTTP_TIMEOUT = 10.0
"""Default timeout of a health check, in seconds."""

LINE = 1000
"""Maximum characters of a line that are passed on."""

MOST = 1 << 20
"""Maximum bytes of output that are passed on."""

_MAX_CHUNKS = 16
"""Chunks of a program's output that may be queued for the loop; at this limit the reader blocks."""

MAX_HEADS = 4
"""Maximum response heads that are read, including interim ones such as 100 Continue; each at most 64 KiB."""

BODY = 500
"""Bytes that are read of the body of an error response."""


async def run_script(
    script: str,
    *,
    release: Release,
    env: Mapping[str, str],
    within: float | None,
    on_line: Callable[[str], None],
    identity: Identity,
) -> str:
    """Run *script* in the directory of *release*; return why it failed, or an empty string if it exited with code 0.

    A Python file is run by the interpreter of the release (by ours if it has none) and can import the code of the
    release; any other file must be executable. A relative path is relative to the directory of the release. *env* is
    the whole environment. After *within* seconds the script is killed; None or 0: no limit. *on_line* is called with
    each line of its stdout and stderr as it arrives. *identity* is the user that reads and runs the file. All processes
    of the script are gone when this returns or raises, also when it is cancelled.
    """
    script = os.path.join(release.cwd, script)
    python = release.python or sys.executable
    try:
        by_python = await asyncio.to_thread(as_user.call, identity, "script", script, release.cwd)
    except CommandError as error:
        return error.message
    return await run_command(
        [python, script] if by_python else [script],
        what=f"the test {script}",
        cwd=release.cwd,
        env=_environment(env, release, by_python=by_python),
        within=within,
        on_line=on_line,
        identity=identity,
    )


async def run_command(
    argv: Sequence[str],
    *,
    what: str,
    cwd: str,
    env: Mapping[str, str],
    within: float | None,
    on_line: Callable[[str], None],
    identity: Identity,
) -> str:
    """Run *argv* in *cwd*, as ``run_script`` does. *what* names the command in messages."""
    output = _Output(on_line)
    late = False
    job = _Job()
    try:
        with user_programs.job(identity, argv, cwd=cwd, env=env) as (command, descriptor):
            await job.start(command, descriptor, output)
        try:
            async with asyncio.timeout(within or None):
                await job.ended()
        except TimeoutError:
            late = True
    finally:
        code = await job.close()
    output.end()
    return f"{what} took longer than {within:g} s and was killed" if late else _why(what, code, output)


def _environment(env: Mapping[str, str], release: Release, *, by_python: bool) -> dict[str, str]:
    """Return *env* with unbuffered output for Python and, for a Python file, the import path of the workers."""
    if not by_python or release.kind == "command":
        return {"PYTHONUNBUFFERED": "1", **env}
    home = release.cwd
    if release.kind == "script":
        home = release.target if os.path.isdir(release.target) else os.path.dirname(release.target)
    path = os.pathsep.join(part for part in (home, env.get("PYTHONPATH", "")) if part)
    return {"PYTHONUNBUFFERED": "1", **env, "PYTHONPATH": path}


def _why(what: str, code: int, output: _Output) -> str:
    if code == 0:
        return ""
    if code == user_programs.CANNOT_RUN and " cannot be run: " in output.last:
        return f"{what.rpartition(' ')[0]} {output.last}"
    how = f"failed with exit code {code}" if code > 0 else f"was killed by {signal_name(-code)}"
    return f"{what} {how}" + (f": {output.last}" if output.last else "")


class _Job:
    """A program run under ``job.py``, from its start until all its processes are gone."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline = -1
        """Write end of a pipe that only this process holds: closing it kills the program."""
        self._reader: _Reader | None = None

    async def start(self, command: Sequence[str], descriptor: int, output: _Output) -> None:
        """Start *command*, which inherits *descriptor*; pass what it writes to *output*. Raises OSError."""
        held, self._lifeline = os.pipe()
        read, written = os.pipe()
        try:
            self._reader = _Reader(read, output)
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd="/",
                pass_fds=(descriptor,),
                stdin=held,
                stdout=written,
                stderr=written,
                start_new_session=True,
            )
        finally:
            os.close(held)
            os.close(written)

    async def ended(self) -> None:
        """Return when the program has exited and all its processes are gone."""
        if self._process is not None:
            await self._process.wait()

    async def close(self) -> int:
        """Kill the rest, read the remaining output, and return the exit code, or a negative signal number."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        code = 0
        try:
            if self._process is not None:
                code = await self._process.wait()
                with contextlib.suppress(TimeoutError):  # a process that could not be killed may hold the pipe open
                    await asyncio.wait_for(self._reader.ended.wait() if self._reader else asyncio.sleep(0), 1.0)
        finally:
            if self._reader is not None:
                self._reader.close()
        return code


class _Reader:
    """Passes the data of *pipe* to the loop and closes the pipe. Raises RuntimeError if no thread can be started."""

    def __init__(self, pipe: int, output: _Output) -> None:
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._places = threading.Semaphore(_MAX_CHUNKS)
        """Limits the chunks that were read but not processed yet."""
        self._closed = False
        self.ended = asyncio.Event()
        try:
            user_programs.follow(pipe, self._take)
        except RuntimeError:
            os.close(pipe)
            raise

    def _take(self, data: bytes) -> bool:
        """Pass *data* to the loop. Runs in the reader thread."""
        self._places.acquire()
        try:
            self._loop.call_soon_threadsafe(self._hand_over, data)
        except RuntimeError:  # the loop is closed
            return False
        return not self._closed

    def _hand_over(self, data: bytes) -> None:
        self._places.release()
        if not data:
            self.ended.set()
        elif not self._closed:
            self._output.feed(data)

    def close(self) -> None:
        """Pass on nothing more."""
        self._closed = True


class _Output:
    """Splits output into lines, truncates long lines and limits the total size."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._line = bytearray()
        self._told = 0
        self.last = ""
        """The last line that is not empty."""

    def feed(self, data: bytes) -> None:
        """Process the next chunk of output."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            self._tell()
        self._add(rest)

    def end(self) -> None:
        """Pass on a last line that has no newline."""
        if self._line:
            self._tell()

    def _add(self, data: bytes) -> None:
        self._line += data[: max(0, 4 * LINE + 1 - len(self._line))]  # a character has at most 4 bytes

    def _tell(self) -> None:
        line = printable(self._line.decode("utf-8", "replace").rstrip("\r"), LINE)
        size = len(self._line) + 1
        self._line.clear()
        self.last = line.strip() or self.last
        if self._told <= MOST:
            self._told += size
            self._on_line(line if self._told <= MOST else f"(more than {MOST >> 20} MiB of output: no more is shown)")


async def http_check(
    address: str, path: str, within: float | None = HTTP_TIMEOUT, *, statuses: tuple[int, int] = (200, 399)
) -> str:
    """Send GET *path* to *address*; return what is wrong with the response, or "" if its status is accepted.

    *address*: a URL as parsed by ``wire.addresses``. *within*: seconds; None or 0: no limit. *statuses*: the first and
    the last accepted status.
    """
    if not address:
        return f"the health check {redaction.redact_text(path)} has nothing to ask: the worker listens nowhere"
    what = f"the health check GET {redaction.redact_text(path)} at {address}"
    try:
        async with asyncio.timeout(within or None):
            status, text = await _get(addresses.parse(address), path)  # redirects are not followed
    except TimeoutError:
        return f"{what} was not answered in {within:g} s"
    except (OSError, EOFError, ValueError) as error:
        return f"{what} failed: {getattr(error, 'strerror', None) or error}"
    if statuses[0] <= status <= statuses[1]:
        return ""
    with contextlib.suppress(ValueError):
        return f"{what} was answered {status} {HTTPStatus(status).phrase}" + (f": {text}" if text else "")
    return f"{what} was answered {status}" + (f": {text}" if text else "")


async def _get(address: addresses.Address, path: str) -> tuple[int, str]:
    """Return the status and, for an error status, the first line of the body. Raises OSError, ValueError."""
    host = address.host
    if address.kind == "unix":
        where = address.path or "\0" + host[1:]
        reader, writer = await asyncio.open_unix_connection(where)
        host = "localhost"
    elif address.kind == "tcp":
        if address.wildcard:
            host = "127.0.0.1" if address.dual or host == "0.0.0.0" else "::1"
        reader, writer = await asyncio.open_connection(host, address.port)
        host = f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    else:
        raise ValueError("HTTP is not spoken over UDP")
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: cservice\r\nAccept: */*\r\n"
            "Connection: close\r\n\r\n".encode("ascii")
        )
        status = await _status(reader)
        text = await _first_line(reader) if status >= 400 else ""
        return status, text
    finally:
        writer.transport.abort()


async def _status(reader: asyncio.StreamReader) -> int:
    for _ in range(MAX_HEADS):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            said = "the connection was closed without an answer"
            raise ValueError(said if not error.partial else "the answer is not HTTP") from None
        except asyncio.LimitOverrunError:
            raise ValueError("the answer is not HTTP") from None
        version, _, rest = head.partition(b" ")
        if not version.startswith(b"HTTP/") or not rest[:3].isdigit():
            raise ValueError("the answer is not HTTP")
        if not rest.startswith(b"1"):  # skip interim responses such as 100 Continue
            return int(rest[:3])
    raise ValueError("the answer does not begin")


async def _first_line(reader: asyncio.StreamReader) -> str:
    """Return the first line of an error response if it is printable text and arrives within half a second."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            body = await reader.read(BODY)
            line = (body.decode("utf-8", "replace").strip().splitlines() or [""])[0]
            return line[:200] if line.isprintable() else ""
    return ""
