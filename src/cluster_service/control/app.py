"""The routes of the doors. Each reads what was sent, asks ``access``, runs a command of the registry, and answers JSON.

    make_app(service, access, closing) -> an ASGI application

Whatever happens, the answer is JSON: the result, or the error object. Replies hold no traceback: it goes to the log,
under an id that the reply gives. A query string is never logged, and a key never repeated: ``Access.redaction`` hides
it in whatever is audited, logged or said about a request, and an argument that holds one is refused.

What is looked at, in this order: limits, Host, Origin, method, key, right, arguments. A key in the headers or the query
is looked at before the body is read, so that a body is read for strangers only where it may hold the key. Every command
leaves one entry in the audit file, and so does whoever is refused. In the log it stands as well, unless it was a read
by GET that went well: monitors ask every second.
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

from cluster_service.config import values
from cluster_service.config.table import canonical

from . import arguments, audit, dashboard, metrics, openapi, roots
from .access import FAILURE_DELAY, Access, Admission, Knock, has_key_in_head
from .caller import CALLER, Caller
from .errors import CommandError
from .registry import COMMANDS, Command
from .replies import (
    deprecation,
    error_reply,
    is_operation,
    last_of_connection,
    nothing_here,
    operation_reply,
    probe_reply,
    reply,
)
from .sent import BODY_LIMIT, COMMAND_NAMES, STRANGER_LIMIT, Sent, check_length, is_key
from .stream import EventStream, Streams

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from .service import Json, Service

LONGEST_WAIT = 60.0
"""Seconds that one request may wait for news of an operation."""

log = logging.getLogger("cluster_service.control")


def make_app(service: Service, access: Access, closing: asyncio.Event) -> ASGIApp:
    """Return the application. Requests that wait are answered as soon as *closing* is set."""
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
    app.router.redirect_slashes = False  # a path that is not there is answered as such, after Host and Origin
    return app


Handler = Callable[[Sent, Admission], Awaitable[Response]]


@dataclass
class _Given:
    """A command that is being given, for its entry in the audit file."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = "internal"
    aloud: bool = False
    """It stands in the log as well."""


