"""Audit entries: one line of JSON for each command that was given or refused.

    {"at": ISO 8601, "key": its name (never the key) | "owner" | null, "door": "unix" | "tcp", "peer": address | uid:N,
     "command", "arguments", "outcome": "done" | "accepted" | an error code, "duration_s"}

Non-printable characters are escaped, so that an entry is always one line. Arguments that may contain secrets are left
out; of custom commands only the argument names are recorded. A client that follows an operation (``operations ID``)
leaves one entry per request.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cluster_service.core.rules.redaction import redact_text

from .json_text import encode_json
from .registry import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .access import Admission, Knock
    from .redaction import Redaction

PRIVATE = frozenset(("env", "args"))
"""Arguments whose values are not recorded: they may contain secrets."""
LONGEST = 200
"""Maximum length of one recorded argument or command name, in characters."""
LONGEST_READ = 4 * LONGEST
"""Maximum length of the text that is searched for secrets, in characters."""


def entry(
    knock: Knock,
    admission: Admission | None,
    command: str,
    given: Mapping[str, Any],
    outcome: str,
    seconds: float,
    redaction: Redaction | None = None,
) -> dict[str, Any]:
    """Return the entry for *command*. *seconds*: its duration. *redaction* removes access keys."""
    known = command in BUILT_IN
    hide = redaction.value if redaction is not None else _as_it_is
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "key": admission.key if admission else None,
        "door": knock.door,
        "peer": knock.peer,
        "command": _plain(command if known else hide(command[:LONGEST_READ])),
        "arguments": {
            _plain(hide(name)): _shown(value, hide) if known and name not in PRIVATE else "..."
            for name, value in given.items()
        },
        "outcome": outcome,
        "duration_s": round(seconds, 3),
    }


def line(told: Mapping[str, Any]) -> str:
    """Return the entry as one line of JSON."""
    return encode_json(told)


def _shown(value: Any, hide: Callable[[Any], Any]) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else encode_json(value)
    return _plain(redact_text(hide(text[:LONGEST_READ])))


def _as_it_is(value: Any) -> Any:
    return value


def _plain(text: str) -> str:
    short = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in short)
