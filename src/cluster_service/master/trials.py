"""Trying a release: a script of the user's that is run against it, and a health check.

A script runs under ``worker/job.py``, which lets nothing of it outlive it, however it ends: by itself, over time,
because it is not wanted any more, or because this master is killed. Each trial's answer is a sentence: why it failed,
or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

from cluster_service.config import asuser, outputs, running
from cluster_service.control.errors import CommandError
from cluster_service.core import masks
from cluster_service.wire import addresses
from cluster_service.wire.signals import signal_name

from .untrusted import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cluster_service.core.spec import Release
    from cluster_service.machine.identity import Identity

HTTP_TIMEOUT = 10.0
"""Seconds that a health check may take, where nothing else was said."""

LINE = 1000
"""Characters of a line that are told."""

MOST = 1 << 20
"""Bytes of output that are told."""

_MAX_CHUNKS = 16
"""Reads of a program's output that wait for the loop; beyond that nothing more is read."""

MAX_HEADS = 4
"""Heads of an answer that are read, 100 Continue and the like among them; each of 64 KiB at most."""

BODY = 500
"""Bytes of a bad answer that are looked at."""


async def run_script(
    script: str,
    *,
    release: Release,
    env: Mapping[str, str],
    within: float | None,
    on_line: Callable[[str], None],
    identity: Identity,
) -> str:
    """Run *script* in the directory of *release*; return why it failed, or nothing when it ended with exit code 0.

    A Python file is run by the release's interpreter (ours, where it has none) and can import the release's code; any
    other must be executable. A relative path starts from the release's directory. *env*: the whole environment.
    *within*: seconds, after which it is killed; None or 0: any. *on_line* is given each line of its output and errors
    as it comes. *identity*: as whom it is looked at and run. All its processes are gone when this returns or raises,
    also when it is cancelled.
    """
    script = os.path.join(release.cwd, script)
    python = release.python or sys.executable
    try:
        by_python = await asyncio.to_thread(asuser.call, identity, "script", script, release.cwd)
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
    """Run *argv*, which *what* calls by a name, in *cwd*; otherwise as ``run_script``."""
    output = _Output(on_line)
    late = False
    job = _Job()
    try:
        with running.job(identity, argv, cwd=cwd, env=env) as (command, descriptor):
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
    """For Python: lines come when they are written, and the release's code can be imported as its workers do."""
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
    if code == running.CANNOT_RUN and " cannot be run: " in output.last:
        return f"{what.rpartition(' ')[0]} {output.last}"
    how = f"failed with exit code {code}" if code > 0 else f"was killed by {signal_name(-code)}"
    return f"{what} {how}" + (f": {output.last}" if output.last else "")


class _Job:
    """``job.py`` with a program, from its start until nothing of it is left."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline = -1
        """A pipe of which we alone hold this end: when it closes, the program is killed."""
        self._reader: _Reader | None = None

    async def start(self, command: Sequence[str], descriptor: int, output: _Output) -> None:
        """Start *command*, which inherits *descriptor*; *output* is given what it writes. Raises OSError."""
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
        """Return when the program has ended by itself, and nothing of it is left."""
        if self._process is not None:
            await self._process.wait()

    async def close(self) -> int:
        """Kill what is left; return the exit code (a signal's number below 0), when the output has been read."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        code = 0
        try:
            if self._process is not None:
                code = await self._process.wait()
                with contextlib.suppress(TimeoutError):  # what could not be killed may hold it open
                    await asyncio.wait_for(self._reader.ended.wait() if self._reader else asyncio.sleep(0), 1.0)
        finally:
            if self._reader is not None:
                self._reader.close()
        return code


class _Reader:
    """Hands over what comes from *pipe*, which it closes. Raises RuntimeError if no thread can be started."""

    def __init__(self, pipe: int, output: _Output) -> None:
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._places = threading.Semaphore(_MAX_CHUNKS)
        """For what was read and not handed over yet."""
        self._closed = False
        self.ended = asyncio.Event()
        try:
            outputs.follow(pipe, self._take)
        except RuntimeError:
            os.close(pipe)
            raise

    def _take(self, data: bytes) -> bool:
        """In the thread: let the loop have *data*."""
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
        """Hand over nothing more."""
        self._closed = True


class _Output:
    """Cuts output into lines: long ones are cut short, and there is an end to their number."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._line = bytearray()
        self._told = 0
        self.last = ""
        """The last line that is not empty."""

    def feed(self, data: bytes) -> None:
        """Take what was written next."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            self._tell()
        self._add(rest)

    def end(self) -> None:
        """Tell the last line, where it had no end."""
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
    """Ask for *path* at *address*; return what is wrong with the answer, or nothing when its status is one of these.

    *address*: as ``wire.addresses`` has it. *within*: seconds; None or 0: any. *statuses*: the first and the last.
    """
    if not address:
        return f"the health check {masks.text(path)} has nothing to ask: the worker listens nowhere"
    what = f"the health check GET {masks.text(path)} at {address}"
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
    """Return the status and, where it is a bad one, the first line of the answer. Raises OSError, ValueError."""
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
        if not rest.startswith(b"1"):  # 100 Continue and the like come before the answer
            return int(rest[:3])
    raise ValueError("the answer does not begin")


async def _first_line(reader: asyncio.StreamReader) -> str:
    """What a bad answer says, if it is text and comes at once."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            body = await reader.read(BODY)
            line = (body.decode("utf-8", "replace").strip().splitlines() or [""])[0]
            return line[:200] if line.isprintable() else ""
    return ""
