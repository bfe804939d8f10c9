"""The messages of both protocols, and their framing. Pure: no sockets, no clock.

``frames``   a stream of length-prefixed JSON objects (guardian and master)
``orders``   messages from the master to the guardian
``facts``    messages from the guardian to the master
``channel``  messages between a worker and the guardian, one JSON object per datagram
``validation``  limits on everything that a worker sends
``signals``  names of signal numbers
``board``    memory shared by a worker and the master: heartbeat, counts of answers, stacks

Workers import this package under the interpreter of the user: standard library only, Python 3.9 syntax.
"""
