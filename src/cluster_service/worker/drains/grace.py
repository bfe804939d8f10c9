"""How long a connection may do nothing once its worker stops, in seconds."""

NEW_GRACE = 5.0
"""Since it was accepted: its first request is on the way."""
IDLE_GRACE = 1.0
"""Since its last answer (keep-alive): a busy client's next request comes within it, and is answered with the news."""
LEFT_GRACE = 2.0
"""For a handler to notice that its answer was ended for it."""
