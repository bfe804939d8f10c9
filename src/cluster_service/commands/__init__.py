"""One module per command. Each defines ``COMMAND``; ``registry.BUILT_IN`` lists them.

This module contains the parameters that several commands share.
"""

from __future__ import annotations

from .registry import Parameter

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
"""Handled by the endpoint; not passed to the handler."""
