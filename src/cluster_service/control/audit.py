"""The audit entry: one line of JSON for each command that was given, or that was refused.

    {"at": ISO 8601, "key": its name (never the key) | "owner" | null, "door": "unix" | "tcp", "peer": address | uid:N,
     "command", "arguments", "outcome": "done" | "accepted" | an error code, "duration_s"}

Every character that is not printable ASCII is escaped, so that an entry is one line whatever was sent. Of arguments,
those that may hold secrets are left out, and with commands of the user's own all but their names. A read that somebody
waits for (``operations ID``) has an entry for each time that it asks.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cluster_service.core import masks

from .json_text import encode_json
from .registry import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .access import Admission, Knock
    from .redaction import Redaction

PRIVATE = frozenset(("env", "args"))
"""Arguments that are not told: they may hold what is nobody's business."""
LONGEST = 200
"""Characters of one argument, or of a command, that are told."""
LONGEST_READ = 4 * LONGEST
"""Characters of it that are looked at."""


def entry(
    knock: Knock,
    admission: Admission | None,
    command: str,
    given: Mapping[str, Any],
    outcome: str,
    seconds: float,
    redaction: Redaction | None = None,
) -> dict[str, Any]:
    """Return the entry for *command*. *seconds*: how long it took. *redaction*: hides the access keys, wherever they
    stand.
    """
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
    """Return the entry as it stands in the log."""
    return encode_json(told)


def _shown(value: Any, hide: Callable[[Any], Any]) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else encode_json(value)
    return _plain(masks.text(hide(text[:LONGEST_READ])))


def _as_it_is(value: Any) -> Any:
    return value


def _plain(text: str) -> str:
    short = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in short)
