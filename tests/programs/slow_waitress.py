"""waitress, whose answers take their time: /slow, /upload."""

import sys

import waitress
from slow_wsgi import app

waitress.serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=30, _quiet=True)
