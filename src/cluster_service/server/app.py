"""The HTTP routes. Each parses the request, checks access, runs a command of the registry, and answers JSON.

    make_app(service, access, closing) -> an ASGI application

The answer is always JSON: the result, or the error object. It never contains a traceback: that goes to the log, under
an id that the answer states. Query strings are not logged. ``Access.redaction`` removes keys from everything that is
audited, logged or answered, and an argument that contains a key is refused.

The checks run in this order: limits, Host, Origin, method, key, right, arguments. A key in the headers or the query is
checked before the body is read, so that the body of an unauthenticated request is read only if it may contain the key.
Every command is recorded in the audit file, and so is a request that ``Access.admit`` refuses, except with 429. It is
also logged, unless it was a successful read by GET: monitoring systems poll every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import secrets
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from cluster_service.commands import arguments
from cluster_service.commands.registry import COMMANDS, Command
from cluster_service.commands.service_interface import CALLER, Caller
from cluster_service.config import setting_values
from cluster_service.config.settings_table import canonical
from cluster_service.errors import CommandError

from . import allowed_paths, audit, dashboard, monitoring, openapi
from .access import FAILURE_DELAY, Access, Admission, Knock, has_key_in_head
from .event_stream import EventStream, Streams
from .http_messages import (
    BODY_LIMIT,
    COMMAND_NAMES,
    STRANGER_LIMIT,
    Sent,
    check_length,
    deprecation,
    error_reply,
    is_key,
    is_operation,
    last_of_connection,
    nothing_here,
    operation_reply,
    probe_reply,
    reply,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from cluster_service.commands.service_interface import Json, Service

LONGEST_WAIT = 60.0
"""Maximum time in seconds for which one request may wait for progress of an operation."""

log = logging.getLogger("cluster_service.server")


def make_app(service: Service, access: Access, closing: asyncio.Event) -> ASGIApp:
    """Return the application. Waiting requests are answered as soon as *closing* is set."""
    routes = _Routes(service, access, closing)
    reads = [
        Route(f"/api/v1/{name}", routes.reading(name), methods=["GET"])
        for name in ("workers", "health", "info", "operations")
    ]
    app = Starlette(
        routes=[
            Route("/cli", routes.cli, methods=["GET", "POST"] if access.allow_http_get else ["POST"]),
            Route("/api/v1/commands/{name}", routes.command, methods=["POST"]),
            Route("/api/v1/commands", routes.commands, methods=["GET"]),
            *reads,
            Route("/api/v1/operations/{id}", routes.operation, methods=["GET"]),
            Route("/api/v1/events", routes.events, methods=["GET"]),
            Route("/metrics", routes.metrics, methods=["GET"]),
            Route("/openapi.json", routes.document, methods=["GET"]),
            Route("/live", routes.live, methods=["GET"]),
            Route("/ready", routes.ready, methods=["GET"]),
            Route("/", routes.dashboard, methods=["GET"]),
            Route("/dashboard/{name}", routes.dashboard, methods=["GET"]),
        ],
        exception_handlers={HTTPException: routes.no_route},
    )
    app.router.redirect_slashes = False  # an unknown path is answered by no_route, after the checks of Host and Origin
    return app


Handler = Callable[[Sent, Admission], Awaitable[Response]]


@dataclass
class _Given:
    """A command in progress, for its entry in the audit file."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = "internal"
    aloud: bool = False
    """Write the entry to the log as well."""


