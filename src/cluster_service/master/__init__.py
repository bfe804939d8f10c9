"""The master: passes facts and requests to the core, carries out its actions, serves the endpoints, runs hooks.

It holds no state that cannot be rebuilt. A cold start, the successor of a master that died and an upgraded master run
the same code: send ``Hello``, restore the checkpoint, pass the guardian's snapshot to the core, continue.

``loop``       the control loop                  ``kernel``     the client of the guardian
``carrying``   execution of the core's actions   ``sockets``    sockets opened by the guardian
``launch``     a release → what to execute       ``service``    the commands of clients
``doors``      the endpoints                     ``audited``    the audit file
``publishing`` events, numbered and published    ``narrator``   the log lines
``hooks``      every extension point             ``extensions`` custom commands
``handlers``   user code, with a timeout         ``signature``  its arguments
``bus``        messages from and to workers      ``dispatch``   the commands that they trigger
``memory``     what outlives the service         ``state``      its file
``reload``     reload of the configuration       ``trials``     tests of a release
``gauges``     memory, CPU and connections       ``pulses``     heartbeats of the workers
``checks``     health checks of the workers      ``stacks``     stacks of a worker that hangs
``schedule``   times of day                      ``jobs``       long-running jobs
``board``      memory shared with one worker     ``processes``  verifies whose a process is
``untrusted``  text that a worker wrote          ``intake``     limits on facts about workers
``leaving``    the shutdown                      ``main``       the entry point
``api``        ``cservice.start`` and others     ``context``    the context of a custom command
"""
