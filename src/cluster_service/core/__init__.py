"""The decisions, pure: no os, socket, clock, asyncio, logging or random. Time is an argument.

``spec``        what is wanted, as data                ``requests``   what an operator may ask
``worker``      the life of a worker, one table        ``restarts``   back-off and limits, arithmetic
``rollout``     replacing workers, arithmetic          ``group``      slots and generations of one group
``operations``  long commands                          ``cluster``    events in, actions out
``views``       the rows that people and scripts see   ``actions``, ``events``  what comes out
"""
