"""waitress with two threads: argv: port."""

import sys

import waitress
from wsgi import app

waitress.serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=2)