class _Routes:
    """The routes of one service."""

    def __init__(self, service: Service, access: Access, closing: asyncio.Event) -> None:
        self._service = service
        self._access = access
        self._closing = closing
        self._streams = Streams()

    # -- endpoints ---------------------------------------------------------------------------------------------------

    async def live(self, request: Request) -> Response:
        """Answer ``GET /live``. Requires no key and gives no detail."""
        return self._probe(request, self._service.alive)

    async def ready(self, request: Request) -> Response:
        """Answer ``GET /ready``. Requires no key and gives no detail."""
        return self._probe(request, self._service.ready)

    async def dashboard(self, request: Request) -> Response:
        """Answer ``GET /`` and the files of the dashboard. Requires no key; the files contain no data."""
        sent = Sent(request)
        name = request.path_params.get("name", "index.html")
        try:
            sent.check_limits()
            self._access.check_origin(sent.knock())
            if name not in dashboard.FILES:
                raise nothing_here()
        except CommandError as error:
            return last_of_connection(sent, self._refusal(error))
        return last_of_connection(sent, Response(dashboard.read(name), 200, dashboard.HEADERS, dashboard.FILES[name]))

    async def cli(self, request: Request) -> Response:
        """Answer ``POST /cli``: run one command line, and wait for the end of an operation."""

        async def answer(sent: Sent, admission: Admission) -> Response:
            if request.method == "HEAD":
                raise CommandError("method_not_allowed", "HEAD gives no command", "Use POST.")
            self._parse(sent, admission)
            line = sent.line()

            def given(command: Command) -> dict[str, Any]:
                check_length(command, sent.body)
                check_length(command, line)
                options = {
                    canonical(name): value
                    for name, value in (sent.data or {}).items()
                    if not is_key(name) and name not in COMMAND_NAMES
                }
                return arguments.from_words(command, arguments.split(line)[1:], options)

            try:
                return await self._run(sent, admission, arguments.name_of(line), given, wait=True)
            except CommandError as error:
                if error.code in ("not_found", "busy", "stopping"):
                    return self._refusal(error, status=400)  # compatible with the original server: the command failed
                raise

        return await self._guarded(request, answer)

    async def command(self, request: Request) -> Response:
        """Answer ``POST /api/v1/commands/{name}`` with JSON arguments; 202 while an operation runs."""

        async def answer(sent: Sent, admission: Admission) -> Response:
            def given(command: Command) -> dict[str, Any]:
                check_length(command, sent.body)
                self._parse(sent, admission)
                if sent.body and sent.data is None and not sent.form:
                    raise CommandError(
                        "bad_request", "the body is not a JSON object of arguments", f"Usage: {command.usage}"
                    )
                data = {name: value for name, value in (sent.data or {}).items() if not is_key(name)}
                return arguments.from_json(command, data)

            return await self._run(sent, admission, request.path_params["name"], given, wait=False)

        return await self._guarded(request, answer)

    async def commands(self, request: Request) -> Response:
        """Answer ``GET /api/v1/commands``; ``allowed``: whether this client may give the command."""

        async def answer(_sent: Sent, admission: Admission) -> Response:
            described = [{**one.describe(), "allowed": self._may(one, admission)} for one in COMMANDS.all()]
            return reply({"commands": described})

        return await self._guarded(request, answer)

    def reading(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """Return the route of ``GET /api/v1/workers`` and the like, which runs command *name* without arguments."""

        async def endpoint(request: Request) -> Response:
            async def answer(sent: Sent, admission: Admission) -> Response:
                return await self._run(sent, admission, name, lambda _command: {}, wait=False)

            return await self._guarded(request, answer)

        return endpoint

    async def operation(self, request: Request) -> Response:
        """Answer ``GET /api/v1/operations/{id}?seen=N&wait=S``.

        Waits at most *wait* seconds for more than *seen* steps or for the end; without *seen*, for the end only.
        """

        async def answer(sent: Sent, admission: Admission) -> Response:
            with self._audited(sent, admission, "operations") as entry:
                entry.arguments = {"operation": request.path_params["id"]}
                if not any(admission.allows(command.name) for command in COMMANDS.all() if command.operation):
                    self._access.check_right("operations", COMMANDS.get("operations").access, admission)
                query = dict(sent.query)
                seen = setting_values.integer(query["seen"], 0) if "seen" in query else sys.maxsize
                wait = min(LONGEST_WAIT, setting_values.duration(query.get("wait", 0)))
                return reply(await self._news(request.path_params["id"], seen, wait))

        return await self._guarded(request, answer)

    async def events(self, request: Request) -> Response:
        """Answer ``GET /api/v1/events``: stream (SSE) from now on, or from after ``Last-Event-ID``."""

        async def answer(sent: Sent, admission: Admission) -> Response:
            with self._audited(sent, admission, "events"):
                self._access.check_right("events", "remote", admission)
                self._streams.check(admission.key)
                last = sent.request.headers.get("last-event-id")
                after = None if last is None else setting_values.integer(last, 0)

            def goes_on() -> bool:
                return self._access.still_opens(admission, "events")

            counted = self._streams.count(admission.key)
            return EventStream(self._service.events(after), after, self._closing, counted, goes_on)

        return await self._guarded(request, answer)

    async def metrics(self, request: Request) -> Response:
        """Answer ``GET /metrics`` in the Prometheus format."""

        async def answer(_sent: Sent, admission: Admission) -> Response:
            self._access.check_right("workers", "remote", admission)
            service = self._service
            page = monitoring.exposition(service.workers(), service.health(), service.info())
            return Response(page, 200, {"Cache-Control": "no-store"}, monitoring.CONTENT_TYPE)

        return await self._guarded(request, answer)

    async def document(self, request: Request) -> Response:
        """Answer ``GET /openapi.json``."""

        async def answer(_sent: Sent, _admission: Admission) -> Response:
            return reply(openapi.document(COMMANDS.all(), allow_http_get=self._access.allow_http_get))

        return await self._guarded(request, answer)

    async def no_route(self, request: Request, error: Exception) -> Response:
        """Answer requests for an unknown path or with a method that is not allowed."""
        sent = Sent(request)
        response = self._nothing(sent, error)
        response.headers.update(deprecation(sent))
        return last_of_connection(sent, response)

    def _nothing(self, sent: Sent, error: Exception) -> Response:
        request = sent.request
        try:
            sent.check_limits()
            self._access.check_origin(sent.knock())
        except CommandError as refusal:
            return self._refusal(refusal)
        if isinstance(error, HTTPException) and error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "POST")
            message = f"{request.method} will not do here"
            return self._refusal(CommandError("method_not_allowed", message, f"Use {allowed}."), {"Allow": allowed})
        return self._refusal(nothing_here())

    # -- shared by the routes ----------------------------------------------------------------------------------------

    def _probe(self, request: Request, question: Callable[[], bool]) -> Response:
        sent = Sent(request)
        try:
            sent.check_limits()
            self._access.check_origin(sent.knock())
            fine = question()
        except CommandError as error:
            return last_of_connection(sent, self._refusal(error))
        return last_of_connection(sent, probe_reply(fine=fine))

    async def _guarded(self, request: Request, answer: Handler) -> Response:
        """Authenticate the request, run *answer*, and turn every exception into a response."""
        sent = Sent(request)
        admission = None
        try:
            sent.check_limits()
            self._access.check_origin(sent.knock())
            if request.method != "POST" or _shows_key(sent.knock()):
                admission = await self._admit(sent)
            await sent.read(STRANGER_LIMIT if admission is None else BODY_LIMIT)
            if admission is None:
                sent.parse()
                admission = await self._admit(sent)
            response = await answer(sent, admission)
        except CommandError as error:
            response = self._refusal(error)
        except RecursionError:
            response = self._refusal(CommandError("bad_request", "the request is nested too deeply"))
        except MemoryError:
            response = self._refusal(CommandError("too_large", "there is not enough memory for this request"))
        except Exception:  # noqa: BLE001 - it is logged
            response = self._refusal(self._internal(request))
        response.headers.update(deprecation(sent))
        return response if admission is not None else last_of_connection(sent, response)

    def _refusal(
        self, error: CommandError, headers: Mapping[str, str] | None = None, status: int | None = None
    ) -> Response:
        """Return a response with the error object, with access keys removed."""
        hide = self._access.redaction.text
        return error_reply(CommandError(error.code, hide(error.message), hide(error.hint)), headers, status)

    def _internal(self, request: Request) -> CommandError:
        """Log the exception being handled; return the error that states its id."""
        identity = secrets.token_hex(4)
        hide = self._access.redaction.text
        path = request.url.path.encode("unicode_escape").decode()
        log.error("error %s at %s %s\n%s", identity, hide(request.method), hide(path), hide(traceback.format_exc()))
        return CommandError("internal", f"an error in the service itself; its log tells more under {identity}")

    def _parse(self, sent: Sent, admission: Admission) -> None:
        """Parse the body. Raises CommandError bad_request, also if it contains a different key."""
        sent.parse()
        self._access.check_same(admission, sent.body_keys())

    async def _admit(self, sent: Sent) -> Admission:
        knock = sent.knock()
        began = time.monotonic()
        try:
            admission = self._access.admit(knock, began)
        except CommandError as error:
            if error.code != "too_many_requests":  # they follow refusals that were recorded
                refusal = _Given(outcome=error.code, aloud=True)
                self._audit(knock, None, f"{sent.request.method} {sent.request.url.path}", refusal, began)
            if error.code == "unauthorised":
                await asyncio.sleep(FAILURE_DELAY)
            raise
        if "admitted" in sent.request.scope:
            sent.request.scope["admitted"]()
        return admission

    def _may(self, command: Command, admission: Admission) -> bool:
        try:
            self._access.check_right(command.name, command.access, admission)
        except CommandError:
            return False
        return admission.level == "local" or allowed_paths.may_be_remote(command)

    async def _run(
        self,
        sent: Sent,
        admission: Admission,
        name: str,
        read: Callable[[Command], Mapping[str, Any]],
        *,
        wait: bool,
    ) -> Response:
        """Run the command *name* and answer.

        *read* returns the checked arguments of the request. *wait*: wait for the end of an operation, unless the
        command was given with ``no_wait``.
        """
        with self._audited(sent, admission, name) as entry:
            command = COMMANDS.get(name)
            entry.aloud |= command.changes
            self._access.check_right(command.name, command.access, admission)
            given = read(command)
            if self._access.redaction.anywhere(given):
                raise CommandError(
                    "bad_request",
                    f"{command.name}: an argument holds an access key",
                    "Send the key as Authorization: Bearer KEY.",
                )
            passed = {argument: value for argument, value in given.items() if argument != "no_wait"}
            entry.arguments = passed
            if admission.level == "remote":
                passed = allowed_paths.confined(command, passed, self._access.upgrade_roots)
            knock = sent.knock()
            CALLER.set(Caller(knock.door, knock.peer, admission.key))
            result = command.run(self._service, **passed)
            if inspect.isawaitable(result):
                result = await result
            entry.outcome = "accepted" if command.operation else "done"
        if not (command.operation or command.custom) or not is_operation(result):
            return reply(result)
        if wait and not given.get("no_wait"):
            result = await self._end(result)
        return operation_reply(result, command.succeeds)

    async def _end(self, operation: Json) -> Json:
        """Wait until *operation* has ended or the endpoint is closing."""
        while operation["state"] == "running" and not self._closing.is_set():
            seen = operation.get("steps_dropped", 0) + len(operation["steps"])
            operation = await self._news(operation["id"], seen, LONGEST_WAIT)
        return operation

    async def _news(self, operation: str, seen: int, wait: float) -> Json:
        if wait <= 0 or self._closing.is_set():
            return self._service.operation(operation)
        following = asyncio.ensure_future(self._service.follow(operation, seen, wait))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((following, closing), return_when=asyncio.FIRST_COMPLETED)
            return following.result() if following.done() else self._service.operation(operation)
        finally:
            following.cancel()
            closing.cancel()

    @contextlib.contextmanager
    def _audited(self, sent: Sent, admission: Admission, name: str) -> Iterator[_Given]:
        """Record the command *name* in the audit file, however the block ends."""
        began, entry = time.monotonic(), _Given(aloud=sent.request.method == "POST")
        try:
            yield entry
        except CommandError as error:
            entry.outcome, entry.aloud = error.code, True
            raise
        except Exception:
            entry.aloud = True
            raise
        else:
            entry.outcome = "accepted" if entry.outcome == "accepted" else "done"
        finally:
            self._audit(sent.knock(), admission, name, entry, began)

    def _audit(self, knock: Knock, admission: Admission | None, name: str, given: _Given, began: float) -> None:
        """Write the entry to the audit file, and to the log if *given* says so."""
        seconds = time.monotonic() - began
        entry = audit.entry(knock, admission, name, given.arguments, given.outcome, seconds, self._access.redaction)
        self._service.audit(entry, aloud=given.aloud)


def _shows_key(knock: Knock) -> bool:
    """Return True if the client can be identified without reading the body."""
    return knock.door == "unix" or has_key_in_head(knock)
