"""A worker: the unmodified program of the user, and the small runtime in its process.

Start of the process, in this order:

``entry_point``       the file that the interpreter runs; makes this package importable
``startup``           removes the worker's own variables from the environment, starts the runtime, runs the program
``import_hooks``      calls the parts below when the program imports the modules that they handle
``script``            runs a file or module as ``__main__``, as if it were run alone
``app_loader``        loads ``package.module:app``; ``app_sockets`` binds its addresses; ``granian_server`` or
                      ``drains.uvicorn_server`` serves it, ``app_wrappers`` counts its answers and ends its streams

The runtime:

``runtime``           readiness, and the stop; ``stop_sequence``: the table that the stop follows
``program_handlers``  SIGTERM handlers of the program; ``stop_callback``: ``on_worker_stop``; ``forced_exit``
``drains``            how each known server stops without losing a request; ``listener_parking``: how it stops accepting
``heartbeat``         proof that the program makes progress; ``accept_pause``: pauses accepting while it does not
``guardian_channel``  messages from and to the guardian; ``message_bus``: requests to the master, and broadcasts
``program_api``       functions for the program
``port_sharing``      shared ports in-process, where the kernel does not support them (``--share python``)
``worker_process``    forks of the worker, its parent, its title in the process list

``unpatched``, ``descriptors`` and ``reporting`` are used by all of them. ``job`` does not run in a worker: it runs any
other program for the service.

This package runs under the interpreter of the user, which may be another Python (3.9 or newer) in another virtualenv.
So it imports only the standard library, ``cluster_service.wire`` and ``cluster_service.machine.process_title``, and
avoids importing modules that the program does not import.
"""
