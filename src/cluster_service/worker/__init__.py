"""A worker: the unmodified program of the user, and the small runtime in its process.

``boot``         entry point for the interpreter: finds this package, then calls ``run``
``run``          removes the worker's own variables from the environment, starts the runtime, runs a script or an app
``script``       runs a file as ``__main__``, as if it were run alone
``app``          serves ``package.module:app``: ``loading``, ``interface``, ``listeners``, ``serve_…``
``runtime``      readiness and stopping; ``channel``: the connection to the guardian; ``api``: functions for programs
``pulse``        heartbeat; ``pools``, ``accepting``: pause accepting while the threads or the loop are stuck
``ports``        shared ports in-process, where the kernel does not support them (``--share python``)
``drains``       how each known server stops without losing a request

This package runs under the interpreter of the user, which may be another Python (3.9 or newer) in another virtualenv.
So it imports only the standard library, ``cluster_service.wire`` and ``cluster_service.machine.title``, and avoids
importing modules that the program does not import.
"""
