"""uvicorn.run in a script: uvicorn_app.py PORT asyncio|uvloop."""

import sys

import uvicorn
from asgi_pid import app

uvicorn.run(app, port=int(sys.argv[1]), loop=sys.argv[2], log_level="warning")
