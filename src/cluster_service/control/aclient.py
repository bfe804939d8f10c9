"""The client for asyncio: ``aconnect`` takes what ``connect`` takes, and every method is awaited.

    client = await cservice.aconnect()
    for worker in await client.workers(): ...
    await client.command("restart", "all")
    async for event in client.events(): ...

Each question has a connection of its own: one client may be used by any number of tasks, and a task that is cancelled
leaves nothing open. The standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any, cast

from . import place as places
from .errors import CommandError
from .place import ENDING, PATIENCE, TIMEOUT, WAIT, Broken, Following, OperationFailed, Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

    from .registry import Command
    from .results import Event, Health, Info, Operation, Step, Worker

Json = dict[str, Any]

QUIET = 60.0
"""Seconds without a word, even a heartbeat, after which a stream is taken for broken."""
PAUSE = 0.2
"""Seconds between two tries to connect."""
LONGEST_LINE = 1 << 20


class AsyncClient:
    """A running service, from outside."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._answered = False

    def __repr__(self) -> str:
        """``<AsyncClient of service 'web'>``: no key."""
        return f"<AsyncClient of {self.place.shown}>"

    # -- reading -----------------------------------------------------------------------------------------------------

    async def workers(self) -> list[Worker]:
        """Return one object a worker, and one for each slot that has none."""
        return list((await self.read("/api/v1/workers"))["workers"])

    async def health(self) -> Health:
        """Return whether as many workers serve as should."""
        return cast("Health", await self.read("/api/v1/health"))

    async def info(self) -> Info:
        """Return the service as a whole."""
        return cast("Info", await self.read("/api/v1/info"))

    async def operations(self) -> list[Operation]:
        """Return the operations that are remembered, newest first."""
        return list((await self.read("/api/v1/operations"))["operations"])

    async def operation(self, operation: str, *, seen: int = 0, wait: float = 0.0) -> Operation:
        """Return one operation: at once, or within *wait* seconds when it has more than *seen* steps or has ended."""
        path = f"/api/v1/operations/{places.quoted(operation)}?seen={seen}&wait={wait}"
        return cast("Operation", await self.read(path, TIMEOUT + wait))

    async def commands(self) -> list[Json]:
        """Return the definitions of the commands."""
        return list((await self.read("/api/v1/commands"))["commands"])

    async def read(self, path: str, timeout: float = TIMEOUT) -> Json:  # noqa: ASYNC109 - as the other client's
        """GET *path*, again when the connection breaks. Raises CommandError."""
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
        """Yield the events after the one with the id *after* (None: from now on), until the service has ended.

        What was missed while the connection was away follows when it is back; what the service does not remember any
        more is told by an event ``missed``. Raises CommandError.
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
        """Give a command and return its result. Raises CommandError; ``failed`` when an operation did not end well.

        *args*: its positional arguments in their order; *options*: by name; relative paths start from the directory of
        this process. *wait*: until an operation has ended, telling *on_step* of each of its ``{"at", "text"}`` steps.
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
        """Return the command, one of ours or of the service's own, and its arguments as they are sent."""
        from . import calls  # noqa: PLC0415 - only who commands needs it; the command line has read them itself

        try:
            return calls.built_in(name, args, options)
        except CommandError:
            found = calls.own(await self.commands(), name, args, options)
            if found is None:
                raise
            return found

    async def give(self, name: str, arguments: Mapping[str, Any], takes: float = 0.0) -> Json:
        """POST the command and return the first answer: a result, or an operation that may still run.

        *takes*: seconds that the command itself may take.
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
        """Return *operation* (or the one with that id) when it has ended, well or not; *on_step* is told of each
        step, once.
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
            await self._gone()  # so that its name and ports are free for the caller's next step
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
    """For an ``async with`` block: what ends a connection within it is Broken; and what takes too long, CommandError
    timeout, or Broken as well where there is no *place* to tell of.
    """

    def __init__(self, place: Place | None, seconds: float) -> None:
        self._place = place
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        """Begin."""
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Translate."""
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
    """Send a request; return the status of the answer and the length of its body, None: to the end of the connection.

    HTTP/1.0 is spoken, in which a body of unknown length ends with the connection and has no form of its own.
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
    """Return a client for asyncio of the running service *name*, or of the one at *url*; see ``connect``."""
    find = functools.partial(
        places.find, url=url, access_key=access_key, run_dir=run_dir, ca_file=ca_file, client_cert=client_cert
    )
    return AsyncClient(await asyncio.to_thread(find, name))  # one that has just been started is waited for


__all__ = ["AsyncClient", "OperationFailed", "aconnect"]
