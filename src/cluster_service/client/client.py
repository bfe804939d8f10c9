"""The client of a running service, for programs and for the command line, and its feed of events."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import TYPE_CHECKING, Any, cast

from cluster_service.errors import CommandError

from . import transport as places
from .transport import ENDING, PATIENCE, TIMEOUT, WAIT, Broken, Following, Lines, OperationFailed, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cluster_service.commands.registry import Command

    from .results import Event, Health, Info, Operation, Step, Worker

Json = dict[str, Any]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the path of the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


class Client:
    """A client of a running service. Not thread-safe."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._answered = False

    def __repr__(self) -> str:
        """Return ``<Client of service 'web'>``, without the key."""
        return f"<Client of {self.place.shown}>"

    # -- reading -----------------------------------------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        """Return one object per worker, and one for each slot without a worker."""
        return list(self.read("/api/v1/workers")["workers"])

    def health(self) -> Health:
        """Return the health of the service."""
        return cast("Health", self.read("/api/v1/health"))

    def info(self) -> Info:
        """Return the general information about the service."""
        return cast("Info", self.read("/api/v1/info"))

    def operations(self) -> list[Operation]:
        """Return the operations that the service remembers, newest first."""
        return list(self.read("/api/v1/operations")["operations"])

    def operation(self, operation: str, *, seen: int = 0, wait: float = 0.0) -> Operation:
        """Return one operation; wait at most *wait* seconds for more than *seen* steps or its end."""
        path = f"/api/v1/operations/{places.quoted(operation)}?seen={seen}&wait={wait}"
        return cast("Operation", self.read(path, TIMEOUT + wait))

    def commands(self) -> list[Json]:
        """Return the definitions of the commands."""
        return list(self.read("/api/v1/commands")["commands"])

    def read(self, path: str, timeout: float = TIMEOUT) -> Json:
        """Send GET *path*, repeated when the connection breaks. Raises CommandError."""
        deadline = time.monotonic() + PATIENCE
        while True:
            began = time.monotonic()
            try:
                return self._ask("GET", path, None, timeout)
            except Broken as error:
                late = time.monotonic() > deadline
                places.check_retry(self.place, error, answered=self._answered, late=late)
                time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))

    def glance(self, path: str, seconds: float) -> Json:
        """Send GET *path* once, with a timeout of *seconds*, for optional data. Raises CommandError."""
        try:
            return self._ask("GET", path, None, seconds)
        except Broken as error:
            raise CommandError("unavailable", f"{self.place.shown} does not answer: {error}") from None

    def events(self, after: int | None = None) -> Iterator[Event]:
        """Yield the events after the one with id *after* (None: from now on), until the service has ended.

        Events missed during a disconnection follow after the reconnection. If the service no longer remembers them, it
        sends an event ``missed`` instead. Raises CommandError.
        """
        try:
            yield from cast("Iterator[Event]", feed(self, after))
        except CommandError as error:
            if error.code != "unavailable" or not self.place.gone(0.0):
                raise

    # -- commanding --------------------------------------------------------------------------------------------------

    def command(
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
        command, arguments = self._read(name, args, options)
        result = self.give(name, arguments, command.timeout)
        if "steps" not in result or not wait:
            return result
        ended = self.follow(cast("Operation", result), on_step)
        if ended["state"] != command.succeeds:
            raise OperationFailed(ended)
        return dict(ended)

    def _read(self, name: str, args: tuple[object, ...], options: Mapping[str, Any]) -> tuple[Command, Json]:
        """Return the command, built-in or custom, and its arguments in the form in which they are sent."""
        from . import service_commands  # only needed to give commands; the command line parses them itself

        try:
            return service_commands.built_in(name, args, options)
        except CommandError:
            found = service_commands.own(self.commands(), name, args, options)
            if found is None:
                raise
            return found

    def give(self, name: str, arguments: Mapping[str, Any], takes: float = 0.0) -> Json:
        """Send POST for the command and return the first answer: a result, or an operation that may still be running.

        *takes*: seconds that the command itself may take. Raises CommandError.
        """
        try:
            result = self._ask("POST", f"/api/v1/commands/{places.quoted(name)}", arguments, TIMEOUT + takes)
            if name == "exit":
                self.place.gone(TIMEOUT)
            return result
        except Broken as error:
            if name == "exit" and self.place.gone(TIMEOUT):
                return {"exiting": True}
            self.place.check_runs()
            raise places.may_have_begun(self.place, name, error, answered=self._answered) from None

    def follow(
        self,
        operation: Operation | str,
        on_step: Callable[[Step], object] | None = None,
        *,
        on_news: Callable[[Operation], object] | None = None,
        wait: float = WAIT,
    ) -> Operation:
        """Wait until *operation* (an object or an id) has ended, and return it, whether it succeeded or not.

        *on_step* is called once for each step; for steps that the service has dropped, once with their number.
        *on_news* is called with the operation while it runs, at least every *wait* seconds. Raises CommandError.
        """
        if isinstance(operation, str):
            operation = self.operation(operation)
        following = Following(on_step)
        while following.goes_on(operation):
            if on_news is not None:
                on_news(operation)
            try:
                operation = self.operation(operation["id"], seen=following.seen, wait=wait)
            except CommandError as error:
                if error.code == "unavailable" and places.ends_service(operation) and self.place.gone(TIMEOUT):
                    return places.ended_with_service(operation)
                raise
        if places.ends_service(operation) and operation["state"] == "done":
            self.place.gone(TIMEOUT)  # the name and ports of the service are free for the caller's next step
        return operation

    def open(self, path: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
        """Send GET *path* and return the response; the caller must close it. Raises CommandError and Broken."""
        connection = self._connection(timeout)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise places.no_door(self.place, error) from None
        try:
            connection.request("GET", path, headers={**self.place.headers(), **headers, "Connection": "close"})
            answer = connection.getresponse()
            if answer.status != 200:
                places.judge(self.place, answer.status, answer.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Broken(str(error) or type(error).__name__) from None
        except CommandError:
            connection.close()
            raise
        return answer

    # -- one exchange ------------------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> Json:
        headers = {"Accept": "application/json", **self.place.headers()}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection = self._connection(timeout)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise places.no_door(self.place, error) from None
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                text = answer.read()
            except TimeoutError:
                raise places.late(self.place, timeout) from None
            except (OSError, http.client.HTTPException) as error:
                raise Broken(str(error) or type(error).__name__) from None
        finally:
            connection.close()
        self._answered = True
        return places.judge(self.place, answer.status, text)

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        place = self.place
        if place.path is not None:
            return _UnixConnection(place.path, seconds)
        if place.tls is not None:
            return http.client.HTTPSConnection(place.host, place.port, timeout=seconds, context=place.tls)
        return http.client.HTTPConnection(place.host, place.port, timeout=seconds)


def connect(
    name: str = "default",
    *,
    url: str | None = None,
    access_key: str | None = None,
    run_dir: str | None = None,
    ca_file: str | None = None,
    client_cert: str | None = None,
) -> Client:
    """Return a client of the running service *name*, or of the one at *url*.

    *url*: ``https://host:port``, ``http://…`` or ``unix:/path``. The certificate of an ``https`` service is verified
    against the authorities in *ca_file*, else against those of the system. *client_cert*: a PEM file with the client
    certificate and its key.

    Raises CommandError unavailable if no such service runs on this machine. A connection to *url* is first made by the
    first request.
    """
    return Client(
        places.find(name, url=url, access_key=access_key, run_dir=run_dir, ca_file=ca_file, client_cert=client_cert)
    )


__all__ = ["Broken", "Client", "OperationFailed", "connect"]


QUIET = 60.0
"""Seconds without data, heartbeats included, after which a connection is considered broken."""
PAUSE = 0.2
"""Seconds between two attempts to connect."""


def feed(client: Client, after: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events after the one with id *after*; None: those from now on. Raises CommandError."""
    last = after
    while True:
        try:
            for event in _one_connection(client, last):
                last = event.get("id", last)
                yield event
        except Broken:
            client.place.check_runs()
        except CommandError as error:
            if error.code == "unavailable" and client.place.gone(ENDING):
                client.place.check_runs()
            raise
        time.sleep(PAUSE)


def _one_connection(client: Client, last: int | None) -> Iterator[dict[str, Any]]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with client.open("/api/v1/events", headers, QUIET) as answer:
        lines = Lines()
        try:
            for raw in answer:
                event = lines.event(raw)
                if event is not None:
                    yield event
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Broken(str(error) or type(error).__name__) from None
