"""A worker: the user's program, unmodified, and the small runtime beside it.

``boot``         the file that the interpreter is given: finds this package, then ``run``.
``run``          takes the worker's own variables out of the environment, starts the runtime, runs a script or serves an
app.
``script``       a file as ``__main__``, as if it were run alone.
``app``          ``package.module:app`` on a server: ``loading``, ``interface``, ``listeners``, ``serve_…``.
``runtime``      readiness, stopping. ``channel``: the descriptor to the guardian. ``api``: what a program may call.
``pulse``        proof that it turns. ``pools``, ``accepting``: while its threads are stuck, it takes no connections.
``ports``        shared ports in-process, where the kernel cannot do it (``--share python``).
``drains``       how each known family of servers stops without losing a request.

Everything here runs under the user's interpreter, which may be another Python (3.9 or newer) in another virtualenv: it
imports the standard library and ``cluster_service.wire`` only, and takes care to import little that the program does
not.
"""
