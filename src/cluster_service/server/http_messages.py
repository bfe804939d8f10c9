"""Requests and responses of the endpoints: parsing of one request, within limits, and responses, whose body is JSON."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from cluster_service.commands.json_text import MAX_BYTES, encode_json, parse_json
from cluster_service.config.settings_table import canonical
from cluster_service.errors import CommandError

from .access import Knock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from cluster_service.commands.registry import Command
    from cluster_service.commands.service_interface import Json

BODY_LIMIT = MAX_BYTES
"""Maximum length of a body, and of the arguments of a custom command, in bytes."""
CHANGE_LIMIT = 64 * 1024
"""Maximum length of the arguments of a built-in command that changes something."""
READ_LIMIT = 4 * 1024
"""Maximum length of the arguments of a built-in command that only reads."""
STRANGER_LIMIT = 16 * 1024
"""Maximum length of the body of a client without a key in its headers or query: the body may contain the key."""
BODY_SECONDS = 10.0

LINE_LIMIT = 8 * 1024
"""Maximum length of path and query, in bytes."""
HEADERS_LIMIT = 16 * 1024
"""Maximum length of all headers, in bytes."""
MOST_HEADERS = 100
MOST_FIELDS = 200
"""Maximum number of fields in a form."""

COMMAND_NAMES = frozenset(("cmd", "command"))


def is_key(name: str) -> bool:
    """Return True if a field of that name holds the access key: ``accessKey``, ``access_key``, ``access-key``."""
    return canonical(name) in ("access_key", "accesskey")


def check_length(command: Command, text: str) -> None:
    """Raise CommandError too_large if *text* is longer than *command* allows."""
    limit = BODY_LIMIT if command.custom else CHANGE_LIMIT if command.changes else READ_LIMIT
    if len(text) > limit:
        raise CommandError("too_large", f"{command.name}: the command is longer than {limit} characters")


class Sent:
    """One request. ``body`` is set by ``read``, its parsed content by ``parse``."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.body: str = ""
        self.data: dict[str, Any] | None = None
        """The body as an object, if it is JSON."""
        self.form: list[tuple[str, str]] = []
        query = request.scope.get("query_string", b"").decode("latin-1")
        self.query = parse_qsl(query[:LINE_LIMIT], keep_blank_values=True)

    def check_limits(self) -> None:
        """Check the lengths before anything else. Raises CommandError."""
        scope = self.request.scope
        if len(scope.get("raw_path") or scope["path"].encode()) + len(scope.get("query_string", b"")) > LINE_LIMIT:
            raise CommandError("uri_too_long", f"the path and query are longer than {LINE_LIMIT} bytes")
        headers = scope["headers"]
        if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > HEADERS_LIMIT:
            raise CommandError(
                "headers_too_large", f"there are more than {MOST_HEADERS} headers, or {HEADERS_LIMIT} bytes of them"
            )
        length = self.request.headers.get("content-length", "0")
        if len(length) > 12 or (length.isdecimal() and int(length) > BODY_LIMIT):
            raise _too_large(BODY_LIMIT)

    async def read(self, limit: int = BODY_LIMIT) -> None:
        """Read at most *limit* bytes of the body. Raises CommandError too_large, timeout or bad_request."""
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in self.request.stream():
                    data += part
                    if len(data) > limit:
                        raise _too_large(limit)
        except TimeoutError:
            raise CommandError("timeout", f"the body did not arrive in {BODY_SECONDS:.0f} s") from None
        except ClientDisconnect:
            raise CommandError("bad_request", "the body did not arrive") from None
        try:
            self.body = data.decode().strip()
        except UnicodeDecodeError:
            raise CommandError("bad_request", "the body is not UTF-8 text") from None

    def parse(self) -> None:
        """Parse the body as a JSON object, a form or a command line. Raises CommandError bad_request."""
        if self.body.startswith("{"):
            self.data = self._object()
        else:
            try:
                pairs = parse_qsl(self.body, keep_blank_values=True, max_num_fields=MOST_FIELDS)
            except ValueError:
                pairs = []
            if any(is_key(name) or name in COMMAND_NAMES for name, _ in pairs):
                self.form = pairs

    def _object(self) -> dict[str, Any]:
        try:
            data = parse_json(self.body)
        except ValueError as error:
            raise CommandError("bad_request", f"the body is not JSON: {error}") from None
        assert isinstance(data, dict)  # it starts with a brace
        return data

    def body_keys(self) -> tuple[str, ...]:
        """Return the access keys in the body of a POST request."""
        fields = [*(self.data or {}).items(), *self.form] if self.request.method == "POST" else []
        return tuple(str(value) for name, value in fields if is_key(name))

    def knock(self) -> Knock:
        """Return the facts on which access is decided."""
        scope = self.request.scope
        uid = scope.get("peer_uid")
        client, server = scope.get("client"), scope.get("server")
        return Knock(
            door="tcp" if uid is None else "unix",
            peer=f"uid:{uid}" if uid is not None else str(client[0]) if client else "",
            local=str(server[0]) if server and uid is None else "",
            headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
            query_keys=tuple(value for name, value in self.query if is_key(name)),
            body_keys=self.body_keys(),
            worker=bool(scope.get("peer_worker")),
        )

    def line(self) -> str:
        """Return the command line of ``/cli``, from the query or the body. Raises CommandError bad_request."""
        lines = {value.strip() for name, value in (*self.query, *self.form) if name in COMMAND_NAMES}
        if self.data is not None:
            lines |= {str(value).strip() for name, value in self.data.items() if name in COMMAND_NAMES}
        elif self.body and not self.form:
            lines.add(self.body)
        lines.discard("")
        if len(lines) != 1:
            what = "holds two different commands" if lines else "holds no command"
            raise CommandError("bad_request", f"the request {what}", "Send one: POST /cli?cmd=restart+all")
        return str(lines.pop())


