"""waitress."""

import sys

import waitress
from wsgi_pid import app

waitress.serve(app, host="127.0.0.1", port=int(sys.argv[1]), _quiet=True)