class _Routes:
    """The endpoints, for one service."""

    def __init__(self, service: Service, access: Access, closing: asyncio.Event) -> None:
        self._service = service
        self._access = access
        self._closing = closing
        self._streams = Streams()

    # -- endpoints ---------------------------------------------------------------------------------------------------

    async def live(self, request: Request) -> Response:
        """``GET /live``: without a key, and without detail."""
        return self._probe(request, self._service.alive)

    async def ready(self, request: Request) -> Response:
        """``GET /ready``: without a key, and without detail."""
        return self._probe(request, self._service.ready)

    async def dashboard(self, request: Request) -> Response:
        """``GET /`` and the files of the page: without a key, and without data."""
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
        """``POST /cli``: one command line; an operation is waited for."""

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
                    return self._refusal(error, status=400)  # as the original says it: the command failed
                raise

        return await self._guarded(request, answer)

    async def command(self, request: Request) -> Response:
        """``POST /api/v1/commands/{name}``: a JSON object of arguments; an operation is answered 202 while it runs."""

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
        """``GET /api/v1/commands``; ``allowed``: whether the one who asks may give it from here."""

        async def answer(_sent: Sent, admission: Admission) -> Response:
            described = [{**one.describe(), "allowed": self._may(one, admission)} for one in COMMANDS.all()]
            return reply({"commands": described})

        return await self._guarded(request, answer)

    def reading(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """``GET /api/v1/workers`` and the like: the command of that name, without arguments."""

        async def endpoint(request: Request) -> Response:
            async def answer(sent: Sent, admission: Admission) -> Response:
                return await self._run(sent, admission, name, lambda _command: {}, wait=False)

            return await self._guarded(request, answer)

        return endpoint

    async def operation(self, request: Request) -> Response:
        """``GET /api/v1/operations/{id}?seen=N&wait=S``: when there are more than *seen* steps or it has ended, after
        *wait* seconds at most. Without *seen* only its end is waited for.
        """

        async def answer(sent: Sent, admission: Admission) -> Response:
            with self._audited(sent, admission, "operations") as entry:
                entry.arguments = {"operation": request.path_params["id"]}
                if not any(admission.allows(command.name) for command in COMMANDS.all() if command.operation):
                    self._access.check_right("operations", COMMANDS.get("operations").access, admission)
                query = dict(sent.query)
                seen = values.integer(query["seen"], 0) if "seen" in query else sys.maxsize
                wait = min(LONGEST_WAIT, values.duration(query.get("wait", 0)))
                return reply(await self._news(request.path_params["id"], seen, wait))

        return await self._guarded(request, answer)

    async def events(self, request: Request) -> Response:
        """``GET /api/v1/events``: a stream (SSE) from now on, or from after ``Last-Event-ID``."""

        async def answer(sent: Sent, admission: Admission) -> Response:
            with self._audited(sent, admission, "events"):
                self._access.check_right("events", "remote", admission)
                self._streams.check()
                last = sent.request.headers.get("last-event-id")
                after = None if last is None else values.integer(last, 0)

            def goes_on() -> bool:
                return self._access.still_opens(admission, "events")

            return EventStream(self._service.events(after), after, self._closing, self._streams, goes_on)

        return await self._guarded(request, answer)

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``: for Prometheus."""

        async def answer(_sent: Sent, admission: Admission) -> Response:
            self._access.check_right("workers", "remote", admission)
            service = self._service
            page = metrics.exposition(service.workers(), service.health(), service.info())
            return Response(page, 200, {"Cache-Control": "no-store"}, metrics.CONTENT_TYPE)

        return await self._guarded(request, answer)

    async def document(self, request: Request) -> Response:
        """``GET /openapi.json``: what this door offers, as OpenAPI."""

        async def answer(_sent: Sent, _admission: Admission) -> Response:
            return reply(openapi.document(COMMANDS.all(), allow_http_get=self._access.allow_http_get))

        return await self._guarded(request, answer)

    async def no_route(self, request: Request, error: Exception) -> Response:
        """Answer for what is not there, or not by that method."""
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

    # -- what they share ---------------------------------------------------------------------------------------------

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
        """Let in who may come in, and turn whatever is raised into an answer."""
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
        except Exception:  # noqa: BLE001 - whatever it is, the log holds it
            response = self._refusal(self._internal(request))
        response.headers.update(deprecation(sent))
        return response if admission is not None else last_of_connection(sent, response)

    def _refusal(
        self, error: CommandError, headers: Mapping[str, str] | None = None, status: int | None = None
    ) -> Response:
        """Answer with the error object, in which no access key stands."""
        hide = self._access.redaction.text
        return error_reply(CommandError(error.code, hide(error.message), hide(error.hint)), headers, status)

    def _internal(self, request: Request) -> CommandError:
        """Log the exception that is being handled; return the error that tells where."""
        identity = secrets.token_hex(4)
        hide = self._access.redaction.text
        path = request.url.path.encode("unicode_escape").decode()
        log.error("error %s at %s %s\n%s", identity, hide(request.method), hide(path), hide(traceback.format_exc()))
        return CommandError("internal", f"an error in the service itself; its log tells more under {identity}")

    def _parse(self, sent: Sent, admission: Admission) -> None:
        """Take the body apart. Raises CommandError bad_request: also when it holds another key."""
        sent.parse()
        self._access.check_same(admission, sent.body_keys())

    async def _admit(self, sent: Sent) -> Admission:
        knock = sent.knock()
        began = time.monotonic()
        try:
            admission = self._access.admit(knock, began)
        except CommandError as error:
            if error.code != "too_many_requests":  # those follow others, which were told
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
        return admission.level == "local" or roots.may_be_remote(command)

    async def _run(
        self,
        sent: Sent,
        admission: Admission,
        name: str,
        read: Callable[[Command], Mapping[str, Any]],
        *,
        wait: bool,
    ) -> Response:
        """Run the command *name* and answer; *read*: its checked arguments from what was sent; *wait* for the end of an
        operation, unless the command said otherwise.
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
                passed = roots.confined(command, passed, self._access.upgrade_roots)
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
        """Wait for the end of *operation*, or for the closing of the door."""
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
        """Leave an entry about the command *name*, however the block ends."""
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
        """Tell the audit file, and the log where it is to be told aloud."""
        seconds = time.monotonic() - began
        entry = audit.entry(knock, admission, name, given.arguments, given.outcome, seconds, self._access.redaction)
        self._service.audit(entry, aloud=given.aloud)


def _shows_key(knock: Knock) -> bool:
    """Whether the body need not be read to know who has sent it."""
    return knock.door == "unix" or has_key_in_head(knock)
