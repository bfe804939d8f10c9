"""The decisions of the service. Pure: no os, socket, clock, asyncio, logging or random; time is an argument.

``model``     data: the spec, groups, slots, workers, upgrades, operations
``rules``     answers about the data: back-off, replacement, readiness, error rates, ports, selectors, redaction
``engine``    the control loop: facts and requests in, actions out
``protocol``  requests and reports (in), actions and events (out)
``readout``   JSON for users and for the state file
"""
