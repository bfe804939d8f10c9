"""Limits on the facts that the guardian relays: those that it has applied itself (``wire.validation``), applied again.

The guardian may be of another version than this master, and relays to a new master what workers sent to an old one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cluster_service.wire import facts, validation
from cluster_service.wire.validation import Invalid

MAX_SENTENCE = 1000
"""Maximum characters of the message about a failed bind: it contains a path that a worker chose."""
_STATE = {field.name for field in dataclasses.fields(facts.WorkerState)}


def checked(fact: Any) -> Any:
    """Return *fact* with everything that a worker chose within its limits. Raises Invalid."""
    check = _CHECKS.get(type(fact))
    return fact if check is None else check(fact)


def _message(fact: facts.Message) -> facts.Message:
    return dataclasses.replace(fact, message=validation.message(fact.message))


def _notified(fact: facts.Notified) -> facts.Notified:
    return dataclasses.replace(fact, fields=validation.notify_fields(fact.fields))


def _ready(fact: facts.Ready) -> facts.Ready:
    return dataclasses.replace(fact, ready=fact.ready is True)


def _listen_failed(fact: facts.ListenFailed) -> facts.ListenFailed:
    return dataclasses.replace(fact, error=validation.plain_text(str(fact.error), MAX_SENTENCE))


def _snapshot(fact: facts.Snapshot) -> facts.Snapshot:
    return dataclasses.replace(fact, workers=[_state(state) for state in fact.workers])


def _state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of one worker, without the fields that a newer guardian adds."""
    known = {name: value for name, value in state.items() if name in _STATE}
    ready = known.get("ready")
    return {
        **known,
        "ready": ready if ready is None else ready is True,
        "notified": validation.notify_fields(known.get("notified")),
        "bind_error": validation.plain_text(str(known.get("bind_error", "")), MAX_SENTENCE),
    }


_CHECKS: dict[type, Any] = {
    facts.Message: _message,
    facts.Notified: _notified,
    facts.Ready: _ready,
    facts.ListenFailed: _listen_failed,
    facts.Snapshot: _snapshot,
}

__all__ = ["Invalid", "checked"]