def _too_large(limit: int) -> CommandError:
    return CommandError("too_large", f"the body is longer than {limit} bytes")


def last_of_connection(sent: Sent, response: Response) -> Response:
    """Close the TCP connection after a response to a client without a valid key (see ``rate_limits``)."""
    if sent.knock().door == "tcp":
        response.headers["Connection"] = "close"
    return response


def deprecation(sent: Sent) -> dict[str, str]:
    """Return the headers that a request with a key in its URL is answered with."""
    if not any(is_key(name) for name, _ in sent.query):
        return {}
    return {"Deprecation": "true", "Referrer-Policy": "no-referrer"}


def is_operation(result: Json) -> bool:
    """Return True if the result of a custom command is an operation that it started."""
    return isinstance(result.get("steps"), list) and {"id", "state", "reason", "command"} <= set(result)


def operation_reply(operation: Json, succeeds: str) -> Response:
    """Answer with an operation: 202 while it runs, 200 if it succeeded, else 400 with its reason as the error."""
    if operation["state"] == "running":
        return reply(operation, 202, {"Location": f"/api/v1/operations/{quote(str(operation['id']), safe='')}"})
    if operation["state"] == succeeds:
        return reply(operation)
    reason = operation["reason"] or f"the operation is {operation['state']}"
    return reply({**CommandError("failed", reason).to_json(), "operation": operation}, 400)


def nothing_here() -> CommandError:
    """Return the error for an unknown path."""
    return CommandError("not_found", "there is nothing at this path", "GET /api/v1/commands lists the commands.")


def error_reply(error: CommandError, headers: Mapping[str, str] | None = None, status: int | None = None) -> Response:
    """Answer with the error object."""
    extra = {"WWW-Authenticate": "Bearer"} if error.code == "unauthorised" else {}
    if error.code == "too_many_requests":
        extra = {"Retry-After": "5"}
    return reply(error.to_json(), status or error.status, {**extra, **(headers or {})})


def probe_reply(*, fine: bool) -> Response:
    """Answer a probe, without detail."""
    return reply({"status": "ok" if fine else "unavailable"}, 200 if fine else 503)


def reply(data: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with *data* as JSON."""
    return Response(
        encode_json(data) + "\n",
        status,
        {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})},
        "application/json",
    )
