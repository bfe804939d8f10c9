"""Process 1: holds everything that must outlive the master, forks and reaps workers, and keeps the master alive.

Standard library only, one thread, no asyncio, no user code. It makes no decisions about workers: it starts, signals and
forgets each of them on orders from the master (``wire.orders``), and reports events as facts (``wire.facts``).
Suggested reading order:

``loop``       the main loop, the signals; the guardian itself
``watching``   descriptors and their handlers
``holdings``   the state: workers, listening sockets, the master's checkpoint
``verbs``      the table of orders, one function each
``spawn``      fork and exec, and ``child``: what the new process does before its program runs
``reap``       reaping of processes, and signals to process groups
``keeper``     the master's process: started, watched, replaced; ``link``: the stream to it
``ports``      which socket a ``bind`` gets, whatever way it was requested: ``seccomp``, ``pyports``; ``opening``:
               creating sockets; ``paths``: Unix sockets as files; ``strangers``: other processes that hold a port
``listeners``  revival of shared listening sockets that a worker has shut down
``perslot``    addresses on which each worker has its own socket: ``slots``, ``steering``; ``leaving``: draining
               before a stop signal; ``connections``: the state of a worker's connections
``given``      socket activation: the sockets passed by a service manager
``private``    the sockets of a preview worker; ``board``: the memory that a worker shares with the master
``channels``   the workers' channels and NOTIFY_SOCKET
``logs``       the log writer, a separate process; ``sink``: its outputs; ``logclient``: its client in the guardian
``notify``     notifications to the service manager (sd_notify)
``ending``     the ways in which the service ends
``posix``      the only use of ctypes
"""
