"""Daphne, on Twisted, which ends with shutdown(2) of its listening socket."""

import sys

from asgi_pid import app
from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server

endpoints = build_endpoint_description_strings(host="127.0.0.1", port=int(sys.argv[1]))
Server(application=app, endpoints=endpoints).run()
