"""The error of a command, shared by all interfaces."""

from __future__ import annotations

from typing import Any

CODES: dict[str, tuple[int, int]] = {
    # code: (HTTP status, exit code)
    "bad_request": (400, 2),
    "failed": (400, 1),
    "busy": (409, 1),
    "stopping": (409, 1),
    "unauthorised": (401, 4),
    "forbidden": (403, 4),
    "not_found": (404, 1),
    "no_such_command": (404, 2),
    "method_not_allowed": (405, 2),
    "timeout": (408, 1),
    "length_required": (411, 2),
    "too_large": (413, 2),
    "uri_too_long": (414, 2),
    "misdirected": (421, 4),
    "too_many_requests": (429, 4),
    "headers_too_large": (431, 2),
    "internal": (500, 1),
    "unavailable": (503, 3),
}
"""Error code -> the HTTP status and the exit code of the command line."""


class CommandError(Exception):
    """A command failed.

    *code* is one of ``CODES``; *message* says what was wrong and what was expected; *hint* what to do about it.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    @property
    def status(self) -> int:
        """The HTTP status."""
        return CODES[self.code][0]

    @property
    def exit_code(self) -> int:
        """The exit code of the command line."""
        return CODES[self.code][1]

    def to_json(self) -> dict[str, Any]:
        """Return the error object of the public interface."""
        error = {"code": self.code, "message": self.message}
        if self.hint:
            error["hint"] = self.hint
        return {"error": error}
