"""Process 1: holds everything that must outlive the master, forks and reaps workers, and keeps the master alive.

Standard library only, one thread, no asyncio, no user code. It makes no decisions about workers: it starts, signals and
forgets each of them on orders from the master (``wire.orders``), and reports events as facts (``wire.facts``).
Suggested reading order:

``guardian``             the main loop and the signals; ``event_loop``: descriptors and their callbacks
``boot_message``         the configuration that it starts with
``holdings``             the state: workers, listening sockets, the master's checkpoint
``order_handlers``       one function for each order
``worker_processes``     start and end of workers; ``spawn``: fork; ``forked_child``: the child until its program runs;
                         ``process_limits``
``reaping``              the ends of processes; ``leftover_processes``: what a worker leaves behind
``master_supervisor``    starts, monitors and replaces the master; ``master_link``: the stream to it
``port_service``         which socket a ``bind`` gets; ``seccomp``, ``python_ports``, ``bind_requests``: how it is
                         requested; ``port_access``: who may have it; ``socket_factory``: creates it;
                         ``socket_activation``: takes it from the service manager; ``unix_sockets``: its file
``listener_repair``      revives listening sockets that a worker has shut down
``per_slot_rules``       which addresses have a socket for each worker; ``per_slot_sockets``; ``connection_steering``
``worker_channels``      messages of the workers; ``untrusted_input``: their limits
``log_client``           passes output to the log writer; ``log_writer``, ``log_sources``, ``log_output``,
                         ``abandonable_calls``
``helper_client``        makes blocking system calls in a child process; ``helper_tasks``: the calls
``sd_notify``            notifications to the service manager
``service_end``          the ways in which the service ends; ``cleaner``: the same if the guardian is killed
``syscalls``             the only use of ctypes
"""
