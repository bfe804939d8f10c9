"""A script that runs uvicorn itself."""

import sys

import uvicorn
from slow_app import app

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
