"""Process 1: holds what must outlive the master, forks and reaps the workers, and keeps the master alive.

Standard library only, one thread, no asyncio, no code of the user. It decides nothing about workers: every one of
them is started, signalled and forgotten because the master ordered it (``wire.orders``), and what happens is told as
facts (``wire.facts``). To be read in this order:

``loop``       the one loop, the signals, the table of verbs; the guardian itself
``watching``   descriptors, and who is called when they are ready
``holdings``   what is held: workers, listening sockets, the notebook
``verbs``      one function an order
``spawn``      fork and exec, and ``child``: what the new process does before its program runs
``reap``       the ends of processes, and what is left of their groups
``keeper``     the master's process: started, watched, replaced; ``link``: the stream to it
``ports``      which socket a ``bind`` gets, on whatever way it came: ``seccomp``, ``pyports``; ``opening``: making
               sockets; ``paths``: Unix sockets as files; ``strangers``: who else holds a port
``listeners``  the listening sockets that a worker shuts down for all, and that listen again
``perslot``    addresses of which each worker has its own socket: ``slots``, ``steering``; ``leaving``: what is waited
               for before a stop signal; ``connections``: what a worker's connections are doing
``given``      the sockets that a service manager passed to us
``private``    the sockets of a worker that is to be tried apart; ``board``: the memory
               that a worker shares with the master
``channels``   the workers' channels and NOTIFY_SOCKET
``logs``       the log writer, a process of its own; ``sink``: its outputs; ``logclient``: the guardian's side of it
``notify``     what a service manager is told (sd_notify)
``ending``     the ways the service ends
``posix``      the only ctypes
"""
