"""Grace periods of connections once the worker stops, in seconds."""

NEW_GRACE = 5.0
"""From its acceptance: the first request may be on its way."""
IDLE_GRACE = 5.0
"""From its last answer (keep-alive). The next request within it is answered with ``Connection: close``.

Equal to uvicorn's default keep-alive timeout, so that a stop cuts off no client that would otherwise have been kept.
"""
LEFT_GRACE = 2.0
"""For a handler to notice that its answer was ended."""
SETTLE_SECONDS = 5.0
"""For which the program's SIGTERM handler is delayed by requests that the program might or might not finish itself."""
