"""Process 2: feeds facts and requests to the core, performs its actions, serves the doors, runs hooks.

It holds no truth. A cold start, the successor of a master that died and an upgraded master are the same code: say
``Hello``, restore the notebook, give the core the guardian's snapshot, go on.

``loop``     events in, actions out              ``kernel``    the guardian's client
``carrying`` the actions of the core             ``service``   what the doors may ask
``launch``   a release → what to execute
``hooks``    every extension point               ``narrator``  the log lines
``gauges``   memory, CPU and connections         ``orphans``   the end, when the guardian has died
``pulses``   how the workers do                  ``stacks``    what one that hangs is doing
``checks``   asking the workers                  ``schedule``  times of day
``api``      ``cservice.start`` and friends
"""
