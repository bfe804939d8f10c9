"""The client for asyncio. ``aconnect`` takes the arguments of ``connect``; every method is a coroutine.

    client = await cservice.aconnect()
    for worker in await client.workers(): ...
    await client.command("restart", "all")
    async for event in client.events(): ...

Each request uses its own connection, so any number of tasks may share one client, and a cancelled task leaves nothing
open. Uses only the standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any, cast

from cluster_service.errors import CommandError

from . import transport as places
from .transport import (
    ENDING,
    PATIENCE,
    TIMEOUT,
    WAIT,
    Broken,
    Following,
    OperationFailed,
    Place,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

    from cluster_service.commands.registry import Command

    from .results import Event, Health, Info, Operation, Step, Worker

Json = dict[str, Any]

QUIET = 60.0
"""Seconds without data, heartbeats included, after which a stream is considered broken."""
PAUSE = 0.2
"""Seconds between two attempts to connect."""
LONGEST_LINE = 1 << 20


class AsyncClient:
    """A client of a running service."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._answered = False

    def __repr__(self) -> str:
        """Return ``<AsyncClient of service 'web'>``, without the key."""
        return f"<AsyncClient of {self.place.shown}>"

    # -- reading -----------------------------------------------------------------------------------------------------

    async def workers(self) -> list[Worker]:
        """Return one object per worker, and one for each slot without a worker."""
        return list((await self.read("/api/v1/workers"))["workers"])

    async def health(self) -> Health:
        """Return the health of the service."""
        return cast("Health", await self.read("/api/v1/health"))

    async def info(self) -> Info:
        """Return the general information about the service."""
        return cast("Info", await self.read("/api/v1/info"))

    async def operations(self) -> list[Operation]:
        """Return the operations that the service remembers, newest first."""
        return list((await self.read("/api/v1/operations"))["operations"])

    async def operation(self, operation: str, *, seen: int = 0, wait: float = 0.0) -> Operation:
        """Return one operation; wait at most *wait* seconds for more than *seen* steps or its end."""
        path = f"/api/v1/operations/{places.quoted(operation)}?seen={seen}&wait={wait}"
        return cast("Operation", await self.read(path, TIMEOUT + wait))

    async def commands(self) -> list[Json]:
        """Return the definitions of the commands."""
        return list((await self.read("/api/v1/commands"))["commands"])

    async def read(self, path: str, timeout: float = TIMEOUT) -> Json:  # same signature as Client.read
        """Send GET *path*, repeated when the connection breaks. Raises CommandError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while True:
            try:
                return await self._ask("GET", path, None, timeout)
            except Broken as error:
                late = loop.time() > deadline
                places.check_retry(self.place, error, answered=self._answered, late=late)
            await asyncio.sleep(PAUSE)

    async def events(self, after: int | None = None) -> AsyncIterator[Event]:
        """Yield the events after the one with id *after* (None: from now on), until the service has ended.

        Events missed during a disconnection follow after the reconnection. If the service no longer remembers them, it
        sends an event ``missed`` instead. Raises CommandError.
        """
        last = after
        while True:
            try:
                async for event in self._one_stream(last):
                    last = event.get("id", last)
                    yield cast("Event", event)
            except Broken:
                pass
            except CommandError as error:
                if error.code == "unavailable" and await asyncio.to_thread(self.place.gone, ENDING):
                    return
                raise
            if self.place.gone(0.0):
                return
            await asyncio.sleep(PAUSE)

    async def _one_stream(self, last: int | None) -> AsyncIterator[Json]:
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        reader, writer = await self._connect(TIMEOUT)
        try:
            async with _Breaks(self.place, TIMEOUT):
                status, _ = await _send(reader, writer, self.place, "GET", "/api/v1/events", None, headers)
                if status != 200:
                    places.judge(self.place, status, await reader.read())
            lines = places.Lines()
            while True:
                async with _Breaks(None, QUIET):
                    raw = await reader.readline()
                    if not raw:
                        raise Broken("the stream has ended")
                    event = lines.event(raw)
                if event is not None:
                    yield event
        finally:
            await _close(writer)

    # -- commanding --------------------------------------------------------------------------------------------------

    async def command(
        self,
        name: str,
        /,
        *args: object,
        wait: bool = True,
        on_step: Callable[[Step], object] | None = None,
        **options: Any,
    ) -> Json:
        """Run a command and return its result.

        *args*: the positional arguments, in order; *options*: arguments by name. Relative paths are resolved against
        the working directory of this process. *wait*: wait until an operation has ended; *on_step* is called with each
        of its ``{"at", "text"}`` steps. Raises CommandError, with code ``failed`` if an operation did not succeed.
        """
        command, arguments = await self._read(name, args, options)
        result = await self.give(name, arguments, command.timeout)
        if "steps" not in result or not wait:
            return result
        ended = await self.follow(cast("Operation", result), on_step)
        if ended["state"] != command.succeeds:
            raise OperationFailed(ended)
        return dict(ended)

    async def _read(self, name: str, args: tuple[object, ...], options: Mapping[str, Any]) -> tuple[Command, Json]:
        """Return the command, built-in or custom, and its arguments in the form in which they are sent."""
        from . import service_commands  # only needed to give commands; the command line parses them itself

        try:
            return service_commands.built_in(name, args, options)
        except CommandError:
            found = service_commands.own(await self.commands(), name, args, options)
            if found is None:
                raise
            return found

    async def give(self, name: str, arguments: Mapping[str, Any], takes: float = 0.0) -> Json:
        """Send POST for the command and return the first answer: a result, or an operation that may still be running.

        *takes*: seconds that the command itself may take. Raises CommandError.
        """
        path = f"/api/v1/commands/{places.quoted(name)}"
        try:
            result = await self._ask("POST", path, arguments, TIMEOUT + takes)
        except Broken as error:
            if name == "exit" and await self._gone():
                return {"exiting": True}
            self.place.check_runs()
            raise places.may_have_begun(self.place, name, error, answered=self._answered) from None
        if name == "exit":
            await self._gone()
        return result

    async def follow(self, operation: Operation | str, on_step: Callable[[Step], object] | None = None) -> Operation:
        """Wait until *operation* (an object or an id) has ended, and return it, whether it succeeded or not.

        *on_step* is called once for each step. Raises CommandError.
        """
        if isinstance(operation, str):
            operation = await self.operation(operation)
        following = Following(on_step)
        while following.goes_on(operation):
            try:
                operation = await self.operation(operation["id"], seen=following.seen, wait=WAIT)
            except CommandError as error:
                if error.code == "unavailable" and places.ends_service(operation) and await self._gone():
                    return places.ended_with_service(operation)
                raise
        if places.ends_service(operation) and operation["state"] == "done":
            await self._gone()  # the name and ports of the service are free for the caller's next step
        return operation

    async def _gone(self) -> bool:
        return await asyncio.to_thread(self.place.gone, TIMEOUT)

    # -- one exchange ------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> Json:
        reader, writer = await self._connect(seconds)
        try:
            async with _Breaks(self.place, seconds):
                data = None if body is None else json.dumps(body).encode()
                status, length = await _send(reader, writer, self.place, method, path, data, {})
                text = await (reader.read() if length is None else reader.readexactly(length))
        finally:
            await _close(writer)
        self._answered = True
        return places.judge(self.place, status, text)

    async def _connect(self, seconds: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = self.place
        try:
            async with asyncio.timeout(seconds):
                if place.path is not None:
                    return await asyncio.open_unix_connection(place.path, limit=LONGEST_LINE)
                return await asyncio.open_connection(place.host, place.port, ssl=place.tls, limit=LONGEST_LINE)
        except TimeoutError:
            raise places.late(place, seconds) from None
        except OSError as error:
            raise places.no_door(place, error) from None


class _Breaks:
    """Translate the errors of an ``async with`` block about a connection.

    A connection error becomes Broken. A timeout becomes CommandError timeout, or Broken if there is no *place*.
    """

    def __init__(self, place: Place | None, seconds: float) -> None:
        self._place = place
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        """Start the timeout."""
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Translate the exception, if any."""
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise (
                Broken("nothing was heard") if self._place is None else places.late(self._place, self._seconds)
            ) from None
        if isinstance(error, (OSError, EOFError, ValueError)):
            raise Broken(str(error) or type(error).__name__) from None


