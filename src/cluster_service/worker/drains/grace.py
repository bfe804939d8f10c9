"""How long a connection may do nothing once its worker stops, in seconds."""

NEW_GRACE = 5.0
"""Since it was accepted: its first request is on the way."""
IDLE_GRACE = 5.0
"""Since its last answer (keep-alive). A client's next request within it is answered, with the news.

As long as uvicorn keeps an idle connection at any time: a stop cuts off no client that would have been kept without it.
"""
LEFT_GRACE = 2.0
"""For a handler to notice that its answer was ended for it."""
SETTLE_SECONDS = 5.0
"""How long a program's own handler of SIGTERM is held back for requests of which the runtime cannot tell whether the
program would finish them."""
