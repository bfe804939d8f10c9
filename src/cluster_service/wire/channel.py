"""The worker's channel: an AF_UNIX SOCK_SEQPACKET pair, one JSON object per datagram.

Environment of the worker (the runtime removes the variables before the user's code runs):

    CSERVICE_CHANNEL=<fd>   the channel, with ``Spawn.channel``
    CSERVICE_PORTS=<fd>     a second pair for requests and replies, with ``Spawn.share == "python"``

From the worker:

    {"type": "ready", "ready": true | false}
    {"type": "notify", "fields": {"EXTEND_TIMEOUT_USEC": "…"}}  same as sd_notify
    any other type: passed to the master as a ``Message`` fact

``validation`` contains the limits, with which both the guardian and the master decode. Descriptors are not allowed.

To the worker:

    {"type": "state", "state": "serving"}                        its state in the service from now on
    {"type": "stop", "timeout": 60.0, "reason": "restart"}      finish open requests; SIGTERM follows immediately
    end of file                                                  the service has ended: stop gracefully

The bus connects a worker and the master; the guardian forwards its messages. An id consists of the sender's pid and a
number: "4711.12".

    worker: {"type": "trigger", "id", "name", "args": [...], "options": {...}}
            {"type": "broadcast", "id", "message": any, "group": "web" | null}
    master: {"type": "taken", "id"}                      a command has started: do not send its request again
            {"type": "answer", "id", "result": any}      or "error": {"code", "message", "hint"}
            {"type": "master"}                           a new master: requests not taken may be sent again
            {"type": "message", "id", "message": any}    a broadcast
    worker: {"type": "got", "id", "taken": true | false} reply to a broadcast: queued for the handlers, or dropped
                                                         because there is no handler or no room

On the ports pair, each request has one reply; the reply to a successful bind carries a descriptor:

    {"type": "bind", "family": 2, "kind": 1, "address": "127.0.0.1:8000", "v6only": false, "nonblocking": false}
        -> {"ok": true, "shared": true} + descriptor     duplicate it onto your own
        -> {"ok": true, "shared": false}                 cannot be shared (such as port 0): bind it yourself
        -> {"ok": false, "errno": 98, "error": "…"}
    {"type": "listen", "inode": 4711, "backlog": 128}
        -> {"ok": true, "shared": true}                  done: the guardian has called listen on it
        -> {"ok": true, "shared": false}                 not a shared socket: call listen yourself
"""

from __future__ import annotations

import json
from typing import Any, Dict

from . import validation

CHECK_ADDRESS = "X_CSERVICE_CHECK"
"""The ``notify`` field by which the worker reports that it answers health checks: the address of CSERVICE_CHECK."""
LIMIT = validation.MAX_BYTES
"""Maximum length of a datagram, in bytes."""
BUS_LIMIT = 60 * 1024
"""Maximum length of a message of the bus, in bytes of JSON."""
BUS = frozenset(("taken", "answer", "master", "message"))
"""The types of bus messages to a worker."""


class ChannelError(Exception):
    """The datagram is not a message."""


def encode(message: Dict[str, Any]) -> bytes:
    """Return *message* as one datagram. Raises ChannelError if it is longer than ``LIMIT`` or not valid JSON."""
    try:
        data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ChannelError(f"a message that cannot be JSON: {error}") from None
    if len(data) > LIMIT:
        raise ChannelError(f"a message of {len(data)} bytes is over the limit of {LIMIT}")
    return data


def decode(data: bytes) -> Dict[str, Any]:
    """Return the message in *data*, within the limits of ``validation``. Raises ChannelError."""
    try:
        return validation.message(validation.loads(data, LIMIT))
    except validation.Invalid as error:
        raise ChannelError(str(error)) from None
