"""HTTP responses of the endpoints. The body is always JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import Response

from .errors import CommandError
from .json_text import encode_json
from .sent import is_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .sent import Sent
    from .service import Json


def last_of_connection(sent: Sent, response: Response) -> Response:
    """Close the TCP connection after a response to a client without a valid key (see ``listener``)."""
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
