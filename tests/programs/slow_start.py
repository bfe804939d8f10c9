"""An ASGI app that takes a moment to start, and answers with the pid."""

import time

import asgi_pid

time.sleep(3)
app = asgi_pid.app
