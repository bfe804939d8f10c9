"""One file a command. Each defines ``COMMAND``; ``registry.BUILT_IN`` lists them.

This module holds what several of them use.
"""

from __future__ import annotations

from cluster_service.control.registry import Parameter

SELECTOR = Parameter(
    "selector", "selector", "which workers: all, a group, GROUP.SLOT, a slot or a pid", required=True, positional=True,
    metavar="all|GROUP|SLOT|PID", remote="plain",
)  # fmt: skip
TIMEOUT = Parameter(
    "timeout", "timeout", "how long each worker may take to become ready, and to end",
    positional=True, metavar="TIMEOUT", default="the group's own", remote="plain",
)  # fmt: skip
MONITOR = Parameter(
    "monitor", "duration", "how long the canary, and then the whole, is watched",
    metavar="TIME", default="the group's own", remote="plain",
)  # fmt: skip
NO_WAIT = Parameter("no_wait", "flag", "do not wait for the end of the operation", remote="plain")
"""Acted on by the door: a handler never sees it."""
