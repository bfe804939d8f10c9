"""What one request holds, read once and within limits: its key, its command, its arguments."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect

from .access import Knock
from .errors import CommandError

if TYPE_CHECKING:
    from starlette.requests import Request

BODY_LIMIT = 256 * 1024
"""The longest body, in bytes."""
BODY_SECONDS = 10.0

KEY_NAMES = frozenset(("accessKey", "access_key", "access-key"))
COMMAND_NAMES = frozenset(("cmd", "command"))


class Sent:
    """One request. Nothing of its body is known before ``read``."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.body: str = ""
        self.data: dict[str, Any] | None = None
        """The body as an object, when it is JSON."""
        self.form: list[tuple[str, str]] = []
        query = request.scope.get("query_string", b"").decode("latin-1")
        self.query = parse_qsl(query, keep_blank_values=True)

    async def read(self) -> None:
        """Read the body. Raises CommandError too_large, timeout, bad_request."""
        length = self.request.headers.get("content-length", "0")
        too_large = CommandError("too_large", f"the body is longer than {BODY_LIMIT} bytes")
        if length.isdecimal() and int(length) > BODY_LIMIT:
            raise too_large
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in self.request.stream():
                    data += part
                    if len(data) > BODY_LIMIT:
                        raise too_large
        except TimeoutError:
            raise CommandError("timeout", f"the body did not arrive in {BODY_SECONDS:.0f} s") from None
        except ClientDisconnect:
            raise CommandError("bad_request", "the body did not arrive") from None
        try:
            self.body = data.decode().strip()
        except UnicodeDecodeError:
            raise CommandError("bad_request", "the body is not UTF-8 text") from None
        if self.body.startswith("{"):
            self.data = self._object()
        else:
            pairs = parse_qsl(self.body, keep_blank_values=True)
            if any(name in KEY_NAMES | COMMAND_NAMES for name, _ in pairs):
                self.form = pairs

    def _object(self) -> dict[str, Any]:
        try:
            data = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise CommandError("bad_request", f"the body is not JSON: {error}") from None
        assert isinstance(data, dict)  # noqa: S101 - it starts with a brace
        return data

    def knock(self) -> Knock:
        """Return the facts that access is decided by."""
        scope = self.request.scope
        uid = scope.get("peer_uid")
        client, server = scope.get("client"), scope.get("server")
        in_json = [str(value) for name, value in (self.data or {}).items() if name in KEY_NAMES]
        return Knock(
            door="tcp" if uid is None else "unix",
            peer=f"uid:{uid}" if uid is not None else str(client[0]) if client else "",
            local=str(server[0]) if server and uid is None else "",
            headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
            query_keys=tuple(value for name, value in self.query if name in KEY_NAMES),
            body_keys=(*in_json, *(value for name, value in self.form if name in KEY_NAMES)),
        )

    def line(self) -> str:
        """Return the command line of ``POST /cli``: of the query or of the body."""
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