async def _send(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    place: Place,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str],
) -> tuple[int, int | None]:
    """Send a request; return the status and the length of the body (None: up to the end of the connection).

    Uses HTTP/1.0: a body of unknown length ends with the connection and is never chunked.
    """
    host = "localhost" if place.path is not None else f"[{place.host}]" if ":" in place.host else place.host
    sent = {"Host": host if place.path is not None else f"{host}:{place.port}", "Accept": "application/json"}
    sent |= {**place.headers(), **headers}
    if body is not None:
        sent |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    head = f"{method} {path} HTTP/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in sent.items()) + "\r\n"
    writer.write(head.encode("latin-1") + (body or b""))
    await writer.drain()
    version, _, rest = (await reader.readline()).partition(b" ")
    if not version:
        raise EOFError("it hung up")
    if not version.startswith(b"HTTP/1."):
        raise ValueError("that is no HTTP")
    length: int | None = None
    while line := (await reader.readuntil(b"\n")).strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return int(rest[:3]), length


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def aconnect(
    name: str = "default",
    *,
    url: str | None = None,
    access_key: str | None = None,
    run_dir: str | None = None,
    ca_file: str | None = None,
    client_cert: str | None = None,
) -> AsyncClient:
    """Return an asyncio client of the running service *name*, or of the one at *url*; see ``connect``."""
    find = functools.partial(
        places.find, url=url, access_key=access_key, run_dir=run_dir, ca_file=ca_file, client_cert=client_cert
    )
    return AsyncClient(await asyncio.to_thread(find, name))  # it waits for a service that has just been started


__all__ = ["AsyncClient", "OperationFailed", "aconnect"]
