"""The worker's channel: an AF_UNIX SOCK_SEQPACKET pair, one JSON object a datagram.

Environment of the worker (the runtime takes the variables out before the user's code runs):

    CSERVICE_CHANNEL=<fd>   the channel, when ``Spawn.channel``
    CSERVICE_PORTS=<fd>     a second pair, strictly request and reply, when ``Spawn.share == "python"``

From the worker:

    {"type": "ready", "ready": true | false}
    {"type": "notify", "fields": {"EXTEND_TIMEOUT_USEC": "…"}}  as if by sd_notify
    anything else: passed to the master as a ``Message`` fact

``validation`` holds the limits: both ends of the path to the master decode by them. No descriptor may be sent.

To the worker:

    {"type": "state", "state": "serving"}                        what it is to the service, from now on
    {"type": "stop", "timeout": 60.0, "reason": "restart"}      finish what you hold; SIGTERM follows at once
    the channel's end of file                                    the service is gone: stop gracefully

The bus, between a worker and the master; the guardian passes it on. An id is its sender's, pid and number: "4711.12"

    worker: {"type": "trigger", "id", "name", "args": [...], "options": {...}}
            {"type": "broadcast", "id", "message": any, "group": "web" | null}
    master: {"type": "taken", "id"}                      a command has begun: its request must not be sent again
            {"type": "answer", "id", "result": any}      or "error": {"code", "message", "hint"}
            {"type": "master"}                           a new master: what no master has taken may be sent again
            {"type": "message", "id", "message": any}    a broadcast
    worker: {"type": "got", "id", "taken": true | false} of a broadcast: it waits for the worker's handlers, or nobody
                                                         wants it, or there is no room

On the ports pair, a request and then its reply, a descriptor riding with the reply of a bind that succeeded:

    {"type": "bind", "family": 2, "kind": 1, "address": "127.0.0.1:8000", "v6only": false, "nonblocking": false}
        -> {"ok": true, "shared": true} + descriptor     put it over your own
        -> {"ok": true, "shared": false}                 not ours to share (port 0, say): bind it yourself
        -> {"ok": false, "errno": 98, "error": "…"}
    {"type": "listen", "inode": 4711, "backlog": 128}
        -> {"ok": true, "shared": true}                  done: the guardian has called listen on it
        -> {"ok": true, "shared": false}                 not one of ours: call listen yourself
"""

from __future__ import annotations

import json
from typing import Any, Dict

from . import validation

CHECK_ADDRESS = "X_CSERVICE_CHECK"
"""The field of a ``notify`` by which the worker says that it answers health checks: the address of CSERVICE_CHECK."""
LIMIT = validation.MAX_BYTES
"""The longest datagram, in bytes."""
BUS_LIMIT = 60 * 1024
"""The longest message of the bus, in bytes of JSON."""
BUS = frozenset(("taken", "answer", "master", "message"))
"""The types of the bus's messages to a worker."""


class ChannelError(Exception):
    """A datagram that is not a message."""


def encode(message: Dict[str, Any]) -> bytes:
    """Return *message* as one datagram. Raises ChannelError when it is longer than ``LIMIT`` or cannot be JSON."""
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
