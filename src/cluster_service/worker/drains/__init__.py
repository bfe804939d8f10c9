"""How each family of servers stops without losing a request: one file a family, applied when the program imports it.

Each file has ``install(module, runtime)``. It changes how the server ends, never how it serves, and is prepared for
versions whose insides differ: what it does not find it leaves to the server's own way of stopping.
"""
