"""Process 2: feeds facts and requests to the core, performs its actions, serves the doors, runs hooks.

It holds no truth. A cold start, the successor of a master that died and an upgraded master are the same code: say
``Hello``, restore the notebook, give the core the guardian's snapshot, go on.

``loop``       events in, actions out            ``kernel``     the guardian's client
``carrying``   the actions of the core           ``sockets``    those that the guardian opens for us
``launch``     a release → what to execute       ``service``    what the doors may ask
``doors``      the REST API's place              ``audited``    who asked for what
``publishing`` events, numbered and told         ``narrator``   the log lines
``hooks``      every extension point             ``extensions`` custom commands
``handlers``   a user's code, within its time    ``signature``  its arguments
``bus``        what workers say to each other    ``dispatch``   what they trigger
``memory``     what outlasts the service         ``state``      its file
``reload``     the configuration, anew           ``trials``     of a release, before it serves
``gauges``     memory, CPU and connections       ``pulses``     how the workers do
``checks``     asking the workers                ``stacks``     what one that hangs is doing
``schedule``   times of day                      ``jobs``       work that takes its time
``board``      memory shared with one worker     ``processes``  whose a process is
``untrusted``  text that a worker wrote
``api``        ``cservice.start`` and friends    ``context``    what a command is given
"""
