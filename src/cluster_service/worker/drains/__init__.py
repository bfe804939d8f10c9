"""Draining of each known server without losing a request: one module per server, applied when the program imports it.

Each module has ``install(module, runtime)``. It changes only how the server stops, and tolerates versions with
different internals: if it does not find what it needs, the server stops in its own way.
"""
